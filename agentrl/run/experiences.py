"""The episodes of one iteration, which a checkpoint keeps if they were played ahead."""

import base64
import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from agentrl import config, types

# A group's advantages need all of its episodes, and a packed row the longest of them.
_OF_EPISODES = ("tasks_per_iteration", "group_size", "max_tokens")


@dataclasses.dataclass(frozen=True)
class Experience:
    """The episodes of one iteration."""

    iteration: int
    trajectories: list[types.Trajectory]
    mixture: types.MixtureState  # after their draws and successes
    values: types.Metrics  # what they cost


def to_json(experience: Experience, settings: config.RolloutConfig) -> dict[str, Any]:
    """Describes episodes that wait for their update, exactly: arrays as bytes.

    Args:
      experience: the episodes.
      settings: that they were played with.
    """
    return {
        "iteration": experience.iteration,
        "trajectories": [_encode(t) for t in experience.trajectories],
        "mixture": _encode(experience.mixture),
        "values": _encode(experience.values),
        "rollout": {name: getattr(settings, name) for name in _OF_EPISODES},
    }


def from_json(
    stored: Mapping[str, Any] | None,
    settings: config.RolloutConfig,
) -> Experience | None:
    """Reads what `to_json` has described.

    Args:
      stored: the description; None if nothing was played ahead.
      settings: of the stage that goes on.

    Returns:
      The episodes, with the mixture as NumPy arrays; None if the stage needs others now.
    """
    if stored is None:
        return None
    if stored["rollout"] != {name: getattr(settings, name) for name in _OF_EPISODES}:
        return None
    return Experience(
        iteration=stored["iteration"],
        trajectories=[_decode_trajectory(record) for record in stored["trajectories"]],
        mixture=types.MixtureState(**_decode_arrays(stored["mixture"])),
        values=stored["values"],
    )


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _encode(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {name: _encode(member) for name, member in value.items()}
    if isinstance(value, tuple):
        return [_encode(member) for member in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return [array.dtype.name, base64.b64encode(array.tobytes()).decode()]
    return value


def _decode_arrays(record: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays are the only lists of a flat record; all of them have one dimension."""
    return {
        name: np.frombuffer(base64.b64decode(value[1]), value[0]).copy()
        if isinstance(value, list)
        else value
        for name, value in record.items()
    }


def _decode_trajectory(record: Mapping[str, Any]) -> types.Trajectory:
    return types.Trajectory(
        **{
            **record,
            "task": types.Task(**record["task"]),
            "turns": tuple(types.Turn(**_decode_arrays(t)) for t in record["turns"]),
            "ending": types.Ending(record["ending"]),
        }
    )
