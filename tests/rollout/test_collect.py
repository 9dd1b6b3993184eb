"""Rollouts of a small policy in real worker processes, on eight virtual devices."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from recall_rollouts import SETTINGS, TASKS, ThinkingTokenizer, play

from agentrl import config, errors, types
from agentrl.chat import renderer
from agentrl.engine import engine
from agentrl.learner import packing
from agentrl.parallel import sharding


@pytest.fixture(scope="module")
def played(model, framed, envs):
    return play(model, framed, envs)


def tokens_of(trajectory):
    parts = [
        p for t in trajectory.turns for p in (t.observation_tokens, t.action_tokens)
    ]
    return np.concatenate(parts)


def test_every_task_comes_back_in_order(played):
    _, (trajectories, statistics) = played
    assert [t.task for t in trajectories] == TASKS
    assert {t.policy_step for t in trajectories} == {3}
    endings = {t.ending for t in trajectories}
    assert types.Ending.MAX_TOKENS in endings and len(endings) > 1
    written = sum(t.num_action_tokens for t in trajectories)
    assert statistics.decoded_tokens == written
    assert 0 < statistics.live_slot_turns <= statistics.slot_turns


@pytest.mark.parametrize("which", ["played", "played_cut"])
def test_learner_scores_the_context_that_the_sampler_saw(model, framed, request, which):
    params, (trajectories, _) = request.getfixturevalue(which)
    unembedding = model.unembedding(params)
    hidden = jax.jit(model.hidden)
    for trajectory in trajectories:
        tokens = np.zeros((1, SETTINGS.max_tokens), np.int32)
        used = trajectory.num_tokens
        tokens[0, :used] = tokens_of(trajectory)
        columns = np.arange(SETTINGS.max_tokens)[None]
        states = hidden(params, tokens, columns, (columns < used).astype(np.int32))
        logits = (states @ unembedding)[0, :, : framed.tokenizer.vocab_size]
        logprobs = jax.nn.log_softmax(logits)
        start = 0
        for turn in trajectory.turns:
            begin = start + len(turn.observation_tokens)
            end = begin + len(turn.action_tokens)
            scored = logprobs[np.arange(begin - 1, end - 1), tokens[0, begin:end]]
            np.testing.assert_allclose(scored, turn.action_logprobs, atol=2e-5)
            start = end


@pytest.fixture(scope="module")
def played_cut(model, framed, envs):
    """Actions of at most three tokens, which a random policy seldom ends by itself."""
    settings = dataclasses.replace(SETTINGS, max_action_tokens=3, cut_actions="play")
    return play(model, framed, envs, settings)


def test_a_cut_action_is_closed_played_and_goes_on(framed, played_cut):
    _, (trajectories, _) = played_cut
    stops, stop = framed.tokenizer.stop_ids, framed.tokenizer.stop_id
    num_closed = 0
    for trajectory in trajectories:
        for turn, after in itertools.pairwise(trajectory.turns):
            closing = [] if turn.action_tokens[-1] in stops else [stop]
            num_closed += len(closing)
            np.testing.assert_array_equal(
                after.observation_tokens, closing + framed.extend(after.observation)
            )
            assert after.observation == "which?"  # the environment has seen it
            assert framed.tokenizer.decode(turn.action_tokens.tolist()) == turn.action
    assert num_closed > len(trajectories) / 2
    endings = {t.ending for t in trajectories}
    assert types.Ending.FAILED in endings  # the second action of the game ends it


@pytest.fixture(scope="module")
def played_thinking(model, envs):
    settings = dataclasses.replace(
        SETTINGS,
        max_tokens=256,
        max_action_tokens=32,
        max_thinking_tokens=8,
        cache_buckets=(256,),
        append_buckets=(64,),
    )
    chat = renderer.Chat(ThinkingTokenizer(), "plain", past_reasoning="drop")
    return chat, play(model, chat, envs, settings, devices=2)


def test_a_thought_at_its_limit_is_ended(played_thinking):
    chat, (_, (trajectories, statistics)) = played_thinking
    forced = chat.tokenizer.encode("\n</think>\n\n")
    turns = [turn for t in trajectories for turn in t.turns]
    long = [turn for turn in turns if turn.sampled is not None]
    assert 0 < len(long) < len(turns)  # others stop within their thought
    for turn in long:
        np.testing.assert_array_equal(turn.action_tokens[8:19], forced)
        assert np.flatnonzero(~turn.sampled).tolist() == list(range(8, 19))
        assert not turn.action_logprobs[8:19].any()
        assert turn.action == chat.tokenizer.decode(turn.action_tokens.tolist())
        assert 19 < len(turn.action_tokens) <= 32
    assert {len(t.action_tokens) for t in turns if t.sampled is None} <= set(range(9))
    assert statistics.decoded_tokens == sum(t.num_action_tokens for t in trajectories)


def test_contexts_go_on_without_past_thoughts(model, played_thinking):
    chat, (params, (trajectories, _)) = played_thinking
    pieces, origins = packing.unfold(trajectories)
    of_trajectory = [
        [piece for piece, o in zip(pieces, origins, strict=True) if o == origin]
        for origin in range(len(trajectories))
    ]
    assert max(map(len, of_trajectory)) == 2
    for trajectory, parts in zip(trajectories, of_trajectory, strict=True):
        messages = [renderer.Message("system", "Remember the letter.")]
        assert len(parts) == len(trajectory.turns)
        for turn, piece in zip(trajectory.turns, parts, strict=True):
            messages.append(renderer.Message("user", turn.observation))
            (only,) = piece.turns
            assert only.observation_tokens.tolist() == chat.context(messages)
            np.testing.assert_array_equal(only.action_tokens, turn.action_tokens)
            kept = turn.action.rpartition("</think>")[2].lstrip("\n")
            messages.append(renderer.Message("assistant", kept))
    hidden = jax.jit(model.hidden)
    for piece in pieces:
        tokens = np.zeros((1, 256), np.int32)
        tokens[0, : piece.num_tokens] = tokens_of(piece)
        columns = np.arange(256)[None]
        used = (columns < piece.num_tokens).astype(np.int32)
        states = hidden(params, tokens, columns, used)
        logits = states @ model.unembedding(params)
        logprobs = jax.nn.log_softmax(logits[0, :, : chat.tokenizer.vocab_size])
        (turn,) = piece.turns
        begin, mask = len(turn.observation_tokens), turn.sampled_mask
        places = begin + np.flatnonzero(mask)
        scored = logprobs[places - 1, tokens[0, places]]
        np.testing.assert_allclose(scored, turn.action_logprobs[mask], atol=2e-5)


def test_an_action_cut_by_the_whole_episode_is_not_played(model, framed, envs):
    room = len(framed.open("", "letter a.")) + 2
    settings = dataclasses.replace(
        SETTINGS,
        max_tokens=room,
        max_action_tokens=3,
        cut_actions="play",
    )
    _, (trajectories, _) = play(model, framed, envs, settings, tasks=TASKS[:8])
    cut = [t for t in trajectories if len(t.turns[-1].action_tokens) < 3]
    assert {t.ending for t in cut} == {types.Ending.MAX_TOKENS}


def test_turns_hold_the_tokens_of_their_text(framed, played):
    _, (trajectories, _) = played
    for trajectory in trajectories:
        for index, turn in enumerate(trajectory.turns):
            render = framed.extend if index else lambda text: framed.open("", text)
            np.testing.assert_array_equal(
                turn.observation_tokens, render(turn.observation)
            )
            assert framed.tokenizer.decode(turn.action_tokens.tolist()) == turn.action


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (1, {}),
        (8, {"num_cohorts": 1}),
        (2, {"num_slots": 4, "row_buckets": ()}),
        pytest.param(8, {"row_buckets": ()}, marks=pytest.mark.slow),
    ],
    ids=["one_device", "one_cohort", "refilled_slots", "full_rows"],
)
def test_episodes_do_not_depend_on_placement(
    model, framed, envs, played, devices, changes
):
    settings = dataclasses.replace(SETTINGS, **changes)
    _, (trajectories, _) = play(model, framed, envs, settings, devices=devices)
    _, (expected, _) = played
    for ours, theirs in zip(trajectories, expected, strict=True):
        np.testing.assert_array_equal(tokens_of(ours), tokens_of(theirs))
        assert (ours.ending, ours.success) == (theirs.ending, theirs.success)


def test_an_episode_played_again_among_others_is_the_same(model, framed, envs, played):
    _, (expected, _) = played
    chosen = [17, 4, 9]
    options = {
        "tasks": [TASKS[index] for index in chosen],
        "streams": chosen,
    }
    _, (again, _) = play(model, framed, envs, **options)
    for ours, index in zip(again, chosen, strict=True):
        np.testing.assert_array_equal(tokens_of(ours), tokens_of(expected[index]))


def test_an_episode_that_is_lost_says_how_and_changes_no_other(
    model, framed, envs, played
):
    lost = types.Task("recall", "recall_9999999999", group=99, sample=0)  # no such task
    _, (trajectories, _) = play(model, framed, envs, tasks=[*TASKS, lost])
    assert trajectories[-1].ending is types.Ending.ENV_ERROR
    assert trajectories[-1].fault == "raised"
    assert "task recall_9999999999, its reset" in trajectories[-1].error
    _, (expected, _) = played
    assert [t.ending for t in trajectories[:-1]] == [t.ending for t in expected]
    assert all(t.fault == "" for t in expected)


def test_horizon_ends_episodes(model, framed, envs):
    _, (trajectories, _) = play(model, framed, envs, max_turns=1)
    assert {len(t.turns) for t in trajectories} == {1}
    assert types.Ending.MAX_TURNS in {t.ending for t in trajectories}


@pytest.mark.parametrize(
    "frame", ["bare", pytest.param("plain", marks=pytest.mark.slow)]
)
def test_prefix_caching_changes_nothing(model, framed, envs, frame, monkeypatch):
    reframed = dataclasses.replace(framed, frame=frame)
    settings = dataclasses.replace(SETTINGS, max_tokens=96, cache_buckets=(32, 96))
    options = {"devices": 1, "tasks": TASKS[:8]}
    _, (shared, statistics) = play(model, reframed, envs, settings, **options)
    dispatch = engine.Engine.dispatch

    def dispatch_without(self, params, cohort, inputs, key):
        alone = {
            slot: dataclasses.replace(entry, shared_prefix_lengths=())
            for slot, entry in inputs.items()
        }
        shares = any(entry.shared_prefix_lengths for entry in inputs.values())
        assert shares or cohort.lengths.any()
        return dispatch(self, params, cohort, alone, key)

    monkeypatch.setattr(engine.Engine, "dispatch", dispatch_without)
    _, (alone, others) = play(model, reframed, envs, settings, **options)
    # All of what was not sampled, and each action's last token that was answered.
    observed = sum(t.num_tokens - t.num_action_tokens for t in alone)
    answered = sum(len(t.turns) - 1 for t in alone)
    assert others.prefill_tokens == observed + answered
    assert statistics.prefill_tokens < others.prefill_tokens
    for ours, theirs in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(tokens_of(ours), tokens_of(theirs))
        for turn, other in zip(ours.turns, theirs.turns, strict=True):
            np.testing.assert_allclose(
                turn.action_logprobs, other.action_logprobs, atol=5e-6
            )


def test_a_prefix_is_prefilled_once_until_parameters_change(model):
    rollouts = engine.Engine(
        model,
        sharding.make_rollout_mesh(config.MeshConfig()),
        SETTINGS,
        stop_tokens=(1,),
        num_valid_tokens=300,
    )
    calls = []
    prefixes = rollouts._prefixes
    prefill = prefixes._prefill_chunk

    def counted(params, cache, tokens, counts, lengths):
        calls.append((int(lengths[0]), tokens[0, : int(counts[0])].tolist()))
        return prefill(params, cache, tokens, counts, lengths)

    prefixes._prefill_chunk = counted
    params = model.init(jax.random.key(0))
    cohort = rollouts.new_cohort()

    def start(slots, tokens):
        cohort.lengths[slots] = 0
        inputs = {
            slot: engine.SlotInput(tokens, (slot, 0), 2, (3, len(tokens) - 1))
            for slot in slots
        }
        in_flight = rollouts.dispatch(params, cohort, inputs, jax.random.key(1))
        rollouts.fetch(cohort, in_flight)

    start([0, 1], [5, 6, 7, 8, 9])
    start([2], [5, 6, 7, 8, 9])
    start([3], [5, 6, 7, 4, 4, 4])
    assert calls == [(0, [5, 6, 7]), (3, [8]), (3, [4, 4])]
    rollouts.invalidate_prefix_cache()
    start([0], [5, 6, 7, 8, 9])
    assert calls[3:] == [(0, [5, 6, 7]), (3, [8])]


@pytest.mark.parametrize(
    ("append_buckets", "cache_buckets"),
    [
        (
            SETTINGS.append_buckets,
            SETTINGS.cache_buckets,
        ),
        pytest.param(
            (4, 48), (16, 24, 48), marks=pytest.mark.slow
        ),  # wider than caches
    ],
)
def test_nothing_is_compiled_after_the_warm_up(
    model, framed, envs, append_buckets, cache_buckets
):
    settings = dataclasses.replace(
        SETTINGS,
        num_slots=8,
        row_buckets=(1,),
        max_tokens=40,
        append_buckets=append_buckets,
        cache_buckets=cache_buckets,
    )
    _, (_, statistics) = play(model, framed, envs, settings, devices=1, rounds=2)
    if model.config.attention == "xla":  # all rows at first, few in the end
        assert statistics.slot_turns < 2 * statistics.live_slot_turns


def test_greedy_evaluation_takes_the_likeliest_tokens(model, framed, envs):
    greedy = dataclasses.replace(SETTINGS, temperature=0.0)
    params, (trajectories, _) = play(model, framed, envs, greedy, tasks=TASKS[::4])
    first = trajectories[0].turns[0]
    tokens = np.concatenate([first.observation_tokens, first.action_tokens])[None]
    columns = np.arange(tokens.size)[None]
    states = model.hidden(params, tokens, columns, np.ones_like(columns))
    logits = (states @ model.unembedding(params))[0, :, : framed.tokenizer.vocab_size]
    begin = len(first.observation_tokens)
    np.testing.assert_array_equal(
        np.argmax(logits[begin - 1 : -1], axis=-1), first.action_tokens
    )
    np.testing.assert_allclose(first.action_logprobs, 0.0, atol=1e-6)


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}])
def test_training_samples_from_the_whole_policy(change):
    settings = dataclasses.replace(SETTINGS, **change)
    settings.validate("evaluation.rollout", training=False)
    with pytest.raises(errors.ConfigError, match=r"whole policy.*evaluation\.rollout"):
        settings.validate("stage.rollout", training=True)
