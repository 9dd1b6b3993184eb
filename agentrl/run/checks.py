"""Checks of an iteration: what must not be trained on ends the run, and says why."""

from collections.abc import Mapping, Sequence

import numpy as np

from agentrl import config, errors, types
from agentrl.envs import faults
from agentrl.models import model_config


def check_env_error_rate(
    trajectories: Sequence[types.Trajectory], max_fraction: float
) -> None:
    """Raises `EnvWorkerError` if too many episodes were lost to their environments."""
    broken = [t for t in trajectories if t.ending.lost]
    if len(broken) > max_fraction * len(trajectories):
        raise errors.EnvWorkerError(
            f"{len(broken)} of {len(trajectories)} episodes were lost to their "
            f"environments, more than max_env_error_fraction = {max_fraction}. "
            f"{faults.summarize((t.fault, t.error) for t in broken)}"
        )


# Nats of mean |sampler - learner| log-probability. Rounding to bfloat16 in 30 layers was
# seen to reach 0.01 where sampler and learner compute the same.
_EXACT_LIMIT, _ROUNDED_LIMIT = 0.01, 0.05


def check_logprob_mismatch(
    values: Mapping[str, float],
    settings: config.StageConfig,
    iteration: int,
    precision: model_config.Precision,
) -> None:
    """Raises `TrainingError` if sampler and learner disagree before any update.

    Args:
      values: metrics of the iteration.
      settings: of the stage, with the limit.
      iteration: of the stage.
      precision: of the model, by whose rounding the two disagree a little.
    """
    assert isinstance(settings.algorithm, config.PolicyGradient)
    gap = values["policy/first_logprob_mismatch"]
    limit = settings.algorithm.max_logprob_mismatch
    if limit is None:
        exact = precision.compute == precision.cache == "float32"
        exact &= precision.rollout_kernels == "compute"
        limit = _EXACT_LIMIT if exact else _ROUNDED_LIMIT
    if gap > limit:
        cause = (
            "Rollouts read kernels in int8 (model.precision.rollout_kernels): allow their "
            "rounding with a larger limit, or have them read what the learner reads."
            if precision.rollout_kernels == "int8"
            else "The learner would train on a context or a model that the sampler did not "
            "use."
        )
        raise errors.TrainingError(
            f"stage '{settings.name}', iteration {iteration}: sampler and learner "
            f"log-probabilities differ by {gap:.2e} nats on average before the first "
            f"update, more than algorithm.max_logprob_mismatch = {limit:.2e}. {cause}"
        )


def check_finite(values: types.Metrics, stage: str, iteration: int) -> None:
    """Raises `TrainingError` naming the first training quantity that is not finite."""
    for name, value in values.items():
        if name.startswith(("policy/", "optimizer/")) and not np.isfinite(value):
            raise errors.TrainingError(
                f"stage '{stage}', iteration {iteration}: {name} = {value}. The last "
                "checkpoint is from before; lower the learning rate or look at the "
                "episodes of this iteration."
            )
