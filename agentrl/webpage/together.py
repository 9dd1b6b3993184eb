"""Several runs on one page: seeds of one recipe, and runs compared task by task."""

import itertools
from collections.abc import Sequence
from typing import Any

from agentrl import errors
from agentrl.statistics import transfer
from agentrl.webpage import evaluations, run_data

MAX_COMPARED = 8  # runs; each pair is compared


def describe(runs: Sequence[run_data.RunData]) -> dict[str, Any] | None:
    """Returns what the page shows beside the runs themselves; None for one run.

    Runs whose configurations differ in the seed alone are a group: their evaluations are
    averaged, with an interval for other seeds of the recipe as well.
    """
    if len(runs) < 2:
        return None
    by_recipe: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        by_recipe.setdefault(run.recipe(), []).append(number)
    groups = [_group(runs, members) for members in by_recipe.values()]
    pairs = itertools.combinations(range(min(len(runs), MAX_COMPARED)), 2)
    comparisons = [
        {
            "first": first,
            "second": second,
            "panels": evaluations.compare_stages(runs[first].found, runs[second].found),
        }
        for first, second in pairs
    ]
    return {"groups": groups, "comparisons": comparisons}


def _group(runs: Sequence[run_data.RunData], members: list[int]) -> dict[str, Any]:
    """Seeds of one recipe; results only where there are several with evaluations."""
    found: dict[int, Any] = {}
    for number in members:
        run = runs[number]
        if run.found and run.settings.seed not in found:
            found[run.settings.seed] = run.found
    value: dict[str, Any] = {"members": members, "results": None, "refused": ""}
    if len(found) > 1:
        first = runs[members[0]]
        try:
            value["results"] = evaluations.describe(
                transfer.to_matrix(found), first.settings, first.by_chance
            )
        except errors.ConfigError as error:  # such as other panels after a change
            value["refused"] = str(error)
    return value
