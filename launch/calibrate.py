r"""Measures how hard each task is for a policy, and writes the tiers.

  python -m launch.calibrate --checkpoint=runs/qwen --env=babyai --out=babyai.jsonl

plays every task of the training and test panels 8 times. A task is easy if the pass rate
is at least --threshold, else hard. Episodes that the environment loses, because it raises
or hangs, are played again, and left out if they stay lost. The same command goes on where
it was interrupted.
Training and evaluation take the file as `tier_file`, along with `tier`:

  python -m launch.evaluate --checkpoint=runs/mine --out=/tmp/hard --envs=babyai \\
      --tier=hard --tier_file=babyai.jsonl
"""

import collections
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

if TYPE_CHECKING:
    from agentrl import run as runs
    from agentrl import types
    from reporting import tiers

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "A run's working directory, or one of its checkpoints/STEP.",
    required=True,
)
_ENV = flags.DEFINE_string("env", None, "Environment, one of the run's.", required=True)
_OUT = flags.DEFINE_string(
    "out", None, "File for the tiers (JSON lines).", required=True
)
_SPLITS = flags.DEFINE_list("splits", ["train", "test"], "Splits to play.")
_SAMPLES = flags.DEFINE_integer("samples", 8, "Episodes per task.", lower_bound=1)
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Least pass rate of an easy task.", lower_bound=0, upper_bound=1
)
_TASKS = flags.DEFINE_integer("tasks", 0, "Tasks of each split; 0 takes all.")

_CHUNK = 64  # tasks played together; an interruption loses at most these


def main(argv: Sequence[str]) -> None:
    """Plays the tasks and prints how many of each tier there are."""
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --checkpoint=...?"
        )
    logging.set_verbosity(logging.WARNING)  # orbax reports every step at INFO
    from agentrl import errors
    from envs import tasks

    tiers = collections.Counter[str]()
    try:
        for lines in calibrate(
            pathlib.Path(_CHECKPOINT.value),
            _ENV.value,
            pathlib.Path(_OUT.value),
            splits=_SPLITS.value,
            limit=_TASKS.value or None,
            samples=_SAMPLES.value,
            threshold=_THRESHOLD.value,
        ):
            tiers.update(line["tier"] for line in lines)
            print(f"{tiers.total()} tasks: {dict(tiers)}", flush=True)
    except (
        errors.ConfigError,
        errors.CheckpointError,
        errors.EnvWorkerError,
        tasks.TaskSelectionError,
    ) as error:
        sys.exit(f"launch.calibrate: {error}")
    print(
        f"{_OUT.value}: {_ENV.value}, {_SAMPLES.value} samples per task, easy from pass "
        f"rate {_THRESHOLD.value:g}: {tiers['easy']} easy, {tiers['hard']} hard."
    )


def calibrate(
    path: pathlib.Path,
    env: str,
    out: pathlib.Path,
    *,
    splits: Sequence[str],
    limit: int | None,
    samples: int,
    threshold: float,
) -> Iterator[list[dict[str, Any]]]:
    """Plays the tasks of some splits and appends their tiers to the file `out`.

    Repeated after an interruption, it goes on where the file ends, and in the end the
    file is the same. See `reporting.tiers` for what it holds.

    Args:
      path: working directory of a run, or one of its checkpoints.
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
    from launch import session
    from reporting import tiers

    changes = {"environments": (env,), "samples": samples}
    with session.open_policy(path, changes) as (run, params, progress, step):
        name, seed = run.config.name, run.config.seed
        policy = f"{name}, seed {seed}, stage {progress.stage_name}, step {step}"
        book = tiers.open_book(out, samples, threshold, policy)
        yield list(book.lines.values())
        panels = [run.panel(env, split, tier="all", limit=limit) for split in splits]
        ids = [item_id for panel in panels for item_id in panel.item_ids]
        placed = run.rollout_params(params)
        yield from play_missing(run, placed, env, ids, book, step=step)


def play_missing(
    run: "runs.Run",
    placed: "types.PyTree",
    env: str,
    item_ids: Sequence[str],
    book: "tiers.Book",
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
    from agentrl import evaluate, keys

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
            key=keys.stream_key(run.key, "calibration", env),
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
    from envs import base

    return [
        base.stable_hash(item_id, sample) & 0x7FFFFFFF
        for item_id in item_ids
        for sample in range(samples)
    ]


if __name__ == "__main__":
    app.run(main)
