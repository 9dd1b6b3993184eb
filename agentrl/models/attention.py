"""Attention over packed rows and over a key-value cache, with one kernel per platform.

On CPU it is plain matrix products: query heads that share a key-value head (GQA) are rows
of one matrix, because repeating keys and values costs two to three times more, and cached
keys are transposed. On TPUs it is a Pallas kernel (`agentrl.kernels`), on GPUs in half
precision cuDNN's, elsewhere `jax.nn.dot_product_attention`. Scores and softmax are float32
everywhere. `choices` says which is taken.
"""

import chex
import jax
import jax.numpy as jnp

from agentrl.kernels import flash_decode, splash
from agentrl.models import kv_cache, model_config

_MASKED = -1e30  # finite: a fully masked query must not become NaN


def attend_segments(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    segment_ids: jax.Array,
    implementation: model_config.Implementation = "matmul",
) -> jax.Array:
    """Computes causal attention within the segments of packed rows.

    Args:
      queries: float[R, T, Q, Dh].
      keys: float[R, T, H, Dh]; H divides Q.
      values: float[R, T, H, Dh].
      segment_ids: int32[R, T]; tokens attend to earlier ones of their own segment.
      implementation: from `choices`.

    Returns:
      float[R, T, Q, Dh] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, segment_ids], [4, 4, 4, 2])
    if implementation == "pallas":
        return splash.attend(queries, keys, values, segment_ids)
    num_tokens = queries.shape[1]
    same_segment = segment_ids[:, :, None] == segment_ids[:, None, :]
    if (
        implementation == "cudnn"
    ):  # skips what is behind a query, told so beside the mask
        return jax.nn.dot_product_attention(
            queries,
            keys,
            values,
            mask=same_segment[:, None],
            is_causal=True,
            implementation=implementation,
        )
    mask = jnp.tril(same_segment)[:, None]
    if implementation != "matmul":
        return jax.nn.dot_product_attention(
            queries, keys, values, mask=mask, implementation=implementation
        )
    keys, values = keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3)
    # Rows are computed in four blocks of queries, each without the keys behind it: 5/8 of
    # the work is left.
    num_blocks = 1 if num_tokens < 256 or num_tokens % 4 else 4
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
    implementation: model_config.Implementation = "matmul",
) -> jax.Array:
    """Computes attention of a chunk of new tokens over a cache that already holds them.

    Args:
      queries: float[B, C, Q, Dh].
      keys: the layer's keys, in the layout of the implementation; see `kv_cache`.
      values: the layer's values.
      positions: int32[B, C], cache position of each query, the last that it attends to.
      implementation: from `choices`; any but "pallas".

    Returns:
      float[B, C, Q, Dh] in the dtype of `queries`.
    """
    chex.assert_rank([queries, keys, values, positions], [4, 4, 4, 2])
    transposed = implementation == "matmul"
    key_positions = jnp.arange(keys.shape[3 if transposed else 1])
    mask = (key_positions[None, None] <= positions[:, :, None])[:, None]
    if transposed:
        return _attend(queries, keys, values, mask)
    keys, values = keys.astype(queries.dtype), values.astype(queries.dtype)
    if implementation == "cudnn":
        # Reads no further than a row's last query; one query alone needs no mask.
        lengths = jnp.minimum(positions[:, -1] + 1, keys.shape[1])
        return jax.nn.dot_product_attention(
            queries,
            keys,
            values,
            mask=mask if queries.shape[1] > 1 else None,
            key_value_seq_lengths=lengths,
            implementation=implementation,
        )
    return jax.nn.dot_product_attention(
        queries, keys, values, mask=mask, implementation="xla"
    )


def append_and_attend(
    queries: jax.Array,
    new_keys: jax.Array,
    new_values: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    starts: jax.Array,
    counts: jax.Array,
    layer: jax.Array | None,
    *,
    layout: kv_cache.Layout,
    implementation: model_config.Implementation,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Writes keys and values of one layer into the cache, then attends to it.

    Args:
      queries: float[B, C, Q, Dh].
      new_keys: float[B, C, H, Dh].
      new_values: float[B, C, H, Dh].
      keys: the layer's entry of `KVCache.keys`, or all of a stacked cache.
      values: the same of `KVCache.values`.
      starts: int32[B], tokens cached before.
      counts: int32[B], new tokens of each row; what is behind them is padding.
      layer: index into a stacked cache; None if there is none.
      layout: of the cache.
      implementation: from `choices`.

    Returns:
      float[B, C, Q, Dh] in the dtype of `queries`, and the updated `keys` and `values`.
    """
    if implementation == "pallas":
        return flash_decode.append_and_attend(
            queries, new_keys, new_values, keys, values, starts, counts, layer
        )
    offsets = jnp.arange(queries.shape[1])[None]
    positions = starts[:, None] + offsets
    columns = keys.shape[{"transposed": -1, "tokens": -3, "heads": -2}[layout]]
    targets = jnp.where(offsets < counts[:, None], positions, columns)  # dropped
    keys, values = kv_cache.write(
        keys, values, new_keys, new_values, targets, layout, layer
    )
    one_keys, one_values = (
        (keys, values) if layer is None else (keys[layer], values[layer])
    )
    attended = attend_cache(queries, one_keys, one_values, positions, implementation)
    return attended, keys, values


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
