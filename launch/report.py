r"""Writes `report.html` for a run and prints its table; the run may still be going on.

  agentrl report --workdir=runs/demo
  agentrl report --workdir=runs/seed0 --workdir=runs/seed1 --out=/tmp/seeds.html

The page shows success on held-out tasks after every stage with 95 % intervals, gains
over the warm start, transfer and forgetting, training curves, time, failure tags and
every stored episode. Several runs are shown beside each other: seeds with their mean and
spread, and each two task by task. It opens in a browser without a server or network; where
there are many episodes, they lie in a folder beside it. `agentrl watch` shows the same
page while a run grows.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from agentrl import errors

_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    None,
    "Working directory of a run, such as runs/demo; again for each further run.",
    required=True,
)
_OUT = flags.DEFINE_string(
    "out", None, "Page to write; default report.html in the working directory."
)


def main(argv: Sequence[str]) -> None:
    """Writes the report of one run, or of several."""
    if len(argv) > 1:
        raise errors.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --workdir=...?"
        )
    from agentrl import refusals
    from agentrl.buckets import mirror
    from agentrl.experiment import files
    from agentrl.reporting import tables
    from agentrl.statistics import results
    from agentrl.webpage import report

    try:
        workdirs = [mirror.readable(workdir) for workdir in _WORKDIR.value]
    except refusals.EXPECTED as error:
        sys.exit(f"launch.report: {error}")
    if len(workdirs) > 1 and not _OUT.value:
        sys.exit(
            f"launch.report: {len(workdirs)} runs share one page, which belongs into none "
            "of their directories; say where with --out=compare.html."
        )
    try:
        path = pathlib.Path(_OUT.value or workdirs[0] / report.FILE)
        report.write(workdirs, path)
        for workdir in workdirs:
            settings = files.read_run(workdir)
            found = results.load_all(workdir, settings.environments)
            if len(workdirs) > 1:
                print(f"\n{workdir}")
            print(tables.format_table(found, results.load_random(workdir)))
    except refusals.EXPECTED as error:
        sys.exit(f"launch.report: {error}")
    print(f"Report: {path}")


if __name__ == "__main__":
    app.run(main)
