"""Compiled programs kept on disk, and what compiling prints.

JAX keys a program by its text, the versions of JAX, XLA and driver, flags, and the kind
of device. What it leaves out is the machine: programs for a CPU hold instructions of the
one that compiled them. Hence each kind of host has a folder of its own, so that a home
directory may be shared by hosts of many kinds.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator

import jax

from agentrl.envs import filecache

VARIABLE = "AGENTRL_COMPILATION_CACHE"  # a folder, or "off"
MAX_BYTES = 2 * 2**30  # of the folder of one kind of host; the least used go first
_MAX_KINDS = 4  # of hosts, of which programs are kept
_MIN_SECONDS = 0.2  # programs that compile sooner are not kept


def enable_cache() -> pathlib.Path | None:
    """Keeps compiled programs for the next process, in a folder of its own.

    `$AGENTRL_COMPILATION_CACHE` names the folder, or is "off"; by default it is
    `~/.cache/agentrl/xla`. Whoever has given JAX a cache keeps that.

    Returns:
      The folder; None if there is no cache.
    """
    given = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if given:
        return pathlib.Path(given)
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return None
    root = (
        pathlib.Path(wanted).expanduser() if wanted else filecache.get_folder() / "xla"
    )
    folder = root / describe_host()
    try:
        # What lies there is run: nobody else may write to it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(folder)
        _drop_old_kinds(root)
    except OSError as error:
        print(
            f"compiled programs are not kept: {folder}: {error.strerror}; set {VARIABLE} "
            "to another folder, or to off.",
            file=sys.stderr,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    return folder


def describe_host() -> str:
    """Returns a name for hosts whose CPUs have the same instructions."""
    features = platform.processor()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        named = ("flags", "Features", "model name", "CPU part")
        features = "\n".join(line for line in lines if line.startswith(named))
    digest = hashlib.sha256(features.encode()).hexdigest()[:12]
    return f"{platform.machine() or 'host'}-{digest}"


def _drop_old_kinds(root: pathlib.Path) -> None:
    """Removes the folders of the kinds of host that have not been seen for longest."""
    kinds = [path for path in root.iterdir() if path.is_dir()]
    kinds.sort(key=lambda path: path.stat().st_mtime)
    for path in kinds[:-_MAX_KINDS]:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Prints how many of `total` programs are compiled, at most every few seconds.

    Args:
      what: the programs, such as "turns of a rollout".
      total: number of programs.

    Yields:
      A function to call after each program.
    """
    started = last = time.perf_counter()
    done = 0

    def report() -> None:
        nonlocal done, last
        done += 1
        now = time.perf_counter()
        if jax.process_index():
            return
        if now - last > 5 or (done == total and last > started):
            last = now
            print(
                f"compiled {done} of {total} {what}, {now - started:.0f} s", flush=True
            )

    yield report
