"""Missions read from text, and what it takes to do them in a known grid."""

import dataclasses
import re
from collections.abc import Collection

from agentrl.envs.babyai import planner, view

_THING = r"(?:the|a) ((?:\w+ )??)(object|ball|box|key|door)"
_PLACE = r"((?: in front of you| behind you| on your left| on your right)?)"
_PART = re.compile(rf"(go to|pick up|open) {_THING}{_PLACE}")
_PUT = re.compile(rf"put {_THING}{_PLACE} next to {_THING}{_PLACE}")


@dataclasses.dataclass(frozen=True)
class Description:
    """What a mission says of an object; `color` and `place` may be empty."""

    color: str
    kind: str
    place: str

    @property
    def phrase(self) -> str:
        """The object in words, without its place."""
        return f"{self.color} {self.kind}".strip()

    @property
    def codes(self) -> frozenset[int]:
        """The cell codes that fit."""
        return frozenset(
            code
            for name, code in view.CODES.items()
            if name != "wall"
            and self.color in ("", name.split()[0])
            and self.kind in ("object", name.split()[-1])
        )


@dataclasses.dataclass(frozen=True)
class Goal:
    """One part of a mission: go to, pick up or open `what`, or put it by `beside`."""

    verb: str
    what: Description
    beside: Description | None = None


@dataclasses.dataclass(frozen=True)
class Rooms:
    """Equal square rooms whose walls lie `pitch` cells apart, in rows of `stride`."""

    stride: int
    pitch: int
    x: int  # a column and a row of wall
    y: int

    def count_walls(self, index: int) -> int:
        """How many lines of wall cross a cell: 0 inside a room, 2 at a corner."""
        y, x = divmod(index, self.stride)
        return ((x - self.x) % self.pitch == 0) + ((y - self.y) % self.pitch == 0)

    def room_of(self, index: int) -> tuple[int, int]:
        """Column and row of the room of a cell, its left and upper wall included."""
        y, x = divmod(index, self.stride)
        return (x - self.x) // self.pitch, (y - self.y) // self.pitch

    def corner_of(self, room: tuple[int, int]) -> tuple[int, int]:
        """Column and row of the upper left corner of a room."""
        return self.x + room[0] * self.pitch, self.y + room[1] * self.pitch

    def share_room(self, inside: int, index: int) -> bool:
        """Whether `index` is in the room of `inside`, or in its walls."""
        left, top = self.corner_of(self.room_of(inside))
        y, x = divmod(index, self.stride)
        return left <= x <= left + self.pitch and top <= y <= top + self.pitch


def read_goals(mission: str) -> list[Goal]:
    """The parts of a mission, in the order in which they have to be done."""
    first, _, second = mission.partition(" after you ")
    goals = []
    for text in (second, first):
        found = [(m.start(), m) for p in (_PART, _PUT) for m in p.finditer(text)]
        for _, match in sorted(found, key=lambda pair: pair[0]):
            goals.append(_read_goal(match))
    return goals


def _read_goal(match: re.Match[str]) -> Goal:
    words = [word.strip() for word in match.groups()]
    if match.re is _PUT:
        return Goal("put", Description(*words[:3]), Description(*words[3:]))
    return Goal(words[0], Description(*words[1:]))


def find_targets(
    what: Description, state: planner.State, start: planner.State, rooms: Rooms
) -> set[int]:
    """Where `what` can be, given where the agent started: its place refers to that."""
    codes = what.codes
    found = {i for i, code in enumerate(state.cells) if code in codes}
    if not what.place:
        return found
    return {i for i in found if _is_placed(what.place, i, start, rooms)}


def _is_placed(place: str, index: int, start: planner.State, rooms: Rooms) -> bool:
    """Whether a cell of the first room is on a side of where the agent started."""
    y, x = divmod(index, start.stride)
    y0, x0 = divmod(start.at, start.stride)
    dx, dy = ((1, 0), (0, 1), (-1, 0), (0, -1))[start.heading]
    ahead = (x - x0) * dx + (y - y0) * dy
    right = (y - y0) * dx - (x - x0) * dy
    on_side = {
        "in front of you": ahead > 0,
        "behind you": ahead < 0,
        "on your right": right > 0,
        "on your left": right < 0,
    }
    return on_side[place] and rooms.share_room(start.at, index)


def fulfils(
    goal: Goal, move: planner.Move, targets: Collection[int], beside: Collection[int]
) -> bool:
    """Whether a move does a goal whose objects are at `targets` and `beside`."""
    if goal.verb == "go to":
        return move.after.front in targets and not (
            move.ends_with(view.PICKUP) or move.ends_with(view.DROP)
        )
    if goal.verb == "pick up":
        return move.ends_with(view.PICKUP) and move.touched in targets
    if goal.verb == "open":
        return move.ends_with(view.TOGGLE) and move.touched in targets
    stride, index = move.after.stride, move.touched
    around = (index - 1, index + 1, index - stride, index + stride)
    dropped = move.ends_with(view.DROP) and move.after.carried == view.EMPTY
    return dropped and any(near in beside for near in around)
