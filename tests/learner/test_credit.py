"""Advantages of tokens against loops in float64, from rewards and scores."""

import dataclasses

import numpy as np
import pytest

from agentrl import config, types
from agentrl.learner import credit


def make_episodes(seed, num_groups=3, size=4):
    """Random ragged episodes, in groups, with the scores of their tokens."""
    rng = np.random.default_rng(seed)
    endings = [types.Ending.SOLVED, types.Ending.MAX_TURNS, types.Ending.ENV_ERROR]
    episodes, scores = [], []
    for index in range(num_groups * size):
        turns = []
        for _ in range(rng.integers(1, 4)):
            count = int(rng.integers(1, 5))
            logprobs = rng.normal(-2, 0.5, count).astype(np.float32)
            tokens = np.zeros(count, np.int32)
            turns.append(
                types.Turn(
                    tokens, tokens, logprobs, "see", "do", float(rng.integers(3)), True
                )
            )
        task = types.Task("farm", "farm_0", index // size, index % size)
        ending = endings[index % 5 % 3]
        episode = types.Trajectory(task, tuple(turns), ending, 0, True, 1.0)
        episodes.append(episode)
        scores.append(rng.normal(-1, 0.5, (2, episode.num_action_tokens)))
    return episodes, scores


def make_stage(**algorithm):
    return config.StageConfig(
        name="farm",
        mixture=config.MixtureConfig(environments=(("farm", 1.0),)),
        num_iterations=1,
        rollout=config.RolloutConfig(group_size=4),
        algorithm=config.AlgorithmConfig(**algorithm),
    )


def token_costs(case, episode, divergence):
    """What the tokens of each turn pay."""
    divergence = iter(divergence)
    return [
        [case.kl_coefficient * next(divergence) for _ in turn.action_tokens]
        for turn in episode.turns
    ]


def estimate(case, episode, scores):
    """Advantages and targets by the definition: a discounted sum of later deltas."""
    costs = token_costs(case, episode, scores[1])
    penalty = case.penalty * (episode.ending is types.Ending.MAX_TURNS)
    values, lengths = list(scores[0]), [len(t.action_tokens) for t in episode.turns]
    rewards = []
    for k, turn in enumerate(episode.turns):
        final = turn.reward - penalty * (k == len(lengths) - 1)
        if case.gae_level == "turn":
            rewards.append(final - sum(costs[k]))
        else:
            rewards += [-c for c in costs[k]]
            rewards[-1] += final
    if case.gae_level == "turn":
        values = [values[sum(lengths[:k])] for k in range(len(lengths))]
    after = [*values[1:], 0.0]
    deltas = [
        r + case.discount * n - v
        for r, n, v in zip(rewards, after, values, strict=True)
    ]
    advantages = [
        sum(
            (case.discount * case.gae_decay) ** (j - i) * deltas[j]
            for j in range(i, len(deltas))
        )
        for i in range(len(deltas))
    ]
    targets = [a + v for a, v in zip(advantages, values, strict=True)]
    if case.gae_level == "turn":
        return np.repeat(advantages, lengths), np.repeat(targets, lengths)
    return np.array(advantages), np.array(targets)


@pytest.mark.parametrize("level", ["token", "turn"])
@pytest.mark.parametrize("seed", range(3))
def test_critic_credit_equals_loops(level, seed):
    episodes, scores = make_episodes(seed)
    stage = make_stage(
        name="ppo",
        gae_level=level,
        gae_decay=0.8,
        discount=0.9,
        kl_in="reward",
        kl_coefficient=0.3,
        on_max_turns="penalize",
        penalty=0.5,
    )

    examples = credit.assign(episodes, scores, stage)

    counted = [
        i for i, e in enumerate(episodes) if e.ending is not types.Ending.ENV_ERROR
    ]
    assert 0 < len(counted) < len(episodes)
    assert [e.trajectory for e in examples] == [episodes[i] for i in counted]
    pairs = [estimate(stage.algorithm, episodes[i], scores[i]) for i in counted]
    everything = np.concatenate([advantages for advantages, _ in pairs])
    for example, index, (advantages, targets) in zip(
        examples, counted, pairs, strict=True
    ):
        scaled = (advantages - everything.mean()) / (everything.std() + 1e-6)
        np.testing.assert_allclose(example.advantages, scaled, atol=1e-5)
        np.testing.assert_allclose(example.returns, targets, atol=1e-5)
        np.testing.assert_array_equal(example.values, scores[index][0])


def test_divergence_is_taken_off_returns():
    episodes, scores = make_episodes(5)
    stage = make_stage(
        name="rloo", kl_in="reward", kl_coefficient=0.3, on_env_timeout="keep"
    )
    episodes = [
        dataclasses.replace(e, ending=types.Ending.ENV_TIMEOUT) for e in episodes
    ]

    examples = credit.assign(episodes, scores, stage)

    returns = np.array(
        [
            e.episode_return - sum(map(sum, token_costs(stage.algorithm, e, s[1])))
            for e, s in zip(episodes, scores, strict=True)
        ]
    )
    for index, example in enumerate(examples):
        first = index // 4 * 4
        others = [returns[i] for i in range(first, first + 4) if i != index]
        expected = np.full(
            episodes[index].num_action_tokens, returns[index] - np.mean(others)
        )
        np.testing.assert_allclose(example.advantages, expected, atol=1e-5)


def test_only_groups_with_different_returns_inform():
    def play(reward, group, ending=types.Ending.SOLVED):
        turn = types.Turn(*[np.zeros(1)] * 3, "see", "do", reward, True)
        task = types.Task("farm", "farm_0", group, 0)
        return types.Trajectory(task, (turn,), ending, 0, True, 1.0)

    broken = types.Ending.ENV_ERROR
    episodes = [
        *(play(1.0, 0) for _ in range(4)),
        *(play(float(i == 2), 1) for i in range(4)),
        *(play(1.0, 2) for _ in range(3)),
        play(0.0, 2, broken),  # does not count
        *(play(0.0, 3, broken) for _ in range(4)),
    ]
    assert credit.count_informative(episodes, make_stage()) == 1


def test_no_episode_may_count():
    episodes, scores = make_episodes(0)
    episodes = [dataclasses.replace(e, ending=types.Ending.ENV_ERROR) for e in episodes]
    for name in ("grpo", "ppo"):
        assert credit.assign(episodes, scores, make_stage(name=name)) == []


def test_an_episode_without_turns_costs_nothing():
    episodes, scores = make_episodes(1, num_groups=1)
    episodes[0] = dataclasses.replace(
        episodes[0], turns=(), ending=types.Ending.MAX_TOKENS
    )
    scores[0] = np.zeros((2, 0))
    for name in ("grpo", "ppo"):
        stage = make_stage(name=name, kl_in="reward", kl_coefficient=0.1)
        assert credit.assign(episodes, scores, stage)[0].advantages.shape == (0,)
