"""Loss, gradient and metrics of every algorithm against loops in NumPy float64.

The model is a table with one row of logits per position, so that a whole learner step
can be compared with formulas written down token by token.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agentrl import config, errors, types
from agentrl.learner import algorithms, update

V = 11
TEMPERATURE = 0.8
CRITIC = np.linspace(-1, 1, V, dtype=np.float32)  # values read off the logits
# What the papers prescribe, stated apart from the registry under test:
# (aggregation, clip_low, clip_high, kind of ratio, surrogate)
PUBLISHED = {
    "grpo": ("sequence", 0.2, 0.2, "token", "clipped"),
    "dr_grpo": ("constant", 0.2, 0.2, "token", "clipped"),
    "dapo": ("token", 0.2, 0.28, "token", "clipped"),
    "rloo": ("constant", 0.2, 0.2, "token", "clipped"),
    "reinforce_pp": ("token", 0.2, 0.2, "token", "clipped"),
    "gspo": ("sequence", 3e-4, 4e-4, "sequence", "clipped"),
    "cispo": ("token", 1.0, 4.0, "token", "importance"),
    "gigpo": ("token", 0.2, 0.2, "token", "clipped"),
    "ppo": ("token", 0.2, 0.2, "token", "clipped"),
}
CASES = [config.AlgorithmConfig(name=name) for name in PUBLISHED] + [
    config.AlgorithmConfig(name="dapo", kl_coefficient=0.1, kl_estimator="k1"),
    config.AlgorithmConfig(name="grpo", kl_coefficient=0.1, kl_estimator="k2"),
    config.AlgorithmConfig(name="dr_grpo", kl_coefficient=0.1, kl_estimator="k3"),
    config.AlgorithmConfig(name="grpo", dual_clip=1.5, aggregation="token"),
    config.AlgorithmConfig(name="dapo", importance_cap=1.3, clip_high=1.0),
    config.AlgorithmConfig(name="gspo", clip_low=0.2, clip_high=0.2, dual_clip=1.2),
    config.AlgorithmConfig(name="cispo", clip_low=0.2, clip_high=0.1),
    config.AlgorithmConfig(name="ppo", value_coefficient=2.0, value_clip=1.0),
    config.AlgorithmConfig(name="grpo", kl_coefficient=0.1, kl_in="reward"),
]


def describe(case):
    default = config.AlgorithmConfig()
    changed = {k: v for k, v in vars(case).items() if v != getattr(default, k)}
    return ",".join(f"{k}={v}" for k, v in ({"name": case.name} | changed).items())


def recorder():
    """An optimizer that changes nothing and keeps the gradient as its state."""

    def update(grads, state, params=None):
        del state, params
        return jax.tree.map(jnp.zeros_like, grads), grads

    return optax.GradientTransformation(lambda params: params, update)


def make_runner(case):
    """Compiles a learner step; returns gradient and metrics for a table and a batch."""
    optimizer, has_critic = recorder(), case.name == "ppo"
    train_step = jax.jit(
        update.make_train_step(
            update.make_score(
                lambda params, tokens, positions, segment_ids: params[positions],
                lambda params: jnp.eye(V),
                chunk=7,
                temperature=TEMPERATURE,
                value_fn=(lambda _, hidden: hidden @ CRITIC) if has_critic else None,
            ),
            optimizer,
            algorithm=case,
        )
    )

    def run(table, reference_table, batch):
        places = np.arange(batch.tokens.size, dtype=np.int32)
        batch = dataclasses.replace(
            batch,
            positions=places.reshape(batch.tokens.shape),
            values=batch.values if has_critic else None,
            returns=batch.returns if has_critic else None,
        )
        params = jnp.asarray(table, jnp.float32)
        mixture = types.MixtureState(jnp.ones(1), jnp.ones(1), jnp.zeros(1, int))
        state = types.TrainState(
            jnp.int32(0), params, optimizer.init(params), mixture, jax.random.key(0)
        )
        in_loss = case.kl_coefficient and case.kl_in == "loss"
        reference = np.float32(reference_table) if in_loss else None
        state, metrics = train_step(state, batch, reference)
        return np.asarray(state.opt_state), jax.device_get(metrics)

    return run


def log_softmax(logits):
    return logits - math.log(sum(math.exp(x) for x in logits))


def sequences_of(batch):
    """Columns of the action tokens of each trajectory that has any."""
    found = {}
    for m, r, t in np.argwhere(batch.action_mask):
        found.setdefault((m, r, batch.segment_ids[m, r, t]), []).append((m, r, t))
    return list(found.values())


def surrogate(kind, ratio, advantage, low, high, case):
    """Value of the loss and its derivative by log ratio."""
    if kind == "importance":
        weight = min(max(ratio, 1 - low), 1 + high)
        return -weight * advantage * math.log(ratio), -weight * advantage
    if advantage >= 0:
        clipped = ratio > 1 + high
        loss = -min(ratio, 1 + high) * advantage
    else:
        clipped = ratio < 1 - low
        loss = -max(ratio, 1 - low) * advantage
        if case.dual_clip is not None and loss > -case.dual_clip * advantage:
            loss, clipped = -case.dual_clip * advantage, True
    slope = 0.0 if clipped else -ratio * advantage
    if case.importance_cap is not None and ratio > case.importance_cap:
        loss *= case.importance_cap / ratio
        slope *= case.importance_cap / ratio
    return loss, slope


def kl_term(kind, away):
    """Value and derivative by the learner's log-probability; away = reference - it."""
    if kind == "k1":
        return -away, 1.0
    if kind == "k2":
        return away**2 / 2, -away
    return math.exp(away) - 1 - away, 1 - math.exp(away)


