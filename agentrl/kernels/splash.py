"""Attention over packed rows on TPUs: JAX's splash attention with segment ids.

Scores stay in the chip's own memory, block by block, forward and backward, and blocks of
keys behind the queries are skipped.
FlashAttention: https://arxiv.org/abs/2205.14135; the kernel:
`jax.experimental.pallas.ops.tpu.splash_attention`.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention

_LANES = 128  # columns of a row are padded to a multiple
_MAX_BLOCK = 512  # columns of a block


def attend(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    segment_ids: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Computes causal attention within the segments of packed rows.

    Args:
      queries: float[R, T, Q, Dh].
      keys: float[R, T, H, Dh]; H divides Q.
      values: float[R, T, H, Dh].
      segment_ids: int32[R, T]; tokens attend to earlier ones of their own segment.
      interpret: runs the kernel on any platform, slowly, for tests.

    Returns:
      float[R, T, Q, Dh] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, segment_ids], [4, 4, 4, 2])
    num_columns = queries.shape[1]
    padding = -num_columns % _LANES

    def to_heads(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    # Padding comes last: no token attends to it, whatever its segment.
    ids = jnp.pad(segment_ids, ((0, 0), (0, padding)))
    kernel = _make_kernel(queries.shape[2], num_columns + padding, interpret)
    attended = jax.vmap(kernel)(
        to_heads(scale(queries)),
        to_heads(keys),
        to_heads(values),
        splash_attention.SegmentIds(ids, ids),
    )
    return attended.transpose(0, 2, 1, 3)[:, :num_columns]


def scale(queries: jax.Array) -> jax.Array:
    """Divides queries by the root of the head size, once for all scores.

    The sampler's kernel does it in the same place, so that both round alike.
    """
    scaled = queries.astype(jnp.float32) * queries.shape[-1] ** -0.5
    return scaled.astype(queries.dtype)


def _make_kernel(
    num_heads: int, num_columns: int, interpret: bool
) -> Any:  # a callable that returns an array
    size = block_size(num_columns)
    blocks = splash_attention.BlockSizes(
        block_q=size,
        block_kv=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    causal = splash_attention.CausalMask((num_columns, num_columns))
    return splash_attention.make_splash_mha_single_device(
        splash_attention.MultiHeadMask([causal] * num_heads),
        block_sizes=blocks,
        interpret=interpret,
    )


def block_size(num_columns: int) -> int:
    """Returns the largest block, in multiples of 128, that divides a number of columns."""
    return next(
        size for size in range(_MAX_BLOCK, 0, -_LANES) if num_columns % size == 0
    )
