"""From a configuration to functions and numbers."""

import dataclasses

import bigram_run
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl import config, errors
from agentrl.config import algorithm_configs
from agentrl.experiment import fields
from agentrl.learner import algorithms


def resolve(algorithm, **changes):
    return algorithms.resolve(bigram_run.make_stage("only", algorithm, **changes))


@pytest.mark.parametrize("name", algorithm_configs.names())
def test_every_algorithm_resolves(name):
    algorithm = resolve(algorithm_configs.find(name)())
    assert (algorithm.estimate is None) == (name == "supervised")
    assert (algorithm.objective.surrogate is None) == (name == "supervised")
    assert algorithm.needs_values == algorithm_configs.find(name).LEARNS_VALUES
    assert algorithm.needs_reference_scores == (name == "distillation")


def test_what_is_configured_takes_precedence_over_what_is_published():
    objective = resolve(config.Grpo(clip_high=0.9)).objective
    assert objective.clip_range == (0.2, 0.9)
    assert objective.aggregation == "sequence"
    # A ratio of 1.8 is within those bounds, and 2 is not.
    loss = objective.surrogate(jnp.log(jnp.array([[1.8, 2.0]])), jnp.ones((1, 2)))
    np.testing.assert_allclose(loss, [[-1.8, -1.9]], rtol=1e-6)


def test_bounds_of_a_ratio_reach_the_surrogate():
    log_ratio, bad = jnp.log(jnp.array([[5.0]])), -jnp.ones((1, 1))
    for algorithm, expected in [
        (config.Dapo(), 5.0),
        (config.Dapo(dual_clip=3.0), 3.0),
        (config.Dapo(importance_cap=2.0), 2.0),
        (config.Cispo(clip_high=1.0), 2.0 * np.log(5.0)),
    ]:
        loss = resolve(algorithm).objective.surrogate(log_ratio, bad)
        np.testing.assert_allclose(loss, [[expected]], rtol=1e-6)


def test_the_horizon_is_the_limit_of_an_episode():
    rollout = config.RolloutConfig(max_tokens=77, cache_buckets=(128,))
    assert resolve(config.DrGrpo(), rollout=rollout).objective.horizon == 77


@pytest.mark.parametrize(
    ("algorithm", "streams"),
    [
        (config.Grpo(), set()),
        (config.Grpo(kl=config.KLConfig()), {"kl_weights"}),
        (config.Grpo(kl=config.KLConfig(placement="reward", coefficient=1.0)), set()),
        (config.Ppo(), {"old_values", "value_targets"}),
        (config.Supervised(), {"ce_weights"}),
    ],
    ids=["grpo", "grpo_kl_in_loss", "grpo_kl_in_reward", "ppo", "supervised"],
)
def test_batches_have_the_streams_that_the_losses_read(algorithm, streams):
    assert set(resolve(algorithm).streams) == streams
    if not isinstance(algorithm, config.Supervised):
        rehearsal = config.RehearsalConfig(environments=(("farm", 1.0),))
        rehearsing = resolve(algorithm, rehearsal=rehearsal)
        assert set(rehearsing.streams) == streams | {"ce_weights"}


def test_a_divergence_is_measured_where_it_is_placed():
    in_loss = resolve(config.Dapo(kl=config.KLConfig(coefficient=0.1)))
    assert in_loss.objective.divergence is not None
    assert not in_loss.needs_reference_scores
    penalty = config.KLConfig(
        coefficient=0.1, placement="reward", reference="run_start"
    )
    in_reward = resolve(config.Dapo(kl=penalty))
    assert in_reward.objective.divergence is None and in_reward.needs_reference_scores
    assert (in_loss.reference, in_reward.reference) == ("stage_start", "run_start")
    assert resolve(config.Dapo()).reference is None


@pytest.mark.parametrize("field", ["dual_clip", "importance_cap"])
def test_fields_without_meaning_are_refused(field):
    stage = bigram_run.make_stage("only", config.Cispo())
    with pytest.raises(errors.ConfigError, match=f"has no field '{field}'"):
        fields.override(stage, f"algorithm.{field}=2.0")


def test_a_subclass_is_resolved_like_the_class_above():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Sharper(config.Gspo):
        NAME = "sharper"
        clip_high: float = 0.5

    objective = resolve(Sharper()).objective
    assert objective.sequence_ratio and objective.clip_range == (3e-4, 0.5)
