r"""Measures how hard each task is for a policy, and writes the tiers.

  python -m launch.calibrate --checkpoint=runs/qwen --env=babyai --out=babyai.jsonl

plays every task of the training and test panels 8 times. A task is easy if the pass rate
is at least --threshold, else hard. The same command goes on where it was interrupted.
Training and evaluation take the file as `tier_file`, along with `tier`:

  python -m launch.evaluate --checkpoint=runs/mine --out=/tmp/hard --envs=babyai \\
      --tier=hard --tier_file=babyai.jsonl
"""

import collections
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags, logging

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
    from envs import faults, tasks

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
        faults.PoolError,
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
    """
    from agentrl import keys
    from agentrl import run as runs
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
        collector = run.collector(run.config.evaluation.rollout)
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            if all(item_id in book.lines for item_id in chunk):
                continue
            episodes, _ = collector.collect(
                run.rollout_params(params),
                runs.make_tasks(chunk, samples),
                key=keys.stream_key(run.key, "calibration", chunk[0]),
                policy_step=step,
            )
            yield book.add(episodes)


if __name__ == "__main__":
    app.run(main)
