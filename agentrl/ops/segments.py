"""Sums over the trajectories that share a packed row."""

import chex
import jax
import jax.numpy as jnp


def segment_sum(x: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Sums `x` within segments and spreads each sum back over its columns.

    Args:
      x: float[..., T].
      segment_ids: int32[..., T] in 0..T; padding, segment 0, is summed like the others.

    Returns:
      float[..., T]: every column holds the sum over its own segment of its own row.
    """
    chex.assert_equal_shape([x, segment_ids])

    def sum_row(row: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(row, ids, num_segments=row.size + 1)[ids]

    return jnp.vectorize(sum_row, signature="(t),(t)->(t)")(x, segment_ids)
