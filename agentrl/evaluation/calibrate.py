"""Calibration: how hard each task is for a policy."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from agentrl import types
from agentrl.envs import base
from agentrl.evaluation import evaluate
from agentrl.parallel import rng
from agentrl.reporting import tiers
from agentrl.run import assemble

_CHUNK = 64  # tasks played together; an interruption loses at most these


def calibrate(
    run: assemble.Run,
    params: types.PyTree,
    progress: types.Progress,
    step: int,
    *,
    env: str,
    out: pathlib.Path,
    splits: Sequence[str],
    limit: int | None,
    samples: int,
    threshold: float,
) -> Iterator[list[dict[str, Any]]]:
    """Plays the tasks of some splits and appends their tiers to the file `out`.

    Repeated after an interruption, it goes on where the file ends, and in the end the
    file is the same. See `reporting.tiers` for what it holds.

    Args:
      run: the run; its pool plays the episodes.
      params: of the policy, in the learner's layout.
      progress: where the policy's run stood.
      step: optimizer updates behind the policy.
      env: one of the environments that the run configures.
      out: the file.
      splits: whose panels are played.
      limit: plays at most so many tasks of each split; None plays all.
      samples: episodes of each task.
      threshold: least pass rate of an easy task.

    Yields:
      The lines that were there, then those of each chunk of tasks.

    Raises:
      ConfigError: if the file is of another calibration, or the run has no such `env`.
      EnvWorkerError: if the environment lost too many episodes; the tasks played last
        are not in the file then.
    """
    name, seed = run.config.name, run.config.seed
    policy = f"{name}, seed {seed}, stage {progress.stage_name}, step {step}"
    book = tiers.open_book(out, samples, threshold, policy)
    yield list(book.lines.values())
    panels = [run.panel(env, split, tier="all", limit=limit) for split in splits]
    ids = [item_id for panel in panels for item_id in panel.item_ids]
    yield from play_missing(run, run.rollout_params(params), env, ids, book, step=step)


def play_missing(
    run: assemble.Run,
    placed: types.PyTree,
    env: str,
    item_ids: Sequence[str],
    book: tiers.Book,
    *,
    step: int,
) -> Iterator[list[dict[str, Any]]]:
    """Plays the tasks that a file of tiers lacks, and adds them; see `calibrate`.

    Args:
      run: the run; its pool plays the episodes.
      placed: parameters in the rollout's layout.
      env: environment of the tasks.
      item_ids: all tasks of the calibration.
      book: the file.
      step: optimizer updates behind the policy.

    Yields:
      The new lines, chunk by chunk.
    """
    samples = book.shared["samples"]
    num_episodes = len(item_ids) * samples
    num_lost_before = sum(samples - line["n"] for line in book.lines.values())
    missing = [item_id for item_id in item_ids if item_id not in book.lines]
    lost: list[types.Trajectory] = []
    for start in range(0, len(missing), _CHUNK):
        chunk = missing[start : start + _CHUNK]
        episodes = evaluate.play_tasks(
            run,
            placed,
            chunk,
            samples=samples,
            settings=run.config.evaluation.rollout,
            key=rng.stream_key(run.key, "calibration", env),
            step=step,
            streams=_name_streams(chunk, samples),
        )
        lost += [episode for episode in episodes if episode.ending.lost]
        evaluate.refuse_lost(
            lost,
            num_episodes=num_episodes,
            max_fraction=run.config.max_env_error_fraction,
            what=f"the calibration on '{env}'",
            num_lost_before=num_lost_before,
        )
        yield book.add(episodes)
    if num_lost := len(lost) + num_lost_before:
        left = sum(item_id not in book.lines for item_id in item_ids)
        print(
            f"The environment lost {num_lost} of {num_episodes} episodes, which do not "
            f"count; {left} of {len(item_ids)} tasks have no other, hence no tier."
        )


def _name_streams(item_ids: Sequence[str], samples: int) -> list[int]:
    """Streams of randomness by name: which tasks are left must not change their draws."""
    return [
        base.stable_hash(item_id, sample) & 0x7FFFFFFF
        for item_id in item_ids
        for sample in range(samples)
    ]
