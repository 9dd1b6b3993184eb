"""Coordination of a run's processes outside of jitted code: episodes and files."""

import contextlib
import pickle
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_process_zero() -> bool:
    """Returns whether this is process 0, which writes the files of a run."""
    return jax.process_index() == 0


def local_slice(count: int) -> range:
    """Returns the indices, of `count` items in all, that belong to this process."""
    edges = np.linspace(0, count, jax.process_count() + 1).astype(int)
    return range(*edges[jax.process_index() :][:2].tolist())


def gather(items: list) -> list:
    """Gathers the items of all processes, in process order; all have to call it."""
    if jax.process_count() == 1:
        return items
    packed = np.frombuffer(pickle.dumps(items), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(packed.size))
    padded = np.pad(packed, (0, sizes.max() - packed.size))
    rows = zip(multihost_utils.process_allgather(padded), sizes, strict=True)
    return [item for row, size in rows for item in pickle.loads(row[:size].tobytes())]


@contextlib.contextmanager
def process_zero_first(name: str) -> Iterator[None]:
    """Runs the `with` block on process 0, then on the others, which find its files.

    Args:
      name: of the barrier, the same on all processes.
    """
    if not is_process_zero():
        multihost_utils.sync_global_devices(name)
    yield
    if is_process_zero():
        multihost_utils.sync_global_devices(name)
