"""Checks that several configuration classes share."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from agentrl import errors


def require_positive(field: str, value: float) -> None:
    """Raises `ConfigError` unless `value` is above 0."""
    if not value > 0:
        raise errors.ConfigError(f"{field} = {value}; it must be positive.")


def require_fraction(field: str, value: float) -> None:
    """Raises `ConfigError` unless `value` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise errors.ConfigError(f"{field} = {value} must lie in [0, 1].")


def refuse_unread(
    where: str, settings: Any, fields: Sequence[str], because: str
) -> None:
    """Raises `ConfigError` if a field that nothing reads differs from its default.

    A sweep over it would give identical curves.

    Args:
      where: path of the dataclass, for the message; empty for the run.
      settings: the dataclass.
      fields: names of its fields that nothing reads.
      because: what makes it so, such as `stage.optimizer.schedule = 'constant'`.
    """
    missing = dataclasses.MISSING
    defaults = {
        field.name: field.default_factory()
        if field.default_factory is not missing
        else field.default
        for field in dataclasses.fields(settings)
    }
    for field in fields:
        value, path = getattr(settings, field), f"{where}.{field}".lstrip(".")
        if value != defaults[field]:
            raise errors.ConfigError(
                f"{path} = {value!r} has no effect with {because}; leave it out."
            )
