"""Names of metrics in docs/metrics.md."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "metrics.md"
# Of the record of an iteration, where the others are numbers of it.
POSITION = {"stage_index", "stage", "iteration", "step", "wall_time"}


def documented():
    """Names in the first column of the page's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))


def undocumented(names):
    """Those of `names` that the page does not have."""
    generic = {re.sub(r"^env/[^/]+/", "env/<name>/", name) for name in names}
    return generic - documented()
