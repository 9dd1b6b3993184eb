"""Where the time of an iteration goes, and whether anything was compiled in it."""

import contextlib
import time
from collections.abc import Iterator

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Timers:
    """Named wall-clock timers; a name used twice adds up, and names may nest.

    A timer sees the host: device work that nobody waits for is not in it.
    """

    def __init__(self):
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the duration of the `with` block to `name`, also if it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def pop(self) -> dict[str, float]:
        """Seconds since the last call as `{"time/<name>": s}`, and starts anew."""
        seconds, self._seconds = self._seconds, {}
        return {f"time/{name}": value for name, value in seconds.items()}


class CompilationCounter:
    """Counts the programs that JAX compiles in this process, cached ones included."""

    def __init__(self):
        self._count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        self._count += event == _COMPILE_EVENT

    def pop(self) -> int:
        """Compilations since the last call."""
        count, self._count = self._count, 0
        return count
