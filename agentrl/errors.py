"""Errors that a person is expected to act on. Each message names the next action."""

import pathlib
import sys

INTERRUPTED_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command goes on
HOST_LOST_CODE = 69  # EX_UNAVAILABLE: another host of the run is gone


class ConfigError(ValueError):
    """A configuration cannot work; the message names the field and both values."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class DamagedFileError(ValueError):
    """A file of a run does not hold what was written to it; the message names it."""


class EnvWorkerError(RuntimeError):
    """Environments failed more often than the run allows."""


class TrainingError(RuntimeError):
    """Training produced numbers that must not be trained on, such as NaN."""


class InterruptedRun(Exception):
    """A run ends before its last stage because it was asked to; the message says where."""


class UsageError(SystemExit):
    """A command line that a command cannot follow: the process ends with this one line."""

    def __init__(self, message: str):
        command = pathlib.Path(sys.argv[0]).stem
        super().__init__(f"launch.{command}: {message} --help lists the flags.")


def refuse_missing(folder: pathlib.Path) -> None:
    """Raises `CheckpointError` if there is no `folder` where a run is looked for."""
    if not folder.is_dir():
        raise CheckpointError(
            f"no directory at {folder}; give the working directory of a run, or one of "
            "its checkpoints/STEP folders."
        )


def refuse_files(folder: pathlib.Path) -> None:
    """Raises `ConfigError` if `folder` holds anything: nothing is ever overwritten.

    Hidden files do not count: the lock of a session, and what one that was killed has
    left of a file.
    """
    if folder.exists() and (
        not folder.is_dir()
        or any(not path.name.startswith(".") for path in folder.iterdir())
    ):
        raise ConfigError(
            f"{folder} is not an empty directory, and nothing is overwritten; choose "
            "another."
        )
