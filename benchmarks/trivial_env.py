"""An environment that costs nothing, to measure what the pool costs."""

from typing import ClassVar

from agentrl.envs import base

TURNS = 10
_OBSERVATION = "You see nothing of interest. " * 7  # 203 characters


class Trivial(base.Environment):
    """Says the same whatever it is told, until the turn limit."""

    name = "trivial"
    turn_limits: ClassVar = {"strict": TURNS, "agentgym": TURNS}

    @property
    def instruction(self) -> str:
        """The rules."""
        return "Say something."

    def _start(self, index: int) -> str:
        return _OBSERVATION

    def _apply(self, text: str) -> base.StepResult:
        return base.StepResult(_OBSERVATION)


SPEC = base.EnvSpec(
    name="trivial",
    make=Trivial,
    splits=("train", "test"),
    panel=lambda split, _: base.TaskPanel(
        "trivial", split, "trivial-1", ("trivial_0",)
    ),
    tier=lambda *_: "easy",
    subset=lambda *_: "all",
    oracles={},
)
