"""Lists what there is to choose from, a line each.

  python -m agentrl.launch.list environments
  python -m agentrl.launch.list subsets babyai

The lists are `environments` (name, tasks of train/test, what it is), `subsets` (levels,
depths or types of tasks, of one environment or of all), `algorithms`, `models` (those
with weights for `train --model`, shapes for `plan --model`) and `experiments`.
"""

import difflib
import sys
from collections.abc import Sequence

from absl import app

from agentrl import errors
from agentrl.envs import base
from agentrl.experiment import catalog


def main(argv: Sequence[str]) -> None:
    """Prints the lines of the kind that the first argument names."""
    if not 2 <= len(argv) <= 3:
        raise errors.UsageError(f"say what to list: {', '.join(catalog.KINDS)}.")
    kind, *only = argv[1:]
    if kind not in catalog.KINDS:
        close = difflib.get_close_matches(kind, catalog.KINDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        sys.exit(
            f"launch.list: there is no list of {kind!r}.{hint} There are "
            f"{', '.join(catalog.KINDS)}."
        )
    try:
        for line in catalog.lines(kind, *only):
            print(line, flush=True)
    except (errors.ConfigError, base.EnvConfigError) as error:
        sys.exit(f"launch.list: {error}")


if __name__ == "__main__":
    app.run(main)
