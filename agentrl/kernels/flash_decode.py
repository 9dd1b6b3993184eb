"""Attention over a contiguous key-value cache on TPUs: a row costs its own length.

Two kernels work on a cache [L, B, H, S, W] as it lies in memory, with the layer, each
row's length and its number of new tokens as scalars that are known before a block is
fetched:

* `write` puts new keys and values into the blocks that hold their columns, in place.
* `attend` walks over the blocks of a row's cache with a running softmax. Blocks behind a
  row's last token are neither fetched nor computed, however long the allocation.

Flash-decoding: https://pytorch.org/blog/flash-decoding; running softmax:
https://arxiv.org/abs/1805.02867.
"""

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas
from jax.experimental.pallas import tpu

from agentrl.kernels import splash

_LANES = 128  # allocations are multiples
_BLOCK_BYTES = 1 << 20  # of keys fetched at a time, all heads
_MAX_QUERY_ROWS = 512  # queries of a key-value head that a block is compared with
_WRITTEN_AT_ONCE = {True: 16, False: 128}  # columns; few, if the chunk is one token
_MASKED = -1e30
_TINY = 1e-30  # where no block was read


def round_up(size: int) -> int:
    """Returns the allocation for a number of tokens, or for a head size.

    A TPU's memory holds vectors in units of 128 numbers, whatever their size.
    """
    return size + -size % _LANES


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
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Writes new tokens into the cache of a layer, and attends to all up to each of them.

    Args:
      queries: float[B, C, Q, Dh].
      new_keys: float[B, C, H, Dh]; H divides Q.
      new_values: float[B, C, H, Dh].
      keys: float[B, H, S, W] of the layer, or float[L, B, H, S, W] of all layers; S and
        W are multiples of 128, W is at least Dh, and the rest of a head is zero.
      values: as the keys.
      starts: int32[B], tokens cached before.
      counts: int32[B], new tokens; what is behind them is padding, and neither written
        nor attended with: its results mean nothing. Columns from S on are dropped.
      layer: int32[] index into a cache of all layers; None with that of one.
      interpret: runs the kernels on any platform, slowly, for tests.

    Returns:
      float[B, C, Q, Dh] in the dtype of `queries`, and the updated keys and values.
    """
    chex.assert_rank([queries, new_keys, new_values, starts, counts], [4, 4, 4, 1, 1])
    one_layer = layer is None
    if one_layer:
        keys, values, layer = keys[None], values[None], jnp.int32(0)
    scalars = (jnp.asarray(layer, jnp.int32)[None], starts, counts)
    size = queries.shape[3]
    queries, new_keys, new_values = (
        jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, keys.shape[4] - size)))
        for x in (splash.scale(queries), new_keys, new_values)
    )
    keys, values = _write(scalars, new_keys, new_values, keys, values, interpret)
    attended = _attend(scalars, queries, keys, values, interpret)[..., :size]
    if one_layer:
        keys, values = keys[0], values[0]
    return attended, keys, values


def _write(
    scalars: tuple[jax.Array, ...],
    new_keys: jax.Array,
    new_values: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    batch_size, chunk, heads, size = new_keys.shape
    num_columns = keys.shape[3]
    width = _WRITTEN_AT_ONCE[chunk == 1]
    last_block = num_columns // width - 1
    blocks = (chunk + width - 2) // width + 1

    def cached_block(row: Any, step: Any, layer: Any, starts: Any, counts: Any) -> Any:
        first, last = _written_blocks(starts[row], counts[row], width, last_block)
        return layer[0], row, 0, jnp.minimum(first + step, last), 0

    new_spec = pallas.BlockSpec(
        (1, heads, chunk, size), lambda row, step, *_: (row, 0, 0, 0)
    )
    cache_spec = pallas.BlockSpec((1, 1, heads, width, size), cached_block)
    by_heads = [
        x.transpose(0, 2, 1, 3).astype(keys.dtype) for x in (new_keys, new_values)
    ]
    return pallas.pallas_call(
        functools.partial(_write_kernel, width=width, last_block=last_block),
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            # A chunk that starts inside a block reaches into one more.
            grid=(batch_size, blocks),
            in_specs=[new_spec, new_spec, cache_spec, cache_spec],
            out_specs=[cache_spec, cache_spec],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (keys, values)],
        input_output_aliases={len(scalars) + 2: 0, len(scalars) + 3: 1},
        cost_estimate=_cost(keys, 4 * batch_size * width * blocks),
        interpret=interpret,
        name="write_cache",
    )(*scalars, *by_heads, keys, values)


def _cost(keys: jax.Array, columns: int, flops: int = 0) -> pallas.CostEstimate:
    """Returns what a kernel costs that moves so many columns of a layer's cache."""
    heads, size = keys.shape[2], keys.shape[4]
    return pallas.CostEstimate(
        flops=flops,
        transcendentals=0,
        bytes_accessed=columns * heads * size * keys.dtype.itemsize,
    )


