"""The key-value cache: a row per live episode, kept across its turns.

The layout is what the platform's attention reads best. Axes of a layer's keys and values:

* "transposed": keys [B, H, Dh, S], values [B, H, S, Dh]; plain matrix products.
* "tokens": [B, S, H, Dh]; `jax.nn.dot_product_attention`.
* "heads": [B, H, S, Dh], S and Dh rounded up to 128; the TPU kernels.

Layers are a tuple of arrays, or, with scanned blocks, the first axis of one array that the
scan carries and updates in place.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from agentrl import types
from agentrl.kernels import flash_decode
from agentrl.models import choices, model_config

Layout = Literal["transposed", "tokens", "heads"]
_LAYOUTS: dict[model_config.Implementation, Layout] = {
    "matmul": "transposed",
    "xla": "tokens",
    "cudnn": "tokens",
    "pallas": "heads",
}
# Axes of S, from the last one, of keys and of values.
_COLUMNS = {"transposed": (-1, -2), "tokens": (-3, -3), "heads": (-2, -2)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, and the number of cached tokens of each row."""

    keys: Any  # L x float[B, H, Dh, S], or one float[L, ...]; layouts: see above
    values: Any  # L x float[B, H, S, Dh], as the keys
    lengths: jax.Array  # int32[B], cached tokens
    layout: Layout = dataclasses.field(default="transposed", metadata={"static": True})

    @property
    def max_length(self) -> int:
        """Allocated cache length S, in tokens per row."""
        return jax.tree.leaves(self.keys)[0].shape[_COLUMNS[self.layout][0]]

    @property
    def stacked(self) -> bool:
        """Whether all layers are in one array."""
        return not isinstance(self.keys, tuple)


def empty(
    config: model_config.ModelConfig, batch_size: int, max_length: int
) -> KVCache:
    """Returns a cache of zeros, in the layout of the platform's attention."""
    layout = _LAYOUTS[choices.attention(config)]
    heads, dim = config.num_kv_heads, config.head_dim
    if layout == "heads":
        max_length, dim = map(flash_decode.round_up, (max_length, dim))
    shapes = {
        "transposed": [(heads, dim, max_length), (heads, max_length, dim)],
        "tokens": [(max_length, heads, dim)] * 2,
        "heads": [(heads, max_length, dim)] * 2,
    }[layout]

    def make(shape: tuple[int, ...]) -> Any:
        zeros = functools.partial(jnp.zeros, dtype=config.dtypes.cache)
        if choices.scans(config):
            return zeros((config.num_layers, batch_size, *shape))
        return tuple(zeros((batch_size, *shape)) for _ in range(config.num_layers))

    keys, values = map(make, shapes)
    return KVCache(keys, values, jnp.zeros(batch_size, jnp.int32), layout)


def bytes_per_token(config: model_config.ModelConfig) -> int:
    """Returns the bytes of a token's keys and values, all layers."""
    length = flash_decode.round_up(1)
    cache = jax.eval_shape(functools.partial(empty, config, 1, length))
    leaves = jax.tree.leaves((cache.keys, cache.values))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) // length


def specs(
    config: model_config.ModelConfig,
    *,
    batch_axes: tuple[str, ...] | None = None,
    heads_axis: str | None = None,
) -> KVCache:
    """Returns a cache with the `PartitionSpec` of each array in its place.

    Args:
      config: shape of the model.
      batch_axes: mesh axes that rows are sharded over; None replicates them.
      heads_axis: mesh axis that key-value heads are sharded over; None replicates them.
    """
    layout = _LAYOUTS[choices.attention(config)]
    axes: tuple[Any, ...] = (batch_axes, heads_axis)
    if layout == "tokens":
        axes = (batch_axes, None, heads_axis)
    layers: Any = (PartitionSpec(*axes),) * config.num_layers
    if choices.scans(config):
        layers = PartitionSpec(None, *axes)
    return KVCache(layers, layers, PartitionSpec(batch_axes), layout)  # type: ignore[arg-type]


def layer_spec(
    config: model_config.ModelConfig, heads_axis: str | None
) -> PartitionSpec:
    """Returns the spec of the keys, and values, that the attention of a layer is given.

    That is the layer's array, or that of all layers.
    """
    keys = specs(config, heads_axis=heads_axis).keys
    return keys[0] if isinstance(keys, tuple) else keys


