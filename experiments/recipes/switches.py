"""Switches: put the lamps of a room into the state that the note asks for.

Actions:       `press COLOUR`, which switches one lamp on or off.
Observations:  the note, then the state of all lamps after each action.
Rewards:       1 when all lamps are as the note says, else 0.
Ends:          terminated when they are, truncated by the turn limit.
Splits:        by the whole room: no test task is a training task.
Data:          none.
"""

import functools
import random
import re
from typing import ClassVar

from agentrl.envs import base, parsing

_COLOURS = ("red", "green", "blue", "white")
_NUM_TASKS = 400
State = dict[str, bool]  # whether each lamp is on


@functools.cache
def _room(index: int) -> tuple[State, State]:
    """State of the lamps, and the state that the note asks for."""
    draw = random.Random(base.stable_hash("switches", index))
    state = {colour: draw.random() < 0.5 for colour in _COLOURS}
    wrong = draw.sample(_COLOURS, draw.randint(1, 3))
    return state, {colour: on != (colour in wrong) for colour, on in state.items()}


def _distance(index: int) -> int:
    state, wanted = _room(index)
    return sum(state[colour] != wanted[colour] for colour in _COLOURS)


def _describe(state: State) -> str:
    return ", ".join(f"{colour} {'on' if state[colour] else 'off'}" for colour in state)


class Switches(base.Environment):
    """See the module docstring for the rules."""

    name = "switches"
    turn_limits: ClassVar = {"strict": 6, "agentgym": 10}

    @property
    def default_instruction(self) -> str:
        """What a model is told before the first observation."""
        return (
            "You are in a room with four lamps and a button for each. Make the lamps as "
            "the note says.\nAnswer in this form:\nThought:\nyour thoughts\n\nAction:\n"
            "press red"
        )

    def _start(self, index: int) -> str:
        if index >= _NUM_TASKS:
            raise base.UnknownItemError(
                f"there are {_NUM_TASKS} tasks, from {self.name}_0; no task {index}."
            )
        state, self.wanted = _room(index)
        self.state = dict(state)
        return f"Note: {_describe(self.wanted)}.\nLamps: {_describe(self.state)}."

    def _apply(self, text: str) -> base.StepResult:
        parsed = parsing.parse_single_action(text)
        match = re.fullmatch(r"press (\w+)", parsed.action)
        if match is None or match[1] not in self.state:
            info = base.StepInfo(
                valid_action=False,
                parse_error=not parsed.action,
                parsed_action=parsed.action,
            )
            return base.StepResult(
                parsed.error or "There is no such button.", info=info
            )
        self.state[match[1]] = not self.state[match[1]]
        done = self.state == self.wanted
        info = base.StepInfo(
            success=done, score=float(done), parsed_action=parsed.action
        )
        reply = f"Lamps: {_describe(self.state)}."
        return base.StepResult(reply, float(done), terminated=done, info=info)

    def available_actions(self) -> list[str]:
        """Every button."""
        return [f"press {colour}" for colour in _COLOURS]


class ReadingOracle:
    """Presses the first button whose lamp differs from the note, by the text alone."""

    def __init__(self, env: base.Environment):
        self._wanted = ""

    def act(self, observation: str) -> str:
        """Answers an observation."""
        note = re.match(r"Note: (.*)\.\n", observation)
        self._wanted = note[1] if note else self._wanted
        lamps = observation.rpartition("Lamps: ")[2].rstrip(".")
        pairs = zip(self._wanted.split(", "), lamps.split(", "), strict=True)
        lamp = next(now.split()[0] for wanted, now in pairs if wanted != now)
        return parsing.render_react(f"The {lamp} lamp is wrong.", f"press {lamp}")


@functools.cache
def _split(split: str) -> tuple[str, ...]:
    return tuple(
        f"switches_{index}"
        for index in range(_NUM_TASKS)
        if (base.stable_hash("split", str(_room(index))) % 5 == 0) == (split == "test")
    )


def _index(item_id: str) -> int:
    return base.parse_item_id("switches", item_id)


SPEC = base.EnvSpec(
    name="switches",
    make=Switches,
    splits=("train", "test"),
    panel=lambda split, config: base.TaskPanel(
        "switches", split, "switches-1", _split(split)
    ),
    tier=lambda item_id, config: "easy" if _distance(_index(item_id)) == 1 else "hard",
    subset=lambda item_id, config: f"lamps_{_distance(_index(item_id))}",
    oracles={"observational": ReadingOracle, "privileged": ReadingOracle},
    subsets=lambda config: ("lamps_1", "lamps_2", "lamps_3"),
    fingerprint=lambda item_id, config: base.make_fingerprint(
        str(_room(_index(item_id)))
    ),
)
