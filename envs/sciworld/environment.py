"""ScienceWorld as an environment; see the package for its data sheet."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentrl.envs import base, parsing
from agentrl.envs.sciworld import java, variations

TURN_LIMIT = 30  # in both profiles


_SIMPLIFICATIONS = (
    "easy",
    "noElectricalAction",
    "openContainers",
    "openDoors",
    "selfWateringFlowerPots",
    "teleportAction",
)
_MAX_STEPS = 100  # of the simulator, in profile `agentgym`
_CHOICE = re.compile(r"^(\d+):", re.MULTILINE)
_REFUSALS = ("No known action matches", "Unknown action.")
_INSTRUCTION = """\
You carry out experiments in a house with several rooms. Each turn you read what you \
see, and answer with one action. OBJ stands for a thing, LOC for a place:

open OBJ, close OBJ: a door or a container
activate OBJ, deactivate OBJ: a device
connect OBJ to OBJ, disconnect OBJ: electrical parts
use OBJ, use OBJ on OBJ: a tool or an instrument
look around, look at OBJ, look in OBJ, read OBJ: to learn more
pick up OBJ, put down OBJ, move OBJ to OBJ
pour OBJ into OBJ, dunk OBJ into OBJ: a liquid
mix OBJ: what a container holds, by chemistry
go to LOC: a place next to where you are, through an open door
eat OBJ, flush OBJ
focus on OBJ: says that a thing is what the task is about; a wrong one loses the task
wait, wait1: for ten steps of time, or for one
task, inventory: what you are to do, what you carry

Answer in this form:
Thought:
your thought

Action:
your action"""


class SciWorld(base.Environment):
    """Experiments in a simulated house; one Java object per instance."""

    name = "sciworld"
    turn_limits: ClassVar[Mapping[base.Profile, int]] = dict.fromkeys(
        base.PROFILES, TURN_LIMIT
    )
    option_names = ("simplifications",)

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        self.simplifications = read_simplifications(self.config)
        java.find_programs()  # fails here rather than in each episode

    @property
    def default_instruction(self) -> str:
        """The actions and the form of an answer."""
        return _INSTRUCTION

    @property
    def gold_path(self) -> list[str]:
        """The commands that solve the present task, from a simulation of its own.

        Which wire goes where is one thing in the first solution of a kind of task that a
        process makes, and another in all later ones; the second is returned.
        """
        simulation = java.Simulation()
        for _ in range(2):
            simulation.load(*self._task, solve=True)
        return simulation.solution

    @functools.cached_property
    def _simulation(self) -> java.Simulation:
        return java.Simulation()

    @property
    def _task(self) -> tuple[str, int, str]:
        return self.variation.task, self.variation.number, self.simplifications

    def available_actions(self) -> Sequence[str]:
        """The simulator's commands for things in sight or in hand, sorted.

        After a question these are the numbers that answer it. The simulator also lists
        commands for things in closed containers, and then does not understand them.
        """
        return self._choices or self._list_commands()

    def _list_commands(self) -> list[str]:
        commands = self._simulation.list_commands()
        near = self._simulation.list_near()
        for action, things in commands:
            if action.startswith("put down "):
                near |= things  # what is carried
        return sorted({action for action, things in commands if things <= near})

    def _start(self, index: int) -> str:
        self.variation = variations.find(index)
        self._score, self._choices = 0.0, []
        self._simulation.load(*self._task)
        seen = self._simulation.step("look around")
        return f"{self._simulation.description}\n{seen}"

    def _apply(self, text: str) -> base.StepResult:
        action = parsing.parse_last_action(text, self.config.profile).action
        reply = self._simulation.step(action)
        asked = reply.startswith("Ambiguous request")
        self._choices = _CHOICE.findall(reply) if asked else []
        score = self._simulation.score
        over = self._simulation.completed or score < 0
        strict = self.config.profile == "strict"
        before, self._score = self._score, score
        reward = _clip(score) - _clip(before) if strict else score - before
        late = not strict and self._simulation.num_steps > _MAX_STEPS
        return base.StepResult(
            reply,
            reward,
            terminated=over,
            truncated=late and not over,
            info=base.StepInfo(
                success=score >= 100,
                score=score,
                valid_action=not reply.startswith(_REFUSALS),
                parse_error=not action,
                parsed_action=action,
                progress=_clip(score),
            ),
        )


def read_simplifications(config: base.EnvConfig) -> str:
    """The simplifications that a configuration asks for, checked.

    Raises:
      EnvConfigError: if ScienceWorld has no such simplification.
    """
    wanted = str(config.options.get("simplifications", ""))
    for name in filter(None, wanted.split(",")):
        if name not in _SIMPLIFICATIONS:
            raise base.EnvConfigError(
                f"environment 'sciworld': option simplifications = {wanted!r}; {name!r} "
                f"is none of {_SIMPLIFICATIONS}. Join several by commas, without spaces."
            )
    return wanted


def _clip(score: float) -> float:
    return min(max(score, 0.0), 100.0) / 100.0