def write(
    keys: jax.Array,
    values: jax.Array,
    new_keys: jax.Array,
    new_values: jax.Array,
    positions: jax.Array,
    layout: Layout = "transposed",
    layer: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Writes keys and values of a chunk into the cache of one layer.

    Args:
      keys: the layer's entry of `KVCache.keys`, or all of a stacked cache.
      values: the same of `KVCache.values`.
      new_keys: float[B, C, H, Dh].
      new_values: float[B, C, H, Dh].
      positions: int32[B, C], cache position of each token; S or more drops it.
      layout: of `keys` and `values`.
      layer: index into a stacked cache; None if there is none.

    Returns:
      The updated `keys` and `values`.
    """
    first = () if layer is None else (layer,)
    rows = jnp.arange(keys.shape[len(first)])[:, None]
    every = slice(None)
    behind_heads = (*first, rows, every, positions)
    key_index, value_index = {
        "transposed": ((*first, rows, every, every, positions), behind_heads),
        "tokens": ((*first, rows, positions),) * 2,
        "heads": (behind_heads,) * 2,
    }[layout]
    return (
        keys.at[key_index].set(new_keys.astype(keys.dtype), mode="drop"),
        values.at[value_index].set(new_values.astype(values.dtype), mode="drop"),
    )


def take_rows(cache: KVCache, rows: jax.Array) -> KVCache:
    """Returns a cache of some rows, in the order of `rows` int[B]."""
    axis = 1 if cache.stacked else 0
    layers = (cache.keys, cache.values)
    keys, values = jax.tree.map(lambda x: x[:, rows] if axis else x[rows], layers)
    return dataclasses.replace(
        cache, keys=keys, values=values, lengths=cache.lengths[rows]
    )


def put_rows(cache: KVCache, rows: jax.Array, taken: KVCache) -> KVCache:
    """Puts rows of a cache back that `take_rows` took, with what was appended since.

    Args:
      cache: B rows.
      rows: int32[G], different ones; entries of B or more are dropped.
      taken: G rows.
    """
    index = (slice(None), rows) if cache.stacked else rows

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[index].set(new, mode="drop")

    return dataclasses.replace(
        cache,
        keys=jax.tree.map(put, cache.keys, taken.keys),
        values=jax.tree.map(put, cache.values, taken.values),
        lengths=cache.lengths.at[rows].set(taken.lengths, mode="drop"),
    )


def copy_row(cache: KVCache, source: KVCache, targets: jax.Array) -> KVCache:
    """Copies the one row of `source` over the rows where `targets` bool[B] is True.

    Copies the positions that both have; lengths stay as they are.
    """
    rows = jnp.argsort(~targets)  # the targets first
    before_rows = (0,) if cache.stacked else ()

    def copy(index: jax.Array, arrays: types.PyTree) -> types.PyTree:
        def overwrite(old: jax.Array, new: jax.Array) -> jax.Array:
            fitting = new[tuple(slice(size) for size in old.shape)]
            start = (*before_rows, rows[index], 0, 0, 0)
            return jax.lax.dynamic_update_slice(old, fitting, start)

        return jax.tree.map(overwrite, arrays, (source.keys, source.values))

    arrays = (cache.keys, cache.values)
    keys, values = jax.lax.fori_loop(0, jnp.sum(targets), copy, arrays)
    return dataclasses.replace(cache, keys=keys, values=values)


def grow(cache: KVCache, max_length: int) -> KVCache:
    """Pads a cache to `max_length`; it grows with its rows, so that reads stay cheap."""
    if cache.layout == "heads":
        max_length = max(flash_decode.round_up(max_length), cache.max_length)
    extra = max_length - cache.max_length

    def pad(array: jax.Array, axis: int) -> jax.Array:
        axis += array.ndim
        return jnp.pad(array, [(0, extra * (i == axis)) for i in range(array.ndim)])

    of_keys, of_values = _COLUMNS[cache.layout]
    return dataclasses.replace(
        cache,
        keys=jax.tree.map(lambda k: pad(k, of_keys), cache.keys),
        values=jax.tree.map(lambda v: pad(v, of_values), cache.values),
    )
