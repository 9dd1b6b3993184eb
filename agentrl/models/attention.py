"""Attention over packed rows and over a key-value cache: the seam between platforms.

On CPU it is written out: queries that share a head of keys are rows of one matrix instead
of repeating keys and values, which costs two to three times more, and cached keys lie
transposed. Elsewhere it is `jax.nn.dot_product_attention`, on GPUs in half precision with
cuDNN's kernel. Scores and softmax are float32 everywhere.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from agentrl.models import config as model_config

Implementation = Literal["matmul", "xla", "cudnn"]
_MASKED = -1e30  # finite: a row with nothing to attend to stays free of NaN


def choose(config: model_config.ModelConfig) -> Implementation:
    """What suits the platform, unless the configuration says."""
    if config.attention != "auto":
        return config.attention
    if jax.default_backend() == "cpu":
        return "matmul"
    fits = config.dtypes.compute == "bfloat16" and config.head_dim in range(8, 129, 8)
    return "cudnn" if fits and jax.default_backend() == "gpu" else "xla"


def attend_segments(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    segment_ids: jax.Array,
    implementation: Implementation = "matmul",
) -> jax.Array:
    """Causal attention within the segments of packed rows.

    Args:
      queries: float[R, T, N, D], N query heads.
      keys: float[R, T, H, D]; H divides N.
      values: float[R, T, H, D].
      segment_ids: int32[R, T]; columns see earlier columns of their own segment.
      implementation: from `choose`.

    Returns:
      float[R, T, N, D] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, segment_ids], [4, 4, 4, 2])
    num_columns = queries.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    visible = jnp.tril(same)[:, None]
    if implementation != "matmul":
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=visible, implementation=implementation
        )
    keys, values = keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3)
    # Quarters of long rows skip the keys that come after them: 5/8 of the work is left.
    width = num_columns // (1 if num_columns < 512 or num_columns % 4 else 4)
    parts = []
    for end in range(width, num_columns + 1, width):
        part = slice(end - width, end)
        seen = visible[:, :, part, :end]
        parts.append(
            _attend(queries[:, part], keys[..., :end], values[:, :, :end], seen)
        )
    return jnp.concatenate(parts, axis=1)


def attend_cache(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    implementation: Implementation = "matmul",
) -> jax.Array:
    """Attention of appended columns over a cache that already holds them.

    Args:
      queries: float[B, C, N, D].
      keys: float[B, H, D, S], transposed, as the product with queries reads them.
        All implementations but "matmul" take [B, S, H, D].
      values: float[B, H, S, D], or [B, S, H, D] as the keys.
      positions: int32[B, C], cache column of each query; it sees columns up to its own.
      implementation: from `choose`.

    Returns:
      float[B, C, N, D] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, positions], [4, 4, 4, 2])
    transposed = implementation == "matmul"
    columns = jnp.arange(keys.shape[3 if transposed else 1])
    visible = (columns[None, None] <= positions[:, :, None])[:, None]
    if not transposed:
        keys, values = keys.astype(queries.dtype), values.astype(queries.dtype)
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=visible, implementation=implementation
        )
    return _attend(queries, keys, values, visible)


def _attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array
) -> jax.Array:
    """Attention of [B, C, N, D] to keys [B, H, D, S] and values [B, H, S, D].

    Products are of matrices along one axis of batches: XLA's CPU backend has fast code for
    these, not for einsums with axes for rows and for heads (`benchmarks/RESULTS.md`).
    """
    rows, count, num_heads, size = queries.shape
    heads = keys.shape[1]
    matrices = queries.reshape(rows, count, heads, -1, size).transpose(0, 2, 3, 1, 4)
    # Float32, because CPUs have no product of two bfloat16 arrays in this order of axes.
    matrices = matrices.reshape(rows * heads, -1, size).astype(jnp.float32) * size**-0.5
    scores = jnp.matmul(matrices, keys.reshape(rows * heads, size, -1))
    scores = scores.reshape(rows, num_heads, count, -1)
    weights = jax.nn.softmax(jnp.where(visible, scores, _MASKED), axis=-1)
    weights = weights.reshape(rows * heads, -1, scores.shape[-1])
    out = jnp.matmul(weights, values.reshape(rows * heads, -1, size))
    out = out.reshape(rows, num_heads, count, size).transpose(0, 2, 1, 3)
    return out.astype(queries.dtype)
