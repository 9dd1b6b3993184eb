"""Sokoban: push all boxes onto goals, in a small warehouse drawn with letters.

Actions: `move` and one to five directions, as in `move up, up, left`, after `Action:`; they
are walked one after the other until one is blocked. `restart` puts everything back.
Observations: the warehouse, a row a line (`#` wall, `@` you, `$` box, `.` goal, `*` box
on a goal, `+` you on a goal, space floor), and how many boxes stand on goals.
Actions are not listed unless asked for; the list then holds single steps.
Rewards: 1 when all boxes stand on goals, else 0; success and score are the same.
Ending: solving terminates; 20 turns truncate, in both profiles, which do not differ. A box
in a corner cannot be pushed out again and ends nothing: `restart` helps.

Tasks: `sokoban_<k>` has k % 3 + 1 boxes (subsets `boxes_1` to `boxes_3`); one box is easy,
more are hard. `sokoban_0` to `sokoban_1499` are for training, 300 more for the test.
Warehouses are drawn from the number: walls at random, boxes pulled away from their goals,
so that each can be solved, in at most 20 turns. No test warehouse is a training
warehouse, not even turned or mirrored: which split a warehouse may belong to depends on
a hash of its drawing, and the draw is repeated until it suits.

Data: none.
"""

import collections
import functools
import random
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from agentrl.envs import base, parsing

NAME = "sokoban"
VERSION = "sokoban-1"
NUM_TRAIN, NUM_TEST = 1500, 300
MAX_TURNS = 20
MAX_STEPS = 5  # directions in one action

Cell = tuple[int, int]  # row, column
_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_SIZES = {1: (4, 5), 2: (5, 5), 3: (5, 5)}  # floor of warehouses, by number of boxes
_WALL_SHARE = 0.18
_PULLS = 120  # tried when a warehouse is made
_MIN_STEPS = {1: 5, 2: 7, 3: 9}  # of a shortest solution, by number of boxes
_MAX_STATES = 8_000  # a warehouse that needs more to be solved is not taken
_TEST_SHARE = 0.2  # of all drawings
_MOVE = re.compile(r"move((?:,? (?:up|down|left|right)){1,5})")

_RULES = f"""\
You are in a warehouse and push boxes. Push every box onto a goal. You can push one box at \
a time, never pull, and nothing moves through walls or other boxes.
# is a wall, @ is you, $ a box, . a goal, * a box on a goal, + you on a goal.
Each turn you answer with one action:
- move DIRECTION, DIRECTION, ... with one to {MAX_STEPS} of up, down, left, right, as in \
"move up, up, left". You stop where the way is blocked.
- restart puts everything back to the start.
Answer in this form:
Thought:
your thought

Action:
move left"""


class Warehouse(NamedTuple):
    """What does not move."""

    floor: frozenset[Cell]  # cells without walls, goals included
    goals: frozenset[Cell]


class State(NamedTuple):
    """What moves."""

    player: Cell
    boxes: frozenset[Cell]


def _add(cell: Cell, step: Cell) -> Cell:
    return cell[0] + step[0], cell[1] + step[1]


def move(warehouse: Warehouse, state: State, direction: str) -> State | None:
    """The state after one step; None if the way is blocked."""
    step = _STEPS[direction]
    to = _add(state.player, step)
    if to not in warehouse.floor:
        return None
    if to not in state.boxes:
        return State(to, state.boxes)
    behind = _add(to, step)
    if behind not in warehouse.floor or behind in state.boxes:
        return None
    return State(to, state.boxes - {to} | {behind})


def solve(warehouse: Warehouse, start: State) -> list[str] | None:
    """The directions of a shortest solution; None if there is none within reason."""
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue = collections.deque([start])
    while queue:
        state = queue.popleft()
        if state.boxes == warehouse.goals:
            return _trace(came, state)
        if len(came) > _MAX_STATES:
            return None
        for direction in _STEPS:
            after = move(warehouse, state, direction)
            if after is not None and after not in came:
                came[after] = state, direction
                queue.append(after)
    return None


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    directions = []
    while (before := came[state]) is not None:
        state, direction = before
        directions.append(direction)
    return directions[::-1]


def draw(warehouse: Warehouse, state: State) -> str:
    """The warehouse as text, a row a line, with a wall around it."""
    rows = range(min(r for r, _ in warehouse.floor) - 1, max(warehouse.floor)[0] + 2)
    columns = [c for _, c in warehouse.floor]
    return "\n".join(
        "".join(
            _letter(warehouse, state, (row, column))
            for column in range(min(columns) - 1, max(columns) + 2)
        )
        for row in rows
    )


