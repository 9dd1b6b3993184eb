"""Attention over packed rows and over a key-value cache: the seam between platforms.

On CPU it is written out: grouped queries are folded into an extra axis instead of
repeating keys and values, which costs two to three times more, and cached keys lie
transposed. Elsewhere it is `jax.nn.dot_product_attention`, on GPUs in half precision with
cuDNN's kernel. Scores and softmax are float32 everywhere.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from agentrl.models import config as model_config

Implementation = Literal["einsum", "xla", "cudnn"]
_MASKED = -1e30  # finite: a row with nothing to attend to stays free of NaN


def choose(config: model_config.ModelConfig) -> Implementation:
    """What suits the platform, unless the configuration says."""
    if config.attention != "auto":
        return config.attention
    if jax.default_backend() == "cpu":
        return "einsum"
    fits = config.dtypes.compute == "bfloat16" and config.head_dim in range(8, 129, 8)
    return "cudnn" if fits and jax.default_backend() == "gpu" else "xla"


def attend_segments(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    segment_ids: jax.Array,
    implementation: Implementation = "einsum",
) -> jax.Array:
    """Causal attention within the segments of packed rows.

    Args:
      queries: float[R, T, N, D], N query heads.
      keys: float[R, T, H, D]; H divides N.
      values: float[R, T, H, D].
      segment_ids: int32[R, T]; columns see earlier columns of their own segment.
      implementation: from `choose`.

    Returns:
      float[R, T, N, D] in the dtype of `values`.
    """
    chex.assert_rank([queries, keys, values, segment_ids], [4, 4, 4, 2])
    num_columns = queries.shape[1]
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = jnp.tril(jnp.ones((num_columns, num_columns), bool))
    visible = (same & causal[None])[:, None]
    if implementation != "einsum":
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=visible, implementation=implementation
        )
    grouped = _group_heads(queries, keys.shape[2])
    scores = jnp.einsum(
        "rthgd,rshd->rhgts", grouped, keys, preferred_element_type=jnp.float32
    )
    weights = _softmax(scores, visible[:, :, None]).astype(values.dtype)
    return jnp.einsum("rhgts,rshd->rthgd", weights, values).reshape(queries.shape)


def attend_cache(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    positions: jax.Array,
    implementation: Implementation = "einsum",
) -> jax.Array:
    """Attention of appended columns over a cache that already holds them.

    Args:
      queries: float[B, C, N, D].
      keys: float[B, H, D, S], transposed: on CPU 1.6x faster to read than [B, H, S, D].
        All implementations but "einsum" take [B, S, H, D].
      values: float[B, H, S, D], or [B, S, H, D] as the keys.
      positions: int32[B, C], cache column of each query; it sees columns up to its own.
      implementation: from `choose`.

    Returns:
      float[B, C, N, D] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, positions], [4, 4, 4, 2])
    transposed = implementation == "einsum"
    columns = jnp.arange(keys.shape[3 if transposed else 1])
    visible = (columns[None, None] <= positions[:, :, None])[:, None]
    if not transposed:
        keys, values = keys.astype(queries.dtype), values.astype(queries.dtype)
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=visible, implementation=implementation
        )
    # XLA's CPU backend has no product of two bf16 arrays in this order of axes.
    grouped = _group_heads(queries, keys.shape[1]).astype(jnp.float32)
    scores = jnp.einsum(
        "bchgd,bhds->bhgcs", grouped, keys, preferred_element_type=jnp.float32
    )
    weights = _softmax(scores, visible[:, :, None]).astype(queries.dtype)
    out = jnp.einsum("bhgcs,bhsd->bchgd", weights, values)
    return out.reshape(queries.shape).astype(queries.dtype)


def _group_heads(queries: jax.Array, num_kv_heads: int) -> jax.Array:
    """Splits N query heads into (H, N / H) and scales them for the dot product."""
    *lead, num_heads, head_dim = queries.shape
    scaled = queries * head_dim**-0.5
    return scaled.reshape(*lead, num_kv_heads, num_heads // num_kv_heads, head_dim)


def _softmax(scores: jax.Array, visible: jax.Array) -> jax.Array:
    visible = jnp.broadcast_to(visible, scores.shape)
    return jax.nn.softmax(jnp.where(visible, scores, _MASKED), axis=-1)
