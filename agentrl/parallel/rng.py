"""PRNG keys by name: one key per use, the same in every process."""

import jax
import jax.numpy as jnp

from agentrl.envs import base


def stream_key(key: jax.Array, *names: str | int) -> jax.Array:
    """Derives a key from names; the same names give the same key in every process."""
    for name in names:
        number = name if isinstance(name, int) else base.stable_hash(name) & 0x7FFFFFFF
        key = jax.random.fold_in(key, number)
    return key


def host_seed(key: jax.Array, *names: str | int) -> int:
    """Derives a seed for NumPy from names, uint32."""
    return int(jax.random.bits(stream_key(key, *names), dtype=jnp.uint32))