def _letter(warehouse: Warehouse, state: State, cell: Cell) -> str:
    if cell not in warehouse.floor:
        return "#"
    on_goal = cell in warehouse.goals
    if cell == state.player:
        return "+" if on_goal else "@"
    if cell in state.boxes:
        return "*" if on_goal else "$"
    return "." if on_goal else " "


def read(drawing: str) -> tuple[Warehouse, State]:
    """Reads what `draw` wrote."""
    letters = {
        (r, c): letter
        for r, line in enumerate(drawing.split("\n"))
        for c, letter in enumerate(line)
    }

    def find(wanted: str) -> frozenset[Cell]:
        return frozenset(cell for cell, letter in letters.items() if letter in wanted)

    (player,) = find("@+")
    return Warehouse(find(" @$.*+"), find(".*+")), State(player, find("$*"))


# Making warehouses.


def _count_boxes(index: int) -> int:
    return index % len(_SIZES) + 1


def _identify(warehouse: Warehouse, state: State) -> str:
    """The least of the eight drawings of a warehouse, turned and mirrored."""
    rows = draw(warehouse, state).split("\n")
    views = []
    for _ in range(4):
        rows = ["".join(column) for column in zip(*rows[::-1], strict=True)]  # turned
        views += ["\n".join(rows), "\n".join(row[::-1] for row in rows)]
    return min(views)


def _is_for_test(warehouse: Warehouse, state: State) -> bool:
    drawn = _identify(warehouse, state)
    return base.stable_hash("sokoban-split", drawn) < _TEST_SHARE * 2**64


@functools.lru_cache(maxsize=4096)
def make_task(index: int) -> tuple[Warehouse, State]:
    """The warehouse of a task and how it stands at the start.

    Raises:
      UnknownItemError: if there is no such task.
    """
    if index >= NUM_TRAIN + NUM_TEST:
        raise base.UnknownItemError(
            f"environment '{NAME}' has {NUM_TRAIN + NUM_TEST} tasks, from {NAME}_0; "
            f"there is no task {index}."
        )
    draws = random.Random(base.stable_hash(NAME, index))
    num_boxes = _count_boxes(index)
    wanted = range(_MIN_STEPS[num_boxes], MAX_STEPS * MAX_TURNS + 1)
    while True:
        warehouse, state = _draw_task(draws, num_boxes)
        if state.boxes & warehouse.goals:
            continue
        if _is_for_test(warehouse, state) != (index >= NUM_TRAIN):
            continue
        steps = solve(warehouse, state)
        if steps and len(steps) in wanted:
            return warehouse, state


def _draw_task(draws: random.Random, num_boxes: int) -> tuple[Warehouse, State]:
    """A warehouse with all boxes on goals, from which they were pulled away."""
    height, width = _SIZES[num_boxes]
    cells = [(r, c) for r in range(height) for c in range(width)]
    floor = frozenset(c for c in cells if draws.random() >= _WALL_SHARE)
    floor = max(_split_floor(floor), key=lambda part: (len(part), sorted(part)))
    if len(floor) < 2 * num_boxes + 2:
        return _draw_task(draws, num_boxes)
    goals = frozenset(draws.sample(sorted(floor), num_boxes))
    warehouse = Warehouse(floor, goals)
    state = State(draws.choice(sorted(floor - goals)), goals)
    for _ in range(_PULLS):
        step = draws.choice(list(_STEPS.values()))
        to = _add(state.player, step)
        if to not in floor or to in state.boxes:
            continue
        behind = _add(state.player, (-step[0], -step[1]))
        boxes = state.boxes
        if behind in boxes:
            boxes = boxes - {behind} | {state.player}
        state = State(to, boxes)
    return warehouse, state


def _split_floor(floor: frozenset[Cell]) -> Iterator[frozenset[Cell]]:
    """The connected parts of a floor."""
    left = set(floor)
    while left:
        part, queue = set[Cell](), [min(left)]
        while queue:
            cell = queue.pop()
            if cell in left:
                left.remove(cell)
                part.add(cell)
                queue += [_add(cell, step) for step in _STEPS.values()]
        yield frozenset(part)


