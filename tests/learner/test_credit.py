"""Advantages of tokens against loops in float64, from rewards and scores."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from agentrl import config, types
from agentrl.hardware import timing
from agentrl.learner import algorithms, credit
from agentrl.reporting import metrics

ESTIMATORS = {
    "k1": lambda away: -away,
    "k2": lambda away: away**2 / 2,
    "k3": lambda away: math.exp(away) - 1 - away,
}


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
        behavior = np.concatenate([turn.action_logprobs for turn in turns])
        values, reference = rng.normal(-1, 0.5, (2, episode.num_action_tokens))
        scores.append(credit.TokenScores(behavior.astype(float), values, reference))
    return episodes, scores


def make_stage(algorithm):
    return config.StageConfig(
        name="farm",
        mixture=config.MixtureConfig(environments=(("farm", 1.0),)),
        num_iterations=1,
        rollout=config.RolloutConfig(group_size=4),
        algorithm=algorithm,
    )


def assign(algorithm, episodes, scores, *, group_size=4, seed=0):
    """Signals of an iteration, as the loop asks for them."""
    estimate = algorithms.resolve(make_stage(algorithm)).estimate
    return estimate(episodes, scores, group_size, seed)


def token_costs(penalty, episode, scores):
    """What the tokens of each turn pay for their distance from the reference."""
    pairs = zip(scores.reference_logprobs, scores.behavior_logprobs, strict=True)
    estimator = ESTIMATORS[penalty.estimator]
    costs = iter([penalty.coefficient * estimator(q - p) for q, p in pairs])
    return [[next(costs) for _ in turn.action_tokens] for turn in episode.turns]


def estimate_with_critic(case, episode, scores):
    """Advantages and targets by the definition: a discounted sum of later deltas."""
    costs = token_costs(case.kl, episode, scores)
    penalty = case.penalty * (episode.ending is types.Ending.MAX_TURNS)
    values, lengths = list(scores.values), [len(t.action_tokens) for t in episode.turns]
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
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("scale", ["std", "sample_std", "none"])
def test_critic_credit_equals_loops(level, estimator, scale):
    episodes, scores = make_episodes(len(estimator + scale))
    algorithm = config.Ppo(
        gae_level=level,
        gae_decay=0.8,
        discount=0.9,
        advantage_scale=scale,
        kl=config.KLConfig(placement="reward", coefficient=0.3, estimator=estimator),
        on_max_turns="penalize",
        penalty=0.5,
    )

    signals = assign(algorithm, episodes, scores)

    counted = [
        i for i, e in enumerate(episodes) if e.ending is not types.Ending.ENV_ERROR
    ]
    assert 0 < len(counted) < len(episodes)
    assert [i for i, signal in enumerate(signals) if signal.trains] == counted
    pairs = [estimate_with_critic(algorithm, episodes[i], scores[i]) for i in counted]
    everything = np.concatenate([advantages for advantages, _ in pairs])
    spread = {
        "std": everything.std() + 1e-6,
        "sample_std": everything.std(ddof=1) + 1e-6,
        "none": 1.0,
    }[scale]
    for index, (advantages, targets) in zip(counted, pairs, strict=True):
        signal = signals[index]
        scaled = (advantages - everything.mean()) / spread
        np.testing.assert_allclose(signal.advantages, scaled, atol=1e-5)
        np.testing.assert_allclose(signal.value_targets, targets, atol=1e-5)
        np.testing.assert_array_equal(signal.old_values, scores[index].values)
        assert (signal.rl_weights, signal.kl_weights, signal.ce_weights) == (1, 0, 0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_divergence_is_taken_off_returns(estimator):
    episodes, scores = make_episodes(5)
    algorithm = config.Rloo(
        kl=config.KLConfig(placement="reward", coefficient=0.3, estimator=estimator),
        on_env_timeout="keep",
    )
    episodes = [
        dataclasses.replace(e, ending=types.Ending.ENV_TIMEOUT) for e in episodes
    ]

    signals = assign(algorithm, episodes, scores)

    returns = np.array(
        [
            e.episode_return - sum(map(sum, token_costs(algorithm.kl, e, s)))
            for e, s in zip(episodes, scores, strict=True)
        ]
    )
    for index, signal in enumerate(signals):
        first = index // 4 * 4
        others = [returns[i] for i in range(first, first + 4) if i != index]
        expected = np.full(
            episodes[index].num_action_tokens, returns[index] - np.mean(others)
        )
        np.testing.assert_allclose(signal.advantages, expected, atol=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_nothing_is_compiled_for_the_lengths_of_episodes(estimator):
    algorithm = config.Rloo(
        kl=config.KLConfig(placement="reward", coefficient=0.3, estimator=estimator)
    )
    episodes, scores = make_episodes(5)
    counter = timing.CompilationCounter()
    assign(algorithm, episodes, scores)
    assert counter.pop() == 0


def test_divergence_in_the_loss_becomes_a_weight_of_each_token():
    episodes, scores = make_episodes(5)
    plain = assign(config.Grpo(), episodes, scores)
    signals = assign(config.Grpo(kl=config.KLConfig(coefficient=0.3)), episodes, scores)

    assert any(signal.trains for signal in signals)
    for with_term, without in zip(signals, plain, strict=True):
        assert with_term.kl_weights == (0.3 if without.trains else 0.0)
        np.testing.assert_array_equal(with_term.advantages, without.advantages)


def play(*rewards, group=0, sample=0, env="farm", ending=types.Ending.SOLVED):
    """An episode with one action token in each turn."""
    tokens = np.zeros(1, np.int32)
    turns = tuple(
        types.Turn(tokens, tokens, np.zeros(1, np.float32), "see", "do", reward, True)
        for reward in rewards
    )
    task = types.Task(env, f"{env}_0", group, sample)
    return types.Trajectory(task, turns, ending, 0, True, 1.0)


def unscored(episodes, **scores):
    zeros = [np.zeros(episode.num_action_tokens) for episode in episodes]
    return [credit.TokenScores(z, **dict.fromkeys(scores, z)) for z in zeros]


def groups_of_two(*returns, envs=("farm", "farm")):
    return [
        play(value, group=i // 2, sample=i % 2, env=envs[i // 2])
        for i, value in enumerate(returns)
    ]


# Mean 1.25 and variance (1/16 + 25/16 + 121/16 + 25/16) / 4 of the iteration.
WHOLE_BATCH = np.array([-0.25, -1.25, 2.75, -1.25]) / (43 / 16) ** 0.5


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (config.Grpo(), [1, -1, 1, -1]),
        (config.Grpo(advantage_scale="none"), [0.5, -0.5, 2, -2]),
        # A sample of two has a standard deviation of |difference| / sqrt(2).
        (config.Grpo(advantage_scale="sample_std"), [0.5**0.5, -(0.5**0.5)] * 2),
        (config.DrGrpo(), [0.5, -0.5, 2, -2]),
        (config.Dapo(), [1, -1, 1, -1]),
        (config.Rloo(), [1, -1, 4, -4]),
        (config.Gspo(), [1, -1, 1, -1]),
        (config.Cispo(), [1, -1, 1, -1]),
        # All turns start from one observation: twice the advantage of the episode.
        (config.Gigpo(), [2, -2, 2, -2]),
        (config.Gigpo(step_advantage_weight=0.5), [1.5, -1.5, 1.5, -1.5]),
        (config.Ppo(), WHOLE_BATCH),
        (config.ReinforcePP(), WHOLE_BATCH),
        (config.ReinforcePP(advantage_scale="none"), [-0.25, -1.25, 2.75, -1.25]),
    ],
    ids=str,
)
def test_published_advantages_by_hand(algorithm, expected):
    episodes = groups_of_two(1.0, 0.0, 4.0, 0.0)
    scores = unscored(episodes, values=0)

    signals = assign(algorithm, episodes, scores, group_size=2)

    found = [signal.advantages[0] for signal in signals]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_environment_is_scaled_to_unit_size():
    episodes = groups_of_two(1.0, 0.0, 4.0, 0.0, 3.0, 3.0, envs=("a", "b", "b"))
    algorithm = config.DrGrpo(normalize_per_environment=True, keep_zero_variance=True)

    signals = assign(algorithm, episodes, unscored(episodes), group_size=2)

    # +-0.5 and +-2, each divided by its own size; a group without signal has none.
    found = [float(signal.advantages[0]) for signal in signals]
    np.testing.assert_allclose(found, [1, -1, 1, -1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
def test_groups_without_signal_train_only_if_kept(keep):
    episodes = groups_of_two(2.0, 2.0, 1.0, 0.0)
    algorithm = config.Grpo(keep_zero_variance=keep)

    signals = assign(algorithm, episodes, unscored(episodes), group_size=2)

    assert [signal.trains for signal in signals] == [keep, keep, True, True]


def test_teachers_judge_every_token():
    episodes = groups_of_two(1.0, 1.0)
    scores = [
        credit.TokenScores(np.array([-1.0]), reference_logprobs=np.array([-0.25])),
        credit.TokenScores(np.array([-1.0]), reference_logprobs=np.array([-3.0])),
    ]

    signals = assign(config.Distillation(teachers=()), episodes, scores, group_size=2)

    # log p_teacher - log p_policy, although all rewards are alike.
    assert [signal.advantages.tolist() for signal in signals] == [[0.75], [-2.0]]
    assert all(signal.rl_weights == 1 for signal in signals)


def test_returns_are_dealt_out_within_groups_or_within_the_iteration():
    returns = [float(i) for i in range(40)]
    broken = 7  # which does not count, and keeps its place
    episodes = [
        play(value, group=i // 4, sample=i % 4, ending=(
            types.Ending.ENV_ERROR if i == broken else types.Ending.SOLVED
        ))
        for i, value in enumerate(returns)
    ]  # fmt: skip
    scores = unscored(episodes)

    def advantages(where, seed=0):
        algorithm = config.DrGrpo(shuffle_returns=where)
        signals = assign(algorithm, episodes, scores, seed=seed)
        assert not signals[broken].trains
        return [float(np.sum(s.advantages[:1])) if s.trains else 0.0 for s in signals]

    plain, within = advantages(""), advantages("group")
    everywhere = advantages("iteration")
    assert plain != within == advantages("group") != advantages("group", seed=1)
    for first in range(0, 40, 4):
        group = slice(first, first + 4)
        np.testing.assert_allclose(sorted(within[group]), sorted(plain[group]))
    spreads = [np.ptp(everywhere[first : first + 4]) for first in range(0, 40, 4)]
    assert max(spreads) > 10  # within a group returns differ by 3 at most


def test_only_groups_with_different_returns_inform():
    broken = types.Ending.ENV_ERROR
    episodes = [
        *(play(1.0, group=0) for _ in range(4)),
        *(play(float(i == 2), group=1) for i in range(4)),
        *(play(1.0, group=2) for _ in range(3)),
        play(0.0, group=2, ending=broken),  # does not count
        *(play(0.0, group=3, ending=broken) for _ in range(4)),
    ]
    assert algorithms.count_informative(episodes, make_stage(config.Dapo())) == 1


ALL = [
    config.Grpo(),
    config.Gigpo(),
    config.ReinforcePP(),
    config.Ppo(),
    config.Distillation(teachers=()),
]


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.NAME)
def test_no_episode_may_count(algorithm):
    episodes, scores = make_episodes(0)
    episodes = [dataclasses.replace(e, ending=types.Ending.ENV_ERROR) for e in episodes]
    signals = assign(algorithm, episodes, scores)
    assert signals == [types.Signal()] * len(episodes)


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.NAME)
def test_an_episode_without_turns_costs_nothing(algorithm):
    episodes, scores = make_episodes(1, num_groups=1)
    episodes[0] = dataclasses.replace(
        episodes[0], turns=(), ending=types.Ending.MAX_TOKENS
    )
    scores[0] = credit.TokenScores(np.zeros(0), np.zeros(0), np.zeros(0))
    penalty = config.KLConfig(placement="reward", coefficient=0.1)
    algorithm = dataclasses.replace(algorithm, kl=penalty)
    signals = assign(algorithm, episodes, scores)
    assert len(signals) == 4
    assert np.shape(signals[0].advantages) in ((0,), ())


def observe(group, *exchanges):
    """A trajectory from (observation, reward) pairs."""
    tokens = np.zeros(1, np.int32)
    turns = tuple(
        types.Turn(tokens, tokens, np.zeros(1, np.float32), seen, "", reward, True)
        for seen, reward in exchanges
    )
    task = types.Task("farm", f"farm-{group}", group, sample=0)
    return types.Trajectory(task, turns, types.Ending.SOLVED, 0, True, 1.0)


def test_steps_from_one_state_are_compared_by_hand():
    broken = observe(0, ("hall", 0.0), ("kitchen", 8.0))
    episodes = [
        observe(0, ("hall", 0.0), ("kitchen", 1.0)),
        observe(0, ("hall", 0.0), ("cellar", 0.0), ("kitchen", 0.0)),
        dataclasses.replace(broken, ending=types.Ending.ENV_ERROR),
        observe(1, ("hall", 7.0)),
        observe(1, ("attic", 7.0)),
        observe(1, ("attic", 7.0)),
    ]
    algorithm = config.Gigpo(
        discount=0.5, step_advantage_weight=0.1, advantage_scale="none"
    )

    signals = assign(algorithm, episodes, unscored(episodes), group_size=3)

    # Episodes of group 0: 1 and 0 around 0.5. Its hall: returns 0.5 and 0; its kitchen:
    # 1 and 0. Nothing else is shared, and another group's hall is another place.
    np.testing.assert_allclose(signals[0].advantages, [0.525, 0.55], atol=1e-12)
    np.testing.assert_allclose(signals[1].advantages, [-0.525, -0.5, -0.55], atol=1e-12)
    assert not any(signal.trains for signal in signals[2:])


def test_other_algorithms_credit_whole_episodes():
    episodes = [play(0.0, 1.0), play(0.0, 0.0, 0.0)]
    signals = assign(config.DrGrpo(), episodes, unscored(episodes), group_size=2)
    assert [s.advantages.tolist() for s in signals] == [[0.5] * 2, [-0.5] * 3]


def test_endings_are_masked_kept_or_penalized():
    episodes = [
        play(1.0),
        play(1.0, ending=types.Ending.MAX_TURNS),
        play(1.0, ending=types.Ending.MAX_TOKENS),
        play(1.0, ending=types.Ending.ENV_TIMEOUT),
    ]
    algorithm = config.Grpo(
        advantage_scale="none",
        on_max_turns="penalize",
        on_max_tokens="mask",
        penalty=3.0,
    )
    signals = assign(algorithm, episodes, unscored(episodes))
    # Returns 1 and -2 count; the other two do not move their mean.
    assert [s.advantages.tolist() for s in signals[:2]] == [[1.5], [-1.5]]
    assert not signals[2].trains and not signals[3].trains


@pytest.mark.parametrize("algorithm", ALL, ids=lambda a: a.NAME)
def test_nobody_may_have_a_turn(algorithm):
    episodes, _ = make_episodes(1, num_groups=1)
    episodes = [dataclasses.replace(episode, turns=()) for episode in episodes]
    scores = [credit.TokenScores(*[np.zeros(0)] * 3) for _ in episodes]
    signals = assign(algorithm, episodes, scores)
    assert not any(signal.trains for signal in signals)


@pytest.mark.parametrize("rewards", [(0.1, 0.2, 0.7), (0.1, 0.3, 0.6, -1e3, 1e3)])
def test_the_same_rewards_in_another_order_are_no_signal(rewards):
    orders = list(itertools.permutations(rewards))
    assert len({sum(order) for order in orders}) > 1  # of the floats' own sums
    episodes = [play(*order, sample=i) for i, order in enumerate(orders)]
    stage = make_stage(config.Dapo())
    stage = dataclasses.replace(
        stage, rollout=dataclasses.replace(stage.rollout, group_size=len(orders))
    )
    assert algorithms.count_informative(episodes, stage) == 0
    algorithm = config.Grpo(normalize_per_environment=True)
    signals = assign(algorithm, episodes, unscored(episodes), group_size=len(orders))
    assert not any(signal.trains for signal in signals)
    groups = metrics.summarize_trajectories(episodes)
    assert groups["rollout/zero_variance_groups"] == 1


@pytest.mark.parametrize("algorithm", [config.Grpo(), config.Gigpo()])
def test_an_episode_at_the_mean_of_its_group_counts(algorithm):
    """Else the mean over episodes would jump where a return meets it."""
    for middle in (0.5, 0.5 + 1e-6):
        episodes = [play(r, sample=i) for i, r in enumerate((0.0, middle, 1.0))]
        signals = assign(algorithm, episodes, unscored(episodes), group_size=3)
        assert [signal.trains for signal in signals] == [True] * 3


def test_steps_are_scaled_by_environment_like_episodes():
    episodes = groups_of_two(1.0, 0.0, 100.0, 0.0, envs=("small", "big"))
    algorithm = config.Gigpo(advantage_scale="none", normalize_per_environment=True)
    signals = assign(algorithm, episodes, unscored(episodes), group_size=2)
    found = [float(signal.advantages[0]) for signal in signals]
    np.testing.assert_allclose(found, [2, -2, 2, -2], atol=1e-6)
