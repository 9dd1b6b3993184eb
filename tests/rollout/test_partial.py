"""Rollouts that stop before their last episodes, and go on with other parameters."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from recall_rollouts import SETTINGS, TASKS, ThinkingTokenizer, make_collector

from agentrl import errors, types
from agentrl.chat import renderer
from agentrl.envs import base, pool
from agentrl.pending import experiences, unfinished
from agentrl.rollout import live, partial
from agentrl.run import assemble

# Fewer slots than episodes: when two groups are complete, others are half-way.
FEW_SLOTS = dataclasses.replace(SETTINGS, num_slots=6, row_buckets=())
THINKING = dataclasses.replace(
    FEW_SLOTS,
    max_tokens=256,
    max_action_tokens=32,
    max_thinking_tokens=8,
    cache_buckets=(256,),
    append_buckets=(64,),
)
CASES = {
    "bare": FEW_SLOTS,
    "cut": dataclasses.replace(FEW_SLOTS, max_action_tokens=3, cut_actions="play"),
    "thinking": THINKING,
}
KEY = jax.random.key(1)


@pytest.fixture(scope="module", params=CASES)
def game(request, model, framed, envs):
    """A collector of each kind of episode, parameters, and the run's chat."""
    chat = framed
    if request.param == "thinking":
        chat = renderer.Chat(ThinkingTokenizer(), "plain", past_reasoning="drop")
    settings = CASES[request.param]
    collector, _, placed = make_collector(model, chat, envs, settings, devices=1)
    return collector, placed, chat


def go_on(collector, params, tasks, left, *, step, groups=2, oldest=-1):
    target = partial.Target(groups, 4, oldest_step=oldest)
    return collector.collect_groups(
        params, tasks, left, target, key=KEY, policy_step=step
    )


def nothing():
    return partial.PartialRollout([], [])


def by_task(trajectories):
    return {(t.task.item_id, t.task.sample): t for t in trajectories}


def tokens_of(trajectory):
    return [
        (turn.observation_tokens.tolist(), turn.action_tokens.tolist(), turn.num_cut)
        for turn in trajectory.turns
    ]