class Sokoban(base.Environment):
    """See the module docstring for the rules."""

    name = NAME
    turn_limits: ClassVar = dict.fromkeys(base.PROFILES, MAX_TURNS)
    synonyms: ClassVar = {"move": "walk", "restart": "reset"}

    @property
    def default_instruction(self) -> str:
        """The letters, the actions, and the form of an answer."""
        return _RULES

    def _start(self, index: int) -> str:
        self.warehouse, self._first = make_task(index)
        self.state = self._first
        return self._describe()

    def _describe(self) -> str:
        placed = len(self.state.boxes & self.warehouse.goals)
        return (
            f"{draw(self.warehouse, self.state)}\n"
            f"Boxes on goals: {placed} of {len(self.warehouse.goals)}."
        )

    def _apply(self, text: str) -> base.StepResult:
        parsed = parsing.parse_single_action(text)
        if parsed.action == "restart":
            self.state = self._first
            return self._reply("", parsed.action)
        match = _MOVE.fullmatch(parsed.action)
        if match is None:
            reply = parsed.error or (
                f"Say 'move' with one to {MAX_STEPS} of up, down, left, right, or "
                "'restart'."
            )
            return self._refuse(reply, parsed.action)
        directions = match[1].replace(",", " ").split()
        for number, direction in enumerate(directions):
            after = move(self.warehouse, self.state, direction)
            if after is None:
                reply = f"The way {direction} is blocked."
                if not number:
                    return self._refuse(reply, parsed.action)
                return self._reply(f"{reply}\n", parsed.action)
            self.state = after
            if after.boxes == self.warehouse.goals:
                break
        return self._reply("", parsed.action)

    def _reply(self, remark: str, action: str) -> base.StepResult:
        solved = self.state.boxes == self.warehouse.goals
        info = base.StepInfo(
            success=solved,
            score=float(solved),
            parsed_action=action,
            progress=self._progress(),
        )
        text = remark + self._describe()
        return base.StepResult(text, float(solved), terminated=solved, info=info)

    def _refuse(self, reply: str, action: str) -> base.StepResult:
        info = base.StepInfo(
            valid_action=False,
            parse_error=not action,
            parsed_action=action,
            progress=self._progress(),
        )
        return base.StepResult(f"{reply}\n{self._describe()}", info=info)

    def _progress(self) -> float:
        return len(self.state.boxes & self.warehouse.goals) / len(self.warehouse.goals)

    def available_actions(self) -> list[str]:
        """The single steps that are not blocked, and `restart`."""
        free = [d for d in _STEPS if move(self.warehouse, self.state, d) is not None]
        return [*(f"move {direction}" for direction in free), "restart"]


class Planner:
    """Solves the warehouse that it sees drawn; `restart` first if it cannot be solved."""

    def __init__(self, env: base.Environment):
        del env  # everything is drawn

    def act(self, observation: str) -> str:
        """Returns the next steps of a shortest solution."""
        lines = [line for line in observation.split("\n") if line.startswith("#")]
        steps = solve(*read("\n".join(lines)))
        if not steps:
            return parsing.render_react("A box is stuck.", "restart")
        placed = ", ".join(steps[:MAX_STEPS])
        return parsing.render_react(f"It takes {len(steps)} steps.", f"move {placed}")


def _panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    numbers: Sequence[int] = range(NUM_TRAIN)
    if split == "test":
        numbers = range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)
    ids = tuple(f"{NAME}_{number}" for number in numbers)
    return base.TaskPanel(NAME, split, VERSION, ids)


def _subset(item_id: str, config: base.EnvConfig) -> str:
    index = base.parse_item_id(NAME, item_id)
    make_task(index)  # refuses unknown tasks
    return f"boxes_{_count_boxes(index)}"


def _tier(item_id: str, config: base.EnvConfig) -> base.Tier:
    return "easy" if _subset(item_id, config) == "boxes_1" else "hard"


def _fingerprint(item_id: str, config: base.EnvConfig) -> str:
    """Warehouses that are equal when turned or mirrored are the same task."""
    return base.make_fingerprint(
        _identify(*make_task(base.parse_item_id(NAME, item_id)))
    )


SPEC = base.EnvSpec(
    name=NAME,
    make=Sokoban,
    splits=("train", "test"),
    panel=_panel,
    tier=_tier,
    subset=_subset,
    subsets=lambda config: tuple(f"boxes_{count}" for count in _SIZES),
    fingerprint=_fingerprint,
    oracles={"privileged": Planner, "observational": Planner},
    verbs=("move", "restart"),
)
