"""What the hosts of a run do together besides computing: share episodes, write files."""

import contextlib
import pickle
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from agentrl import errors, refusals


def is_first() -> bool:
    """Whether this host writes what a run writes once."""
    return jax.process_index() == 0


def own_share(count: int) -> range:
    """The part of `count` things that falls to this host: consecutive ones."""
    edges = np.linspace(0, count, jax.process_count() + 1).astype(int)
    return range(*edges[jax.process_index() :][:2].tolist())


def gather(items: list) -> list:
    """The items of all hosts, in the order of hosts; every host has to call it."""
    if jax.process_count() == 1:
        return items
    packed = np.frombuffer(pickle.dumps(items), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(packed.size))
    padded = np.pad(packed, (0, sizes.max() - packed.size))
    rows = zip(multihost_utils.process_allgather(padded), sizes, strict=True)
    return [item for row, size in rows for item in pickle.loads(row[:size].tobytes())]


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Every host runs the block; what is refused on one of them is refused on all.

    Raises:
      ConfigError: naming the other host and its reason, if this one has none.
    """
    if jax.process_count() == 1:
        yield
        return
    refusal: Exception | None = None
    try:
        yield
    except refusals.EXPECTED as error:
        refusal = error
    told = gather([f"{refusal}" if refusal else ""])
    if refusal:
        raise refusal
    for host, reason in enumerate(told):
        if reason:
            raise errors.ConfigError(f"host {host} refuses: {reason}")


@contextlib.contextmanager
def first_then_others() -> Iterator[None]:
    """The first host runs the block alone; the others find what it has written.

    Raises:
      ConfigError: on all other hosts, if the first refuses.
    """
    if jax.process_count() == 1:
        yield
    elif is_first():
        with agreed():
            yield
    else:
        with agreed():
            pass
        yield
