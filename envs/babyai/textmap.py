"""A map drawn from observations alone."""

import dataclasses
import functools
import re
from collections.abc import Iterator

from agentrl.envs.babyai import goals, planner, scene, view

_THING = re.compile(
    r"There is a (\w+ (?:open |closed |locked )?\w+) (\d+) "
    r"(?:right in front of you (\d+) steps away"
    r"|(\d+) steps in front of you and (\d+) steps to your (left|right))"
)
_BARRIER = re.compile(r"You are facing a (\w+) (\d+) steps away")
_CARRIED = re.compile(r"You are carrying a (\w+ \w+)")
_SIGHTED = "The room has walls around you."

_STRIDE = 64
_PITCHES = (7, 6, 4, 3, 5, 19)  # of walls, in minigrid's rooms; likely ones first
START = planner.State(b"", _STRIDE, 32 * _STRIDE + 32, heading=3)  # on any map
_INSIDE, _WALL = 4, 4  # worth of seeing a cell for the first time
# The true heading is unknown, and with it in which of the four windows walks are found.
WINDOWS = (view.WINDOWS[3],) * 4
_ROOMS_ACROSS = {19: 1, 3: 1, 4: 2}  # by pitch; 3 with the others


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
    unseen: bytes  # 1 where a cell has not been seen

    def weigh(self, near: int | None) -> bytes:
        """What seeing each cell would be worth.

        Args:
          near: a cell, if only its room counts.

        Returns:
          uint8 for each cell. Unseen cells inside a room may hold anything. Unseen
          cells of a wall may hold the one door to the room behind it, which matters
          if that is unknown.
        """
        rooms = self._possible_rooms() if near is None else [self.rooms.room_of(near)]
        unseen = {
            room: [index for index in self._cells_of(room) if self.unseen[index]]
            for room in rooms
        }
        worth = bytearray(len(self.unseen))
        for room, cells in unseen.items():
            for index in cells:
                worth[index] = _INSIDE
            for other in ((room[0] + 1, room[1]), (room[0], room[1] + 1)):
                most = max(len(cells), len(unseen.get(other, ())))
                if other in unseen and most > (self.rooms.pitch - 1) ** 2 // 2:
                    for index in self._doorless_wall(room, other):
                        worth[index] = _WALL * self.unseen[index]
        return bytes(worth)

    def _possible_rooms(self) -> list[tuple[int, int]]:
        """Rooms that can exist beside those that are known to."""
        across = _ROOMS_ACROSS.get(self.rooms.pitch, 3)
        known = {self.rooms.room_of(self.state.at)}
        for index in range(len(self.unseen)):
            if not self.unseen[index] and self.rooms.count_walls(index) == 0:
                known.add(self.rooms.room_of(index))
        columns, rows = ([room[axis] for room in known] for axis in (0, 1))
        return [
            (x, y)
            for x in range(max(columns) - across + 1, min(columns) + across)
            for y in range(max(rows) - across + 1, min(rows) + across)
        ]

    def _cells_of(self, room: tuple[int, int]) -> list[int]:
        left, top = self.rooms.corner_of(room)
        inner = range(1, self.rooms.pitch)
        return [(top + y) * _STRIDE + left + x for y in inner for x in inner]

    def _doorless_wall(
        self, first: tuple[int, int], second: tuple[int, int]
    ) -> list[int]:
        """Cells of the wall between two rooms; none if its door is known."""
        left, top = self.rooms.corner_of(second)
        step = _STRIDE if first[1] == second[1] else 1
        wall = [top * _STRIDE + left + n * step for n in range(1, self.rooms.pitch)]
        whole = all(self.state.cells[index] == view.WALL for index in wall)
        return wall if whole else []


def gain(worth: bytes, state: planner.State) -> int:
    """The worth of what is seen from `state`."""
    seen = state.look()
    return sum(worth[state.index(cell)] for cell in view.SCAN if seen[cell])


def imagine(reading: Reading) -> list[Belief]:
    """All maps that explain a first observation."""
    beliefs = (
        Belief(
            goals.Rooms(_STRIDE, pitch, 32 + x, 32 + y),
            dataclasses.replace(START, cells=_draw_walls(pitch, x, y)),
            b"\1" * _STRIDE**2,
        )
        for pitch in _PITCHES
        for y in range(1, pitch)
        for x in range(1, pitch)
    )
    return [drawn for belief in beliefs if (drawn := observe(belief, reading))]


@functools.cache
def _draw_walls(pitch: int, x: int, y: int) -> bytes:
    """Walls all over the map, one `x` columns right and one `y` rows below."""
    lines = (bytes((view.EMPTY, view.WALL)), bytes((view.WALL, view.WALL)))
    across = [(column - 32 - x) % pitch == 0 for column in range(_STRIDE)]
    rows = [bytes(line[wall] for wall in across) for line in lines]
    return b"".join(rows[(row - 32 - y) % pitch == 0] for row in range(_STRIDE))


def observe(belief: Belief, reading: Reading) -> Belief | None:
    """Draws what is read into a map; None if the map cannot explain it."""
    state, rooms = belief.state, belief.rooms
    cells, unseen = bytearray(state.cells), bytearray(belief.unseen)
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
        unseen[index] = 0
        if seen[cell] > view.WALL and cell not in told:
            if view.NAMES[seen[cell]].endswith("door"):
                return None
            cells[index] = seen[cell] = view.EMPTY  # somebody took it: the agent
    if scene.find_barrier(bytes(seen)) != reading.barrier:
        return None
    now = dataclasses.replace(now, cells=bytes(cells))
    return Belief(rooms, now, bytes(unseen))


def follow(
    beliefs: list[Belief], action: str, reading: Reading
) -> tuple[list[Belief], bool]:
    """The maps that explain what is read after an action.

    Returns:
      The maps, and whether the action did as expected on some map. If it did on none,
      other ends of the walk are tried on all.
    """
    moves = [
        (belief, move)
        for belief in beliefs
        for move in planner.list_moves(belief.state, WINDOWS)
        if move.action == action
    ]
    expected = [(belief, move.after) for belief, move in moves]
    if found := _observe_all(expected, reading):
        return found, True
    others = [
        (belief, state)
        for belief, move in moves
        for state in _other_ends(belief.state, move)
    ]
    return _observe_all(others, reading), False


def _observe_all(
    ends: list[tuple[Belief, planner.State]], reading: Reading
) -> list[Belief]:
    """The maps that are left, each once for every place of the agent on it."""
    found = {}
    for belief, state in ends:
        drawn = observe(dataclasses.replace(belief, state=state), reading)
        if drawn:
            found.setdefault((drawn.rooms, state.at, state.heading), drawn)
    return list(found.values())


def _other_ends(before: planner.State, move: planner.Move) -> Iterator[planner.State]:
    for heading in range(4):
        ahead, _ = view.step_sizes(before.stride, heading)
        for at in (before.at, move.touched - ahead, move.touched):
            yield dataclasses.replace(before, at=at, heading=heading)
            yield dataclasses.replace(move.after, at=at, heading=heading)


def choose(beliefs: list[Belief]) -> Belief:
    """The most central of the maps with rooms of the likeliest size."""
    alike = [b for b in beliefs if b.rooms.pitch == beliefs[0].rooms.pitch]
    x = sum(belief.rooms.x for belief in alike) / len(alike)
    y = sum(belief.rooms.y for belief in alike) / len(alike)
    return min(alike, key=lambda b: abs(b.rooms.x - x) + abs(b.rooms.y - y))
