"""Calibration: pass rates of a policy, which sort tasks into tiers of difficulty."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from agentrl import types
from agentrl.envs import base, tasks
from agentrl.evaluation import evaluator
from agentrl.parallel import rng
from agentrl.reporting import tiers
from agentrl.run import assemble

_CHUNK = 64  # tasks played together; an interruption loses at most a chunk


def calibrate(
    run: assemble.Run,
    params: types.PyTree,
    progress: types.Progress,
    step: int,
    *,
    env: str,
    out: pathlib.Path,
    splits: Sequence[str],
    item_file: tasks.Files | None = None,
    limit: int | None,
    samples: int,
    threshold: float,
) -> Iterator[list[dict[str, Any]]]:
    """Plays the tasks of some splits and appends their tiers to the file `out`.

    After an interruption it continues where the file ends, with the same result. See
    `reporting.tiers` for the format.

    Args:
      run: the run; its pool plays the episodes.
      params: of the policy, in the learner's layout.
      progress: where the policy's run stood.
      step: optimizer updates behind the policy.
      env: one of the environments that the run configures.
      out: the file.
      splits: whose panels are played.
      item_file: lists of the tasks to play instead, whatever their splits.
      limit: plays at most so many tasks of each split or list; None plays all.
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
    tier_file = tiers.open_tier_file(out, samples, threshold, policy)
    yield list(tier_file.lines.values())
    chosen = splits if item_file is None else splits[:1]
    panels = [
        run.panel(env, split, tier="all", item_file=item_file, limit=limit)
        for split in chosen
    ]
    ids = [item_id for panel in panels for item_id in panel.item_ids]
    yield from play_missing(
        run, run.rollout_params(params), env, ids, tier_file, step=step
    )


def play_missing(
    run: assemble.Run,
    rollout_params: types.PyTree,
    env: str,
    item_ids: Sequence[str],
    tier_file: tiers.TierFile,
    *,
    step: int,
) -> Iterator[list[dict[str, Any]]]:
    """Plays the tasks that a file of tiers lacks, and adds them; see `calibrate`.

    Args:
      run: the run; its pool plays the episodes.
      rollout_params: parameters in the rollout's layout.
      env: environment of the tasks.
      item_ids: all tasks of the calibration.
      tier_file: the file.
      step: optimizer updates behind the policy.

    Yields:
      The new lines, chunk by chunk.
    """
    samples = tier_file.shared["samples"]
    num_episodes = len(item_ids) * samples
    num_lost_before = sum(samples - line["n"] for line in tier_file.lines.values())
    missing = [item_id for item_id in item_ids if item_id not in tier_file.lines]
    lost: list[types.Trajectory] = []
    for start in range(0, len(missing), _CHUNK):
        chunk = missing[start : start + _CHUNK]
        episodes = evaluator.play_tasks(
            run,
            rollout_params,
            chunk,
            samples=samples,
            settings=run.config.evaluation.rollout_of(env),
            key=rng.stream_key(run.key, "calibration", env),
            step=step,
            streams=_name_streams(chunk, samples),
        )
        lost += [episode for episode in episodes if episode.ending.lost]
        evaluator.check_lost_fraction(
            lost,
            num_episodes=num_episodes,
            max_fraction=run.config.max_env_error_fraction,
            what=f"the calibration on '{env}'",
            num_lost_before=num_lost_before,
        )
        yield tier_file.add(episodes)
    if num_lost := len(lost) + num_lost_before:
        left = sum(item_id not in tier_file.lines for item_id in item_ids)
        print(
            f"The environment lost {num_lost} of {num_episodes} episodes, which do not "
            f"count; {left} of {len(item_ids)} tasks have no other, hence no tier."
        )


def _name_streams(item_ids: Sequence[str], samples: int) -> list[int]:
    """Returns random streams by item id, so that they do not depend on the tasks left."""
    return [
        base.stable_hash(item_id, sample) & 0x7FFFFFFF
        for item_id in item_ids
        for sample in range(samples)
    ]
