"""minigrid's levels, made to generate the same worlds quicker, and copies of worlds.

Levels and rules stay minigrid's. What is replaced here draws the same numbers in the
same order as what it replaces. Importing this module imports minigrid and pygame.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import minigrid.envs.babyai.core.roomgrid_level as rejection  # registers the levels
import numpy as np
from gymnasium.envs import registration
from minigrid.core import constants, grid, roomgrid, world_object
from minigrid.envs.babyai.core import verifier

from agentrl.envs.babyai import view

WALL = world_object.Wall()  # the only one: nothing changes a wall
_AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # by heading
_COMPARE_DRAWS = (
    "GoToImpUnlock",
    "Unlock",
)  # with `is`, and find NumPy's never the same
_BLOCK = 64  # words drawn at a time


class Draws:
    """What a NumPy `Generator` draws, for a tenth of the time that its calls take.

    Bounded integers are Lemire's, from the lower and then the upper half of each word.
    """

    def __init__(self, source: np.random.BitGenerator):
        self._source = source
        self._halves: list[int] = []  # of words, the next one last

    def integers(self, low: int, high: int) -> int:
        """A number from `low` to `high` - 1."""
        count = high - low
        if count == 1:
            return low  # nothing is drawn
        while True:
            try:
                product = self._halves.pop() * count
            except IndexError:
                self._draw_block()
                continue
            rest = product & 0xFFFFFFFF
            if rest >= count or rest >= 2**32 % count:
                return low + (product >> 32)

    def uniform(self, low: float, high: float) -> float:
        """A number between `low` and `high`; a half that is left over stays the next."""
        if len(self._halves) < 3:
            self._draw_block()
        last = -1 - len(self._halves) % 2
        lower, upper = self._halves.pop(last), self._halves.pop(last)
        return low + (high - low) * ((upper << 32 | lower) >> 11) * 2.0**-53

    def _draw_block(self) -> None:
        words = self._source.random_raw(_BLOCK).astype("<u8")
        self._halves[:0] = words.view("<u4")[::-1].tolist()


class _Number(int):
    """A number that `is` no other, as NumPy's are."""


class _DistinctDraws(Draws):
    def integers(self, low: int, high: int) -> int:
        return _Number(super().integers(low, high))


class _Grid(grid.Grid):
    """A grid that knows which cells may differ from those of its empty rooms."""

    def __init__(self, cells: list[Any], width: int, height: int):
        self.width, self.height = width, height
        self.grid = cells
        self.touched: set[int] = set()

    def set(self, i: int, j: int, v: Any) -> None:
        """Puts an object, or nothing, in a cell."""
        at = j * self.width + i
        self.grid[at] = v
        self.touched.add(at)

    def list_objects(self) -> list[tuple[int, Any]]:
        """All objects but walls, each with the index of its cell."""
        cells = self.grid
        return [(at, cells[at]) for at in self.touched if cells[at] is not None]


