r"""Measures how hard each task is for a policy, and writes the tiers.

  python -m agentrl.launch.calibrate --checkpoint=runs/qwen --env=babyai --out=babyai.jsonl

plays every task of the training and test panels 8 times. A task is easy if the pass rate
is at least --threshold, else hard. Episodes that the environment loses, because it raises
or hangs, are played again, and left out if they stay lost. The same command goes on where
it was interrupted.
Training and evaluation take the file as `tier_file`, along with `tier`:

  python -m agentrl.launch.evaluate --checkpoint=runs/mine --out=/tmp/hard --envs=babyai \\
      --tier=hard --tier_file=babyai.jsonl
"""

import collections
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from agentrl import errors

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
_ITEM_FILE = flags.DEFINE_list(
    "item_file", None, "Lists of task ids to play in place of --splits."
)
_TASKS = flags.DEFINE_integer("tasks", 0, "Tasks of each split; 0 takes all.")


def main(argv: Sequence[str]) -> None:
    """Plays the tasks and prints how many of each tier there are."""
    if len(argv) > 1:
        raise errors.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --checkpoint=...?"
        )
    logging.set_verbosity(logging.WARNING)  # orbax reports every step at INFO
    from agentrl import refusals, session
    from agentrl.buckets import mirror
    from agentrl.evaluation import calibrate

    tiers = collections.Counter[str]()
    try:
        changes = {"environments": (_ENV.value,), "samples": _SAMPLES.value}
        with session.open_policy(mirror.readable(_CHECKPOINT.value), changes) as opened:
            for lines in calibrate.calibrate(
                *opened,
                env=_ENV.value,
                out=pathlib.Path(_OUT.value),
                splits=_SPLITS.value,
                item_file=tuple(_ITEM_FILE.value) if _ITEM_FILE.value else None,
                limit=_TASKS.value or None,
                samples=_SAMPLES.value,
                threshold=_THRESHOLD.value,
            ):
                tiers.update(line["tier"] for line in lines)
                print(f"{tiers.total()} tasks: {dict(tiers)}", flush=True)
    except refusals.EXPECTED as error:
        sys.exit(f"launch.calibrate: {error}")
    print(
        f"{_OUT.value}: {_ENV.value}, {_SAMPLES.value} samples per task, easy from pass "
        f"rate {_THRESHOLD.value:g}: {tiers['easy']} easy, {tiers['hard']} hard."
    )


if __name__ == "__main__":
    app.run(main)
