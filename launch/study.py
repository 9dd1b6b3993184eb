r"""Plans, trains and reports a study: many chains of stages that share their work.

  python -m agentrl.launch.study --config=experiments/generalization/study.py \
    --scale=laptop --axes=across --envs=textcraft,babyai --seeds=0,1 --workdir=W --plan

shows the nodes, what is done, and the time that is left as far as it was measured. The
same command without --plan trains what is missing, on as many machines as run it on one
folder; --workers trains several nodes at once on one machine. Killed anywhere, it goes on
when it is started again. A node that fails twice is named, what depends on it is left out,
and all else goes on.

The directory receives a working directory for each node, the tables as CSV, and the page:
report.html and report.md, which `--report` writes at any time.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from agentrl import errors

_CONFIG = flags.DEFINE_string(
    "config", None, "Study file, which defines get_study(scale, environments)."
)
_SCALE = flags.DEFINE_string("scale", "laptop", "Scale, one of those of the file.")
_AXES = flags.DEFINE_list("axes", [], "Axes to train; all by default.")
_ENVS = flags.DEFINE_list("envs", [], "Environments; all of the file's by default.")
_SEEDS = flags.DEFINE_list("seeds", [], "Seeds, such as 0,1,2; the file's by default.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the study.", required=True
)
_MODEL = flags.DEFINE_string(
    "model", "", "Pretrained model to start from, as launch.train takes it."
)
_PLAN = flags.DEFINE_bool("plan", False, "Show what would be done, and stop.")
_PROBE = flags.DEFINE_bool(
    "probe",
    False,
    "First train a few iterations of each kind of node, to know its cost.",
)
_REPORT = flags.DEFINE_bool("report", False, "Write the page and the tables, and stop.")
_ONLY = flags.DEFINE_list(
    "only",
    [],
    "Nodes to train, with those that they start from, by the first letters of their id.",
)
_MAX_NODES = flags.DEFINE_integer(
    "max_nodes", 0, "Nodes to train at most; 0 sets no limit.", lower_bound=0
)
_WORKERS = flags.DEFINE_integer("workers", 1, "Nodes to train at once.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    """Loads the study, and does with it what the flags say."""
    if len(argv) > 1:
        raise errors.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --axes=?"
        )
    if _CONFIG.value is None:
        raise errors.UsageError("give --config, a study file.")
    if not all(seed.isdecimal() for seed in _SEEDS.value):
        raise errors.UsageError(f"--seeds={','.join(_SEEDS.value)}; give 0,1,2.")
    logging.set_verbosity(logging.WARNING)
    from agentrl import refusals
    from agentrl.study_page import command

    try:
        command.run(
            pathlib.Path(_CONFIG.value),
            pathlib.Path(_WORKDIR.value),
            scale=_SCALE.value,
            axes=_AXES.value,
            environments=_ENVS.value,
            seeds=[int(seed) for seed in _SEEDS.value],
            model=_MODEL.value,
            action="plan" if _PLAN.value else "report" if _REPORT.value else "train",
            probe=_PROBE.value,
            only=_ONLY.value,
            max_nodes=_MAX_NODES.value,
            num_workers=_WORKERS.value,
        )
    except errors.InterruptedRun as interrupted:
        print(
            f"launch.study: {interrupted} The same command goes on from there.",
            file=sys.stderr,
        )
        sys.exit(errors.INTERRUPTED_CODE)
    except refusals.EXPECTED as error:
        sys.exit(f"launch.study: {error}")


if __name__ == "__main__":
    app.run(main)