def value_term(case, logits, old, target):
    """Value of the critic's loss and its gradient by the logits."""
    value = sum(float(c) * x for c, x in zip(CRITIC, logits, strict=True))
    moved = min(max(value, old - case.value_clip), old + case.value_clip)
    if (value - target) ** 2 >= (moved - target) ** 2:
        return (value - target) ** 2 / 2, (value - target) * np.float64(CRITIC)
    return (moved - target) ** 2 / 2, np.zeros(V)


def resolve(case):
    """Published settings, unless the configuration has its own."""
    over, low, high, level, kind = PUBLISHED[case.name]
    low = low if case.clip_low is None else case.clip_low
    high = high if case.clip_high is None else case.clip_high
    return case.aggregation or over, low, high, level, kind


def score_sequence(case, current, reference, behavior, advantages):
    """Loss and metrics of each token, and the sum's slope by each log-probability."""
    _, low, high, level, kind = resolve(case)
    gaps = current - behavior
    slopes, rows = np.zeros(len(gaps)), []
    for i, gap in enumerate(gaps):
        ratio = math.exp(sum(gaps) / len(gaps) if level == "sequence" else gap)
        loss, slope = surrogate(kind, ratio, advantages[i], low, high, case)
        if level == "sequence":
            slopes += slope / len(gaps)
        else:
            slopes[i] += slope
        divergence, kl_slope = kl_term(case.kl_estimator, reference[i] - current[i])
        coefficient = case.kl_coefficient * (case.kl_in == "loss")
        slopes[i] += coefficient * kl_slope
        rows.append(
            {
                "loss": loss + coefficient * divergence,
                "policy/behavior_kl": math.exp(gap) - 1 - gap,
                "policy/behavior_gap": abs(gap),
                "policy/clip_fraction": not 1 - low <= ratio <= 1 + high,
                "policy/reference_kl": divergence,
                "ratio": ratio,
            }
        )
    return rows, slopes


def run_loops(case, table, reference_table, batch):
    """The same step, token by token."""
    shape = batch.tokens.shape
    sequences = sequences_of(batch)
    num_tokens = sum(map(len, sequences))
    gradient, loss, seen = np.zeros(table.shape), 0.0, []
    for columns in sequences:
        where = tuple(np.transpose(columns))
        tokens = batch.tokens[where]
        predictors = np.ravel_multi_index(where, shape) - 1
        scores = [log_softmax(table[i] / TEMPERATURE) for i in predictors]
        others = [log_softmax(reference_table[i] / TEMPERATURE) for i in predictors]
        rows, slopes = score_sequence(
            case,
            np.array([s[token] for s, token in zip(scores, tokens, strict=True)]),
            np.array([s[token] for s, token in zip(others, tokens, strict=True)]),
            batch.behavior_logprobs[where].astype(float),
            batch.advantages[where].astype(float),
        )
        weight = {
            "token": 1 / num_tokens,
            "sequence": 1 / (len(columns) * len(sequences)),
            "constant": 1 / (shape[2] * len(sequences)),
        }[resolve(case)[0]]
        for row, score in zip(rows, scores, strict=True):
            loss += weight * row.pop("loss")
            row["policy/entropy"] = -sum(math.exp(x) * x for x in score)
        seen += rows
        if case.name == "ppo":
            signals = zip(batch.values[where], batch.returns[where], strict=True)
            for row, i, (old, target) in zip(rows, predictors, signals, strict=True):
                row["critic/loss"], by_logits = value_term(
                    case, table[i], float(old), float(target)
                )
                loss += weight * case.value_coefficient * row["critic/loss"]
                gradient[i] += weight * case.value_coefficient * by_logits
        for i, predictor in enumerate(predictors):
            slope = weight * slopes[i] / TEMPERATURE
            gradient[predictor] -= slope * np.exp(scores[i])
            gradient[predictor, tokens[i]] += slope
    metrics = {name: np.mean([row[name] for row in seen]) for name in seen[0]}
    if not case.kl_coefficient or case.kl_in == "reward":
        del metrics["policy/reference_kl"]
    del metrics["ratio"]
    return gradient, metrics | {
        "policy/loss": loss,
        "policy/ratio_max": max(row["ratio"] for row in seen),
        "learner/action_tokens": num_tokens,
        "optimizer/grad_norm": math.sqrt(np.sum(gradient**2)),
    }


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_learner_step_equals_loops(case, make_batch):
    run = make_runner(case)
    for seed in range(3):
        batch = make_batch(seed, num_tokens=V)
        rng = np.random.default_rng(seed + 100)
        table, reference_table = rng.normal(size=(2, batch.tokens.size, V))

        gradient, metrics = run(table, reference_table, batch)

        expected_gradient, expected = run_loops(case, table, reference_table, batch)
        assert np.abs(expected_gradient).max() > 1e-4  # or the next line could not fail
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(
                metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_every_algorithm_is_compared():
    assert PUBLISHED.keys() == algorithms.ALGORITHMS.keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", [[1, -1], [1, -1]]),
        ("dr_grpo", [[0.5, -0.5], [2, -2]]),
        ("dapo", [[1, -1], [1, -1]]),
        ("rloo", [[1, -1], [4, -4]]),
        ("gspo", [[1, -1], [1, -1]]),
        ("cispo", [[1, -1], [1, -1]]),
        ("gigpo", [[1, -1], [1, -1]]),
        ("ppo", np.array([[-0.25, -1.25], [2.75, -1.25]]) / (43 / 16) ** 0.5),
        # Mean 1.25 and variance (1/16 + 25/16 + 121/16 + 25/16) / 4 of the batch.
        ("reinforce_pp", np.array([[-0.25, -1.25], [2.75, -1.25]]) / (43 / 16) ** 0.5),
    ],
)
def test_published_advantages_by_hand(name, expected):
    returns, valid = np.array([[1.0, 0.0], [4.0, 0.0]]), np.ones((2, 2), bool)
    settings = config.AlgorithmConfig(name=name)

    result = algorithms.get(settings).advantage(returns, valid, settings)

    np.testing.assert_allclose(result, expected, atol=1e-5)


