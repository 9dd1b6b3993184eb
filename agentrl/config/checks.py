"""Checks that several configuration classes share."""

import re

from agentrl import errors

_MAX_STAGE_NAME = 100  # characters; file names hold 255, with more than the stage


def require_positive(field: str, value: float) -> None:
    """Raises `ConfigError` unless `value` is above 0."""
    if not value > 0:
        raise errors.ConfigError(f"{field} = {value}; it must be positive.")


def require_fraction(field: str, value: float) -> None:
    """Raises `ConfigError` unless `value` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise errors.ConfigError(f"{field} = {value} must lie in [0, 1].")


def require_stage_name(name: str) -> None:
    """Refuses names of stages that cannot be part of a file's name.

    Letters, digits, ".", "_" and "-" are allowed, a letter or digit first. Episodes of a
    stage are stored as NAME.jsonl, those of its evaluations as evaluation.NAME.ENV.jsonl,
    so a name cannot begin with "evaluation.".

    Raises:
      ConfigError: naming what is wrong, with a name that works.
    """
    suggestion = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")
    suggestion = re.sub(r"^evaluation\.", "evaluation_", suggestion)[:_MAX_STAGE_NAME]
    if name == suggestion and name:
        return
    raise errors.ConfigError(
        f"stage name {name!r} cannot be part of a file's name: use 1 to "
        f'{_MAX_STAGE_NAME} letters, digits, ".", "_" and "-", a letter or digit first, '
        f'and do not begin with "evaluation."; {suggestion or "stage_1"!r} would do.'
    )
