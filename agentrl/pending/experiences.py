"""The episodes of an iteration, and what of them a checkpoint keeps for the next ones."""

import base64
import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from agentrl import config, types
from agentrl.engine import engine
from agentrl.parallel import processes
from agentrl.pending import unfinished
from agentrl.rollout import live, partial

# A group's advantages need all of its episodes, and a packed row the longest of them.
_OF_EPISODES = ("tasks_per_iteration", "group_size", "max_tokens")


@dataclasses.dataclass(frozen=True)
class Experience:
    """The episodes of one iteration."""

    iteration: int
    trajectories: list[types.Trajectory]
    mixture: types.MixtureState  # after their draws and successes
    values: types.Metrics  # what they cost


@dataclasses.dataclass(frozen=True)
class Ahead:
    """What has been played for iterations to come."""

    experience: Experience | None = None  # whole, of the next one
    carried: partial.PartialRollout | None = None  # groups that go on after that


def to_json(ahead: Ahead, settings: config.RolloutConfig) -> dict[str, Any] | None:
    """Describes episodes that wait for their update, exactly: arrays as bytes.

    All processes have to call it.

    Args:
      ahead: the episodes.
      settings: that they were played with.

    Returns:
      The description; None if there is nothing to describe.
    """
    if ahead == Ahead():
        return None
    described = {"rollout": {name: getattr(settings, name) for name in _OF_EPISODES}}
    if (whole := ahead.experience) is not None:
        described |= {
            "iteration": whole.iteration,
            "trajectories": [_encode(t) for t in whole.trajectories],
            "mixture": _encode(whole.mixture),
            "values": _encode(whole.values),
        }
    if (carried := ahead.carried) is not None:
        waiting = [_encode(unfinished.describe(e)) for e in carried.episodes]
        described["carried"] = {
            "num_drawn": carried.num_drawn,
            "unfinished": processes.gather([waiting]),
            "finished": processes.gather([[_encode(t) for t in carried.finished]]),
        }
    return described


def from_json(
    stored: Mapping[str, Any] | None,
    settings: config.RolloutConfig,
    restore: Callable[[Sequence[unfinished.UnfinishedEpisode]], list[live.Episode]],
) -> Ahead | None:
    """Reads what `to_json` has described.

    Args:
      stored: the description; None if nothing was played ahead.
      settings: of the stage that goes on.
      restore: brings unfinished episodes back.

    Returns:
      The episodes, with the mixture as NumPy arrays; None if the stage needs others now.
    """
    if stored is None:
        return None
    if stored["rollout"] != {name: getattr(settings, name) for name in _OF_EPISODES}:
        if "carried" in stored and processes.is_process_zero():
            print(
                "Groups that had begun are given up, and others drawn: one of "
                f"rollout.{', '.join(_OF_EPISODES)} has changed.",
                flush=True,
            )
        return None
    whole, carried = None, None
    if "trajectories" in stored:
        whole = Experience(
            iteration=stored["iteration"],
            trajectories=[_decode_trajectory(t) for t in stored["trajectories"]],
            mixture=types.MixtureState(**_decode_arrays(stored["mixture"])),
            values=stored["values"],
        )
    if (record := stored.get("carried")) is not None:
        waiting, finished = unfinished.share(
            [
                [_decode_unfinished(e) for e in of_one]
                for of_one in record["unfinished"]
            ],
            [[_decode_trajectory(t) for t in of_one] for of_one in record["finished"]],
        )
        carried = partial.PartialRollout(
            restore(waiting), finished, record["num_drawn"]
        )
    return Ahead(whole, carried)


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


def _decode_unfinished(record: Mapping[str, Any]) -> unfinished.UnfinishedEpisode:
    thought = record["thought"]
    return unfinished.UnfinishedEpisode(
        **{
            **record,
            "task": types.Task(**record["task"]),
            "turns": tuple(types.Turn(**_decode_arrays(t)) for t in record["turns"]),
            "thought": thought and engine.SlotOutput(**_decode_arrays(thought)),
        }
    )


def _decode_trajectory(record: Mapping[str, Any]) -> types.Trajectory:
    return types.Trajectory(
        **{
            **record,
            "task": types.Task(**record["task"]),
            "turns": tuple(types.Turn(**_decode_arrays(t)) for t in record["turns"]),
            "ending": types.Ending(record["ending"]),
        }
    )
