r"""Writes `report.html` for a run and prints its table; the run may still be going on.

  python -m agentrl.launch.report --workdir=runs/demo

The page shows success on held-out tasks after every stage with 95 % intervals, gains
over the warm start, transfer and forgetting, training curves, time, failure tags and
real transcripts. It is one file without scripts or external parts: open it in a
browser, or send it to somebody.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Working directory of a run, such as runs/demo.", required=True
)


def main(argv: Sequence[str]) -> None:
    """Writes the report of one run."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --workdir=...?"
        )
    from agentrl import refusals
    from agentrl.experiment import files
    from agentrl.reporting import report, tables
    from agentrl.statistics import results

    workdir = pathlib.Path(_WORKDIR.value)
    try:
        settings = files.read_run(workdir)
        path = report.write(workdir, settings)
        found = results.load_all(workdir, settings.environments)
        by_chance = results.load_random(workdir)
    except refusals.EXPECTED as error:
        sys.exit(f"launch.report: {error}")
    print(tables.format_table(found, by_chance))
    print(f"Report: {path}")


if __name__ == "__main__":
    app.run(main)
