"""A game that every answer wins, in an environment that breaks where it is told to.

Options, all with task numbers as "3,17":
  broken     tasks that raise at their reset
  hanging    tasks that never answer
  flaky      tasks whose first reset raises; needs `folder`, where it is noted
  broken_if  paths "A,B": as long as all exist, all test tasks (100 and up) are broken
"""

import pathlib
import time

from agentrl.envs import base, parsing


class Shaky(base.Environment):
    """See the module docstring."""

    name = "shaky"
    turn_limits = {"strict": 2, "agentgym": 2}  # noqa: RUF012
    option_names = ("broken", "hanging", "flaky", "folder", "broken_if")

    @property
    def instruction(self):
        return "Say something."

    def _option(self, name):
        return str(self.config.options.get(name, ""))

    def _start(self, index):
        number, told_to = str(index), self._option("broken_if")
        down = told_to and index >= 100
        down = down and all(pathlib.Path(path).exists() for path in told_to.split(","))
        if down or number in self._option("broken").split(","):
            raise RuntimeError("out of order")
        if number in self._option("flaky").split(","):
            mark = pathlib.Path(self._option("folder")) / number
            if not mark.exists():
                mark.touch()
                raise RuntimeError("not yet")
        if number in self._option("hanging").split(","):
            time.sleep(1000)
        return f"task {index}"

    def _apply(self, text):
        info = base.StepInfo(success=True, score=1.0)
        return base.StepResult("won", 1.0, terminated=True, info=info)


class Oracle:
    """Says something."""

    def __init__(self, env):
        pass

    def act(self, observation):
        return parsing.render_react("", "win")


def panel(split, config):
    first = 0 if split == "train" else 100
    ids = tuple(f"shaky_{i}" for i in range(first, first + 100))
    return base.TaskPanel("shaky", split, "shaky-1", ids)


SPEC = base.EnvSpec(
    name="shaky",
    make=Shaky,
    splits=("train", "test"),
    panel=panel,
    tier=lambda item_id, config: "easy",
    subset=lambda item_id, config: "all",
    oracles={"observational": Oracle, "privileged": Oracle},
)
