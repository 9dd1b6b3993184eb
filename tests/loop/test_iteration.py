"""Each line of an iteration with a bigram model, against the same without packing."""

import contextlib
import dataclasses

import bigram_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl import config, loop, types
from agentrl.models import model_config
from agentrl.run import checks, hindsight, references
from agentrl.supervised import warmstart


def make_episodes(params, rewards=(1.0, 0.0, 0.0, 2.0), first_seed=0):
    """Two groups of two, the first on the farm and the second in the mine."""
    return [
        bigram_run.make_episode(
            first_seed + i,
            params,
            env=bigram_run.ENVIRONMENTS[i // 2],
            group=i // 2,
            sample=i % 2,
            reward=reward,
        )
        for i, reward in enumerate(rewards)
    ]


def other_params(seed):
    return bigram_run.Bigram().init(jax.random.key(100 + seed))


REWARD_KL = config.KLConfig(placement="reward", coefficient=0.1)


@pytest.mark.parametrize("max_microbatches", [8, 1])
def test_scores_are_those_of_unpacked_forward_passes(max_microbatches):
    stage_settings = bigram_run.make_stage("ppo", config.Ppo(kl=REWARD_KL))
    run = bigram_run.make_run(
        stage_settings, rows_per_microbatch=1, max_microbatches=max_microbatches
    )
    stage, state = bigram_run.start(run)
    params, reference = bigram_run.copy(state.learner.params), other_params(0)
    episodes = [bigram_run.make_episode(seed, params) for seed in range(12)]

    scores = loop.score_tokens(
        run, stage, state.learner.params, episodes, references.References(reference)
    )

    assert len(scores) == len(episodes)
    for episode, found in zip(episodes, scores, strict=True):
        behavior, values = bigram_run.action_scores(params, episode)
        referred, _ = bigram_run.action_scores(reference, episode)
        np.testing.assert_allclose(found.behavior_logprobs, behavior, atol=1e-6)
        np.testing.assert_allclose(found.values, values, atol=1e-5)
        np.testing.assert_allclose(found.reference_logprobs, referred, atol=1e-5)


def test_episodes_without_an_action_have_no_scores():
    run = bigram_run.make_run(bigram_run.make_stage("ppo", config.Ppo(kl=REWARD_KL)))
    stage, state = bigram_run.start(run)
    params = state.learner.params
    episode = bigram_run.make_episode(0, params)
    task = types.Task("farm", "farm_0", 0, 1)
    empty = types.Trajectory(task, (), types.Ending.MAX_TOKENS, 0, False, 0.0)

    scores = loop.score_tokens(
        run, stage, params, [empty, episode], references.References(other_params(0))
    )

    assert scores[0].values.shape == scores[0].reference_logprobs.shape == (0,)
    assert scores[1].values.shape == (episode.num_action_tokens,)


def test_nothing_is_scored_that_the_algorithm_does_not_need():
    run = bigram_run.make_run(bigram_run.make_stage("grpo", config.Grpo()))
    stage, state = bigram_run.start(run)
    episodes = make_episodes(state.learner.params)
    scores = loop.score_tokens(
        run, stage, state.learner.params, episodes, references.References()
    )
    assert all(s.values is None and s.reference_logprobs is None for s in scores)


@pytest.mark.parametrize(
    ("algorithm", "weigh"),
    [
        # The mean over the four sequences of the means over their tokens.
        (config.Grpo(), lambda lengths, i: 1 / (4 * lengths[i])),
        # The mean over all tokens.
        (config.Dapo(), lambda lengths, i: 1 / sum(lengths)),
        # The sum over a sequence divided by the 40 tokens that an episode may have.
        (
            config.DrGrpo(advantage_scale="std"),
            lambda lengths, i: 1 / (4 * 40),
        ),
    ],
    ids=["grpo", "dapo", "dr_grpo"],
)
def test_an_iteration_takes_the_step_of_the_unpacked_loss(algorithm, weigh):
    run = bigram_run.make_run(bigram_run.make_stage("only", algorithm))
    stage, state = bigram_run.start(run)
    params = bigram_run.copy(state.learner.params)
    episodes = make_episodes(params)
    lengths = [episode.num_action_tokens for episode in episodes]

    state, values = bigram_run.train_on(run, stage, state, episodes)

    advantages = [1, -1, -1, 1]  # by hand: returns 1 and 0, then 0 and 2

    def loss(params):  # on-policy the clipped surrogate has the gradient of -A log p
        total = 0.0
        for i, episode in enumerate(episodes):
            tokens, mask = bigram_run.tokens_of(episode)
            scores = bigram_run.log_probabilities(params, tokens)
            total -= weigh(lengths, i) * advantages[i] * jnp.sum(scores * mask[1:])
        return total

    gradient = jax.grad(loss)(params)
    expected = np.sqrt(sum(float(jnp.sum(g**2)) for g in gradient.values()))
    np.testing.assert_allclose(values["optimizer/grad_norm"], expected, rtol=1e-4)
    expected_loss = -sum(
        weigh(lengths, i) * a * lengths[i] for i, a in enumerate(advantages)
    )
    np.testing.assert_allclose(values["policy/loss"], expected_loss, atol=1e-5)
    # The first update of Adam moves against the sign of the gradient.
    moved = np.asarray(state.learner.params["head"]) - params["head"]
    large = np.abs(gradient["head"]) > 1e-3
    assert large.any()
    np.testing.assert_array_equal(
        np.sign(moved)[large], -np.sign(gradient["head"])[large]
    )
    assert values["policy/first_logprob_mismatch"] < 1e-6
    assert values["policy/staleness"] == 0 and values["learner/dropped"] == 0
    assert values["learner/trained_actions"] == sum(lengths)
    assert int(state.learner.step) == 1


def test_the_updated_policy_looks_back_at_the_episodes_that_are_stored():
    run = bigram_run.make_run(bigram_run.make_stage("only", config.Grpo()))
    stage, state = bigram_run.start(run)
    episodes = make_episodes(state.learner.params)
    state, _ = bigram_run.train_on(run, stage, state, episodes)
    params = state.learner.params
    assert hindsight.look_back(run, stage, params, episodes) == []
    run.config = dataclasses.replace(run.config, token_hindsight=True, token_episodes=3)

    found = hindsight.look_back(run, stage, params, episodes)

    assert len(found) == 3
    for episode, later in zip(episodes, found, strict=False):
        expected, _ = bigram_run.action_scores(params, episode)
        np.testing.assert_allclose(later.logprobs, expected, atol=1e-5)
        tokens, mask = bigram_run.tokens_of(episode)
        logits = params["embedding"][tokens[:-1]] @ params["head"]
        chances = jax.nn.softmax(logits / bigram_run.TEMPERATURE)[mask[1:]]
        entropy = -jnp.sum(chances * jnp.log(chances), axis=-1)
        np.testing.assert_allclose(later.entropies, entropy, atol=1e-5)
        behavior = np.concatenate([turn.action_logprobs for turn in episode.turns])
        assert np.abs(later.logprobs - behavior).max() > 1e-3  # it has moved


def test_groups_without_signal_are_dropped():
    run = bigram_run.make_run(bigram_run.make_stage("only", config.Grpo()))
    stage, state = bigram_run.start(run)
    episodes = make_episodes(state.learner.params, rewards=(1.0, 1.0, 0.0, 1.0))
    stage, seen = bigram_run.spy_on_updates(stage)

    _, values = bigram_run.train_on(run, stage, state, episodes)

    assert values["learner/dropped"] == 2
    ((batch, _),) = seen
    kept = {bigram_run.key_of(episode) for episode in episodes[2:]}
    assert set(bigram_run.read_segments(batch)) == kept


def test_passes_visit_every_episode_and_count_updates():
    algorithm = config.Grpo(updates_per_iteration=2, passes=3)
    settings = bigram_run.make_stage("only", algorithm)
    run = bigram_run.make_run(settings)
    stage, state = bigram_run.start(run)
    params = bigram_run.copy(state.learner.params)
    episodes = make_episodes(params) + make_episodes(params, first_seed=4)
    stage, seen = bigram_run.spy_on_updates(stage)

    state, values = bigram_run.train_on(run, stage, state, episodes)

    assert len(seen) == 6 == int(state.learner.step) == settings.updates_per_iteration
    visited = [set(bigram_run.read_segments(batch)) for batch, _ in seen]
    everything = {bigram_run.key_of(episode) for episode in episodes}
    for first in range(0, 6, 2):
        assert visited[first] | visited[first + 1] == everything
        assert len(visited[first]) == len(visited[first + 1]) == 4
    assert len({frozenset(part) for part in visited}) > 2  # not the same halves again
    # Only before the first update do sampler and learner agree.
    assert values["policy/first_logprob_mismatch"] < 1e-6
    assert values["policy/logprob_mismatch"] > 1e-3


@pytest.mark.parametrize("updates", [1, 4])
def test_means_over_tokens_are_of_the_updates_that_had_some(updates):
    def train(rewards, updates):
        algorithm = config.Grpo(updates_per_iteration=updates)
        run = bigram_run.make_run(bigram_run.make_stage("only", algorithm))
        stage, state = bigram_run.start(run)
        episodes = make_episodes(bigram_run.copy(state.learner.params), rewards)
        return bigram_run.train_on(run, stage, state, episodes)[1]

    values = train((1.0, 0.0, 2.0, 2.0), updates)  # one of two groups has a signal
    alone = train((1.0, 0.0, 2.0, 2.0), 1)
    # Parameters move between updates; with zeros half of the mean would be missing.
    assert values["policy/entropy"] == pytest.approx(alone["policy/entropy"], rel=0.3)
    assert values["policy/ratio_max"] >= 1
    without = train((1.0, 1.0, 2.0, 2.0), updates)
    assert without["learner/policy_tokens"] == 0 == without["policy/loss"]
    assert "policy/entropy" not in without
    assert "policy/first_logprob_mismatch" not in without


def test_a_mismatch_before_the_first_update_ends_the_run():
    run = bigram_run.make_run(bigram_run.make_stage("only", config.Grpo()))
    stage, state = bigram_run.start(run)
    episodes = make_episodes(other_params(3))
    with pytest.raises(
        loop.errors.TrainingError,
        match=r"max_logprob_mismatch = 1\.00e-02\. The learner would train on",
    ):
        bigram_run.train_on(run, stage, state, episodes)
    precision = model_config.Precision(rollout_kernels="int8")
    rounded = dataclasses.replace(run.config.model, precision=precision)
    run.config = dataclasses.replace(run.config, model=rounded)
    stage, state = bigram_run.start(run)
    with pytest.raises(loop.errors.TrainingError, match="kernels in int8"):
        bigram_run.train_on(run, stage, state, episodes)


@pytest.mark.parametrize(
    ("precision", "limit", "ends"),
    [
        ({}, None, True),
        ({"compute": "bfloat16"}, None, False),
        ({"cache": "bfloat16"}, None, False),
        ({"rollout_kernels": "int8"}, None, False),
        ({"compute": "bfloat16"}, 0.01, True),
    ],
)
def test_what_rounding_explains_does_not_end_a_run(precision, limit, ends):
    algorithm = config.Grpo(max_logprob_mismatch=limit)
    stage = bigram_run.make_stage("only", algorithm)
    values = {"policy/first_logprob_mismatch": 0.0103}
    found = model_config.Precision(**precision)
    with pytest.raises(loop.errors.TrainingError) if ends else contextlib.nullcontext():
        checks.check_logprob_mismatch(values, stage, 1, found)
    values = {"policy/first_logprob_mismatch": 0.06}
    with pytest.raises(loop.errors.TrainingError):
        checks.check_logprob_mismatch(values, stage, 1, found)


def test_divergence_in_the_loss_reaches_the_batch_and_the_metrics():
    algorithm = config.Grpo(kl=config.KLConfig(coefficient=0.25))
    run = bigram_run.make_run(bigram_run.make_stage("only", algorithm))
    stage, state = bigram_run.start(run)
    params, reference = bigram_run.copy(state.learner.params), other_params(0)
    episodes = make_episodes(params)
    stage, seen = bigram_run.spy_on_updates(stage)

    _, values = bigram_run.train_on(
        run, stage, state, episodes, references.References(reference)
    )

    ((batch, given),) = seen
    assert given is reference
    np.testing.assert_array_equal(batch.kl_weights, 0.25 * batch.rl_weights)
    away = np.concatenate(
        [
            bigram_run.action_scores(reference, episode)[0]
            - bigram_run.action_scores(params, episode)[0]
            for episode in episodes
        ]
    )
    np.testing.assert_allclose(
        values["policy/reference_kl"], np.mean(np.exp(away) - 1 - away), rtol=1e-4
    )


@pytest.mark.parametrize(
    "algorithm", [config.DrGrpo(kl=REWARD_KL), config.Ppo(kl=REWARD_KL)],
    ids=lambda a: a.NAME,
)  # fmt: skip
def test_divergence_in_the_reward_is_paid_before_the_update(algorithm):
    run = bigram_run.make_run(bigram_run.make_stage("only", algorithm))
    stage, state = bigram_run.start(run)
    params, reference = bigram_run.copy(state.learner.params), other_params(0)
    episodes = make_episodes(params, rewards=(0.0, 0.0, 0.0, 0.0))
    stage, seen = bigram_run.spy_on_updates(stage)

    state, values = bigram_run.train_on(
        run, stage, state, episodes, references.References(reference)
    )

    ((batch, given),) = seen
    assert given is None and batch.kl_weights is None  # the loss has no such term
    assert "policy/reference_kl" not in values and int(state.learner.step) == 1
    if isinstance(algorithm, config.Ppo):
        assert values["critic/loss"] > 0
        return
    costs = []
    for episode in episodes:
        away = bigram_run.action_scores(reference, episode)[0]
        away = away - bigram_run.action_scores(params, episode)[0]
        costs.append(0.1 * np.sum(np.exp(away) - 1 - away))
    found = bigram_run.read_segments(batch)
    for i, episode in enumerate(episodes):
        expected = np.mean(costs[i // 2 * 2 :][:2]) - costs[i]
        fields = found[bigram_run.key_of(episode)]
        acted = fields["rl_weights"] != 0
        np.testing.assert_allclose(fields["advantages"][acted], expected, rtol=1e-3)


def test_two_teachers_judge_the_episodes_of_their_environments():
    pairs = (("farm", "first"), ("mine", "second"))
    algorithm = config.Distillation(teachers=pairs)
    run = bigram_run.make_run(bigram_run.make_stage("only", algorithm))
    stage, state = bigram_run.start(run)
    params = bigram_run.copy(state.learner.params)
    teachers = {"farm": other_params(1), "mine": other_params(2)}
    episodes = make_episodes(params, rewards=(0.0, 0.0, 1.0, 1.0))
    stage, seen = bigram_run.spy_on_updates(stage)

    _, values = bigram_run.train_on(
        run, stage, state, episodes, references.References(teachers=teachers)
    )

    ((batch, reference),) = seen
    assert reference is None
    found = bigram_run.read_segments(batch)
    assert values["learner/dropped"] == 0 and len(found) == 4
    for episode in episodes:
        taught, _ = bigram_run.action_scores(teachers[episode.task.env], episode)
        expected = taught - bigram_run.action_scores(params, episode)[0]
        fields = found[bigram_run.key_of(episode)]
        acted = fields["rl_weights"] != 0
        np.testing.assert_array_equal(acted, bigram_run.tokens_of(episode)[1])
        np.testing.assert_allclose(fields["advantages"][acted], expected, atol=1e-5)


@pytest.fixture
def demonstrations(monkeypatch):
    """What oracles show, in place of solving tasks."""
    params = other_params(7)
    found = [
        bigram_run.make_episode(
            50 + i, params, env=bigram_run.ENVIRONMENTS[i % 2], num_turns=2, reward=1.0
        )
        for i in range(8)
    ]
    monkeypatch.setattr(
        warmstart, "collect_demonstrations", lambda *args, **options: found
    )
    return found


def test_demonstrations_are_rehearsed_beside_episodes(demonstrations):
    rehearsal = config.RehearsalConfig(
        environments=(("mine", 1.0),), coefficient=0.25, episodes_per_iteration=3
    )
    settings = bigram_run.make_stage("only", config.Grpo(), rehearsal=rehearsal)
    run = bigram_run.make_run(settings)
    stage, state = bigram_run.start(run)
    params = bigram_run.copy(state.learner.params)
    episodes = make_episodes(params)
    stage, seen = bigram_run.spy_on_updates(stage)

    _, values = bigram_run.train_on(run, stage, state, episodes)

    ((batch, _),) = seen
    found = bigram_run.read_segments(batch)
    for episode in episodes:
        fields = found.pop(bigram_run.key_of(episode))
        acted = bigram_run.tokens_of(episode)[1]
        np.testing.assert_array_equal(fields["rl_weights"], acted)
        assert not fields["ce_weights"].any()
    by_tokens = {bigram_run.key_of(d): d for d in demonstrations}
    assert len(found) == 3
    scores = []
    for tokens, fields in found.items():
        acted = bigram_run.tokens_of(by_tokens[tokens])[1]
        assert by_tokens[tokens].task.env == "mine"
        np.testing.assert_array_equal(fields["ce_weights"], 0.25 * acted)
        assert not fields["rl_weights"].any() and not fields["advantages"].any()
        scores += bigram_run.action_scores(params, by_tokens[tokens])[0].tolist()
    np.testing.assert_allclose(values["rehearsal/nll"], -np.mean(scores), rtol=1e-5)
    # What is said of episodes leaves demonstrations out.
    assert values["policy/first_logprob_mismatch"] < 1e-6


def test_a_supervised_iteration_learns_demonstrations(demonstrations):
    algorithm = config.Supervised(episodes_per_step=4, updates_per_iteration=2)
    run = bigram_run.make_run(bigram_run.make_stage("only", algorithm))
    stage, state = bigram_run.start(run)
    params = bigram_run.copy(state.learner.params)
    stage, seen = bigram_run.spy_on_updates(stage)
    assert stage.collector is None

    state, values = loop.supervised_iteration(
        run, stage, state, 0, bigram_run.make_recorder()
    )

    assert len(seen) == 2 == int(state.learner.step)
    by_tokens = {bigram_run.key_of(d): d for d in demonstrations}
    first = bigram_run.read_segments(seen[0][0])
    shown = [by_tokens[t] for batch, _ in seen for t in bigram_run.read_segments(batch)]
    assert [d.task.env for d in shown].count("farm") == 2 and len(shown) == 4
    assert not any(batch.rl_weights.any() for batch, _ in seen)
    assert values["learner/dropped"] == 0
    # Without a temperature, as a model reads text.
    scores = [bigram_run.action_scores(params, by_tokens[t], 1.0)[0] for t in first]
    _, metrics = stage.train_step(
        stage.initial_state(run, run.parameters.init(), jnp.int32(0)).learner,
        seen[0][0],
        None,
    )
    expected = -np.mean(np.concatenate(scores))
    np.testing.assert_allclose(metrics["policy/loss"], expected, rtol=1e-5)
