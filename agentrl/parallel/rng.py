"""PRNG keys by name: one key per use, the same in every process."""

import jax
import numpy as np

from agentrl.envs import base


def stream_key(key: jax.Array, *names: str | int) -> jax.Array:
    """Derives a key from names; the same names give the same key in every process."""
    for name in names:
        key = jax.random.fold_in(key, _to_number(name))
    return key


def host_seed(key: jax.Array, *names: str | int) -> int:
    """Derives a seed for NumPy from names, uint32; nothing is computed on a device."""
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    sequence = np.random.SeedSequence([*words, *map(_to_number, names)])
    return int(sequence.generate_state(1)[0])


def _to_number(name: str | int) -> int:
    return name if isinstance(name, int) else base.stable_hash(name) & 0x7FFFFFFF
