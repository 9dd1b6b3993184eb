"""Leaving in order: a run that is asked to end finishes its iteration and saves first.

The first SIGTERM or Ctrl-C asks; the second ends the process at once. Code that has
nothing to finish, such as compiling or an evaluation, runs `abandonable` and ends with
the first. On many hosts the sync point of JAX's preemption service makes all of them
stop after the same iteration, whichever of them was asked.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from agentrl import errors

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Listens for signals while it is entered; a context manager for the main thread.

    Outside of the `with` block nothing is ever requested. A second thread learns of each
    signal by a pipe, so that the second one ends the process even while the first thread
    waits for a compiler or for a device.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None  # the first that came
        self._abandonable = False
        self._num_asked = 0  # calls of `requested`
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "Interruption":
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True).start()
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in _SIGNALS
            # On many hosts SIGTERM belongs to JAX's preemption service.
            if number is signal.SIGINT or jax.process_count() == 1
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        assert self._pipe is not None
        os.close(self._pipe[1])  # ends the thread
        self._pipe = None

    def requested(self) -> bool:
        """Whether to save and end after the iteration that has just been finished.

        On many hosts all have to call it equally often, and all get the same answer.
        """
        if self._pipe is None:
            return False
        if jax.process_count() == 1:
            return self.signal is not None
        self._num_asked += 1
        reached = multihost_utils.reached_preemption_sync_point(self._num_asked)
        if reached:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the next one ends at once
        return reached

    @contextlib.contextmanager
    def abandonable(self, what: str) -> Iterator[None]:
        """Runs a block that has nothing to finish: a signal ends it where it is.

        On many hosts, which wait for each other in it, it is finished first.

        Args:
          what: the block, and what becomes of it, for the message.

        Raises:
          InterruptedRun: if a signal comes, or has come before.
        """
        if self._pipe is None or jax.process_count() > 1:
            yield
            return
        try:
            self._abandonable = True
            if self.signal is not None:
                raise errors.InterruptedRun
            yield
        except errors.InterruptedRun:
            assert self.signal is not None
            raise errors.InterruptedRun(f"{self.signal.name} during {what}.") from None
        finally:
            self._abandonable = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        first = self.signal is None
        self.signal = self.signal or signal.Signals(number)
        if first and jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX's service tells the other hosts
        if self._abandonable:
            self._abandonable = False
            raise errors.InterruptedRun

    def _watch(self, pipe: int) -> None:
        """Says what a signal leads to, and ends the process at the second."""
        count = 0
        while content := os.read(pipe, 1):
            number = signal.Signals(content[0])
            if number not in self._previous:
                continue
            count += 1
            if count > 1:
                print(f"{number.name} again: ending at once.", file=sys.stderr)
                sys.stderr.flush()
                os._exit(128 + number)
            print(
                f"{number.name}: ending in order, after what is under way is finished "
                "and saved; once more ends at once.",
                file=sys.stderr,
                flush=True,
            )
        os.close(pipe)
