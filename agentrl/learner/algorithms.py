"""Algorithms resolved: from a configuration to functions and numbers, no name left.

An algorithm is two things: how an iteration's episodes become signals per token, on the
host, and which losses the learner adds up, on the device. Its configuration class in
`agentrl.config.algorithm_configs` says what can be set; `resolve` puts the two together.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from agentrl import config, errors, types
from agentrl.learner import credit
from agentrl.ops import kl, losses

# (per-token log-ratio, advantages), float32[R, T] each -> loss float32[R, T]
SurrogateFn = Callable[[jax.Array, jax.Array], jax.Array]
# (trajectories of whole groups, their token scores, group size, seed) -> signals
EstimateFn = Callable[
    [Sequence[types.Trajectory], Sequence[credit.TokenScores], int, int],
    list[types.Signal],
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of one update, as `agentrl.learner.update` adds it up.

    It is a sum over tokens of

      rl_weight w (surrogate - entropy_coefficient H + value_coefficient value loss)
        + kl_weight w KL  +  ce_weight w' (-log p)

    where w averages over the tokens with an `rl_weight` or `kl_weight`, as `aggregation`
    says, and w' over those with a `ce_weight`.
    """

    surrogate: SurrogateFn | None = None  # None has no policy-gradient loss
    sequence_ratio: bool = False  # importance ratios of whole sequences (GSPO)
    clip_range: tuple[float, float] = (0.0, 0.0)  # below and above 1, for the metric
    aggregation: losses.Aggregation = "token"
    horizon: int = 1  # tokens that the aggregation "constant" divides by
    entropy_coefficient: float = 0.0
    divergence: Callable[[jax.Array], jax.Array] | None = None  # from a reference
    value_coefficient: float = 0.0  # 0 has no critic
    value_clip: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What the loop and the learner have to know of an algorithm."""

    objective: Objective
    estimate: EstimateFn | None  # None: nothing is played
    kl: config.KLConfig | None = None
    needs_values: bool = False  # of the critic, before credit is assigned
    needs_reference_scores: bool = False  # of reference or teachers, likewise
    max_refills: int = 0
    num_passes: int = 1
    streams: tuple[str, ...] = ()  # optional fields of its batches

    @property
    def reference(self) -> str | None:
        """Which parameters the divergence is measured from; None if it is not."""
        return self.kl.reference if self.kl else None


_RESOLVERS: dict[type[config.AlgorithmConfig], Callable[..., Algorithm]] = {}


def resolves(
    configured: type[config.AlgorithmConfig],
) -> Callable[[Callable[..., Algorithm]], Callable[..., Algorithm]]:
    """Registers a function (settings, horizon) -> Algorithm for a configuration class.

    Subclasses without a function of their own take that of the nearest class above.
    """

    def register(make: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
        _RESOLVERS[configured] = make
        return make

    return register


def resolve(settings: config.StageConfig) -> Algorithm:
    """Returns the algorithm of a stage, its rehearsal included.

    Raises:
      ConfigError: if no function resolves the class of `settings.algorithm`, or one
        returns something else.
    """
    chosen = settings.algorithm
    for known in type(chosen).__mro__:
        if known in _RESOLVERS:
            algorithm = _RESOLVERS[known](chosen, settings.rollout.max_tokens)
            break
    else:
        raise errors.ConfigError(
            f"stage '{settings.name}': no function is registered that resolves the "
            f"algorithm {chosen.NAME!r}; decorate one with "
            f"@algorithms.resolves({type(chosen).__name__}), as docs/howto_algorithm.md "
            "does."
        )
    if not isinstance(algorithm, Algorithm):
        raise errors.ConfigError(
            f"stage '{settings.name}': the function that resolves the algorithm "
            f"{chosen.NAME!r} returned {type(algorithm).__name__}, not an Algorithm."
        )
    if settings.rehearsal is not None:
        streams = (*algorithm.streams, "ce_weights")
        algorithm = dataclasses.replace(algorithm, streams=streams)
    return algorithm


def count_informative(
    trajectories: Sequence[types.Trajectory], settings: config.StageConfig
) -> int:
    """Counts the groups whose episodes do not all have the same return."""
    returns, valid = credit.outcomes(trajectories, settings.algorithm)
    groups = np.where(valid, returns, np.nan).reshape(-1, settings.rollout.group_size)
    return sum(len(set(group[~np.isnan(group)])) > 1 for group in groups)


@resolves(config.Supervised)
def _supervised(settings: config.Supervised, horizon: int) -> Algorithm:
    del settings, horizon
    return Algorithm(objective=Objective(), estimate=None, streams=("ce_weights",))


@resolves(config.Grouped)
def _grouped(settings: config.Grouped, horizon: int) -> Algorithm:
    """Resolves algorithms that compare the episodes of a task."""
    is_rloo = isinstance(settings, config.Rloo)
    estimator = credit.leave_one_out if is_rloo else credit.group_relative
    return policy_gradient(
        settings,
        horizon,
        estimate=functools.partial(credit.from_groups, settings, estimator),
    )


@resolves(config.Cispo)
def _cispo(settings: config.Cispo, horizon: int) -> Algorithm:
    algorithm = _grouped(settings, horizon)
    surrogate = functools.partial(
        losses.clipped_importance,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
    )
    objective = dataclasses.replace(algorithm.objective, surrogate=surrogate)
    return dataclasses.replace(algorithm, objective=objective)


@resolves(config.Gspo)
def _gspo(settings: config.Gspo, horizon: int) -> Algorithm:
    algorithm = _grouped(settings, horizon)
    objective = dataclasses.replace(algorithm.objective, sequence_ratio=True)
    return dataclasses.replace(algorithm, objective=objective)


@resolves(config.ReinforcePP)
def _reinforce_pp(settings: config.ReinforcePP, horizon: int) -> Algorithm:
    estimate = functools.partial(credit.from_batch, settings)
    return policy_gradient(settings, horizon, estimate=estimate)


@resolves(config.Ppo)
def _ppo(settings: config.Ppo, horizon: int) -> Algorithm:
    estimate = functools.partial(credit.from_values, settings)
    algorithm = policy_gradient(settings, horizon, estimate=estimate)
    return dataclasses.replace(
        algorithm,
        objective=dataclasses.replace(
            algorithm.objective,
            value_coefficient=settings.value_coefficient,
            value_clip=settings.value_clip,
        ),
        needs_values=True,
        streams=(*algorithm.streams, "old_values", "value_targets"),
    )


@resolves(config.Distillation)
def _distillation(settings: config.Distillation, horizon: int) -> Algorithm:
    estimate = functools.partial(credit.from_teachers, settings)
    algorithm = policy_gradient(settings, horizon, estimate=estimate)
    return dataclasses.replace(algorithm, needs_reference_scores=True)


def policy_gradient(
    settings: config.PolicyGradient, horizon: int, *, estimate: EstimateFn
) -> Algorithm:
    """Resolves the fields that all policy-gradient algorithms have.

    Args:
      settings: of the algorithm.
      horizon: tokens that an episode may have, which the aggregation "constant" divides
        by.
      estimate: advantages and weights of an iteration's episodes; those of
        `agentrl.learner.credit` take the settings as their first argument.
    """
    penalty = settings.kl
    in_loss = penalty is not None and penalty.placement == "loss"
    return Algorithm(
        objective=Objective(
            surrogate=_clipped_surrogate(settings),
            clip_range=(settings.clip_low, settings.clip_high),
            aggregation=settings.aggregation,
            horizon=horizon,
            entropy_coefficient=settings.entropy_coefficient,
            divergence=kl.ESTIMATORS[penalty.estimator]
            if penalty and in_loss
            else None,
        ),
        estimate=estimate,
        kl=penalty,
        needs_reference_scores=penalty is not None and not in_loss,
        max_refills=getattr(settings, "max_refills", 0),
        num_passes=settings.passes,
        streams=("kl_weights",) if in_loss else (),
    )


def _clipped_surrogate(settings: config.PolicyGradient) -> SurrogateFn:
    options = {
        name: getattr(settings, name)
        for name in ("dual_clip", "importance_cap")
        if getattr(settings, name, None) is not None
    }
    return functools.partial(
        losses.clipped_surrogate,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        **options,
    )
