"""Loss, gradient and metrics of every algorithm against loops in NumPy float64.

The model is a table with one row of logits per position, so that a whole learner step
can be compared with formulas written down token by token.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agentrl import config, types
from agentrl.config import algorithm_configs
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
    "distillation": ("token", 0.2, 0.2, "token", "clipped"),
}
HORIZON = 17  # tokens that an episode may have: not the width of a row, which is 24


def kl(coefficient, estimator="k3", **options):
    return config.KLConfig(coefficient=coefficient, estimator=estimator, **options)


CASES = [
    *(algorithm_configs.find(name)() for name in PUBLISHED),
    config.Dapo(kl=kl(0.1, "k1")),
    config.Grpo(kl=kl(0.1, "k2")),
    config.DrGrpo(kl=kl(0.1, "k3")),
    config.Gspo(kl=kl(0.1)),
    config.Grpo(kl=kl(0.0)),
    config.Grpo(kl=kl(0.1, placement="reward")),
    config.Ppo(kl=kl(0.1), entropy_coefficient=0.02),
    config.Grpo(dual_clip=1.5, aggregation="token"),
    config.Dapo(importance_cap=1.3, clip_high=1.0),
    config.Gspo(clip_low=0.2, clip_high=0.2, dual_clip=1.2),
    config.Cispo(clip_low=0.2, clip_high=0.1),
    config.Ppo(value_coefficient=2.0, value_clip=1.0),
    config.Grpo(entropy_coefficient=0.05),
    config.Gspo(entropy_coefficient=0.05),
    config.Rloo(entropy_coefficient=0.05, kl=kl(0.1, "k2")),
    config.ReinforcePP(advantage_scale="sample_std", aggregation="constant"),
    config.Distillation(teachers=(("farm", "before"),), kl=kl(0.2)),
]


def describe(case):
    changed = {
        field.name: getattr(case, field.name)
        for field in dataclasses.fields(case)
        if getattr(case, field.name) != field.default
    }
    return ",".join(f"{k}={v}" for k, v in ({"name": case.NAME} | changed).items())


def recorder():
    """An optimizer that changes nothing and keeps the gradient as its state."""

    def update(grads, state, params=None):
        del state, params
        return jax.tree.map(jnp.zeros_like, grads), grads

    return optax.GradientTransformation(lambda params: params, update)


def make_runner(case):
    """Compiles a learner step; returns gradient and metrics for a table and a batch."""
    stage = config.StageConfig(
        name="only",
        mixture=config.MixtureConfig(environments=(("farm", 1.0),)),
        num_iterations=1,
        rollout=config.RolloutConfig(max_tokens=HORIZON),
        algorithm=case,
    )
    algorithm = algorithms.resolve(stage)
    optimizer, has_critic = recorder(), algorithm.needs_values
    train_step = jax.jit(
        functools.partial(
            update.train_step,
            forward=update.make_forward(
                lambda params, tokens, positions, segment_ids: params[positions],
                lambda params: jnp.eye(V),
                chunk=7,
                temperature=TEMPERATURE,
                value_fn=(lambda _, hidden: hidden @ CRITIC) if has_critic else None,
                entropy_gradient=algorithm.objective.entropy_coefficient > 0,
            ),
            objective=algorithm.objective,
            optimizer=optimizer,
        )
    )

    def run(table, reference_table, batch):
        places = np.arange(batch.tokens.size, dtype=np.int32)
        batch = dataclasses.replace(
            batch,
            positions=places.reshape(batch.tokens.shape),
            old_values=batch.old_values if has_critic else None,
            value_targets=batch.value_targets if has_critic else None,
        )
        params = jnp.asarray(table, jnp.float32)
        state = types.TrainState(jnp.int32(0), params, optimizer.init(params))
        reference = np.float32(reference_table) if in_loss(case) else None
        state, metrics = train_step(state, {}, batch, reference)
        return np.asarray(state.opt_state), jax.device_get(metrics)

    return run


def in_loss(case):
    """Whether the divergence from a reference is part of the loss, or measured there."""
    return case.kl is not None and case.kl.placement == "loss"


def weigh(case, batch, seed):
    """The batch with weights as signals have them: of all tokens alike, or of each."""
    rng = np.random.default_rng(seed)
    shape = batch.rl_weights.shape
    each = rng.uniform(0.5, 2, shape) if seed else np.ones(shape)
    given = {"rl_weights": batch.rl_weights * np.float32(each)}
    if in_loss(case):
        each = rng.uniform(0.5, 2, shape) if seed else np.ones(shape)
        weights = case.kl.coefficient * batch.rl_weights * each
        given["kl_weights"] = weights.astype(np.float32)
    return dataclasses.replace(batch, **given)


def log_softmax(logits):
    return logits - math.log(sum(math.exp(x) for x in logits))


def sequences_of(batch):
    """Columns of the action tokens of each trajectory that has any."""
    found = {}
    for m, r, t in np.argwhere(batch.rl_weights):
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
        dual_clip = getattr(case, "dual_clip", None)
        if dual_clip is not None and loss > -dual_clip * advantage:
            loss, clipped = -dual_clip * advantage, True
    slope = 0.0 if clipped else -ratio * advantage
    cap = getattr(case, "importance_cap", None)
    if cap is not None and ratio > cap:
        loss *= cap / ratio
        slope *= cap / ratio
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


def prescribed(case):
    """Published settings, unless the configuration has its own."""
    own = {
        field.name: getattr(case, field.name)
        for field in dataclasses.fields(case)
        if getattr(case, field.name) != field.default
    }
    over, low, high, level, kind = PUBLISHED[case.NAME]
    low, high = own.get("clip_low", low), own.get("clip_high", high)
    return own.get("aggregation", over), low, high, level, kind


def score_sequence(case, current, reference, behavior, advantages, weights):
    """Loss and metrics of each token, and the sum's slope by each log-probability.

    `weights` are those of the policy-gradient loss and of the divergence.
    """
    _, low, high, level, kind = prescribed(case)
    estimator = case.kl.estimator if in_loss(case) else "k3"
    gaps = current - behavior
    slopes, rows = np.zeros(len(gaps)), []
    for i, (gap, (rl, pull)) in enumerate(zip(gaps, weights, strict=True)):
        ratio = math.exp(sum(gaps) / len(gaps) if level == "sequence" else gap)
        loss, slope = surrogate(kind, ratio, advantages[i], low, high, case)
        if level == "sequence":
            slopes += rl * slope / len(gaps)
        else:
            slopes[i] += rl * slope
        divergence, kl_slope = kl_term(estimator, reference[i] - current[i])
        slopes[i] += pull * kl_slope
        rows.append(
            {
                "loss": rl * loss + pull * divergence,
                "policy/behavior_kl": math.exp(gap) - 1 - gap,
                "policy/logprob_mismatch": abs(gap),
                "policy/clip_fraction": not 1 - low <= ratio <= 1 + high,
                "policy/reference_kl": divergence,
                "ratio": ratio,
            }
        )
    return rows, slopes


def entropy_term(score):
    """Entropy of a distribution and its gradient by the logits over the temperature."""
    entropy = -sum(math.exp(x) * x for x in score)
    return entropy, -np.exp(score) * (score + entropy)


def run_loops(case, table, reference_table, batch):
    """The same step, token by token."""
    sequences = sequences_of(batch)
    num_tokens = sum(map(len, sequences))
    gradient, loss, seen = np.zeros(table.shape), 0.0, []
    for columns in sequences:
        where = tuple(np.transpose(columns))
        tokens = batch.tokens[where]
        predictors = np.ravel_multi_index(where, batch.tokens.shape) - 1
        scores = [log_softmax(table[i] / TEMPERATURE) for i in predictors]
        others = [log_softmax(reference_table[i] / TEMPERATURE) for i in predictors]
        rl_weights = batch.rl_weights[where].astype(float)
        pulls = batch.kl_weights[where] if in_loss(case) else np.zeros(len(tokens))
        rows, slopes = score_sequence(
            case,
            np.array([s[token] for s, token in zip(scores, tokens, strict=True)]),
            np.array([s[token] for s, token in zip(others, tokens, strict=True)]),
            batch.behavior_logprobs[where].astype(float),
            batch.advantages[where].astype(float),
            list(zip(rl_weights, pulls.astype(float), strict=True)),
        )
        share = {
            "token": 1 / num_tokens,
            "sequence": 1 / (len(columns) * len(sequences)),
            "constant": 1 / (HORIZON * len(sequences)),
        }[prescribed(case)[0]]
        for i, (row, place) in enumerate(zip(rows, predictors, strict=True)):
            loss += share * row.pop("loss")
            row["policy/entropy"], by_logits = entropy_term(scores[i])
            bonus = share * rl_weights[i] * case.entropy_coefficient
            loss -= bonus * row["policy/entropy"]
            gradient[place] -= bonus * by_logits / TEMPERATURE
            if case.LEARNS_VALUES:
                old, target = (
                    float(stream[columns[i]])
                    for stream in (batch.old_values, batch.value_targets)
                )
                row["critic/loss"], by_logits = value_term(
                    case, table[place], old, target
                )
                weight = share * rl_weights[i] * case.value_coefficient
                loss += weight * row["critic/loss"]
                gradient[place] += weight * by_logits
            slope = share * slopes[i] / TEMPERATURE
            gradient[place] -= slope * np.exp(scores[i])
            gradient[place, tokens[i]] += slope
        seen += rows
    metrics = {name: np.mean([row[name] for row in seen]) for name in seen[0]}
    if not in_loss(case):
        del metrics["policy/reference_kl"]
    del metrics["ratio"]
    return gradient, metrics | {
        "policy/loss": loss,
        "policy/ratio_max": max(row["ratio"] for row in seen),
        "learner/action_tokens": num_tokens,
        "learner/policy_tokens": np.count_nonzero(batch.rl_weights),
        "optimizer/grad_norm": math.sqrt(np.sum(gradient**2)),
    }


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_learner_step_equals_loops(case, make_batch):
    run = make_runner(case)
    for seed in range(3):
        batch = weigh(case, make_batch(seed, num_tokens=V), seed)
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
    others = {"supervised"}  # a likelihood alone: see the tests of the learner step
    assert PUBLISHED.keys() | others == set(algorithm_configs.names())


def test_every_published_default_is_that_of_the_configuration():
    for name, (over, low, high, _, _) in PUBLISHED.items():
        settings = algorithm_configs.find(name)()
        assert settings.aggregation == over, name
        assert (settings.clip_low, settings.clip_high) == (low, high), name
