"""Runs that a live page shows, read by one thread while somebody looks."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from agentrl import refusals
from agentrl.webpage import run_data, together

_INTERVAL_S = 1.0  # between looks at the files
_IDLE_S = 20.0  # after the last question nobody looks


class Watched:
    """Answers what the page asks of runs; `start` reads their files in the background."""

    def __init__(self, runs: Sequence[run_data.RunData]):
        self._runs = runs
        self._lock = threading.Lock()  # of everything below, and of the runs
        self._together: tuple[int, str] = (0, "null")
        self._seen: object = None  # versions of the results that `_together` is of
        self._asked = threading.Event()
        self._last_asked = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Reads everything but the episodes, then goes on in the background."""
        for run in self._runs:
            self._refresh(run)
        self._join()
        self._thread.start()

    def stop(self) -> None:
        """Ends the background work."""
        self._stopped.set()
        self._asked.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopped.is_set():
            more = False
            for run in self._runs:
                with self._lock:
                    more |= self._refresh(run)
                time.sleep(0.002)  # whoever asks gets the lock
            with self._lock:
                self._join()
            if more:
                continue
            self._stopped.wait(_INTERVAL_S)
            if time.monotonic() - self._last_asked > _IDLE_S:
                self._asked.clear()
                self._asked.wait()

    def _refresh(self, run: run_data.RunData) -> bool:
        """Reads what is new; what cannot be read is told on the page."""
        try:
            return run.refresh()
        except refusals.EXPECTED as error:
            run.set_problem(str(error))
            return False

    def _join(self) -> None:
        """Compares runs anew if results of one have changed."""
        seen = [run.versions["results"] for run in self._runs]
        if seen == self._seen:
            return
        self._seen = seen
        text = run_data.to_json(together.describe(self._runs))
        self._together = self._together[0] + 1, text

    # -- Answers ---------------------------------------------------------------------

    def state(self, have: str) -> str:
        """Returns the sections that have changed, as JSON.

        Args:
          have: what the answer before said the page has now; empty for everything.
        """
        self._last_asked = time.monotonic()
        self._asked.set()
        with self._lock:
            versions = [
                *(str(run.versions[name]) for run in self._runs
                  for name in run_data.SECTIONS),
                str(self._together[0]),
            ]  # fmt: skip
            had = have.split(".")
            if len(had) != len(versions):
                had = [""] * len(versions)
            changed = [
                ours != theirs for ours, theirs in zip(versions, had, strict=True)
            ]
            flags = iter(changed)
            runs = []
            for run in self._runs:
                fields = [
                    f'"{name}":{run.section(name)}'
                    for name in run_data.SECTIONS
                    if next(flags)
                ]
                runs.append(f"{{{','.join(fields)}}}")
            beside = f',"together":{self._together[1]}' if next(flags) else ""
        return f'{{"have":"{".".join(versions)}","runs":[{",".join(runs)}]{beside}}}'

    def index(
        self, run: int, first: int, count: int, generation: int, items: int
    ) -> str:
        """Returns columns of episodes, as JSON; from the first if the index began anew."""
        with self._lock:
            index = self._runs[run].index
            if generation != index.generation:
                first = items = 0
            return run_data.to_json(index.to_json(first, count, known_items=items))

    def episodes(self, run: int, first: int, count: int, generation: int) -> bytes:
        """Returns consecutive episodes, as JSON.

        Raises:
          LookupError: if the index has begun anew since.
        """
        with self._lock:
            index = self._runs[run].index
            if generation != index.generation:
                raise LookupError("the run was resumed meanwhile; look at it again.")
            return b"[" + b",".join(index.read_lines(first, count)) + b"]"

    @property
    def num_runs(self) -> int:
        """How many runs there are."""
        return len(self._runs)

    def describe(self) -> list[dict[str, Any]]:
        """Where each run stands, for the terminal."""
        return [
            {
                "workdir": str(run.workdir),
                "iterations": len(run.curves),
                "episodes": len(run.index),
            }
            for run in self._runs
        ]
