"""Real minigrid worlds, stepped without their image observation."""

import contextlib
import copy
import functools
import io
from typing import Any

from envs.babyai import view

_MARGIN = 7  # cells of wall around the grid, so that every view lies inside


class World:
    """One BabyAI level in play.

    minigrid generates the world and applies the rules; the grid is mirrored as one byte
    a cell, from which the view is cut.
    """

    def __init__(self, level: str, seed: int):
        self.env = copy.copy(_load_prototype(level))
        self.env.reset(seed=seed)
        width, height, cells = self.env.width, self.env.height, self.env.grid.grid
        self._stride = width + 2 * _MARGIN
        self._cells = bytearray([view.WALL] * (self._stride * (height + 2 * _MARGIN)))
        for row in range(height):
            start = self._index(0, row)
            self._cells[start : start + width] = bytes(
                map(_encode, cells[row * width : (row + 1) * width])
            )

    @property
    def mission(self) -> str:
        """What is to be done, in BabyAI's language."""
        return self.env.mission

    @property
    def heading(self) -> int:
        """Where the agent looks: 0 right, 1 down, 2 left, 3 up."""
        return int(self.env.agent_dir)

    @property
    def carried(self) -> int:
        """Code of the object in the agent's hands, or `view.EMPTY`."""
        return _encode(self.env.carrying)

    def look(self) -> bytes:
        """The agent's view; see `envs.babyai.view`."""
        x, y = self.env.agent_pos
        ahead, right = self._axes()
        far = self._index(int(x), int(y)) + 6 * ahead - 3 * right
        rows = [
            bytes(self._cells[corner : corner + 7 * right : right])
            for corner in range(far, far - 7 * ahead, -ahead)
        ]
        return view.make_view(rows, self.carried)

    def act(self, action: int) -> tuple[float, bool, bool]:
        """Takes one low-level action; returns (reward, terminated, truncated)."""
        _, reward, terminated, truncated, _ = self.env.step(action)
        if action > view.FORWARD:
            x, y = map(int, self.env.front_pos)
            self._cells[self._index(x, y)] = _encode(self.env.grid.get(x, y))
        return float(reward), terminated, truncated

    def _index(self, x: int, y: int) -> int:
        return (y + _MARGIN) * self._stride + x + _MARGIN

    def _axes(self) -> tuple[int, int]:
        """Steps between cells ahead and to the right, in the mirrored grid."""
        stride = self._stride
        return ((1, stride), (stride, -1), (-1, -stride), (-stride, 1))[self.heading]


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