def assert_exactly(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert dataclasses.replace(one, turns=()) == dataclasses.replace(
            other, turns=()
        )
        assert tokens_of(one) == tokens_of(other)
        for turn, same in zip(one.turns, other.turns, strict=True):
            np.testing.assert_array_equal(turn.action_logprobs, same.action_logprobs)


def test_with_the_same_parameters_an_interruption_changes_no_token(game):
    collector, params, _ = game
    expected, _ = collector.collect(params, TASKS, key=KEY, policy_step=0)
    tasks, left, found, begun, decoded = TASKS, nothing(), [], [], 0
    for step in range(3):
        played, left, statistics = go_on(collector, params, tasks, left, step=step)
        assert [t.task.group for t in played] == [0] * 4 + [1] * 4
        assert [t.task.sample for t in played] == [0, 1, 2, 3] * 2
        found, tasks = [*found, *played], []
        begun.append(left.num_begun)
        decoded += statistics.decoded_tokens
    assert left == partial.PartialRollout([], [], num_drawn=6)
    assert begun[0] > 0 and begun[2] == 0
    assert {0, 1} <= {t.policy_step for t in found}
    assert decoded == sum(t.num_action_tokens for t in found)
    ours, theirs = by_task(found), by_task(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert tokens_of(ours[name]) == tokens_of(theirs[name])
        assert ours[name].ending == theirs[name].ending
        for turn, same in zip(ours[name].turns, theirs[name].turns, strict=True):
            np.testing.assert_allclose(
                turn.action_logprobs, same.action_logprobs, atol=1e-5
            )


def test_what_a_checkpoint_holds_goes_on_bit_for_bit(game):
    collector, params, chat = game
    settings = dataclasses.replace(SETTINGS, tasks_per_iteration=2, group_size=4)
    _, left, _ = go_on(collector, params, TASKS, nothing(), step=0)
    assert left.num_begun and left.finished
    stored = json.loads(
        json.dumps(experiences.to_json(experiences.Ahead(None, left), settings))
    )
    turned = jax.tree.map(lambda leaf: leaf * 0.9, params)
    expected = go_on(collector, turned, [], left, step=1)
    collector.abandon(expected[1])
    with pool.EnvPool({"recall": base.EnvConfig()}, num_workers=1) as others:
        restored = experiences.from_json(
            stored, settings, lambda begun: unfinished.restore(begun, others, chat)
        )
        assert restored.experience is None
        collector._pool, before = others, collector._pool
        try:
            found = go_on(collector, turned, [], restored.carried, step=1)
        finally:
            collector._pool = before
    assert_exactly(found[0], expected[0])
    assert_exactly(found[1].finished, expected[1].finished)
    assert [*map(unfinished.describe, found[1].episodes)].__repr__() == [
        *map(unfinished.describe, expected[1].episodes)
    ].__repr__()


def test_groups_that_would_become_too_old_are_completed(game):
    collector, params, _ = game
    left, tasks, ages = nothing(), TASKS, []
    for step in range(4):  # an episode may be one update old
        played, left, _ = go_on(
            collector, params, tasks, left, step=step, groups=3, oldest=step
        )
        assert all(t.policy_step >= step for t in left.finished)
        ages += [step - t.policy_step for t in played]
        following = [f"recall_{i}" for i in range(3)]
        tasks = assemble.make_tasks(following, 4, first_group=left.num_drawn)
    assert set(ages) == {0, 1} and len(ages) == 48 and left.num_groups == 3
    collector.abandon(left)


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_an_episode_whose_environment_answers_otherwise_begins_anew(game, what, capsys):
    collector, params, chat = game
    _, left, _ = go_on(collector, params, TASKS, nothing(), step=0)
    begun = [unfinished.describe(e) for e in left.episodes]
    acted = next(i for i, one in enumerate(begun) if one.turns)
    first, *others = begun[acted].turns
    changes = {
        "observation": {"observation": "whom?"},
        "reward": {"turns": (dataclasses.replace(first, reward=0.5), *others)},
    }
    begun[acted] = dataclasses.replace(begun[acted], **changes[what])
    with pool.EnvPool({"recall": base.EnvConfig()}, num_workers=1) as others:
        found = unfinished.restore(begun, others, chat)
    assert not found[acted].has_begun and found[acted].env_slot < 0
    for index, (episode, one) in enumerate(zip(found, begun, strict=True)):
        if index != acted and one.has_begun:
            assert episode.env_slot == index and len(episode.turns) == len(one.turns)
            assert episode.policy_step == 0
    told = f"1 of {left.num_begun} episodes that go on begin anew"
    assert told in capsys.readouterr().out
    collector.abandon(left)  # whoever plays next may use the environments
    collector.collect(params, TASKS[:4], key=KEY, policy_step=0)


def test_other_processes_share_the_groups_that_were_saved(monkeypatch):
    def one(group, sample):
        task = types.Task("recall", "recall_0", group, sample)
        return unfinished.UnfinishedEpisode(task, group * 2 + sample, -1, "")

    begun = [[one(0, 0), one(2, 1)], [one(1, 0), one(3, 1)]]
    finished = [[one(0, 1), one(2, 0)], [one(1, 1), one(3, 0)]]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert unfinished.share(begun, finished) == (begun[1], finished[1])
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    of_all = ([*begun[0], *begun[1]], [*finished[0], *finished[1]])
    assert unfinished.share(begun, finished) == of_all
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    assert unfinished.share(begun, finished) == ([one(2, 1)], [one(2, 0)])
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(errors.ConfigError, match=r"holds 4 groups .* 3 hosts cannot"):
        unfinished.share(begun, finished)


def test_a_target_takes_the_oldest_complete_groups():
    def ended(group, sample, step):
        task = types.Task("recall", "recall_0", group, sample)
        return types.Trajectory(task, (), types.Ending.FAILED, step, False, 0.0)

    young = [ended(1, 0, 4), ended(1, 1, 5)]
    old = [ended(7, 1, 3), ended(7, 0, 4)]
    target = partial.Target(1, 2, oldest_step=0)
    assert target.choose(young, []) == [young]
    assert target.choose([*young, *old], []) == [old[::-1]]
    assert target.choose([*young, old[0]], []) == [young]
    assert dataclasses.replace(target, num_groups=2).choose(young, []) is None
    strict = dataclasses.replace(target, oldest_step=4)
    assert strict.choose([*young, old[0]], []) is None  # begun with step 3
    unfinished = live.Episode(0, types.Task("recall", "recall_0", 9, 0), 0, chat=None)
    assert strict.choose(young, [unfinished]) == [young]  # not begun
    unfinished.policy_step = 3
    assert strict.choose(young, [unfinished]) is None
