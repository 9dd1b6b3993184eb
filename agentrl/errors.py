"""Errors that a person is expected to act on. Each message names the next action."""

import pathlib


class ConfigError(ValueError):
    """A configuration cannot work; the message names the field and both values."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class EnvWorkerError(RuntimeError):
    """Environments failed more often than the run allows."""


class TrainingError(RuntimeError):
    """Training produced numbers that must not be trained on, such as NaN."""


def refuse_files(folder: pathlib.Path) -> None:
    """Raises `ConfigError` if `folder` holds anything: nothing is ever overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} is not an empty directory, and nothing is overwritten; choose "
            "another."
        )
