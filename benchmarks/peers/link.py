"""Other systems in processes of their own, asked for one round at a time."""

import json
import os
import pathlib
import subprocess
import time
from typing import Any


class Peer:
    """A script of this folder under the Python of its own environment.

    It ends when this process does.
    """

    def __init__(self, name: str, python: str, spec: dict[str, Any], log: pathlib.Path):
        """Starts the script and waits until it is ready.

        Args:
          name: the script, without `.py`.
          python: interpreter that has what the script imports.
          spec: what to measure; see the script.
          log: file for what the script prints.
        """
        started = time.perf_counter()
        script = pathlib.Path(__file__).with_name(f"{name}.py")
        self._log = log
        self._process = subprocess.Popen(
            [python, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=os.environ | {"PYTHONPATH": str(script.parents[2])},
        )
        self.about = self._ask(spec)
        self.compile_seconds = time.perf_counter() - started

    def run(self) -> dict[str, float]:
        """One round: tokens, wall and CPU seconds, and what else the script tells."""
        found = self._ask({})
        self.compile_seconds += found.get("compile", 0.0)
        return found

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        if answer := self._process.stdout.readline():
            return json.loads(answer)
        last_words = self._log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"the peer ended; its last words:\n{last_words}")
