"""Real minigrid worlds, stepped without their image observation."""

import contextlib
import copy
import functools
import io
from typing import Any

from envs.babyai import view

MARGIN = 7  # cells of wall around the grid, so that every view lies inside


class World:
    """One BabyAI level in play.

    minigrid generates the world and applies the rules; `cells` mirrors its grid as one
    code a cell, in rows of `stride`, from which the view is cut.
    """

    def __init__(self, level: str, seed: int):
        self.env = copy.copy(_load_prototype(level))
        self.env.reset(seed=seed)
        width, height, cells = self.env.width, self.env.height, self.env.grid.grid
        self.stride = width + 2 * MARGIN
        self.cells = bytearray([view.WALL] * (self.stride * (height + 2 * MARGIN)))
        for row in range(height):
            start = self.index(0, row)
            codes = map(_encode, cells[row * width : (row + 1) * width])
            self.cells[start : start + width] = bytes(codes)

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
        return int(self.env.agent_dir)

    @property
    def carried(self) -> int:
        """Code of the object in the agent's hands, or `view.EMPTY`."""
        return _encode(self.env.carrying)

    def index(self, x: int, y: int) -> int:
        """Index into `cells` of a cell in minigrid's coordinates."""
        return (int(y) + MARGIN) * self.stride + int(x) + MARGIN

    def look(self) -> bytes:
        """The agent's view; see `envs.babyai.view`."""
        return view.take_view(
            self.cells, self.stride, self.at, self.heading, self.carried
        )

    def act(self, action: int) -> tuple[float, bool, bool]:
        """Takes one low-level action; returns (reward, terminated, truncated)."""
        _, reward, terminated, truncated, _ = self.env.step(action)
        if action > view.FORWARD:
            x, y = self.env.front_pos
            self.cells[self.index(x, y)] = _encode(self.env.grid.get(x, y))
        return float(reward), terminated, truncated


def _encode(cell: Any) -> int:
    if cell is None:
        return view.EMPTY
    if cell.type == "wall":
        return view.WALL
    if cell.type == "door":
        state = "locked" if cell.is_locked else "open" if cell.is_open else "closed"
        return view.CODES[f"{cell.color} {state} door"]
    return view.CODES[f"{cell.color} {cell.type}"]


@functools.cache
def _load_prototype(level: str) -> Any:
    """An environment of `level` that has never been reset; copies of it are cheap."""
    with contextlib.redirect_stdout(io.StringIO()):  # pygame greets on import
        import gymnasium
        import minigrid.envs.babyai.core.roomgrid_level as generator  # registers levels
    # Rejected worlds are announced by print(); this module-level name shadows it.
    setattr(generator, "print", lambda *args: None)  # noqa: B010
    env = gymnasium.make(f"BabyAI-{level}-v0", disable_env_checker=True).unwrapped
    setattr(env, "gen_obs", dict)  # noqa: B010  the image costs more than the rules
    return env
