"""Named algorithms: how episodes are scored, and what one token's loss is.

An entry holds what its paper prescribes. The same field of `AlgorithmConfig`, unless it
is None, takes precedence, so that every entry can be varied without a new one.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import jax
import numpy as np

from agentrl import errors, types
from agentrl.config import AlgorithmConfig, RunConfig
from agentrl.ops import advantages, losses

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A pair of estimator and surrogate, with the published settings."""

    estimator: Callable[..., np.ndarray]  # one of `ops.advantages`
    surrogate: Callable[..., jax.Array]  # one of `ops.losses`
    ratio: Literal["token", "sequence"] = "token"  # what the importance ratio is of
    credits_steps: bool = False  # turns from one state are compared as well (GiGPO)
    critic: bool = False  # advantages from learned values, scaled by the estimator
    discount: float = 1.0
    divide_by_std: bool
    aggregation: losses.Aggregation
    clip_low: float
    clip_high: float

    def advantage(
        self, returns: np.ndarray, valid: np.ndarray, config: AlgorithmConfig
    ) -> np.ndarray:
        """Advantage of each episode.

        Args:
          returns: float[P, G], undiscounted; with a critic the advantages of all tokens.
          valid: bool[P, G], False where an episode must neither train nor count.
          config: overrides.

        Returns:
          float64[P, G], 0 where not valid.
        """
        divide = _override(config.divide_by_std, self.divide_by_std)
        return self.estimator(returns, valid, divide_by_std=divide)

    def turn_advantages(
        self,
        trajectories: Sequence[types.Trajectory],
        rewards: Sequence[np.ndarray],
        episode_advantages: Sequence[float],
        valid: Sequence[bool],
        config: AlgorithmConfig,
    ) -> list[np.ndarray]:
        """Advantage of each turn: its episode's, plus the credit for the step if any.

        The state that a turn starts from is the observation that it answers. All
        arguments but the last have one entry per trajectory: `rewards` float[K], of
        each turn.

        Returns:
          float64[K] for the K turns of each trajectory, 0 where not valid.
        """
        turns = [
            np.full(len(t.turns), a)
            for t, a in zip(trajectories, episode_advantages, strict=True)
        ]
        counted = [i for i, counts in enumerate(valid) if counts]
        if not self.credits_steps or not counted:
            return turns
        returns = [
            advantages.discounted_returns(rewards[i], self.discount_of(config))
            for i in counted
        ]
        steps = advantages.anchor_state_advantages(
            np.concatenate(returns),
            [
                (trajectories[i].task.group, turn.observation)
                for i in counted
                for turn in trajectories[i].turns
            ],
            divide_by_std=_override(config.divide_by_std, self.divide_by_std),
        )
        ends = np.cumsum([len(part) for part in returns])
        for i, part in zip(counted, np.split(steps, ends[:-1]), strict=True):
            turns[i] += config.step_weight * part
        return turns

    def log_ratio(
        self, log_ratio: jax.Array, mask: jax.Array, segment_ids: jax.Array
    ) -> jax.Array:
        """Log of the ratio that is clipped, float32[R, T], from that of each token."""
        if self.ratio == "sequence":
            return losses.sequence_log_ratio(log_ratio, mask, segment_ids)
        return log_ratio

    def token_loss(
        self,
        log_ratio: jax.Array,
        advantage: jax.Array,
        config: AlgorithmConfig,
    ) -> jax.Array:
        """Loss float32[R, T], from the result of `log_ratio` and the advantages."""
        clip_low, clip_high = self.clip_range(config)
        options = {
            name: getattr(config, name)
            for name in _SURROGATE_OPTIONS
            if getattr(config, name) is not None
        }
        return self.surrogate(
            log_ratio, advantage, clip_low=clip_low, clip_high=clip_high, **options
        )

    def clip_range(self, config: AlgorithmConfig) -> tuple[float, float]:
        """How far the ratio may fall below and rise above 1."""
        return (
            _override(config.clip_low, self.clip_low),
            _override(config.clip_high, self.clip_high),
        )

    def discount_of(self, config: AlgorithmConfig) -> float:
        """Discount per step of time."""
        return _override(config.discount, self.discount)

    def aggregation_of(self, config: AlgorithmConfig) -> losses.Aggregation:
        """What the loss is averaged over."""
        return _override(config.aggregation, self.aggregation)


