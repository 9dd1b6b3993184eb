"""What loggers receive, and what they have to do with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Point:
    """The metrics of one iteration, or of one evaluation."""

    step: int  # optimizer updates so far
    wall_time: float  # seconds since 1970
    numbers: Mapping[str, float | None]  # None where a number is not finite
    evaluation: str = ""  # names an evaluation; empty for an iteration
    # What else a curve may be drawn over: tokens, environment steps, episodes so far.
    axes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    histograms: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)

    def row(self) -> dict[str, float]:
        """Returns the finite numbers with all axes, for trackers that keep tables."""
        finite = {name: x for name, x in self.numbers.items() if x is not None}
        place = {"step": self.step, "wall_time": self.wall_time}
        return {**place, **self.axes, **finite}


class Logger(Protocol):
    """Receives the points of a run in their order."""

    def log(self, point: Point) -> None:
        """Takes in one point."""
        ...

    def close(self, *, failed: bool) -> None:
        """Ends the session; `failed` if an error ended it."""
        ...
