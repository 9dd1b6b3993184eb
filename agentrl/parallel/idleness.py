"""Whether the main thread of this process still runs, seen from another thread.

A host whose main thread hangs, in a file system or in a library, keeps giving signs of
life: they come from a thread of their own. What gives it away is that its main thread has
used no processor time while the others wait for it inside of JAX.
"""

import sys
import threading
import time
from collections.abc import Callable

_BUSY = 0.01  # of the time between two looks; a thread that polls uses less
_WAITING = ("jax", "jaxlib", "orbax", "tensorstore")  # packages that wait for others


class Idleness:
    """Watches the main thread; `look` has to be called regularly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._looked = self._ran = clock()
        self._used = _main_thread_seconds()

    def look(self) -> float:
        """Returns the seconds since the main thread last ran; 0 where none can tell."""
        now, used = self._clock(), _main_thread_seconds()
        if used is None or self._used is None:
            return 0.0
        if used - self._used > _BUSY * (now - self._looked):
            self._ran = now
        self._looked, self._used = now, used
        return now - self._ran

    def waits(self) -> bool:
        """Whether it is in a call that waits for devices or for other hosts."""
        ident = threading.main_thread().ident
        frame = sys._current_frames().get(ident or 0)
        while frame is not None:
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            if package == "agentrl":
                return False
            if package in _WAITING:
                return True
            frame = frame.f_back
        return False


def _main_thread_seconds() -> float | None:
    ident = threading.main_thread().ident
    if ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return None  # not on every system
    return time.clock_gettime(time.pthread_getcpuclockid(ident))
