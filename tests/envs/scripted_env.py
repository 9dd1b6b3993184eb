"""An environment that does what its actions say, faults included: to test the pool.

`scripted_<k>` starts at k. Actions are commands with at most one argument; unknown ones
are refused. Tasks from 900 on cannot be started.
"""

import itertools
import os
import pathlib
import subprocess
import sys
import time

from agentrl.envs import base

_serial = itertools.count()


class Scripted(base.Environment):
    """See the module docstring."""

    name = "scripted"
    turn_limits = {"strict": 8, "agentgym": 12}  # noqa: RUF012
    option_names = ("refuse",)

    def __init__(self, config=None):
        super().__init__(config)
        if self.config.options.get("refuse"):
            raise base.MissingDataError("told to refuse")
        self.serial = next(_serial)

    @property
    def instruction(self):
        return "Say a command."

    def _start(self, index):
        if index >= 900:
            raise base.UnknownItemError(f"no task {index}")
        self.total = index
        return f"total {self.total}"

    def _apply(self, text):
        command, _, argument = text.partition(" ")
        if command == "unpicklable":
            return base.StepResult("", info=base.StepInfo(score=lambda: 1.0))
        action = getattr(self, f"do_{command}", None)
        if action is None:
            info = base.StepInfo(valid_action=False)
            return base.StepResult("no such command", info=info)
        return base.StepResult(str(action(argument)), info=base.StepInfo(score=1.0))

    def do_add(self, argument):
        self.total += int(argument)
        return f"total {self.total}"

    def do_serial(self, _):
        return self.serial

    def do_pid(self, _):
        return os.getpid()

    def do_loaded(self, argument):
        return argument in sys.modules

    def do_print(self, argument):
        print(argument, flush=True)
        return "printed"

    def do_flood(self, argument):
        return "x" * int(argument)

    def do_raise(self, argument):
        raise RuntimeError(argument)

    def do_exit(self, argument):
        os._exit(int(argument))

    def do_hang(self, _):
        time.sleep(1000)

    def do_await(self, argument):
        while not pathlib.Path(argument).exists():
            time.sleep(0.001)
        return "it exists"

    def do_spawn(self, _):
        return subprocess.Popen(["sleep", "1000"]).pid


SPEC = base.EnvSpec(
    name="scripted",
    make=Scripted,
    splits=("train", "test"),
    panel=lambda split, _: base.TaskPanel(
        "scripted", split, "scripted-1", ("scripted_0",)
    ),
    tier=lambda *_: "easy",
    subset=lambda *_: "all",
    oracles={},
)
