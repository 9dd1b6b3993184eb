"""A map drawn from observations alone."""

import dataclasses
import functools
import re
from collections.abc import Iterator

from envs.babyai import goals, planner, scene, view

_THING = re.compile(
    r"There is a (\w+ (?:open |closed |locked )?\w+) (\d+) "
    r"(?:right in front of you (\d+) steps away"
    r"|(\d+) steps in front of you and (\d+) steps to your (left|right))"
)
_BARRIER = re.compile(r"You are facing a (\w+) (\d+) steps away")
_CARRIED = re.compile(r"You are carrying a (\w+ \w+)")
_SIGHTED = "The room has walls around you."

_STRIDE = 64
_CENTER = 32 * _STRIDE + 32
_PITCHES = (7, 6, 4, 3, 5, 19)  # of walls, in minigrid's rooms; likely ones first
# The true heading is unknown, and with it in which of the four windows walks are found.
WINDOWS = (view.WINDOWS[3],) * 4
_INSIDE, _LINE = 4, 1  # worth of seeing a cell for the first time


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object as an observation names and places it."""

    name: str
    number: int
    cell: int  # of the view

    @property
    def label(self) -> str:
        """Name and number, as actions use them."""
        return f"{self.name} {self.number}"

    @property
    def code(self) -> int:
        """Its cell code."""
        return view.CODES[self.name]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What an observation tells."""

    things: tuple[Thing, ...]
    barrier: tuple[str, int]
    carried: int
    actions: frozenset[str]  # empty if none are listed
    sighted: bool  # it describes a view, and is not a refusal


def read(observation: str) -> Reading:
    """Reads an observation."""
    text, _, listed = observation.partition("\nAvailable actions: ")
    things = []
    for name, number, straight, ahead, side, hand in _THING.findall(text):
        row, column = 6 - int(straight or ahead), int(side or 0)
        column = 3 - column if hand == "left" else 3 + column
        things.append(Thing(name, int(number), row * view.SIDE + column))
    barrier, carried = _BARRIER.search(text), _CARRIED.search(text)
    return Reading(
        things=tuple(things),
        barrier=(barrier[1], int(barrier[2])) if barrier else ("", 0),
        carried=view.CODES[carried[1]] if carried else view.EMPTY,
        actions=frozenset(re.findall(r'"([^"]+)"', listed)),
        sighted=_SIGHTED in text,
    )


@dataclasses.dataclass(frozen=True)
class Belief:
    """A map under one assumption about the size and place of the rooms.

    Walls never seen are believed to be whole, and other cells to be empty.
    """

    rooms: goals.Rooms
    state: planner.State
    worth: bytes  # of seeing a cell; 0 where it has been seen

    def gain(self, state: planner.State, within: int | None = None) -> int:
        """The worth of what would be seen from `state`.

        Args:
          state: where the agent would stand and look.
          within: a cell, if only its room counts.
        """
        seen = state.look()
        indices = [state.index(cell) for cell in view.SCAN if seen[cell]]
        if within is not None:
            indices = [i for i in indices if self.rooms.share_room(within, i)]
        return sum(self.worth[index] for index in indices)


def imagine() -> list[Belief]:
    """All maps that are possible before anything has been seen."""
    return [
        Belief(
            goals.Rooms(_STRIDE, pitch, 32 + x, 32 + y),
            planner.State(_draw_walls(pitch, x, y)[0], _STRIDE, _CENTER, 3),
            _draw_walls(pitch, x, y)[1],
        )
        for pitch in _PITCHES
        for y in range(1, pitch)
        for x in range(1, pitch)
    ]


@functools.cache
def _draw_walls(pitch: int, x: int, y: int) -> tuple[bytes, bytes]:
    """The cells and their worth; a wall `x` columns right and `y` rows below."""
    rooms = goals.Rooms(_STRIDE, pitch, 32 + x, 32 + y)
    walls = bytes(rooms.count_walls(index) for index in range(_STRIDE * _STRIDE))
    cells = walls.translate(bytes((view.EMPTY, view.WALL, view.WALL)).ljust(256))
    return cells, walls.translate(bytes((_INSIDE, _LINE, 0)).ljust(256))


def observe(belief: Belief, reading: Reading) -> Belief | None:
    """Draws what is read into a map; None if the map cannot explain it."""
    state, rooms = belief.state, belief.rooms
    cells, worth = bytearray(state.cells), bytearray(belief.worth)
    if rooms.count_walls(state.at):  # the agent can only stand in an open door
        if not view.NAMES[cells[state.at]].endswith("door"):
            return None
        cells[state.at] = planner.open_door(cells[state.at])
    for thing in reading.things:
        index = state.index(thing.cell)
        if rooms.count_walls(index) != thing.name.endswith("door"):
            return None
        cells[index] = thing.code
    now = dataclasses.replace(state, cells=bytes(cells), carried=reading.carried)
    seen = bytearray(now.look())
    told = {thing.cell for thing in reading.things}
    for cell in view.SCAN:
        if not seen[cell]:
            if cell in told:
                return None
            continue
        index = now.index(cell)
        worth[index] = 0
        if seen[cell] > view.WALL and cell not in told:
            if view.NAMES[seen[cell]].endswith("door"):
                return None
            cells[index] = seen[cell] = view.EMPTY  # somebody took it: the agent
    if scene.find_barrier(bytes(seen)) != reading.barrier:
        return None
    now = dataclasses.replace(now, cells=bytes(cells))
    return Belief(rooms, now, bytes(worth))


def follow(beliefs: list[Belief], action: str, reading: Reading) -> list[Belief]:
    """The maps that explain what is read after an action.

    Where the agent stands is computed as the environment computes walks. If that
    explains nothing on any map, other ends of the walk are tried.
    """
    moves = [
        (belief, move)
        for belief in beliefs
        for move in planner.list_moves(belief.state, WINDOWS)
        if move.action == action
    ]
    expected = (
        observe(dataclasses.replace(belief, state=move.after), reading)
        for belief, move in moves
    )
    if found := [belief for belief in expected if belief]:
        return found
    others = (
        observe(dataclasses.replace(belief, state=state), reading)
        for belief, move in moves
        for state in _other_ends(belief.state, move)
    )
    return [belief for belief in others if belief]


def _other_ends(before: planner.State, move: planner.Move) -> Iterator[planner.State]:
    yield before
    for heading in range(4):
        ahead, _ = view.step_sizes(before.stride, heading)
        for at in (move.touched - ahead, move.touched):
            yield dataclasses.replace(move.after, at=at, heading=heading)


def choose(beliefs: list[Belief]) -> Belief:
    """The most central of the maps with rooms of the likeliest size."""
    alike = [b for b in beliefs if b.rooms.pitch == beliefs[0].rooms.pitch]
    x = sum(belief.rooms.x for belief in alike) / len(alike)
    y = sum(belief.rooms.y for belief in alike) / len(alike)
    return min(alike, key=lambda b: abs(b.rooms.x - x) + abs(b.rooms.y - y))
