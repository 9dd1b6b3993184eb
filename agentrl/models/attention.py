"""Attention over packed rows and over a key-value cache, with one kernel per platform.

On CPU it is plain matrix products: query heads that share a key-value head (GQA) are rows
of one matrix, because repeating keys and values costs two to three times more, and cached
keys are transposed. Elsewhere it is `jax.nn.dot_product_attention`, on GPUs in half
precision with cuDNN's kernel. Scores and softmax are float32 everywhere.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from agentrl.models import model_config

Implementation = Literal["matmul", "xla", "cudnn"]
_MASKED = -1e30  # finite: a fully masked query must not become NaN


def select_implementation(config: model_config.ModelConfig) -> Implementation:
    """Returns the implementation for this platform, unless `config.attention` names one.

    cuDNN's kernel supports bfloat16 and head sizes that are multiples of 8 up to 128.
    """
    if config.attention != "auto":
        return config.attention
    if jax.default_backend() == "cpu":
        return "matmul"
    supported = config.dtypes.compute == "bfloat16" and config.head_dim in range(
        8, 129, 8
    )
    return "cudnn" if supported and jax.default_backend() == "gpu" else "xla"


def attend_segments(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    segment_ids: jax.Array,
    implementation: Implementation = "matmul",
) -> jax.Array:
    """Computes causal attention within the segments of packed rows.

    Args:
      queries: float[R, T, Q, Dh].
      keys: float[R, T, H, Dh]; H divides Q.
      values: float[R, T, H, Dh].
      segment_ids: int32[R, T]; tokens attend to earlier ones of their own segment.
      implementation: from `select_implementation`.

    Returns:
      float[R, T, Q, Dh] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, segment_ids], [4, 4, 4, 2])
    num_tokens = queries.shape[1]
    same_segment = segment_ids[:, :, None] == segment_ids[:, None, :]
    mask = jnp.tril(same_segment)[:, None]
    if implementation != "matmul":
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=mask, implementation=implementation
        )
    keys, values = keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3)
    # Long rows are computed in four blocks of queries, each without the keys behind it:
    # 5/8 of the work is left.
    num_blocks = 1 if num_tokens < 512 or num_tokens % 4 else 4
    size = num_tokens // num_blocks
    blocks = []
    for end in range(size, num_tokens + 1, size):
        block = slice(end - size, end)
        blocks.append(
            _attend(
                queries[:, block],
                keys[..., :end],
                values[:, :, :end],
                mask[:, :, block, :end],
            )
        )
    return jnp.concatenate(blocks, axis=1)


def attend_cache(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    implementation: Implementation = "matmul",
) -> jax.Array:
    """Computes attention of a chunk of new tokens over a cache that already holds them.

    Args:
      queries: float[B, C, Q, Dh].
      keys: float[B, H, Dh, S], transposed, as the product with queries reads them.
        All implementations but "matmul" take [B, S, H, Dh].
      values: float[B, H, S, Dh], or [B, S, H, Dh] as the keys.
      positions: int32[B, C], cache position of each query, the last that it attends to.
      implementation: from `select_implementation`.

    Returns:
      float[B, C, Q, Dh] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, positions], [4, 4, 4, 2])
    transposed = implementation == "matmul"
    key_positions = jnp.arange(keys.shape[3 if transposed else 1])
    mask = (key_positions[None, None] <= positions[:, :, None])[:, None]
    if not transposed:
        keys, values = keys.astype(queries.dtype), values.astype(queries.dtype)
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=mask, implementation=implementation
        )
    return _attend(queries, keys, values, mask)


def _attend(
    queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array
) -> jax.Array:
    """Attends with [B, C, Q, Dh] to keys [B, H, Dh, S] and values [B, H, S, Dh].

    Rows and heads are folded into one batch axis of matrix products: XLA's CPU backend has
    fast code for these, not for einsums with two batch axes (`benchmarks/RESULTS.md`).
    """
    batch_size, chunk, num_heads, size = queries.shape
    kv_heads = keys.shape[1]
    matrices = queries.reshape(batch_size, chunk, kv_heads, -1, size)
    matrices = matrices.transpose(0, 2, 3, 1, 4)
    # float32, because CPUs have no product of two bfloat16 arrays in this order of axes.
    folded = batch_size * kv_heads
    matrices = matrices.reshape(folded, -1, size).astype(jnp.float32) * size**-0.5
    scores = jnp.matmul(matrices, keys.reshape(folded, size, -1))
    scores = scores.reshape(batch_size, num_heads, chunk, -1)
    weights = jax.nn.softmax(jnp.where(mask, scores, _MASKED), axis=-1)
    weights = weights.reshape(folded, -1, scores.shape[-1])
    out = jnp.matmul(weights, values.reshape(folded, -1, size))
    out = out.reshape(batch_size, num_heads, chunk, size).transpose(0, 2, 1, 3)
    return out.astype(queries.dtype)