class _Desc(verifier.ObjDesc):
    """Describes objects, and finds them without a look at each cell."""

    def find_matching_objs(
        self, env: Any, use_location: bool = True
    ) -> tuple[list[Any], list[tuple[int, int]]]:
        """As upstream's, in any order; the lists are new ones, never changed later."""
        known, width = env.grid.list_objects(), env.grid.width
        if not use_location:
            tracked = set(map(id, self.obj_set))
            found = [(at, cell) for at, cell in known if id(cell) in tracked]
        else:
            if self.type is None:  # walls, too, are grey
                known = [(at, cell) for at, cell in enumerate(env.grid.grid) if cell]
            found = [
                (at, cell)
                for at, cell in known
                if (self.type is None or cell.type == self.type)
                and (self.color is None or cell.color == self.color)
                and (self.loc is None or self._is_at_loc(env, at % width, at // width))
            ]
            self.obj_set = [cell for _, cell in found]
        self.obj_poss = [(at % width, at // width) for at, _ in found]
        return self.obj_set, self.obj_poss

    def _is_at_loc(self, env: Any, x: int, y: int) -> bool:
        """Whether a cell is in the agent's room, and on the side of it that is meant."""
        if not env.room_from_pos(*env.agent_pos).pos_inside(x, y):
            return False
        x, y = x - env.agent_pos[0], y - env.agent_pos[1]
        right, down = _AHEAD[env.agent_dir]
        ahead, aside = x * right + y * down, y * right - x * down
        sides = {"front": ahead, "behind": -ahead, "right": aside, "left": -aside}
        return sides[str(self.loc)] > 0


class _GoTo(verifier.GoToInstr):
    """Compares places without making arrays of them."""

    def verify_action(self, action: int) -> str:
        """Whether the agent faces what it has to go to."""
        del action
        reached = self.env.front_pos in self.desc.obj_poss
        return "success" if reached else "continue"


_PARTS = ("instr_a", "instr_b")
_DESCS = ("desc", "desc_move", "desc_fixed")


def _quicken(instruction: Any) -> None:
    """Puts the quicker classes in the place of a mission's own."""
    for name in _PARTS:
        if part := getattr(instruction, name, None):
            _quicken(part)
    for name in _DESCS:
        if desc := getattr(instruction, name, None):
            desc.__class__ = _Desc
    if type(instruction) is verifier.GoToInstr:
        instruction.__class__ = _GoTo


@functools.cache
def _draw_walls(size: int, rows: int, columns: int) -> tuple[tuple[Any, ...], int]:
    """An empty grid of square rooms, `size` cells across with their walls.

    Returns:
      The cells, and the set of those that are free.
    """
    pitch = size - 1
    free = [
        bool(x % pitch and y % pitch)
        for y in range(rows * pitch + 1)
        for x in range(columns * pitch + 1)
    ]
    cells = tuple(None if inside else WALL for inside in free)
    return cells, sum(1 << at for at, inside in enumerate(free) if inside)


class _Quick:
    """Replaces methods of a level by quicker ones; worlds and rules stay the same."""

    make_draws: type[Draws] = Draws

    def gen_obs(self) -> dict[str, Any]:
        """No observation: nobody looks at the image, which costs more than the rules."""
        return {}

    @property
    def front_pos(self: Any) -> tuple[int, int]:
        """The cell that the agent faces."""
        (x, y), (right, down) = self.agent_pos, _AHEAD[self.agent_dir]
        return x + right, y + down

    def step(self: Any, action: int) -> tuple[dict[str, Any], float, bool, bool, Any]:
        """Turns and walks by itself; the rest is left to upstream."""
        if action > view.FORWARD:
            return super().step(action)  # type: ignore[misc]
        self.step_count += 1
        if action == view.FORWARD:
            x, y = self.front_pos
            cell = self.grid.grid[y * self.width + x]
            if cell is None or cell.can_overlap():
                self.agent_pos = x, y
        else:
            self.agent_dir = (self.agent_dir + (1 if action == view.RIGHT else -1)) % 4
        status = self.instrs.verify(action)
        reward = self._reward() if status == "success" else 0
        terminated = status in ("success", "failure")
        return {}, reward, terminated, self.step_count >= self.max_steps, {}

    def _gen_grid(self: Any, width: int, height: int) -> None:
        self._np_random = self.make_draws(self.np_random.bit_generator)
        while True:
            try:
                self._build_rooms(width, height)
                self.gen_mission()
                _quicken(self.instrs)
                self.validate_instrs(self.instrs)
                break
            except (RecursionError, rejection.RejectSampling):
                continue
        self.surface = self.mission = self.instrs.surface(self)

    def draw_walls(self: Any) -> tuple[tuple[Any, ...], int]:
        """The cells of the grid of empty rooms, and the set of those that are free."""
        return _draw_walls(self.room_size, self.num_rows, self.num_cols)

    def _build_rooms(self: Any, width: int, height: int) -> None:
        """Walls, rooms and the places of doors between them."""
        rows, columns, size = self.num_rows, self.num_cols, self.room_size
        walls, _ = self.draw_walls()
        self.grid = _Grid(list(walls), width, height)
        pitch, draw = size - 1, self._np_random.integers
        rooms = self.room_grid = [
            [
                roomgrid.Room((i * pitch, j * pitch), (size, size))
                for i in range(columns)
            ]
            for j in range(rows)
        ]
        for j, row in enumerate(rooms):
            for i, room in enumerate(row):
                x, y = room.top
                if i < columns - 1:
                    room.neighbors[0] = row[i + 1]
                    room.door_pos[0] = x + pitch, draw(y + 1, y + pitch)
                if j < rows - 1:
                    room.neighbors[1] = rooms[j + 1][i]
                    room.door_pos[1] = draw(x + 1, x + pitch), y + pitch
                if i > 0:
                    room.neighbors[2] = row[i - 1]
                    room.door_pos[2] = row[i - 1].door_pos[0]
                if j > 0:
                    room.neighbors[3] = rooms[j - 1][i]
                    room.door_pos[3] = rooms[j - 1][i].door_pos[1]
        self.agent_pos = tuple(n // 2 * pitch + size // 2 for n in (columns, rows))
        self.agent_dir = 0

    def _rand_int(self: Any, low: int, high: int) -> int:
        return self._np_random.integers(low, high)

    def _rand_elem(self: Any, choices: Sequence[Any]) -> Any:
        return choices[self._np_random.integers(0, len(choices))]

    def place_obj(
        self: Any,
        obj: Any,
        top: tuple[int, int] = (0, 0),
        size: tuple[int, int] = (0, 0),
        reject_fn: Callable[[Any, tuple[int, int]], bool] | None = None,
        max_tries: float = math.inf,
    ) -> tuple[int, int]:
        """Puts an object on a random free cell of the room at `top`."""
        (left, upper), (across, down) = top, size
        cells, width, draw = self.grid.grid, self.grid.width, self._np_random.integers
        tries = 0
        while tries <= max_tries:
            tries += 1
            x, y = pos = draw(left, left + across), draw(upper, upper + down)
            if cells[y * width + x] is not None or pos == self.agent_pos:
                continue
            if reject_fn and reject_fn(self, pos):
                continue
            if obj is not None:
                self.grid.set(x, y, obj)
                obj.init_pos = obj.cur_pos = pos
            return pos
        raise RecursionError("found no place for an object")

    def connect_all(
        self: Any,
        door_colors: Sequence[str] = constants.COLOR_NAMES,
        max_itrs: int = 5000,
    ) -> list[Any]:
        """Adds doors until all rooms can be reached; returns them."""
        start = self.room_from_pos(*self.agent_pos)
        draw, added, connected = self._np_random.integers, [], None
        for _ in range(max_itrs + 1):
            if connected is None:
                connected = len(_find_reach(start)) == self.num_rows * self.num_cols
            if connected:
                return added
            i, j, k = draw(0, self.num_cols), draw(0, self.num_rows), draw(0, 4)
            room = self.room_grid[j][i]
            if not room.door_pos[k] or room.doors[k]:
                continue
            if room.locked or room.neighbors[k].locked:
                continue
            door, _ = self.add_door(i, j, k, self._rand_elem(door_colors), False)
            added.append(door)
            connected = None  # look again
        raise RecursionError("could not connect all rooms")

    def rand_obj(
        self: Any,
        types: Sequence[str] = verifier.OBJ_TYPES,
        colors: Sequence[str] = constants.COLOR_NAMES,
        max_tries: int = 100,
    ) -> verifier.ObjDesc:
        """Describes an object; on some levels not one in the locked room."""
        for _ in range(max_tries + 1):
            color, kind = self._rand_elem([None, *colors]), self._rand_elem(types)
            with_loc = self.locations and self._rand_bool()
            loc = self._rand_elem(verifier.LOC_NAMES) if with_loc else None
            desc = _Desc(kind, color, loc)
            _, places = desc.find_matching_objs(self)
            locked = None if self.implicit_unlock else self.locked_room
            if any(locked is None or not locked.pos_inside(*place) for place in places):
                return desc
        raise RecursionError("found no object to describe")

    def check_objs_reachable(self: Any, raise_exc: bool = True) -> bool:
        """Whether the agent can come to each object; raises or returns, as upstream's."""
        cells, width = self.grid.grid, self.grid.width
        # A set of cells is an integer with one bit per cell.
        _, free = self.draw_walls()
        objects = 0
        for at in self.grid.touched:
            cell, bit = cells[at], 1 << at
            passable = cell is None or cell.type == "door"
            free = free | bit if passable else free & ~bit
            if cell is not None:
                objects |= bit
        x, y = self.agent_pos
        reached, grown = 0, 1 << y * width + x
        while grown != reached:
            reached = grown
            inner = reached & free  # so not in the wall around the grid
            grown |= inner << 1 | inner >> 1 | inner << width | inner >> width
        if not objects & ~reached:
            return True
        if raise_exc:
            raise rejection.RejectSampling("unreachable object")
        return False


def _find_reach(start: Any) -> set[Any]:
    """The rooms that have a way to `start` by doors and missing walls."""
    reach, stack = {start}, [start]
    while stack:
        room = stack.pop()
        for door, neighbor in zip(room.doors, room.neighbors, strict=True):
            if door and neighbor not in reach:
                reach.add(neighbor)
                stack.append(neighbor)
    return reach


class _QuickWithDistinctDraws(_Quick):
    make_draws = _DistinctDraws


@functools.cache
def load_prototype(level: str) -> Any:
    """An environment of `level` that has never been reset; copies of it are cheap."""
    spec = registration.spec(f"BabyAI-{level}-v0")
    upstream: Any = registration.load_env_creator(str(spec.entry_point))
    quick = _QuickWithDistinctDraws if level in _COMPARE_DRAWS else _Quick
    return type(level, (quick, upstream), {})(**spec.kwargs)


def generate(level: str, seed: int) -> Any:
    """An environment with a new world."""
    env = _copy(load_prototype(level))
    env.reset(seed=seed)
    env._np_random = env.room_grid = None  # no step needs them
    return env


def _copy(something: Any) -> Any:
    """A copy that shares all attributes; quicker than `copy.copy`."""
    twin = object.__new__(type(something))
    twin.__dict__.update(something.__dict__)
    return twin


def copy_world(env: Any) -> Any:
    """A copy of an environment to be played: what steps read or change is its own."""
    twin, copies = _copy(env), {}
    twin.grid = _copy(env.grid)
    twin.grid.grid, twin.grid.touched = env.grid.grid.copy(), env.grid.touched.copy()
    for at, thing in env.grid.list_objects():
        twin.grid.grid[at] = _copy_object(thing, copies)
    if env.carrying:
        twin.carrying = _copy_object(env.carrying, copies)
    twin.instrs = _copy_mission(env.instrs, twin, copies)
    return twin


def _copy_object(thing: Any, copies: dict[int, Any]) -> Any:
    """Copies an object with what it contains, and notes the copy under the id."""
    twin = copies[id(thing)] = _copy(thing)
    if thing.contains:
        twin.contains = _copy_object(thing.contains, copies)
    return twin


def _copy_mission(instruction: Any, env: Any, copies: dict[int, Any]) -> Any:
    """Copies a mission so that it tells of the objects in `copies`."""
    twin = _copy(instruction)
    twin.env = env
    for name in _PARTS:
        if part := getattr(instruction, name, None):
            setattr(twin, name, _copy_mission(part, env, copies))
    for name in _DESCS:
        if desc := getattr(instruction, name, None):
            desc = _copy(desc)
            desc.obj_set = [copies.get(id(thing), thing) for thing in desc.obj_set]
            setattr(twin, name, desc)
    return twin
