"""Which environment and task each group of the next iteration plays, decided on device.

The state is part of the checkpoint and the functions are pure, so every host draws the
same tasks and a resumed run repeats its draws.
"""

import dataclasses
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from agentrl import config, types

_SUCCESS_DECAY = 0.9  # per iteration, of the running success that adapts the weights
_EXPLORATION = 0.05  # least learnability an adaptive mixture assumes


def init(
    stage: config.MixtureConfig, environments: Sequence[str]
) -> types.MixtureState:
    """Returns the state at the start of a stage; environments not named weigh 0."""
    weights = dict(stage.environments)
    num_envs = len(environments)
    return types.MixtureState(
        weights=jnp.array(
            [weights.get(name, 0.0) for name in environments], jnp.float32
        ),
        success=jnp.full(num_envs, -1.0, jnp.float32),
        cursors=jnp.zeros(num_envs, jnp.int32),
    )


def draw_tasks(
    state: types.MixtureState,
    key: jax.Array,
    step: jax.Array,
    *,
    stage: config.MixtureConfig,
    panel_sizes: Sequence[int],
    num_groups: int,
    num_drawn: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, types.MixtureState]:
    """Draws an environment and a task for each group.

    Args:
      state: the mixture's state.
      key: PRNG key of the stage, the same on every host.
      step: int32[], folded into the key: the iteration.
      stage: the mixture's settings; static.
      panel_sizes: tasks in each environment's training panel; static.
      num_groups: P, static.
      num_drawn: int32[], how many of the P draws are used, from the first on; None uses
        all. Unused draws are not consumed: their tasks are drawn again.

    Returns:
      int32[P] environments, int32[P] indices into their panels, and the new state. Each
      environment's tasks are drawn without replacement, epoch by epoch.
    """
    weights = effective_weights(state, stage)
    env_ids = sample_env_ids(key, weights, step, num_groups)
    drawn = jax.nn.one_hot(env_ids, len(panel_sizes), dtype=jnp.int32)
    earlier = jnp.cumsum(drawn, axis=0) - drawn  # of this iteration, per environment
    nth = state.cursors[None] + earlier
    candidates = jnp.stack(
        [
            _nth_tasks(jax.random.fold_in(key, env), nth[:, env], size, num_groups)
            for env, size in enumerate(panel_sizes)
        ],
        axis=1,
    )
    tasks = jnp.take_along_axis(candidates, env_ids[:, None], axis=1)[:, 0]
    used = jnp.arange(num_groups) < (num_groups if num_drawn is None else num_drawn)
    cursors = state.cursors + jnp.sum(drawn, axis=0, where=used[:, None])
    return env_ids, tasks, dataclasses.replace(state, cursors=cursors)


def sample_env_ids(
    key: jax.Array, weights: jax.Array, step: jax.Array, num_groups: int
) -> jax.Array:
    """Draws one environment per group, by systematic sampling.

    One uniform offset is shared by `num_groups` evenly spaced points on the cumulative
    weights, so environment `e` gets floor or ceil of its expected count. Independent
    draws would add count noise to every per-environment metric.

    Args:
      key: PRNG key.
      weights: float32[E], non-negative, need not sum to 1.
      step: int32[], folded into the key.
      num_groups: P, static.

    Returns:
      int32[P] indices into `weights`, in random order.
    """
    chex.assert_rank([weights, step], [1, 0])
    offset_key, order_key = jax.random.split(jax.random.fold_in(key, step))
    points = jnp.arange(num_groups, dtype=jnp.float32)
    points = (points + jax.random.uniform(offset_key)) / num_groups
    edges = jnp.cumsum(weights) / jnp.sum(weights)
    env_ids = jnp.searchsorted(edges, points, side="right")
    # Rounding can leave the last edge just below the last point, and must not then pick
    # an environment of weight 0.
    last = jnp.max(jnp.where(weights > 0, jnp.arange(weights.shape[0]), 0))
    env_ids = jnp.minimum(env_ids, last).astype(jnp.int32)
    return jax.random.permutation(order_key, env_ids)


def effective_weights(
    state: types.MixtureState, stage: config.MixtureConfig
) -> jax.Array:
    """Returns the weights float32[E] of the next draw.

    `fixed` takes them as they are; `tempered` raises them to 1 / temperature; `adaptive`
    scales them by the learnability p (1 - p) of the running success p, which is largest
    where a group is most likely to hold both successes and failures.
    """
    if stage.kind == "tempered":
        return state.weights ** (1 / stage.temperature)
    if stage.kind == "adaptive":
        success = jnp.where(state.success < 0, 0.5, state.success)
        return state.weights * jnp.maximum(success * (1 - success), _EXPLORATION)
    return state.weights


def record_success(
    state: types.MixtureState, success: jax.Array, counts: jax.Array
) -> types.MixtureState:
    """Updates the running success rates with one iteration.

    Args:
      state: the mixture's state.
      success: float32[E], sum of successes per environment.
      counts: float32[E], episodes per environment.

    Returns:
      The new state; environments without episodes keep their rate.
    """
    mean = success / jnp.maximum(counts, 1)
    blended = _SUCCESS_DECAY * state.success + (1 - _SUCCESS_DECAY) * mean
    updated = jnp.where(state.success < 0, mean, blended)
    return dataclasses.replace(
        state, success=jnp.where(counts > 0, updated, state.success)
    )


def _nth_tasks(key: jax.Array, nth: jax.Array, size: int, num_groups: int) -> jax.Array:
    """Returns int32[P], the task of each draw: entry n % size of epoch n // size."""
    first_epoch = nth[0] // size
    num_epochs = (num_groups - 1) // size + 2  # a window of P draws touches no more

    def shuffled(epoch: jax.Array) -> jax.Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), size)

    orders = jax.vmap(shuffled)(first_epoch + jnp.arange(num_epochs))
    return orders[nth // size - first_epoch, nth % size]
