"""The key-value cache: a row per live episode, kept across its turns."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from agentrl import types
from agentrl.models import attention, model_config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, and the number of cached tokens of each row."""

    keys: tuple[jax.Array, ...]  # L x float[B, H, Dh, S]; not transposed, [B, S, H, Dh]
    values: tuple[jax.Array, ...]  # L x float[B, H, S, Dh]; not transposed, as the keys
    lengths: jax.Array  # int32[B], cached tokens
    transposed: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def max_length(self) -> int:
        """Allocated cache length S, in tokens per row."""
        return self.keys[0].shape[3 if self.transposed else 1]


def empty(
    config: model_config.ModelConfig, batch_size: int, max_length: int
) -> KVCache:
    """Returns a cache of zeros, in the layout of the platform's attention."""
    transposed = attention.select_implementation(config) == "matmul"
    heads, dim = config.num_kv_heads, config.head_dim
    shapes = [(batch_size, max_length, heads, dim)] * 2
    if transposed:
        lead = batch_size, heads
        shapes = [(*lead, dim, max_length), (*lead, max_length, dim)]
    keys, values = (
        tuple(jnp.zeros(shape, config.dtypes.cache) for _ in range(config.num_layers))
        for shape in shapes
    )
    return KVCache(keys, values, jnp.zeros(batch_size, jnp.int32), transposed)


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
    transposed = attention.select_implementation(config) == "matmul"
    spec = (
        PartitionSpec(batch_axes, heads_axis)
        if transposed
        else PartitionSpec(batch_axes, None, heads_axis)
    )
    layers = (spec,) * config.num_layers
    return KVCache(layers, layers, PartitionSpec(batch_axes), transposed)  # type: ignore[arg-type]


def write(
    keys: jax.Array,
    values: jax.Array,
    new_keys: jax.Array,
    new_values: jax.Array,
    positions: jax.Array,
    transposed: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Writes keys and values of a chunk into the cache of one layer.

    Args:
      keys: the layer's entry of `KVCache.keys`.
      values: the layer's entry of `KVCache.values`.
      new_keys: float[B, C, H, Dh].
      new_values: float[B, C, H, Dh].
      positions: int32[B, C], cache position of each token; S or more drops it.
      transposed: layout of `keys` and `values`, see `KVCache`.

    Returns:
      The updated `keys` and `values`.
    """
    rows = jnp.arange(keys.shape[0])[:, None]
    every = slice(None)
    key_index = (rows, every, every, positions) if transposed else (rows, positions)
    value_index = (rows, every, positions) if transposed else (rows, positions)
    return (
        keys.at[key_index].set(new_keys.astype(keys.dtype), mode="drop"),
        values.at[value_index].set(new_values.astype(values.dtype), mode="drop"),
    )


def copy_row(cache: KVCache, source: KVCache, targets: jax.Array) -> KVCache:
    """Copies the one row of `source` over the rows where `targets` bool[B] is True.

    Copies the positions that both have; lengths stay as they are.
    """
    rows = jnp.argsort(~targets)  # the targets first

    def copy(index: jax.Array, arrays: types.PyTree) -> types.PyTree:
        def overwrite(old: jax.Array, new: jax.Array) -> jax.Array:
            fitting = new[:, : old.shape[1], : old.shape[2], : old.shape[3]]
            return jax.lax.dynamic_update_slice(old, fitting, (rows[index], 0, 0, 0))

        return jax.tree.map(overwrite, arrays, (source.keys, source.values))

    arrays = (cache.keys, cache.values)
    keys, values = jax.lax.fori_loop(0, jnp.sum(targets), copy, arrays)
    return dataclasses.replace(cache, keys=keys, values=values)


def grow(cache: KVCache, max_length: int) -> KVCache:
    """Pads a cache to `max_length`; it grows with its rows, so that reads stay cheap."""
    extra = max_length - cache.max_length

    def pad(array: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(array, [(0, extra * (i == axis)) for i in range(4)])

    return dataclasses.replace(
        cache,
        keys=tuple(pad(k, 3 if cache.transposed else 1) for k in cache.keys),
        values=tuple(pad(v, 2 if cache.transposed else 1) for v in cache.values),
    )
