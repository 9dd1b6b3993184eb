"""A two-turn text game, small enough to train on within a test.

The agent is told a letter, then asked for it: `Action: <letter>` in the first turn is
free, in the second it must repeat the first observation's letter.
"""

import string

from agentrl.envs import base, parsing

LETTERS = string.ascii_lowercase[:8]


class Recall(base.Environment):
    """See the module docstring. Task k hides letter k % 8."""

    name = "recall"
    turn_limits = {"strict": 3, "agentgym": 3}  # noqa: RUF012

    @property
    def instruction(self):
        return "Remember the letter."

    def _start(self, index):
        self._letter = LETTERS[index % len(LETTERS)]
        self._asked = False
        return f"letter {self._letter}."

    def _apply(self, text):
        action = parsing.parse_single_action(text).action
        valid = action in LETTERS and action != ""
        if not self._asked:
            self._asked = True
            return base.StepResult("which?", info=base.StepInfo(valid_action=valid))
        right = action == self._letter
        info = base.StepInfo(success=right, score=float(right), valid_action=valid)
        return base.StepResult("done", float(right), terminated=True, info=info)


class Oracle:
    """Says the letter in both turns."""

    def __init__(self, env):
        self._letter = ""

    def act(self, observation):
        if observation.startswith("letter "):
            self._letter = observation[7]
        return parsing.render_react("", self._letter)


def panel(split, config):
    first = 0 if split == "train" else 16
    ids = tuple(f"recall_{i}" for i in range(first, first + 16))
    return base.TaskPanel("recall", split, "recall-1", ids)


SPEC = base.EnvSpec(
    name="recall",
    make=Recall,
    splits=("train", "test"),
    panel=panel,
    tier=lambda item_id, config: "easy",
    subset=lambda item_id, config: "all",
    oracles={"observational": Oracle, "privileged": Oracle},
)
