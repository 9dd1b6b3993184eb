"""An environment that does what its actions say, faults included: to test the pool.

`scripted_<k>` starts at k. Actions are commands with at most one argument; unknown ones
are refused. Tasks from 900 on cannot be started.
"""

import contextlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from agentrl.envs import base

_serial = itertools.count()


class _Child(base.StepResult):
    """A result of a class that the other side does not know."""


OPENINGS = {800: None, 801: b"total", 802: "lone \udc80", 803: "x" * (1 << 21)}


def _info(**fields):
    return base.StepResult("", info=base.StepInfo(**fields))


VALUES = {  # what the command `return` returns
    "nothing": None,
    "text": "observation",
    "none": base.StepResult(None),
    "bytes": base.StepResult(b"total 1"),
    "function": _info(score=lambda: 1.0),
    "nan": base.StepResult("", reward=float("nan")),
    "inf": base.StepResult("", reward=float("-inf")),
    "huge": base.StepResult("", reward=10**400),
    "number_as_text": base.StepResult("", reward="1.0"),
    "no_number": base.StepResult("", reward=None),
    "flag_as_number": base.StepResult("", reward=True),
    "array": base.StepResult("", reward=np.ones(2)),
    "score": _info(score=np.float32("nan")),
    "progress": _info(progress="half"),
    "terminated": base.StepResult("", terminated=1),
    "truncated": base.StepResult("", truncated=None),
    "success": _info(success="yes"),
    "parsed_action": _info(parsed_action=3),
    "info": base.StepResult("", info={"success": True}),
    "long": base.StepResult("é" * (1 << 19) + "x"),
    "fits": base.StepResult("é" * (1 << 19)),
    "surrogates": base.StepResult("a\ud800b\udc00", reward=1.0),
    "numpy": base.StepResult(
        np.str_("text"),
        reward=np.float32(0.5),
        terminated=np.bool_(False),
        info=base.StepInfo(score=np.int64(2), success=np.True_),
    ),
    "integer": base.StepResult("", reward=1),
    "child": _Child("of a class of its own"),
}


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
        return OPENINGS.get(index, f"total {self.total}")

    def _apply(self, text):
        command, _, argument = text.partition(" ")
        if command == "return":
            return VALUES[argument]
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

    def do_leave(self, argument):
        sys.exit(argument)

    def do_hang(self, argument):
        """Never returns; creates a file first, to say so."""
        if argument:
            pathlib.Path(argument).touch()
        time.sleep(1000)

    def do_once(self, argument):
        """Kills its process, but not if it did so before."""
        path = pathlib.Path(argument)
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.do_add(1)

    def do_changes(self, argument):
        """Returns something else each time: not a pure function."""
        path = pathlib.Path(argument)
        with path.open("a") as file:
            file.write("x")
        return f"called {path.stat().st_size} times"

    def do_fork(self, argument):
        """Returns twice, in two processes."""
        self.total += 1
        if os.fork() == 0 and argument:
            raise RuntimeError(argument)
        return f"total {self.total}"

    def do_linger(self, _):
        """Leaves a copy of the process that does not come back."""
        if os.fork() == 0:
            time.sleep(1000)
        return "forked"

    def do_garble(self, argument):
        """Writes to every socket it finds."""
        for handle in range(3, 64):
            with contextlib.suppress(OSError):
                os.write(handle, argument.encode() or bytes(1000))
        return "written"

    def do_shut(self, _):
        os.closerange(3, 256)
        return "shut"

    def do_eat(self, argument):
        """Keeps megabytes."""
        self.eaten = None
        self.eaten = bytearray(int(argument) << 20)
        return "eaten"

    def do_feast(self, _):
        """Takes more and more, up to a gigabyte, and never returns."""
        eaten = []
        while True:
            if len(eaten) < 50:
                eaten.append(bytearray(20 << 20))
            time.sleep(0.01)

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
