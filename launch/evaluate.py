r"""Evaluates a checkpoint on fixed task panels.

  python -m agentrl.launch.evaluate --checkpoint=runs/demo --out=/tmp/results

plays what the run itself evaluates, and prints the same numbers. Any part may differ:

  --checkpoint=runs/demo/checkpoints/120 --envs=textcraft --split=test --tier=hard
  --samples=16 --tasks=50 --item_file=ids.json

  --compare_with=runs/demo/checkpoints/40,initial

measures how far the policy has drifted from others of its shape and vocabulary: the
Kullback-Leibler divergence KL(policy || other) on the policy's own episodes, of each
panel. `initial` is what the run started from: published weights, or random ones.

A file of ids is a JSON list, as AgentGym writes it, or has one id a line; its digest is
part of the results.

The output directory receives one JSON file per environment with every task's results,
and every episode as a JSON line.
"""

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
_OUT = flags.DEFINE_string(
    "out", None, "Directory for the results; must be new or empty.", required=True
)
_ENVS = flags.DEFINE_list(
    "envs", None, "Environments; the run's evaluation by default."
)
_SPLIT = flags.DEFINE_string("split", None, "Split, such as test or train.")
_TIER = flags.DEFINE_enum("tier", None, ["all", "easy", "hard"], "Difficulty of tasks.")
_SUBSETS = flags.DEFINE_list(
    "subsets", None, "Parts of panels, as ENV/SUBSET; the others are taken whole."
)
_TIER_FILE = flags.DEFINE_list(
    "tier_file", None, "Calibrated tiers (JSON lines), in one file or several."
)
_ITEM_FILE = flags.DEFINE_list(
    "item_file",
    None,
    "Lists of task ids in place of the split's own tasks, in one file or several; each "
    "environment takes its own.",
)
_MAX_TURNS = flags.DEFINE_integer(
    "max_turns", None, "Another turn limit than the run's.", lower_bound=1
)
_LIST_ACTIONS = flags.DEFINE_enum(
    "list_actions",
    None,
    ["native", "always", "first", "never"],
    "When to list the available actions, if not as the run does.",
)
_ENV_OPTION = flags.DEFINE_multi_string(
    "env_option",
    [],
    "Option of every environment beside its own, such as irrelevant_text=1. Repeatable.",
)
_SAMPLES = flags.DEFINE_integer("samples", None, "Episodes per task, the k of avg@k.")
_TASKS = flags.DEFINE_integer("tasks", None, "Tasks of each panel; 0 takes all.")
_STRATIFY = flags.DEFINE_enum(
    "stratify", None, ["tier", "subset"], "With --tasks: equally many of each."
)

_COMPARE_WITH = flags.DEFINE_list(
    "compare_with",
    [],
    "Other policies to measure the drift from: working directories of runs, their "
    "checkpoints/STEP, or 'initial'.",
)


def check_folder() -> None:
    """Refuses a folder that is not there, before the seconds that JAX takes."""
    if "://" in _CHECKPOINT.value:  # in a store, which is asked later
        return
    try:
        errors.refuse_missing(pathlib.Path(_CHECKPOINT.value))
    except errors.CheckpointError as error:
        sys.exit(f"launch.evaluate: {error}")


def main(argv: Sequence[str]) -> None:
    """Restores the parameters, plays the panels, prints the table."""
    if len(argv) > 1:
        raise errors.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --checkpoint=...?"
        )
    check_folder()
    logging.set_verbosity(logging.WARNING)  # orbax reports every step at INFO
    from agentrl import api, refusals
    from agentrl.hardware import compilation
    from agentrl.play import episode
    from agentrl.reporting import tables
    from agentrl.statistics import results

    changes = {
        "environments": tuple(_ENVS.value) if _ENVS.value else None,
        "split": _SPLIT.value,
        "tier": _TIER.value,
        "subsets": tuple(_SUBSETS.value) if _SUBSETS.value is not None else None,
        "tier_file": tuple(_TIER_FILE.value) if _TIER_FILE.value else None,
        "item_file": tuple(_ITEM_FILE.value) if _ITEM_FILE.value else None,
        "samples": _SAMPLES.value,
        "max_turns": _MAX_TURNS.value,
        "list_actions": _LIST_ACTIONS.value,
        "tasks": _TASKS.value,
        "stratify": _STRATIFY.value,
        "env_options": episode.parse_options(_ENV_OPTION.value) or None,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    compilation.enable_cache()
    try:
        found = api.evaluate(
            _CHECKPOINT.value, _OUT.value, compare_with=_COMPARE_WITH.value, **given
        )
    except errors.EnvWorkerError as error:
        sys.exit(
            f"launch.evaluate: {error}\nRepeat it with another --out if {_OUT.value} "
            "holds results of other environments by now."
        )
    except refusals.EXPECTED as error:
        sys.exit(f"launch.evaluate: {error}")
    by_chance = results.load_random(pathlib.Path(_OUT.value))
    print(tables.format_table(found, by_chance))
    print(f"Results: {_OUT.value}")


if __name__ == "__main__":
    app.run(main)
