"""Timers, profiles and compilation counts of iterations."""

import contextlib
import pathlib
import time
from collections.abc import Iterable, Iterator

import jax

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class Timers:
    """Named wall-clock timers; a name used twice adds up, and names may nest.

    A timer measures the host: asynchronous device work is not in it unless the block waits
    for it. Profiles show the blocks under the same names.
    """

    def __init__(self):
        self._seconds: dict[str, float] = {}
        self._names: list[str] = []  # of the blocks under way, the outermost first
        self.place = "its start"  # in the run, for `describe`

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Adds the duration of the `with` block to `name`, also if it raises."""
        started = time.perf_counter()
        self._names.append(name)
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            self._names.pop()
            spent = time.perf_counter() - started
            self._seconds[name] = self._seconds.get(name, 0.0) + spent

    def describe(self) -> str:
        """Where the run is, such as `stage 'a', iteration 3: update`."""
        names = self._names  # another thread may change it meanwhile
        return ": ".join((self.place, *names[-1:]))

    def pop(self) -> dict[str, float]:
        """Returns the seconds since the last call as `{"time/<name>": s}` and resets."""
        seconds, self._seconds = self._seconds, {}
        return {f"time/{name}": value for name, value in seconds.items()}


def traced(
    iterations: Iterable[int], folder: pathlib.Path, num_traced: int
) -> Iterator[int]:
    """Yields iterations and profiles some of them, from the second on.

    The first one compiles. The trace opens in xprof and, as
    `perfetto_trace.json.gz`, on https://ui.perfetto.dev.

    Args:
      iterations: numbers of iterations to yield.
      folder: directory of the trace.
      num_traced: how many iterations to profile; 0 writes nothing.
    """
    with contextlib.ExitStack() as trace:
        for index, iteration in enumerate(iterations):
            if index == 1 and num_traced:
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # else every Python call is traced
                jax.profiler.start_trace(
                    folder, create_perfetto_trace=True, profiler_options=options
                )
                trace.callback(jax.profiler.stop_trace)
            elif index == num_traced + 1:
                trace.close()
            with jax.profiler.StepTraceAnnotation("iteration", step_num=iteration):
                yield iteration


class CompilationCounter:
    """Counts the programs that JAX compiles in this process, cached ones included."""

    def __init__(self):
        self._count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        self._count += event == _COMPILE_EVENT

    def pop(self) -> int:
        """Returns the number of compilations since the last call and resets."""
        count, self._count = self._count, 0
        return count
