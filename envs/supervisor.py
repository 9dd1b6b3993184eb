"""A worker process as its parent sees it: start, messages, deadline, memory, end."""

import collections
import contextlib
import math
import os
import pickle
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from agentrl.envs import memory, wire, worker

START_TIMEOUT_S = 60.0  # a worker imports its environments and may build their data
_WORKER_CODE = "from agentrl.envs import worker; worker.main()"
_WATCH_PERIOD_S = 0.2

EpisodeT = TypeVar("EpisodeT")
clock = time.monotonic


class WorkerProcess(Generic[EpisodeT]):
    """One process, the socket to it, and the calls it has not answered, in order."""

    def __init__(self, index: int, settings: worker.Settings, timeout_s: float):
        self.index = index
        self.pending: collections.deque[EpisodeT] = collections.deque()  # one a call
        self.held: list[EpisodeT] = []  # calls to send when the suspect's is answered
        self.suspect: EpisodeT | None = None  # played alone, to see if it kills again
        self.num_hosted = 0  # episodes that were played here
        self.ready = False
        self.overdue = False  # killed because a call passed its deadline
        self.over_memory = False  # killed because it passed the memory limit
        self.deaf = False  # killed because it took no message
        self.since = clock()  # when it, or its first pending call, was started
        self.memory_limit = settings.memory_limit_bytes
        self._ending = threading.Lock()  # the memory watch may kill, too
        self._num_sent = 0
        self._token = secrets.randbits(64)
        self.link, theirs = socket.socketpair()
        with theirs:
            self.process = self._start(theirs.fileno())
        # A worker that stops within a message must not stop us.
        limit = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._receiver = wire.Receiver(self.link, self._token)
        with contextlib.suppress(OSError):
            self.link.sendall(self._token.to_bytes(8, sys.byteorder))
        self._send(settings)

    def _start(self, handle: int) -> subprocess.Popen:
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, "-c", _WORKER_CODE, str(handle)],
            stdin=subprocess.DEVNULL,
            pass_fds=[handle],
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,  # so that its own children can be killed with it
        )

    def send(self, calls: Sequence[worker.Call], callers: Iterable[EpisodeT]) -> None:
        """Sends calls, each with the episode that awaits its answer."""
        if self.ready and not self.pending:
            self.since = clock()
        self.pending.extend(callers)
        self._send(calls)

    def _send(self, message: object) -> None:
        """Sends; a worker that takes nothing is killed, and found dead by a read."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self.link.sendall(wire.frame(self._token, self._num_sent, body))
            self._num_sent += 1
        except OSError:
            self.deaf = True
            self.kill()

    def receive(self) -> list[bytes]:
        """Returns the messages that have arrived.

        Raises:
          EOFError: if the worker is dead, or has sent what is no message.
        """
        bodies = self._receiver.receive()
        if self._receiver.error:
            self.kill()  # and found dead by the next read
        if bodies:
            self.since = clock()
            self.overdue = (
                False  # a late answer counts; another call was cut short then
            )
        return bodies

    def deadline(self, call_timeout_s: float) -> float:
        """When to give up on it, in monotonic seconds; infinity if nothing is due."""
        if self.overdue or self.deaf or (self.ready and not self.pending):
            return math.inf
        return self.since + (call_timeout_s if self.ready else START_TIMEOUT_S)

    def kill(self) -> None:
        """Kills the worker and every process its environments started."""
        with self._ending:
            if self.process.returncode is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> str:
        """Makes sure that the worker has ended, and says how."""
        self.link.close()
        self.kill()
        with self._ending:
            code = self.process.wait()
        self.over_memory |= code == worker.MEMORY_EXIT_CODE
        name = f"worker {self.index} (process {self.process.pid})"
        if error := self._receiver.error:
            return f"{name} was killed: its socket was written to ({error})"
        if self.over_memory:
            return f"{name} used more than the limit of {self.memory_limit} bytes"
        how = (
            f"killed by {signal.Signals(-code).name}"
            if code < 0
            else f"exit code {code}"
        )
        return f"{name} ended, {how}"

    @property
    def surely_by_itself(self) -> bool:
        """Whether, once ended, its end came from within: others can only kill it."""
        return bool(self._receiver.error) or self.process.returncode != -signal.SIGKILL


class MemoryWatch(threading.Thread):
    """Kills workers whose processes use more memory than they may.

    Workers look at their memory after each call. This thread is for calls that never
    come to an end, for the programs that environments start, and for times when the
    pool's own thread is busy elsewhere.
    """

    def __init__(
        self, workers: Callable[[], Sequence[WorkerProcess]], limit_bytes: int
    ):
        super().__init__(daemon=True, name="environment memory watch")
        self._workers, self._limit = workers, limit_bytes
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Looks at all workers several times a second."""
        while not self._stop_asked.wait(_WATCH_PERIOD_S):
            used = memory.group_bytes()
            for watched in self._workers():
                group = watched.process.pid
                if used.get(group, 0) <= self._limit:
                    continue
                if memory.proportional_bytes(group) > self._limit:
                    watched.over_memory = True
                    watched.kill()

    def stop(self) -> None:
        """Ends the watch."""
        self._stop_asked.set()
        self.join()
