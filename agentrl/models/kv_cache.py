"""The key-value cache: one row per live episode, kept across its turns."""

import dataclasses

import jax
import jax.numpy as jnp

from agentrl.models import config as model_config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, and how many columns of each row are in use."""

    keys: tuple[jax.Array, ...]  # L x float[B, H, D, S]; transposed, see `attention`
    values: tuple[jax.Array, ...]  # L x float[B, H, S, D]
    lengths: jax.Array  # int32[B]

    @property
    def num_columns(self) -> int:
        """Allocated columns, S."""
        return self.keys[0].shape[3]


def empty(config: model_config.ModelConfig, num_rows: int, num_columns: int) -> KVCache:
    """A cache of zeros in the compute dtype."""
    heads, dim = config.num_kv_heads, config.head_dim
    dtype = jnp.dtype(config.compute_dtype)
    layers = range(config.num_layers)
    return KVCache(
        keys=tuple(
            jnp.zeros((num_rows, heads, dim, num_columns), dtype) for _ in layers
        ),
        values=tuple(
            jnp.zeros((num_rows, heads, num_columns, dim), dtype) for _ in layers
        ),
        lengths=jnp.zeros(num_rows, jnp.int32),
    )


def write(
    keys: jax.Array,
    values: jax.Array,
    new_keys: jax.Array,
    new_values: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Writes C columns of one layer at `positions`; columns beyond the cache are dropped.

    Args:
      keys: float[B, H, D, S].
      values: float[B, H, S, D].
      new_keys: float[B, C, H, D].
      new_values: float[B, C, H, D].
      positions: int32[B, C]; give S or more for a column that must not be written.
    """
    rows = jnp.arange(keys.shape[0])[:, None]
    keys = keys.at[rows, :, :, positions].set(new_keys.astype(keys.dtype), mode="drop")
    values = values.at[rows, :, positions].set(
        new_values.astype(values.dtype), mode="drop"
    )
    return keys, values


def grow(cache: KVCache, num_columns: int) -> KVCache:
    """Appends unused columns, so that cost follows the lengths in use."""
    extra = num_columns - cache.num_columns
    return KVCache(
        keys=tuple(jnp.pad(k, ((0, 0),) * 3 + ((0, extra),)) for k in cache.keys),
        values=tuple(
            jnp.pad(v, ((0, 0), (0, 0), (0, extra), (0, 0))) for v in cache.values
        ),
        lengths=cache.lengths,
    )
