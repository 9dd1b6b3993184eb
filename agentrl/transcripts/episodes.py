"""Stored episodes: every transcript of a run, one JSON line each, readable again.

Training writes `WORKDIR/episodes/<stage>.jsonl`. Token ids stay out: a stored episode
is for people, for failure tags and for replays; training needs none of it. The first
`RunConfig.token_episodes` of an iteration carry log-probabilities and advantages of
their tokens. Each line holds the configuration of its environment, so that it can be
played again by itself.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agentrl import errors, types
from agentrl.envs import base
from agentrl.transcripts import jsonl

FOLDER = "episodes"


@dataclasses.dataclass(frozen=True)
class StoredTurn:
    """One exchange as text."""

    observation: str
    action: str
    reward: float
    valid: bool
    observation_tokens: int  # number of tokens, the rules included in the first turn
    action_tokens: int  # number of tokens, the stop token included
    # Numbers of the action's tokens, as `agentrl.transcripts.tokens` describes them, of
    # episodes that are stored token by token.
    tokens: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class StoredEpisode:
    """An episode with all that was said, and where in the run it belongs."""

    stage: str
    iteration: int  # of the stage, from 0
    env: str
    item_id: str
    group: int
    sample: int
    policy_step: int  # optimizer updates behind the parameters of its first turn
    ending: types.Ending
    success: bool
    score: float
    reward: float  # undiscounted sum over turns
    turns: tuple[StoredTurn, ...]
    final_observation: str
    error: str = ""
    failures: tuple[
        str, ...
    ] = ()  # see `agentrl.transcripts.failures`; the first is the main one
    # Fields of the environment's `EnvConfig`; None in files that older versions wrote.
    config: Mapping[str, Any] | None = None

    def results(self) -> list[str]:
        """What the environment answered to each action."""
        later = [*(turn.observation for turn in self.turns), self.final_observation]
        return later[1:]


def from_trajectory(
    trajectory: types.Trajectory,
    *,
    stage: str,
    iteration: int,
    env_config: base.EnvConfig,
    tokens: Sequence[Mapping[str, Any]] | None = None,
) -> StoredEpisode:
    """Returns the stored form of a trajectory, without failure tags.

    Args:
      trajectory: the episode.
      stage: name of the stage that it belongs to.
      iteration: of that stage, from 0.
      env_config: configuration of the environment that played it.
      tokens: numbers of each turn's tokens, from `tokens.describe`; None stores none.
    """
    task = trajectory.task
    numbers = [None] * len(trajectory.turns) if tokens is None else tokens
    return StoredEpisode(
        stage=stage,
        iteration=iteration,
        env=task.env,
        item_id=task.item_id,
        group=task.group,
        sample=task.sample,
        policy_step=trajectory.policy_step,
        ending=trajectory.ending,
        success=trajectory.success,
        score=float(trajectory.score),
        reward=trajectory.episode_return,
        turns=tuple(
            StoredTurn(
                observation=turn.observation,
                action=turn.action,
                reward=float(turn.reward),
                valid=turn.valid,
                observation_tokens=len(turn.observation_tokens),
                action_tokens=len(turn.action_tokens),
                tokens=of_turn,
            )
            for turn, of_turn in zip(trajectory.turns, numbers, strict=True)
        ),
        final_observation=trajectory.final_observation,
        error=trajectory.error,
        config=describe_config(env_config),
    )


def describe_config(env_config: base.EnvConfig) -> dict[str, Any]:
    """Returns the fields of a configuration as JSON can hold them."""
    return {**vars(env_config), "options": dict(env_config.options)}


def append(path: pathlib.Path, episodes: Iterable[StoredEpisode]) -> None:
    """Adds episodes to a file of JSON lines."""
    jsonl.append(path, map(to_record, episodes))


def read(path: pathlib.Path) -> Iterator[StoredEpisode]:
    """Yields the episodes of a file, one at a time: files can be large.

    Raises:
      DamagedFileError: if a line is not a stored episode.
    """
    for record in jsonl.read(path):
        try:
            yield from_record(record)
        except (KeyError, TypeError, ValueError) as error:
            raise errors.DamagedFileError(
                f"{path} holds a line that is not a stored episode "
                f"({type(error).__name__}: {error})."
            ) from error


def paths(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The files of stored episodes in a working directory, by name."""
    return sorted((workdir / FOLDER).glob("*.jsonl"))


def to_record(episode: StoredEpisode) -> dict[str, Any]:
    """Returns the line of an episode, as JSON can hold it."""
    record = dataclasses.asdict(episode)
    for turn in record["turns"]:
        if turn["tokens"] is None:
            del turn["tokens"]
    return record


def from_record(record: Mapping[str, Any]) -> StoredEpisode:
    """Returns the episode of a line.

    Raises:
      KeyError, TypeError, ValueError: if it is not a stored episode.
    """
    return StoredEpisode(
        **{
            **record,
            "ending": types.Ending(record["ending"]),
            "turns": tuple(StoredTurn(**turn) for turn in record["turns"]),
            "failures": tuple(record["failures"]),
        }
    )
