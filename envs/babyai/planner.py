"""Breadth-first search over macro actions in a grid that is known or believed."""

import collections
import dataclasses
from collections.abc import Collection, Iterator

from envs.babyai import scene, view

_OPENED = {
    view.CODES[f"{color} {state} door"]: view.CODES[f"{color} open door"]
    for color in view.COLORS
    for state in ("closed", "locked")
}
_PASSABLE = frozenset((view.EMPTY, *_OPENED.values()))


@dataclasses.dataclass(frozen=True)
class State:
    """A grid of cell codes in rows of `stride`, and the agent in it."""

    cells: bytes
    stride: int
    at: int
    heading: int
    carried: int = view.EMPTY

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

    @property
    def last(self) -> int:
        """The low-level action that ends it; -1 if it is a walk."""
        return self.macro.suffix[-1] if self.macro.suffix else -1


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
    parents: view.Parents = {}
    facing: dict[int, view.Pose] = {}
    entering: dict[int, view.Pose] = {}
    for pose in view.find_walks(described.free, parents):
        entering.setdefault(pose[0], pose)
        facing.setdefault(view.NEIGHBOURS[pose[0]][pose[1]], pose)
    moves = []
    for action, macro in described.actions.items():
        if action == scene.CHECK:
            continue
        touched, path = state.front, []
        if macro.target >= 0:
            touched = state.index(macro.target)
            landing = (entering if macro.enter else facing)[macro.target]
            path = view.trace(parents, landing)
        moves.append(Move(action, macro, touched, _follow(state, path, macro.suffix)))
    return moves


def _follow(state: State, path: list[int], suffix: tuple[int, ...]) -> State:
    """Where low-level actions lead; a step that fails ends them."""
    at, heading = state.at, state.heading
    for action in path:
        if action == view.FORWARD:
            ahead = at + view.step_sizes(state.stride, heading)[0]
            if state.cells[ahead] not in _PASSABLE:
                return dataclasses.replace(state, at=at, heading=heading)
            at = ahead
        else:
            heading = (heading + (1 if action == view.RIGHT else -1)) % 4
    state = dataclasses.replace(state, at=at, heading=heading)
    for action in suffix:
        state = _apply(state, action)
    return state


def search(
    start: State,
    fetch: Collection[int],
    *,
    max_states: int,
    windows: tuple[int, ...] = view.WINDOWS,
) -> Iterator[Route]:
    """Yields routes from `start`, short ones first, one for each move that is tried.

    Args:
      start: where to search from.
      fetch: codes of the objects that may be picked up on the way.
      max_states: how many states to expand at most.
      windows: cells that walks may cross, by heading.
    """
    start_key = (start.at, start.heading, start.carried, start.cells.translate(_AJAR))
    known = {start_key}
    queue = collections.deque([(start, ())])
    for _ in range(max_states):
        if not queue:
            return
        state, before = queue.popleft()
        for move in list_moves(state, windows):
            route = Route((*before, move))
            yield route
            if move.last == view.PICKUP and state.cells[move.touched] not in fetch:
                continue
            after = move.after
            # A door that was opened makes no new state: whoever needs it opens it.
            key = (after.at, after.heading, after.carried, after.cells.translate(_AJAR))
            if key not in known:
                known.add(key)
                queue.append((after, route.moves))


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
        return _put(state, view.EMPTY, code)
    if code == view.EMPTY:
        return _put(state, state.carried, view.EMPTY)
    return state


def _put(state: State, code: int, carried: int) -> State:
    cells = bytearray(state.cells)
    cells[state.front] = code
    return dataclasses.replace(state, cells=bytes(cells), carried=carried)
