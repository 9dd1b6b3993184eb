"""An environment whose tasks fail their oracle in the way that their number says."""

import os

from agentrl.envs import base


class Frail(base.Environment):
    """See the module docstring; tasks from 10 on are solved in two turns."""

    name = "frail"
    turn_limits = {"strict": 2, "agentgym": 2}  # noqa: RUF012

    @property
    def instruction(self):
        return "Answer."

    def _start(self, index):
        self.index, self.turn = index, 0
        return f"task {index}"

    def _apply(self, text):
        self.turn += 1
        if self.index == 3:
            raise RuntimeError("task 3")
        if self.index == 4:
            return base.StepResult("", reward=float("nan"))
        if self.index == 5:
            os._exit(1)
        done = self.turn == 2
        info = base.StepInfo(success=done and self.index != 0)
        return base.StepResult("go on", terminated=done, info=info)


class Oracle:
    """Refuses task 1 at once and task 2 later, and breaks down at task 6."""

    def __init__(self, env):
        self.index = None

    def act(self, observation):
        if self.index is None:
            self.index = int(observation.split()[1])
        if self.index == 1 or (self.index == 2 and observation == "go on"):
            raise base.OracleRefusalError("not this one")
        if self.index == 6:
            raise KeyError("the oracle")
        return "Thought: yes.\nAction: yes"


SPEC = base.EnvSpec(
    name="frail",
    make=Frail,
    splits=("train", "test"),
    panel=lambda split, _: base.TaskPanel("frail", split, "frail-1", ("frail_10",)),
    tier=lambda *_: "easy",
    subset=lambda *_: "all",
    oracles={"observational": Oracle},
)
