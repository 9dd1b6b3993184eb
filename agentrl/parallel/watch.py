"""Watches the other hosts of a run, so that a dead or stopped one is named in time.

Each host keeps writing a small file into the working directory, which all of them share:
a number that grows, and where in the run it is. A host whose number stands still for the
time limit is taken for lost: the others say so in one line and leave with an exit code
of their own, on which launchers start all hosts again. They would wait for it forever,
or be ended by JAX with a stack trace that does not name it. A host that is alive and
hangs is lost after ten times the limit: its main thread has not run for so long, although
it waits for no device and no host, and this one waits for it. A host that has told of an
exception of its own is not lost: the others leave with the code 1 that it leaves with,
as the next try would end the same way.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from agentrl import errors
from agentrl.parallel import idleness, processes

FOLDER = "hosts"
_BEATS = 10  # in the time limit
_HANGS = 10  # time limits without any work of a main thread
_ENDED = "has ended"
_FAULT_CODE = 1  # of Python after an exception; launchers start nothing again
# What no lost host leads to; most of it is raised on all hosts alike.
_OF_ALL_HOSTS = (
    errors.InterruptedRun,
    errors.ConfigError,
    errors.DamagedFileError,
    errors.EnvWorkerError,
    errors.TrainingError,
)


@dataclasses.dataclass
class _Peer:
    """What is known of another host."""

    beat: int = -1
    since: float = 0.0  # when its beat changed last, by this host's clock
    told: dict[str, Any] = dataclasses.field(default_factory=dict)


class HostWatch:
    """Tells the others that this host is alive, and leaves if one of them is not.

    A context manager. On one host it does nothing.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        timeout_s: float,
        describe_place: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Makes a watch that has not begun.

        Args:
          workdir: of the run, shared by all hosts.
          timeout_s: seconds without a sign of life after which a host is lost.
          describe_place: where in the run this host is, such as `stage 'a', update`.
          clock: seconds.
        """
        self._folder = workdir / FOLDER
        self._timeout_s = timeout_s
        self._describe_place = describe_place
        self._clock = clock
        self._beat = 0
        self._ending = ""
        self._is_fault = False
        self._session = ""
        self._peers: dict[int, _Peer] = {}
        self._stopped = threading.Event()
        self._idleness = idleness.Idleness(clock)

    def __enter__(self) -> "HostWatch":
        if jax.process_count() == 1:
            return self
        # Files of earlier sessions are told apart by a word that the first host chooses.
        self._session = processes.gather([secrets.token_hex(8)])[0]
        now = self._clock()
        self._peers = {
            host: _Peer(since=now)
            for host in range(jax.process_count())
            if host != jax.process_index()
        }
        self._write()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._leave_on_abort()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: object,
    ) -> None:
        if not self._peers:
            return
        if kind is not None and not issubclass(kind, _OF_ALL_HOSTS):
            # Perhaps because another host is gone: then the thread ends this process.
            time.sleep(self._timeout_s * (1 + 2 / _BEATS))
        self._ending = _ENDED
        if kind is not None and not issubclass(kind, errors.InterruptedRun):
            self._ending += f" with {kind.__name__}"
            self._is_fault = _is_fault(error)
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._write()

    def look(self) -> tuple[str, int]:
        """Takes in what the other hosts have written.

        Returns:
          A sentence about the host that is lost or has failed, and the exit code that
          this one leaves with for it; empty and 0 if all are well.
        """
        now = self._clock()
        for host, peer in self._peers.items():
            told = self._read(host)
            if told and told["beat"] != peer.beat:
                peer.beat, peer.since, peer.told = told["beat"], now, told
        # The host that fell silent first is why others fell silent after it.
        for host, peer in sorted(self._peers.items(), key=lambda item: item[1].since):
            if problem := self._find_problem(peer, now):
                who = peer.told.get("host", "which never wrote a sign of life")
                sentence = (
                    f"host {host} ({who}) {problem}; it was in "
                    f"{peer.told.get('place', 'its start')}, this one is in "
                    f"{self._describe_place()}."
                )
                is_fault = peer.told.get("is_fault", False)
                return sentence, _FAULT_CODE if is_fault else errors.HOST_LOST_CODE
        return "", 0

    def _find_problem(self, peer: _Peer, now: float) -> str:
        """Returns what is wrong with a host; empty if nothing is."""
        ending = peer.told.get("ending")
        if ending == _ENDED:
            return ""  # in order, as this host will
        if now - peer.since > self._timeout_s:
            return ending or (
                f"has given no sign of life for {now - peer.since:.0f} s "
                f"(--host_timeout_s={self._timeout_s:g})"
            )
        if self._is_waited_for(peer):
            return (
                f"is alive but has done nothing for {peer.told['idle_s']:.0f} s "
                f"({_HANGS} x --host_timeout_s={self._timeout_s:g}), and this one "
                "waits for it"
            )
        return ""

    def _is_waited_for(self, peer: _Peer) -> bool:
        """Whether a host hangs while this one waits inside of JAX."""
        limit = _HANGS * self._timeout_s
        return (
            peer.told.get("idle_s", 0.0) > limit
            and not peer.told.get("waits", True)
            and self._idleness.look() > limit
            and self._idleness.waits()
        )

    def _run(self) -> None:
        while not self._stopped.wait(self._timeout_s / _BEATS):
            # A disk that takes nothing for a moment is not what this watches for.
            with contextlib.suppress(OSError):
                self._write()
            problem, code = self.look()
            if not problem:
                continue
            advice = (
                "The cause is in that host's log; the same command would end there again."
                if code == _FAULT_CODE
                else "Start all hosts again with the same command to go on from the "
                "newest checkpoint."
            )
            print(f"launch.train: {problem} {advice}", file=sys.stderr, flush=True)
            os._exit(code)

    def _write(self) -> None:
        self._beat += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{jax.process_index()}.json"
        partial = path.with_suffix(".partial")
        told = {
            "session": self._session,
            "beat": self._beat,
            "host": f"{socket.gethostname()}, process {os.getpid()}",
            "place": self._describe_place(),
            "ending": self._ending,
            "is_fault": self._is_fault,
            "idle_s": self._idleness.look(),
            "waits": self._idleness.waits(),
        }
        partial.write_text(json.dumps(told) + "\n")
        partial.replace(path)

    def _read(self, host: int) -> dict[str, Any] | None:
        try:
            told = json.loads((self._folder / f"{host}.json").read_text())
        except (OSError, ValueError):
            return None  # not there yet, or being replaced on a slow disk
        return told if told.get("session") == self._session else None

    def _leave_on_abort(self) -> None:
        """Gives the thread time to name the lost host when JAX aborts the process.

        JAX's client ends the process by `abort` as soon as it cannot reach the first
        host, and takes no callback for it that works from Python.
        """

        def wait(number: int) -> None:
            time.sleep(self._timeout_s * (1 + 2 / _BEATS))
            os._exit(128 + number)

        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(wait)  # kept alive
        ctypes.CDLL(None).signal(int(signal.SIGABRT), self._handler)


def _is_fault(error: BaseException | None) -> bool:
    """Whether an exception is the program's own, and comes again at the next try."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        # Mostly a connection or a device that failed, but never when memory is short.
        return "RESOURCE_EXHAUSTED" in str(error)
    return isinstance(error, Exception)  # no Ctrl-C
