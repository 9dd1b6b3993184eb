r"""Time from a command to its first finished iteration, with and without kept programs.

  python -m benchmarks.bench_start
  python -m benchmarks.bench_start --experiment=recipes/mixture --rounds=3

Each round starts the experiment three times, in fresh processes and fresh directories:
without a compilation cache, with an empty one, and with the one that this has filled.
A process ends after its first iteration. Seconds are wall-clock and of its CPU, from the
start of Python; imports, data, demonstrations and the iteration itself are within them.
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import app, flags
from rich import console as rich_console
from rich import table

from agentrl import errors
from agentrl.experiment import files
from agentrl.hardware import compilation
from agentrl.reporting import metrics

_EXPERIMENT = flags.DEFINE_string("experiment", "demo", "Name or file.")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "Of three starts.", lower_bound=1)

_POLL_S = 0.05


def measure(folder: pathlib.Path, cache: str) -> tuple[float, float]:
    """Wall and CPU seconds of one start.

    Args:
      folder: an empty one.
      cache: folder of the compilation cache, or "off".

    Raises:
      RuntimeError: if the process ends before its first iteration, with what it said.
    """
    workdir, log = folder / "run", folder / "log.txt"
    command = [sys.executable, "-m", "agentrl.launch.train", _EXPERIMENT.value]
    begun = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            stdout=output,
            stderr=output,
            env=os.environ | {compilation.VARIABLE: cache},
        )
        try:
            while not (workdir / metrics.FILE).exists():
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(_POLL_S)
            seconds, cpu_seconds = (
                time.perf_counter() - begun,
                _cpu_seconds(process.pid),
            )
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait()
    if code not in (0, errors.INTERRUPTED_CODE):
        raise RuntimeError(log.read_text())
    return seconds, cpu_seconds


def _cpu_seconds(pid: int) -> float:
    """Of a process itself; those of environments count for themselves."""
    # After the name, which may hold blanks: fields 14 and 15 are user and system ticks.
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(_: Sequence[str]) -> None:
    """Prints a table."""
    files.load(_EXPERIMENT.value)  # an unknown name is told now
    found: dict[str, list[tuple[float, float]]] = {}
    for _round in range(_ROUNDS.value):
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            for what in ("off", "empty", "filled"):
                folder = root / what
                folder.mkdir()
                cache = "off" if what == "off" else str(root / "cache")
                found.setdefault(what, []).append(measure(folder, cache))
    lines = table.Table("compilation cache", "s", "CPU-s")
    for what, rounds in found.items():
        means = [statistics.median(column) for column in zip(*rounds, strict=True)]
        lines.add_row(what, *(f"{value:.1f}" for value in means))
    rich_console.Console().print(lines)


if __name__ == "__main__":
    app.run(main)