def make_episode(group, *exchanges):
    """A trajectory from (observation, reward) pairs."""
    tokens = np.zeros(1, np.int32)
    turns = tuple(
        types.Turn(tokens, tokens, np.zeros(1, np.float32), seen, "", reward, True)
        for seen, reward in exchanges
    )
    task = types.Task("farm", f"farm-{group}", group, sample=0)
    return types.Trajectory(task, turns, types.Ending.SOLVED, 0, True, 1.0)


EPISODES = [
    make_episode(0, ("hall", 0.0), ("kitchen", 1.0)),
    make_episode(0, ("hall", 0.0), ("cellar", 0.0), ("kitchen", 0.0)),
    make_episode(0, ("hall", 0.0), ("kitchen", 8.0)),  # not valid
    make_episode(1, ("hall", 7.0)),
]
REWARDS = [np.array([turn.reward for turn in t.turns]) for t in EPISODES]
VALID = [True, True, False, True]


def test_steps_from_one_state_are_compared_by_hand():
    settings = config.AlgorithmConfig(
        name="gigpo", discount=0.5, step_weight=0.1, divide_by_std=False
    )

    turns = algorithms.get(settings).turn_advantages(
        EPISODES, REWARDS, [0.5, -0.5, 0.0, 0.0], VALID, settings
    )

    # Group 0's hall: returns 0.5 and 0; its kitchen: 1 and 0. Nothing else is shared.
    expected = [[0.525, 0.55], [-0.525, -0.5, -0.55], [0, 0], [0]]
    for result, by_hand in zip(turns, expected, strict=True):
        np.testing.assert_allclose(result, by_hand, atol=1e-12)


def test_other_algorithms_credit_whole_episodes():
    settings = config.AlgorithmConfig(name="grpo")

    turns = algorithms.get(settings).turn_advantages(
        EPISODES, REWARDS, [0.5, -0.5, 0.0, 0.0], VALID, settings
    )

    assert [t.tolist() for t in turns] == [[0.5] * 2, [-0.5] * 3, [0] * 2, [0]]


def test_no_valid_episode_gives_no_credit():
    settings = config.AlgorithmConfig(name="gigpo")
    turns = algorithms.get(settings).turn_advantages(
        EPISODES[:1], REWARDS[:1], [0.0], [False], settings
    )
    assert turns[0].tolist() == [0, 0]


def test_configuration_takes_precedence():
    returns, valid = np.array([[4.0, 0.0]]), np.ones((1, 2), bool)
    settings = config.AlgorithmConfig(name="grpo", divide_by_std=False, clip_high=0.9)
    algorithm = algorithms.get(settings)

    assert algorithm.advantage(returns, valid, settings).tolist() == [[2, -2]]
    assert algorithm.clip_range(settings) == (0.2, 0.9)
    assert algorithm.aggregation_of(settings) == "sequence"


def test_unknown_name_gets_the_closest_ones():
    with pytest.raises(errors.ConfigError, match="unknown; did you mean 'grpo'"):
        algorithms.get(config.AlgorithmConfig(name="grop"))


@pytest.mark.parametrize("field", ["dual_clip", "importance_cap"])
def test_fields_without_meaning_are_refused(field):
    settings = config.AlgorithmConfig(name="cispo", **{field: 2.0})
    with pytest.raises(errors.ConfigError, match=f"{field} = 2.0 has no meaning"):
        algorithms.get(settings)