def _written_blocks(start: Any, count: Any, width: int, last_block: int) -> Any:
    """Returns the first and the last block that a row's new tokens fall into."""
    first = jnp.minimum(jax.lax.div(start, width), last_block)
    last = jax.lax.div(start + jnp.maximum(count, 1) - 1, width)
    return first, jnp.clip(last, first, last_block)


def _write_kernel(
    layer: Any,
    starts: Any,
    counts: Any,
    new_keys: Any,
    new_values: Any,
    old_keys: Any,
    old_values: Any,
    keys: Any,
    values: Any,
    *,
    width: int,
    last_block: int,
) -> None:
    """Replaces the columns of a block that new tokens fall into."""
    del layer
    row, step = pallas.program_id(0), pallas.program_id(1)
    start, count = starts[row], counts[row]
    first, last = _written_blocks(start, count, width, last_block)
    heads, chunk = new_keys.shape[1:3]

    @pallas.when(first + step <= last)  # later steps see the last block again
    def _() -> None:
        offset = (first + step) * width - start  # of the block's first column
        columns = offset + jax.lax.broadcasted_iota(jnp.int32, (width, 1), 0)
        is_new = (columns >= 0) & (columns < count)
        # A matrix of zeros and ones moves each token to its column, exactly.
        tokens = jax.lax.broadcasted_iota(jnp.int32, (width, chunk), 1)
        select = (tokens == columns).astype(keys.dtype)
        precision = jax.lax.Precision.HIGHEST if keys.dtype == jnp.float32 else None
        for new, old, out in (
            (new_keys, old_keys, keys),
            (new_values, old_values, values),
        ):
            for head in range(heads):
                moved = new[0, head]
                if chunk > 1:
                    moved = jax.lax.dot(
                        select,
                        moved,
                        precision=precision,
                        preferred_element_type=jnp.float32,
                    )
                moved = jnp.where(is_new, moved, old[0, 0, head].astype(moved.dtype))
                out[0, 0, head] = moved.astype(out.dtype)


