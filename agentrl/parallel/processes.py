"""Coordination of a run's processes outside of jitted code: episodes and files."""

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from agentrl import errors, refusals

_LONGEST_WAIT_MS = 24 * 3600 * 1000  # who waits for a lost host is ended by `watch`
_barriers = itertools.count()


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


def compile_together(function: jax.stages.Wrapped) -> Callable:
    """Makes hosts wait for each other where a jitted function meets new shapes.

    In the first run of a program XLA gives the hosts of a CPU 30 seconds to meet, fewer
    than a busy one may need to compile it. All hosts call the function alike.
    """
    if jax.process_count() == 1:
        return function
    from orbax.checkpoint import multihost

    met = set()

    def call(*arguments: object) -> object:
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(arguments))
        if shapes not in met:
            met.add(shapes)
            function.lower(*arguments).compile()
            wait = multihost.get_barrier_sync_fn()
            wait(key=f"compiled {next(_barriers)}", timeout_ms=_LONGEST_WAIT_MS)
        return function(*arguments)

    return call


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Runs the `with` block on every process; what one refuses, all refuse.

    Raises:
      ConfigError: naming the other host and its reason, if this one has none.
    """
    if jax.process_count() == 1:
        yield
        return
    refusal: Exception | None = None
    reason = ""
    try:
        yield
    except Exception as error:  # faults of ours, too: others would wait for ever
        refusal = error
        reason = str(error)
        if not isinstance(error, refusals.EXPECTED):
            reason = f"{type(error).__name__}: {error}"
    told = gather([reason])
    if refusal:
        raise refusal
    for host, reason in enumerate(told):
        if reason:
            raise errors.ConfigError(f"host {host} refuses: {reason}")


@contextlib.contextmanager
def process_zero_first() -> Iterator[None]:
    """Runs the `with` block on process 0, then on the others, which find its files.

    Raises:
      ConfigError: on all other hosts, if the first refuses.
    """
    if jax.process_count() == 1:
        yield
    elif is_process_zero():
        with agreed():
            yield
    else:
        with agreed():
            pass
        yield
