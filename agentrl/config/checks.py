"""Checks that several configuration classes share."""

from agentrl import errors


def require_positive(field: str, value: float) -> None:
    """Raises `ConfigError` unless `value` is above 0."""
    if not value > 0:
        raise errors.ConfigError(f"{field} = {value}; it must be positive.")


def require_fraction(field: str, value: float) -> None:
    """Raises `ConfigError` unless `value` lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise errors.ConfigError(f"{field} = {value} must lie in [0, 1].")