def _attend(
    scalars: tuple[jax.Array, ...],
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    interpret: bool,
) -> jax.Array:
    batch_size, chunk, num_heads, size = queries.shape
    heads, num_columns = keys.shape[2:4]
    group = num_heads // heads
    part = _query_part(chunk, group)
    rows = part * group
    block = _key_block(num_columns, heads * size * keys.dtype.itemsize)
    # [B, H, C * G, Dh]: queries that share a key-value head are rows of one matrix.
    matrices = queries.reshape(batch_size, chunk, heads, group, size)
    matrices = matrices.transpose(0, 2, 1, 3, 4).reshape(batch_size, heads, -1, size)
    offsets = jnp.repeat(jnp.arange(chunk, dtype=jnp.int32), group)[:, None]

    def cached_block(
        row: Any, part_index: Any, step: Any, layer: Any, starts: Any, counts: Any
    ) -> Any:
        last = _last_block(starts[row], counts[row], part_index, part, block)
        last = jnp.minimum(last, num_columns // block - 1)
        # Nothing is fetched where the block stays the same.
        return layer[0], row, 0, jnp.minimum(step, last), 0

    query_spec = pallas.BlockSpec(
        (1, heads, rows, size), lambda row, part_index, *_: (row, 0, part_index, 0)
    )
    cache_spec = pallas.BlockSpec((1, 1, heads, block, size), cached_block)
    attended = pallas.pallas_call(
        functools.partial(_attend_kernel, part=part, block=block),
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(batch_size, chunk // part, num_columns // block),
            in_specs=[
                pallas.BlockSpec(
                    (rows, 1), lambda row, part_index, *_: (part_index, 0)
                ),
                query_spec,
                cache_spec,
                cache_spec,
            ],
            out_specs=query_spec,
            scratch_shapes=[
                tpu.VMEM((heads, rows, 1), jnp.float32),
                tpu.VMEM((heads, rows, 1), jnp.float32),
                tpu.VMEM((heads, rows, size), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(matrices.shape, queries.dtype),
        # Of rows as long as the cache: shorter ones read less.
        cost_estimate=_cost(
            keys, 2 * batch_size * num_columns, flops=4 * queries.size * num_columns
        ),
        interpret=interpret,
        name="attend_cache",
    )(*scalars, offsets, matrices, keys, values)
    attended = attended.reshape(batch_size, heads, chunk, group, size)
    return attended.transpose(0, 2, 1, 3, 4).reshape(queries.shape)


def _query_part(chunk: int, group: int) -> int:
    """Returns how many tokens of a chunk are compared with a block of keys at a time."""
    most = max(_MAX_QUERY_ROWS // group, 1)
    return next(
        part
        for part in range(min(chunk, most), 0, -1)
        # Rows of a block that is not whole have to be a multiple of a tile's.
        if chunk % part == 0 and (part == chunk or part * group % 16 == 0 or part == 1)
    )


def _key_block(num_columns: int, column_bytes: int) -> int:
    """Returns how many columns of keys are fetched at a time."""
    most = max(_BLOCK_BYTES // column_bytes, _LANES)
    return splash.block_size(math.gcd(num_columns, most // _LANES * _LANES))


def _last_block(start: Any, count: Any, part_index: Any, part: int, block: int) -> Any:
    """Returns the block of the last key that a part of a row's new tokens attends to.

    A row without new tokens, or a part that is all padding, reads one block.
    """
    last_token = jnp.minimum(count, (part_index + 1) * part) - 1
    in_use = part_index * part <= last_token
    # Not //, whose sign a kernel can take on a TPU that is present only.
    return jnp.where(in_use, jax.lax.div(start + last_token, block), 0)


def _attend_kernel(
    layer: Any,
    starts: Any,
    counts: Any,
    offsets: Any,
    queries: Any,
    keys: Any,
    values: Any,
    out: Any,
    highest: Any,
    total: Any,
    weighted: Any,
    *,
    part: int,
    block: int,
) -> None:
    """Adds one block of keys and values to the running softmax of a part of a row."""
    del layer
    row, part_index, step = (pallas.program_id(axis) for axis in range(3))
    start = starts[row]
    last = _last_block(start, counts[row], part_index, part, block)
    heads = queries.shape[1]

    @pallas.when(step == 0)
    def _() -> None:
        highest[...] = jnp.full_like(highest, _MASKED)
        total[...] = jnp.zeros_like(total)
        weighted[...] = jnp.zeros_like(weighted)

    @pallas.when(step <= last)
    def _() -> None:
        first = step * block - start
        columns = first + jax.lax.broadcasted_iota(jnp.int32, (1, block), 1)
        visible = columns <= offsets[...]
        for head in range(heads):
            scores = jax.lax.dot_general(
                queries[0, head],
                keys[0, 0, head].astype(queries.dtype),
                (((1,), (1,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
            scores = jnp.where(visible, scores, _MASKED)
            before = highest[head]
            now = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
            weights = jnp.exp(scores - now)
            decay = jnp.exp(before - now)
            highest[head] = now
            total[head] = decay * total[head] + jnp.sum(weights, axis=1, keepdims=True)
            added = jax.lax.dot(
                weights.astype(queries.dtype),
                values[0, 0, head].astype(queries.dtype),
                preferred_element_type=jnp.float32,
            )
            weighted[head] = decay * weighted[head] + added

    @pallas.when(step == pallas.num_programs(2) - 1)
    def _() -> None:
        sums = jnp.maximum(total[...], _TINY)
        out[0] = (weighted[...] / sums).astype(out.dtype)