_SURROGATE_OPTIONS = ("dual_clip", "importance_cap")  # of `losses.clipped_surrogate`

# https://arxiv.org/abs/2402.03300
_GRPO = Algorithm(
    estimator=advantages.group_relative_advantages,
    surrogate=losses.clipped_surrogate,
    divide_by_std=True,
    aggregation="sequence",
    clip_low=0.2,
    clip_high=0.2,
)

ALGORITHMS: Mapping[str, Algorithm] = {
    "grpo": _GRPO,
    # https://arxiv.org/abs/2503.20783: no bias by spread or by length.
    "dr_grpo": dataclasses.replace(_GRPO, divide_by_std=False, aggregation="constant"),
    # https://arxiv.org/abs/2503.14476; its dynamic sampling: packing leaves groups
    # without signal out, and `max_refills` plays others in their place.
    "dapo": dataclasses.replace(_GRPO, aggregation="token", clip_high=0.28),
    # https://arxiv.org/abs/2402.14740, which takes whole sequences as one action. The
    # clipping matters only from the second update on the same episodes.
    "rloo": dataclasses.replace(
        _GRPO,
        estimator=advantages.leave_one_out_advantages,
        divide_by_std=False,
        aggregation="constant",
    ),
    # https://arxiv.org/abs/2501.03262
    "reinforce_pp": dataclasses.replace(
        _GRPO, estimator=advantages.batch_normalized_advantages, aggregation="token"
    ),
    # https://arxiv.org/abs/2507.18071; bounds of its section 5.1
    "gspo": dataclasses.replace(_GRPO, ratio="sequence", clip_low=3e-4, clip_high=4e-4),
    # https://arxiv.org/abs/2506.13585, without lower bound; weights up to 5 as in
    # https://arxiv.org/abs/2510.13786.
    "cispo": dataclasses.replace(
        _GRPO,
        surrogate=losses.clipped_importance,
        aggregation="token",
        clip_low=1.0,
        clip_high=4.0,
    ),
    # https://arxiv.org/abs/2505.10978
    "gigpo": dataclasses.replace(
        _GRPO, aggregation="token", credits_steps=True, discount=0.95
    ),
    # https://arxiv.org/abs/1707.06347, with advantages scaled over the batch as usual
    "ppo": dataclasses.replace(
        _GRPO,
        estimator=advantages.batch_normalized_advantages,
        aggregation="token",
        critic=True,
    ),
}


def get(config: AlgorithmConfig) -> Algorithm:
    """Looks up the algorithm of a configuration.

    Raises:
      ConfigError: if the name is unknown, or a field is set that it does not have.
    """
    if config.name not in ALGORITHMS:
        close = difflib.get_close_matches(config.name, ALGORITHMS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise errors.ConfigError(
            f"algorithm.name = {config.name!r} is unknown; {hint}There are "
            f"{', '.join(sorted(ALGORITHMS))}."
        )
    algorithm = ALGORITHMS[config.name]
    for name in _SURROGATE_OPTIONS:
        if (
            getattr(config, name) is not None
            and algorithm.surrogate is not losses.clipped_surrogate
        ):
            raise errors.ConfigError(
                f"algorithm.{name} = {getattr(config, name)} has no meaning for "
                f"algorithm.name = {config.name!r}, whose clip_high already bounds the "
                "importance weight; leave it None."
            )
    compares = advantages.batch_normalized_advantages
    if config.max_refills and algorithm.estimator is compares:
        raise errors.ConfigError(
            f"algorithm.max_refills = {config.max_refills} has no meaning for "
            f"algorithm.name = {config.name!r}, which learns from groups whose returns "
            "are all equal, too; leave it 0."
        )
    return algorithm


def validate(run: RunConfig) -> None:
    """Raises `ConfigError` if a stage's algorithm is unknown or the model lacks a part."""
    for stage in run.stages:
        if get(stage.algorithm).critic and not run.model.critic:
            raise errors.ConfigError(
                f"stage '{stage.name}': algorithm.name = {stage.algorithm.name!r} learns "
                "values, which the model cannot predict; set model.critic = True."
            )


def _override(value: _T | None, published: _T) -> _T:
    return published if value is None else value
