"""Reductions that ignore unselected entries and stay finite when none is selected."""

import chex
import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Averages `x` over the entries where `mask` is True.

    The mask hides a NaN from the value but not from the gradient, where 0 * inf is NaN
    again: make the inputs of exp and log safe, with `jnp.where`, before them.

    Args:
      x: float[...], values to average.
      mask: bool[...], same shape as `x`.

    Returns:
      float[]; 0, not NaN, if nothing is selected.
    """
    chex.assert_equal_shape([x, mask])
    chex.assert_type(mask, bool)
    count = jnp.sum(mask, dtype=x.dtype)
    return jnp.sum(x, where=mask) / jnp.maximum(count, 1)


def segment_sum(x: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Sums `x` within the segments of packed rows, spread back over their tokens.

    Args:
      x: float[..., T].
      segment_ids: int32[..., T] in 0..T; padding, segment 0, is summed like the others.

    Returns:
      float[..., T]: every column holds the sum over its own segment.
    """
    chex.assert_equal_shape([x, segment_ids])

    def sum_row(row: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(row, ids, num_segments=row.size + 1)[ids]

    return jnp.vectorize(sum_row, signature="(t),(t)->(t)")(x, segment_ids)
