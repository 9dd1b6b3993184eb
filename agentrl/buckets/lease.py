"""A lease in place of a lock: an object that says who works, until when.

A process that is killed leaves it behind; it then runs out. Whoever finds it waits for
that, and is refused if it is renewed meanwhile, as by a process that lives. Stores have no
compare-and-swap in common, so a claim is written, and read again a moment later: of two
that claim at the same moment, the one that wrote last has it.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable

from agentrl import errors
from agentrl.buckets import objects

NAME = "lease.json"
SECONDS = 120.0  # without renewal after which a lease has run out
_SETTLING_S = 1.0  # between claiming and reading again


class LostLeaseError(OSError):
    """Another process has taken a lease over."""


class Lease:
    """Holds a folder of a store; a context manager."""

    def __init__(
        self,
        store: objects.Store,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ):
        self._store = store
        self._clock, self._sleep = clock, sleep
        self._owner = uuid.uuid4().hex
        self._ended = threading.Event()
        self._renewed = 0.0  # by time.monotonic()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        """Takes the lease, after waiting for one that a killed process has left.

        Raises:
          ConfigError: if another process has it.
        """
        self._wait_until_free()
        self._write()
        self._sleep(_SETTLING_S)
        self.check()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Gives the lease back, if it is still held."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(
            OSError
        ):  # it runs out; how the run ends is to be told
            held = self._read()
            if held is not None and held["owner"] == self._owner:
                self._store.remove([NAME])

    def check(self) -> None:
        """Raises `LostLeaseError` if the lease is another's now."""
        held = self._read()
        if held is None or held["owner"] != self._owner:
            who = f"{held['host']}, process {held['process']}" if held else "nobody"
            raise LostLeaseError(
                f"{self._store.url} was taken over by {who}: two processes train this run"
            )

    def _wait_until_free(self) -> None:
        """Raises `ConfigError` if the lease is another's, who renews it."""
        held = self._read()
        if held is None or held["until"] <= self._clock():
            return
        # No longer than a lease lasts, should the other's clock be ahead.
        end = min(held["until"], self._clock() + SECONDS)
        print(
            f"{self._store.url} is held by process {held['process']} on {held['host']}. "
            f"Waiting to see whether it goes on, or its lease runs out in "
            f"{end - self._clock():.0f} s.",
            flush=True,
        )
        while (left := end - self._clock()) > 0:
            self._sleep(min(left, SECONDS / 24))
            found = self._read()
            if found is None:  # given back
                return
            if found != held:
                raise errors.ConfigError(
                    f"{self._store.url} is in use by process {found['process']} on "
                    f"{found['host']}: stop it, or use another --workdir."
                )

    def _read(self) -> dict | None:
        content = self._store.read(NAME)
        if content is None:
            return None
        try:
            held = json.loads(content)
            float(held["until"])
            return {name: held[name] for name in ("owner", "host", "process", "until")}
        except (ValueError, KeyError, TypeError):
            return None  # a foreign or damaged object holds nothing

    def _write(self) -> None:
        told = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "until": self._clock() + SECONDS,
        }
        self._store.write(NAME, json.dumps(told).encode())

    def _renew(self) -> None:
        while not self._ended.wait(SECONDS / 4):
            try:
                self.check()
                self._write()
            except OSError:
                continue  # who publishes next finds out, and says so
