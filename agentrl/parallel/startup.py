"""Start of a process: joins the others of a run, splits a CPU, keeps its memory."""

import contextlib
import ctypes
import os
import pathlib
import sys
import threading
from collections.abc import Iterator
from importlib import metadata, util

import jax
import numpy as np

from agentrl import config, errors

# By default XLA aborts a process in which one device has waited 40 seconds for another,
# which a large model on a busy machine can exceed.
_COLLECTIVE_TIMEOUT = "--xla_cpu_collective_call_terminate_timeout_seconds=300"

# Options of malloc.h and their values: no block is mapped by itself, none of the heap is
# given back, one heap for all threads, which grows by 2 GiB of addresses.
_KEEPING = ((-4, 0), (-1, 2**31 - 1), (-8, 1), (-2, 2**31 - 1))
_MADV_HUGEPAGE = 14  # of sys/mman.h

HOST_TIMEOUT_S = 120.0  # without a sign of life of another host
_JOINING = 2.5  # host timeouts until all hosts must have joined: five minutes


def prepare_cpu(mesh: config.MeshConfig) -> None:
    """Prepares a process to compute on a CPU; to be called before JAX is initialised.

    Splits the CPU into `mesh.cpu_devices` devices: XLA runs most operations of a small
    model on one core per device. With a device for each core, rows are sharded over the
    cores. Episodes do not depend on the number of devices, updates do by rounding.

    Keeps the memory that arrays free, see `keep_freed_memory`.

    Has no effect on accelerators, nor in a process whose JAX backend is initialised
    already.
    """
    keep_freed_memory()
    if mesh.cpu_devices > 1:
        try:
            jax.config.update("jax_num_cpu_devices", mesh.cpu_devices)
        except RuntimeError:
            return  # JAX is initialised already, by the caller's program
        os.environ["XLA_FLAGS"] = (
            f"{_COLLECTIVE_TIMEOUT} {os.environ.get('XLA_FLAGS', '')}"
        )


def keep_freed_memory() -> None:
    """Makes glibc keep what XLA frees on a CPU, in large pages, for the next update.

    By default it hands large blocks back to the system at once, and every update pays a
    tenth of its CPU time or more for page faults on them (`benchmarks/RESULTS.md`).
    The process then keeps what it needed at most. To be called before there are threads,
    which take heaps of their own. Has no effect where JAX may find an accelerator, where
    there is no glibc, and where the environment sets glibc's options.
    """
    chosen = any(n == "GLIBC_TUNABLES" or n.startswith("MALLOC_") for n in os.environ)
    if chosen or sys.platform != "linux" or not _on_cpu():
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    for option, value in _KEEPING:
        libc.mallopt(option, value)
    np.empty(2**26, np.uint8)  # the heap grows
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            start, end = (int(edge, 16) for edge in line.split()[0].split("-"))
            advise = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
            libc.madvise(*advise, _MADV_HUGEPAGE)  # whole pages of those in it


def _on_cpu() -> bool:
    """Whether JAX can only find a CPU, or is told to; asking JAX would initialise it."""
    chosen = os.environ.get("JAX_PLATFORMS")
    if chosen:
        return chosen == "cpu"
    plugins = metadata.entry_points(group="jax_plugins")
    return not plugins and not util.find_spec("libtpu")


def join(
    coordinator: str | None = None,
    num_hosts: int | None = None,
    index: int | None = None,
    *,
    host_timeout_s: float = HOST_TIMEOUT_S,
) -> None:
    """Joins the other processes of a run, one per host, if there are any.

    Args:
      coordinator: "address:port" of process 0; None reads the environment, which TPU pods,
        Slurm and Open MPI set up.
      num_hosts: processes of the run; None reads the environment, with one as default.
      index: of this process; None reads the environment.
      host_timeout_s: of `watch.HostWatch`, which JAX's own watch must not forestall.

    Where hosts are missing after two and a half times this, the process says so and ends
    as if it had lost one. JAX would abort it with a stack trace.

    Raises:
      ConfigError: if the processes cannot be joined, or are not `num_hosts`.
    """
    if num_hosts != 1 and not jax.distributed.is_initialized():
        patience = _JOINING * host_timeout_s
        try:
            with _ending_after(
                patience,
                f"not all hosts have joined within {patience:.0f} s ({_JOINING} x "
                f"--host_timeout_s). This is host {index} of {num_hosts}, the "
                f"coordinator is {coordinator}: do all hosts run, and do they reach it?",
            ):
                jax.distributed.initialize(
                    coordinator,
                    num_hosts,
                    index,
                    initialization_timeout=round(patience + 60),
                    heartbeat_timeout_seconds=round(2 * host_timeout_s + 60),
                )
        except ValueError as error:
            if coordinator or num_hosts:
                raise errors.ConfigError(
                    f"cannot join coordinator {coordinator} as host {index} of "
                    f"{num_hosts}: {error}"
                ) from error
    if num_hosts and jax.process_count() != num_hosts:
        raise errors.ConfigError(
            f"the run has {jax.process_count()} processes, but --num_hosts={num_hosts}."
        )


@contextlib.contextmanager
def _ending_after(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with a message if the `with` block takes longer."""

    def end() -> None:
        print(f"launch.train: {message}", file=sys.stderr, flush=True)
        os._exit(errors.HOST_LOST_CODE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
