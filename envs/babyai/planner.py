"""Breadth-first search over macro actions in a grid that is known or believed."""

import collections
import dataclasses
import functools
from collections.abc import Collection, Iterator

from agentrl.envs.babyai import scene, view

_OPENED = {
    view.CODES[f"{color} {state} door"]: view.CODES[f"{color} open door"]
    for color in view.COLORS
    for state in ("closed", "locked")
}
_OPEN_DOORS = frozenset(_OPENED.values())
_PASSABLE = _OPEN_DOORS | {view.EMPTY}


@dataclasses.dataclass(frozen=True)
class State:
    """A grid of cell codes in rows of `stride`, and the agent in it.

    `taken` holds the cells from which a search has picked something up.
    """

    cells: bytes
    stride: int
    at: int
    heading: int
    carried: int = view.EMPTY
    taken: frozenset[int] = dataclasses.field(default=frozenset(), compare=False)

    @property
    def front(self) -> int:
        """Index of the cell that the agent faces."""
        return self.at + view.step_sizes(self.stride, self.heading)[0]

    def index(self, cell: int) -> int:
        """Index of a cell of the agent's view."""
        ahead, right = view.step_sizes(self.stride, self.heading)
        return self.at + (6 - cell // 8) * ahead + (cell % 8 - 3) * right

    def look(self) -> bytes:
        """The agent's view."""
        return view.take_view(
            self.cells, self.stride, self.at, self.heading, self.carried
        )


@dataclasses.dataclass(frozen=True)
class Move:
    """One macro action and what it leads to."""

    action: str
    macro: scene.Macro
    touched: int  # index of the macro's target; of the cell in front, if it has none
    after: State
    complete: bool  # nothing stops it on the way

    def ends_with(self, *actions: int) -> bool:
        """Whether it comes to its last low-level actions, and these are `actions`."""
        return self.complete and self.macro.suffix[-len(actions) :] == actions


@dataclasses.dataclass(frozen=True)
class Route:
    """Moves in order, from the state that was searched from."""

    moves: tuple[Move, ...]

    @property
    def end(self) -> Move:
        """The last move."""
        return self.moves[-1]


def list_moves(state: State, windows: tuple[int, ...] = view.WINDOWS) -> list[Move]:
    """All macro actions of a state, in the order of the list of actions."""
    described = scene.read_scene(state.look(), windows[state.heading])
    facing, entering, parents = _map_walks(described.free)
    moves = []
    for action, macro in described.actions.items():
        if action == scene.CHECK:
            continue
        touched, path = state.front, []
        if macro.target >= 0:
            touched = state.index(macro.target)
            landing = (entering if macro.enter else facing)[macro.target]
            path = view.trace(parents, landing)
        landed, complete = _walk(state, path)
        if complete:
            for low_level in macro.suffix:
                landed = _apply(landed, low_level)
        moves.append(Move(action, macro, touched, landed, complete))
    return moves


@functools.lru_cache(maxsize=2048)
def _map_walks(free: int) -> tuple[bytes, bytes, bytes]:
    """Where walks end, by target: facing it, and standing on it; and their parents."""
    parents = bytearray(4 * 64)
    poses = list(view.find_walks(free, parents))
    facing, entering = bytearray(65), bytearray(65)
    for pose in reversed(poses):  # the first to get there stays
        facing[view.POSE_AHEAD[pose] >> 2] = pose
        entering[pose >> 2] = pose
    return bytes(facing), bytes(entering), bytes(parents)


def _walk(state: State, path: list[int]) -> tuple[State, bool]:
    """Where a walk leads, and whether it gets there; what it cannot pass stops it."""
    at, heading, complete = state.at, state.heading, True
    for action in path:
        if action == view.FORWARD:
            ahead = at + view.step_sizes(state.stride, heading)[0]
            if state.cells[ahead] not in _PASSABLE:
                complete = False
                break
            at = ahead
        else:
            heading = (heading + (1 if action == view.RIGHT else -1)) % 4
    return dataclasses.replace(state, at=at, heading=heading), complete


def search(
    start: State,
    fetch: Collection[int],
    *,
    max_states: int,
    windows: tuple[int, ...] = view.WINDOWS,
    avoid: Collection[str] = (),
) -> Iterator[Route]:
    """Yields routes from `start`, short ones first, one for each move that is tried.

    Args:
      start: where to search from.
      fetch: cells of the objects that may be picked up on the way.
      max_states: how many states to expand at most.
      windows: cells that walks may cross, by heading.
      avoid: actions not to begin with.
    """
    known = {_make_key(start)}
    queue: collections.deque[tuple[State, tuple[Move, ...]]] = collections.deque()
    queue.append((start, ()))
    for _ in range(max_states):
        if not queue:
            return
        state, before = queue.popleft()
        for move in list_moves(state, windows):
            if not before and move.action in avoid:
                continue
            route = Route((*before, move))
            yield route
            if move.ends_with(view.PICKUP) and move.touched not in fetch:
                continue
            key = _make_key(move.after)
            if key not in known:
                known.add(key)
                queue.append((move.after, route.moves))


def _make_key(state: State) -> tuple[object, ...]:
    """States with one key need not be told apart.

    Whoever needs a door open opens it, and where a thing was dropped matters little.
    """
    return state.at, state.heading, state.carried, state.taken


_AJAR = bytes(_OPENED.get(code, code) for code in range(256))


def open_door(code: int) -> int:
    """The code of a door, once open; other codes stay."""
    return _AJAR[code]


def _apply(state: State, action: int) -> State:
    """One low-level action, by minigrid's rules."""
    if action == view.LEFT:
        return dataclasses.replace(state, heading=(state.heading - 1) % 4)
    if action == view.RIGHT:
        return dataclasses.replace(state, heading=(state.heading + 1) % 4)
    front, code = state.front, state.cells[state.front]
    if action == view.FORWARD:
        return dataclasses.replace(state, at=front) if code in _PASSABLE else state
    if action == view.TOGGLE:
        return _put(state, open_door(code), state.carried)
    if action == view.PICKUP:
        taken = dataclasses.replace(state, taken=state.taken | {front})
        return _put(taken, view.EMPTY, code)
    if code == view.EMPTY:
        return _put(state, state.carried, view.EMPTY)
    return state


def _put(state: State, code: int, carried: int) -> State:
    cells = bytearray(state.cells)
    cells[state.front] = code
    return dataclasses.replace(state, cells=bytes(cells), carried=carried)


def list_keys(state: State) -> set[int]:
    """Cells of the keys that open the locked doors of a grid."""
    codes = {
        view.CODES[f"{color} key"]
        for color in view.COLORS
        if view.CODES[f"{color} locked door"] in state.cells
    }
    return {index for index, code in enumerate(state.cells) if code in codes}


def list_objects(state: State) -> set[int]:
    """Cells of the objects that can be picked up."""
    return {index for index, code in enumerate(state.cells) if _is_object(code)}


def list_blockers(state: State) -> set[int]:
    """Cells of the objects that lie right before a door."""
    doors = [i for i, code in enumerate(state.cells) if _AJAR[code] in _OPEN_DOORS]
    around = (1, -1, state.stride, -state.stride)
    near = {door + step for door in doors for step in around}
    return {index for index in near if _is_object(state.cells[index])}


def _is_object(code: int) -> bool:
    return code > view.WALL and bool(view.BLOCKS_PATH[code])
