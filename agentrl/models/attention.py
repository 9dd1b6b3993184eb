"""Attention over packed rows and over a key-value cache: one place for layouts.

Grouped queries are folded into an extra axis instead of repeating keys and values, which
costs two to three times more on CPU. Scores and softmax are float32 everywhere.
"""

import chex
import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite: a row with nothing to attend to stays free of NaN


def attend_segments(
    queries: jax.Array, keys: jax.Array, values: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    """Causal attention within the segments of packed rows.

    Args:
      queries: float[R, T, N, D], N query heads.
      keys: float[R, T, H, D]; H divides N.
      values: float[R, T, H, D].
      segment_ids: int32[R, T]; columns see earlier columns of their own segment.

    Returns:
      float[R, T, N, D] in the dtype of `values`.
    """
    chex.assert_rank([queries, keys, values, segment_ids], [4, 4, 4, 2])
    num_columns = queries.shape[1]
    grouped = _group_heads(queries, keys.shape[2])
    scores = jnp.einsum(
        "rthgd,rshd->rhgts", grouped, keys, preferred_element_type=jnp.float32
    )
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = jnp.tril(jnp.ones((num_columns, num_columns), bool))
    visible = (same & causal[None])[:, None, None]
    weights = _softmax(scores, visible).astype(values.dtype)
    return jnp.einsum("rhgts,rshd->rthgd", weights, values).reshape(queries.shape)


def attend_cache(
    queries: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array
) -> jax.Array:
    """Attention of appended columns over a cache that already holds them.

    Args:
      queries: float[B, C, N, D].
      keys: float[B, H, D, S], transposed: on CPU 1.6x faster to read than [B, H, S, D].
      values: float[B, H, S, D].
      positions: int32[B, C], cache column of each query; it sees columns up to its own.

    Returns:
      float[B, C, N, D] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, positions], [4, 4, 4, 2])
    grouped = _group_heads(queries, keys.shape[1])
    scores = jnp.einsum(
        "bchgd,bhds->bhgcs", grouped, keys, preferred_element_type=jnp.float32
    )
    columns = jnp.arange(keys.shape[3])
    visible = (columns[None, None, :] <= positions[:, :, None])[:, None, None]
    weights = _softmax(scores, visible).astype(values.dtype)
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
