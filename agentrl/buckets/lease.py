"""A lease in place of a lock: an object that says who works, until when.

A process that is killed leaves it behind; it then runs out. Stores have no
compare-and-swap in common, so a claim is written, and read again a moment later: of two
that claim at the same moment, the one that wrote last has it.
"""

import json
import os
import socket
import threading
import time
import uuid

from agentrl import errors
from agentrl.buckets import objects

NAME = "lease.json"
SECONDS = 120.0  # without renewal after which a lease has run out
_SETTLING_S = 1.0  # between claiming and reading again


class LostLeaseError(OSError):
    """Another process has taken a lease over."""


class Lease:
    """Holds a folder of a store; a context manager."""

    def __init__(self, store: objects.Store):
        self._store = store
        self._owner = uuid.uuid4().hex
        self._ended = threading.Event()
        self._renewed = 0.0  # by time.monotonic()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        """Takes the lease.

        Raises:
          ConfigError: if another process has it.
        """
        held = self._read()
        if held is not None and held["until"] > time.time():
            left = held["until"] - time.time()
            raise errors.ConfigError(
                f"{self._store.url} is in use by process {held['process']} on "
                f"{held['host']}: stop it, or use another --workdir. If that process is "
                f"gone, its lease runs out in {left:.0f} s."
            )
        self._write()
        time.sleep(_SETTLING_S)
        self.check()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Gives the lease back, if it is still held."""
        self._ended.set()
        self._thread.join()
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
            "until": time.time() + SECONDS,
        }
        self._store.write(NAME, json.dumps(told).encode())

    def _renew(self) -> None:
        while not self._ended.wait(SECONDS / 4):
            try:
                self.check()
                self._write()
            except OSError:
                continue  # who publishes next finds out, and says so
