"""Real minigrid worlds, stepped without their image observation."""

import contextlib
import functools
import io
import types
from typing import Any

from agentrl.envs import base
from agentrl.envs.babyai import levels, view

_Views = dict[int, bytes]  # by 4 * the index of the agent's cell + its heading
MARGIN = 7  # cells of wall around the grid, so that every view lies inside


class World:
    """One BabyAI level in play.

    minigrid generates the world and applies the rules; `cells` mirrors its grid as one
    code a cell, in rows of `stride`, from which the view is cut.
    """

    def __init__(self, level: str, seed: int):
        untouched, self.cells, self._views = _generate(level, seed)
        self.env = _load_generation().copy_world(untouched)
        self.stride = self.env.width + 2 * MARGIN

    @property
    def mission(self) -> str:
        """What is to be done, in BabyAI's language."""
        return self.env.mission

    @property
    def at(self) -> int:
        """Index of the agent's cell."""
        return self.index(*self.env.agent_pos)

    @property
    def heading(self) -> int:
        """Where the agent looks: 0 right, 1 down, 2 left, 3 up."""
        return self.env.agent_dir

    @property
    def carried(self) -> int:
        """Code of the object in the agent's hands, or `view.EMPTY`."""
        return _encode(self.env.carrying)

    def index(self, x: int, y: int) -> int:
        """Index into `cells` of a cell in minigrid's coordinates."""
        return (y + MARGIN) * self.stride + x + MARGIN

    def look(self) -> bytes:
        """The agent's view; see `agentrl.envs.babyai.view`."""
        at, heading = self.at, self.heading
        pose = 4 * at + heading
        if (seen := self._views.get(pose)) is None:
            seen = view.take_view(self.cells, self.stride, at, heading, self.carried)
            self._views[pose] = seen
        return seen

    def act(self, action: int) -> tuple[float, bool, bool]:
        """Takes one low-level action; returns (reward, terminated, truncated)."""
        _, reward, terminated, truncated, _ = self.env.step(action)
        if action > view.FORWARD:
            x, y = self.env.front_pos
            at, code = self.index(x, y), _encode(self.env.grid.get(x, y))
            self.cells = self.cells[:at] + bytes((code,)) + self.cells[at + 1 :]
            self._views = {}  # the shared ones are of the untouched world
        return float(reward), terminated, truncated


def fingerprint(item_id: str, config: base.EnvConfig) -> str:
    """What makes two tasks the same: the mission, the world, and where one starts."""
    del config  # both profiles play the same worlds
    index = base.parse_item_id(levels.NAME, item_id)
    world = World(levels.level_of(index), levels.seed_of(index))
    contents = [
        (at, _encode(cell.contains))
        for at, cell in enumerate(world.env.grid.grid)
        if cell is not None and cell.type == "box"
    ]
    return base.make_fingerprint(
        world.mission,
        world.stride,
        bytes(world.cells),
        contents,
        world.at,
        world.heading,
        world.carried,
    )


def _encode(cell: Any) -> int:
    if cell is None:
        return view.EMPTY
    if cell.type == "wall":
        return view.WALL
    if cell.type == "door":
        state = "locked" if cell.is_locked else "open" if cell.is_open else "closed"
        return view.CODES[f"{cell.color} {state} door"]
    return view.CODES[f"{cell.color} {cell.type}"]


@functools.lru_cache(maxsize=256)  # a few MB; a group plays one world
def _generate(level: str, seed: int) -> tuple[Any, bytes, _Views]:
    """Generates a world.

    Returns:
      The environment, which nobody plays: copies are played; the mirrored grid; and
      room for views of it, shared by all who play it.
    """
    env = _load_generation().generate(level, seed)
    width, cells = env.width, bytearray(_mirror_walls(level))
    for at in env.grid.touched:
        y, x = divmod(at, width)
        index = (y + MARGIN) * (width + 2 * MARGIN) + x + MARGIN
        cells[index] = _encode(env.grid.grid[at])
    return env, bytes(cells), {}


@functools.cache
def _mirror_walls(level: str) -> bytes:
    """The cell codes of a level's empty grid, within a margin of wall."""
    env = _load_generation().load_prototype(level)
    width, codes = env.width, bytes(map(_encode, env.draw_walls()[0]))
    above = bytes((view.WALL,)) * (MARGIN * (width + 2 * MARGIN))
    side = bytes((view.WALL,)) * MARGIN
    rows = (codes[at : at + width] for at in range(0, len(codes), width))
    return above + b"".join(side + row + side for row in rows) + above


@functools.cache
def _load_generation() -> types.ModuleType:
    """The module that needs minigrid, imported when a first world is made."""
    with contextlib.redirect_stdout(io.StringIO()):  # pygame greets on import
        from agentrl.envs.babyai import generation
    return generation
