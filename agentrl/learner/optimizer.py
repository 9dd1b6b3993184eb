"""AdamW from a configuration: schedule, clipping, decay mask, dtype of the moments."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agentrl import types
from agentrl.config import OptimizerConfig


class LearningRateState(NamedTuple):
    """State of the last link of the chain; the learner reports `learning_rate`."""

    count: jax.Array  # int32[], updates so far
    learning_rate: jax.Array  # float32[], of the latest update


def make_optimizer(
    config: OptimizerConfig, *, total_steps: int, moments: str = "float32"
) -> optax.GradientTransformation:
    """AdamW with clipping by global norm; decay touches weight matrices only.

    AdamW: https://arxiv.org/abs/1711.05101, algorithm 2.

    Args:
      config: rates, betas, clipping.
      total_steps: optimizer updates the schedule spans, warm-up included.
      moments: type in which both are stored; they are computed in float32.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        _scale_by_adam(config, moments),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        _scale_by_learning_rate(make_schedule(config, total_steps=total_steps)),
    )


def make_schedule(config: OptimizerConfig, *, total_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then constant or falling to `final_fraction` of the peak.

    Past `total_steps` the last value stays.
    """
    peak, final = config.learning_rate, config.learning_rate * config.final_fraction
    decay_steps = max(total_steps - config.warmup_steps, 1)
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, final, decay_steps)
    else:
        after = optax.cosine_decay_schedule(peak, decay_steps, config.final_fraction)
    # The first update is not wasted on a rate of 0.
    warmup = optax.linear_schedule(
        peak / (config.warmup_steps + 1), peak, max(config.warmup_steps, 1)
    )
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def decay_mask(params: types.PyTree) -> types.PyTree:
    """True at weight matrices: not at norms, and not at biases of any shape."""

    def is_matrix(path: tuple[object, ...], leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # Stacked vectors have two axes.
        return leaf.ndim >= 2 and not name.endswith(("bias", "scale"))

    return jax.tree.map_with_path(is_matrix, params)


def _scale_by_adam(
    config: OptimizerConfig, moments: str
) -> optax.GradientTransformation:
    """Adam; optax lets only the first moment have a dtype of its own."""
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon)

    def store(state: Any, dtype: str) -> optax.ScaleByAdamState:
        mu, nu = optax.tree.cast(state.mu, dtype), optax.tree.cast(state.nu, dtype)
        return state._replace(mu=mu, nu=nu)

    def init(params: types.PyTree) -> optax.ScaleByAdamState:
        return store(adam.init(params), moments)

    def update(
        updates: types.PyTree, state: Any, params: types.PyTree | None = None
    ) -> tuple[types.PyTree, Any]:
        updates, state = adam.update(updates, store(state, "float32"), params)
        return updates, store(state, moments)

    return optax.GradientTransformation(init, update)


def _scale_by_learning_rate(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Multiplies by minus the scheduled rate and keeps the rate in its state."""

    def init(params: types.PyTree) -> LearningRateState:
        del params
        return LearningRateState(jnp.int32(0), jnp.float32(schedule(0)))

    def update(
        updates: types.PyTree, state: Any, params: types.PyTree | None = None
    ) -> tuple[types.PyTree, Any]:
        del params
        rate = jnp.asarray(schedule(state.count), jnp.float32)
        state = LearningRateState(state.count + 1, rate)
        return optax.tree.scale(-rate, updates), state

    return optax.GradientTransformation(init, update)
