"""The key-value cache: one row per live episode, kept across its turns."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from agentrl import types
from agentrl.models import attention
from agentrl.models import config as model_config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, and how many columns of each row are in use."""

    keys: tuple[jax.Array, ...]  # L x float[B, H, D, S]; not transposed, [B, S, H, D]
    values: tuple[jax.Array, ...]  # L x float[B, H, S, D]; not transposed, as the keys
    lengths: jax.Array  # int32[B]
    transposed: bool = dataclasses.field(default=True, metadata={"static": True})

    @property
    def num_columns(self) -> int:
        """Allocated columns, S."""
        return self.keys[0].shape[3 if self.transposed else 1]


def empty(config: model_config.ModelConfig, num_rows: int, num_columns: int) -> KVCache:
    """A cache of zeros, in the layout that suits the platform."""
    transposed = attention.choose(config) == "matmul"
    heads, dim = config.num_kv_heads, config.head_dim
    shapes = [(num_rows, num_columns, heads, dim)] * 2
    if transposed:
        lead = num_rows, heads
        shapes = [(*lead, dim, num_columns), (*lead, num_columns, dim)]
    keys, values = (
        tuple(jnp.zeros(shape, config.dtypes.cache) for _ in range(config.num_layers))
        for shape in shapes
    )
    return KVCache(keys, values, jnp.zeros(num_rows, jnp.int32), transposed)


def specs(
    config: model_config.ModelConfig,
    *,
    rows: tuple[str, ...] | None = None,
    heads: str | None = None,
) -> KVCache:
    """The partition of each array of a cache.

    Args:
      config: of the model.
      rows: mesh axes that the rows are spread over; None for every row on every device.
      heads: mesh axis that the heads of keys and values are spread over, if any.
    """
    transposed = attention.choose(config) == "matmul"
    spec = (
        PartitionSpec(rows, heads) if transposed else PartitionSpec(rows, None, heads)
    )
    layers = (spec,) * config.num_layers
    return KVCache(layers, layers, PartitionSpec(rows), transposed)  # type: ignore[arg-type]


def write(
    keys: jax.Array,
    values: jax.Array,
    new_keys: jax.Array,
    new_values: jax.Array,
    positions: jax.Array,
    transposed: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Writes C columns of one layer at `positions`; columns beyond the cache are dropped.

    Args:
      keys: of `KVCache`.
      values: of `KVCache`.
      new_keys: float[B, C, H, D].
      new_values: float[B, C, H, D].
      positions: int32[B, C]; give S or more for a column that must not be written.
      transposed: layout of `keys` and `values`, see `KVCache`.
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

    Only columns that both have are copied; lengths stay as they are.
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


def grow(cache: KVCache, num_columns: int) -> KVCache:
    """Appends unused columns, so that cost follows the lengths in use."""
    extra = num_columns - cache.num_columns

    def pad(array: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(array, [(0, extra * (i == axis)) for i in range(4)])

    return dataclasses.replace(
        cache,
        keys=tuple(pad(k, 3 if cache.transposed else 1) for k in cache.keys),
        values=tuple(pad(v, 2 if cache.transposed else 1) for v in cache.values),
    )
