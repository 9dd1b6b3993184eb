"""Real minigrid worlds, stepped without their image observation."""

import contextlib
import copy
import functools
import io
import pickle
from typing import Any

from agentrl.envs import base
from agentrl.envs.babyai import levels, view

_Views = dict[tuple[int, int], bytes]  # by the agent's cell and heading
MARGIN = 7  # cells of wall around the grid, so that every view lies inside


class World:
    """One BabyAI level in play.

    minigrid generates the world and applies the rules; `cells` mirrors its grid as one
    code a cell, in rows of `stride`, from which the view is cut.
    """

    def __init__(self, level: str, seed: int):
        self.env = copy.copy(_load_prototype(level))
        frozen, cells, self._views = _generate(level, seed)
        vars(self.env).update(_thaw(frozen, self.env))
        self.stride = self.env.width + 2 * MARGIN
        self.cells = bytearray(cells)

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
        """The agent's view; see `agentrl.envs.babyai.view`."""
        pose = self.at, self.heading
        if pose not in self._views:
            self._views[pose] = view.take_view(
                self.cells, self.stride, *pose, self.carried
            )
        return self._views[pose]

    def act(self, action: int) -> tuple[float, bool, bool]:
        """Takes one low-level action; returns (reward, terminated, truncated)."""
        _, reward, terminated, truncated, _ = self.env.step(action)
        if action > view.FORWARD:
            x, y = self.env.front_pos
            self.cells[self.index(x, y)] = _encode(self.env.grid.get(x, y))
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
def _generate(level: str, seed: int) -> tuple[bytes, bytes, _Views]:
    """Generates a world.

    Returns:
      What the reset has set on the environment, pickled; the mirrored grid; and room
      for views of it, shared by all who play it.
    """
    prototype = _load_prototype(level)
    env = copy.copy(prototype)
    env.reset(seed=seed)
    wall = next(cell for cell in env.grid.grid if cell and cell.type == "wall")
    env.grid.grid = [
        wall if cell and cell.type == "wall" else cell for cell in env.grid.grid
    ]
    before = vars(prototype)
    fields = {
        name: value
        for name, value in vars(env).items()
        if name not in _RANDOMNESS and before.get(name, _ABSENT) is not value
    }
    frozen = io.BytesIO()
    pickler = pickle.Pickler(frozen, protocol=5)
    pickler.dispatch_table = {type(env): lambda env: (_environment, ())}
    pickler.dump(fields)
    return frozen.getvalue(), _mirror(env), {}


def _mirror(env: Any) -> bytes:
    """The cell codes of a grid, within a margin of wall."""
    width, codes = env.width, bytes(map(_encode, env.grid.grid))
    above = bytes((view.WALL,)) * (MARGIN * (width + 2 * MARGIN))
    side = bytes((view.WALL,)) * MARGIN
    rows = (codes[at : at + width] for at in range(0, len(codes), width))
    return above + b"".join(side + row + side for row in rows) + above


_RANDOMNESS = ("_np_random", "_np_random_seed")  # no step draws anything
_ABSENT = object()
_AHEAD = ((1, 0), (0, 1), (-1, 0), (0, -1))  # by heading


def _environment() -> Any:
    """Stands in a frozen world for the environment that the world is of."""
    raise AssertionError("only `_Unpickler` reads this, and puts another in its place.")


class _Unpickler(pickle.Unpickler):
    """Reads a frozen world as one of `env`."""

    env: Any = None

    def find_class(self, module_name: str, global_name: str) -> Any:
        if global_name == _environment.__name__:
            return lambda: self.env
        found = super().find_class(module_name, global_name)
        return _quicken(found) if global_name == "GoToInstr" else found


@functools.cache
def _quicken(upstream: Any) -> Any:
    """A `GoToInstr` that compares places without making arrays of them."""

    def verify_action(self: Any, action: int) -> str:
        del action
        reached = self.env.front_pos in self.desc.obj_poss
        return "success" if reached else "continue"

    return type(upstream.__name__, (upstream,), {"verify_action": verify_action})


def _thaw(frozen: bytes, env: Any) -> dict[str, Any]:
    """The fields of a generated world, with references to `env` where they need it."""
    unpickler = _Unpickler(io.BytesIO(frozen))
    unpickler.env = env
    return unpickler.load()


class _Quick:
    """Replaces methods of a level by quicker ones; worlds and rules stay the same."""

    def gen_obs(self) -> dict[str, Any]:
        """No observation: nobody looks at the image, which costs more than the rules."""
        return {}

    @property
    def front_pos(self: Any) -> tuple[int, int]:
        """The cell that the agent faces."""
        (x, y), (right, down) = self.agent_pos, _AHEAD[self.agent_dir]
        return x + right, y + down

    def check_objs_reachable(self: Any, raise_exc: bool = True) -> bool:
        """Whether the agent can come to each object; raises or returns, as upstream's."""
        from minigrid.envs.babyai.core import roomgrid_level as generator

        width, cells = self.grid.width, self.grid.grid
        passable = [cell is None or cell.type == "door" for cell in cells]
        unseen = [True] * len(cells)
        x, y = self.agent_pos
        stack = [int(y) * width + int(x)]
        while stack:
            at = stack.pop()
            if unseen[at]:
                unseen[at] = False
                if passable[at]:  # so not in the wall around the grid
                    stack += (at + 1, at - 1, at + width, at - width)
        for cell, hidden in zip(cells, unseen, strict=True):
            if hidden and cell is not None and cell.type != "wall":
                if raise_exc:
                    raise generator.RejectSampling("unreachable object")
                return False
        return True


class _QuickDraws(_Quick):
    """For all levels but those that compare drawn numbers with `is`."""

    def _rand_int(self: Any, low: int, high: int) -> int:
        """The number that upstream draws, as an `int`: NumPy's are slow to use."""
        return int(self.np_random.integers(low, high))


_COMPARE_DRAWS = ("GoToImpUnlock", "Unlock")  # and find NumPy's never the same


@functools.cache
def _load_prototype(level: str) -> Any:
    """An environment of `level` that has never been reset; copies of it are cheap."""
    with contextlib.redirect_stdout(io.StringIO()):  # pygame greets on import
        import minigrid.envs.babyai.core.roomgrid_level as generator  # registers levels
        from gymnasium.envs import registration
    # Rejected worlds are announced by print(); this module-level name shadows it.
    setattr(generator, "print", lambda *args: None)  # noqa: B010
    spec = registration.spec(f"BabyAI-{level}-v0")
    upstream: Any = registration.load_env_creator(str(spec.entry_point))
    quick = _Quick if level in _COMPARE_DRAWS else _QuickDraws
    return type(level, (quick, upstream), {})(**spec.kwargs)
