"""Which iterations the files of a run hold, beside those that it has finished."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agentrl import config, errors


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """An iteration of a run."""

    stage: int  # index
    iteration: int  # of the stage, from 0


def place_of(record: Mapping[str, Any], path: object) -> Place:
    """Where a line of `metrics.jsonl` belongs.

    Raises:
      DamagedFileError: if it does not say so.
    """
    try:
        place = Place(record["stage_index"], record["iteration"])
        if type(place.stage) is not int or type(place.iteration) is not int:
            raise TypeError("its place is no number")
        return place
    except (KeyError, TypeError) as error:
        raise errors.DamagedFileError(
            f"{path} holds a line that is no record of an iteration "
            f"({type(error).__name__}: {error}); restore the file, or remove the line."
        ) from error


def check_order(places: Iterable[Place], path: object) -> Iterator[Place]:
    """Passes places on.

    Raises:
      DamagedFileError: if one does not come after the one before it.
    """
    last = Place(-1, -1)
    for number, place in enumerate(places, start=1):
        if place <= last:
            raise errors.DamagedFileError(
                f"{path}:{number} is of iteration {place.iteration} of stage number "
                f"{place.stage}, which does not come after the line before it "
                f"(iteration {last.iteration} of stage number {last.stage}); restore "
                "the file, or remove the line."
            )
        yield place
        last = place


def expected(stages: Sequence[config.StageConfig], end: Place) -> Iterator[Place]:
    """The iterations before `end`, in their order."""
    for index, stage in enumerate(stages[: end.stage + 1]):
        count = end.iteration if index == end.stage else stage.num_iterations
        yield from (Place(index, iteration) for iteration in range(count))


def describe_missing(
    stages: Sequence[config.StageConfig], end: Place, found: Iterable[Place]
) -> str:
    """The iterations before `end` that are not in `found`; empty if there are none.

    Returns:
      Such as `iterations 10 to 14 of stage 'textcraft'`; iterations count from 0, as
      the files do.
    """
    present = set(found)
    runs: list[list[Place]] = []  # of neighbours
    for place in expected(stages, end):
        if place in present:
            continue
        if runs and runs[-1][-1] == Place(place.stage, place.iteration - 1):
            runs[-1].append(place)
        else:
            runs.append([place])
    return ", ".join(
        f"iteration{'s' if len(run) > 1 else ''} {run[0].iteration}"
        + (f" to {run[-1].iteration}" if len(run) > 1 else "")
        + f" of stage '{stages[run[0].stage].name}'"
        for run in runs
    )
