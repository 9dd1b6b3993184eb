"""Errors that a person is expected to act on. Each message names the next action."""


class ConfigError(ValueError):
    """A configuration cannot work; the message names the field and both values."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class EnvWorkerError(RuntimeError):
    """Environments failed more often than the run allows."""


class TrainingError(RuntimeError):
    """Training produced numbers that must not be trained on, such as NaN."""
