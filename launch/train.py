r"""Trains the stages of one experiment file; resumes by itself.

The same command starts a run and continues one that was interrupted:

  python -m agentrl.launch.train demo --workdir=runs/demo
  python -m agentrl.launch.train my_experiment.py --workdir=runs/mine

An experiment is a file, or the name of one that is installed (`agentrl list experiments`);
--config=FILE says the same. --dry_run stops before anything is written: it prints the
configuration, the tasks with their digests, parameters and memory.

SIGTERM and the first Ctrl-C finish the iteration, save it and end with exit code 75
(EX_TEMPFAIL), on which a launcher starts the same command again; the second one ends at
once, with code 143 or 130. An evaluation under way is given up, and repeated later.

A run starts from random weights, or from a model that others trained: its name on the
Hugging Face Hub (from the cache, if it is there), a folder, a GGUF file, a folder of
launch.convert, or the name of one that a package carries:

  --model=Qwen/Qwen2.5-0.5B-Instruct
  --model=Qwen/Qwen2.5-0.5B-Instruct@7ae557604adf67be50417f59c2c2f167def9a775
  --model=models/qwen
  --model=smollm2-135m-instruct

run.json records the commit, and the same command goes on with it.

Single fields are overridden by their path, stages by name or `*`:

  --set=seed=1 --set=stages.textcraft.rollout.group_size=16
  --set='stages.*.optimizer.learning_rate=1e-4'

On many hosts the same command runs on each, with a working directory that all of them
share; `agentrl launch` starts it on TPU VMs, GKE, Slurm and Kubernetes.

A working directory may lie in an object store: gs://BUCKET/PATH or s3://BUCKET/PATH
(docs/howto_bucket.md).

The working directory receives checkpoints, `metrics.jsonl`, tensorboard event files, every
episode as a JSON line, `run.json`, `evaluations/*.json` and, at the end, `report.html`.
"""

import signal
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from agentrl import errors

_CONFIG = flags.DEFINE_string(
    "config", None, "Experiment: a file, or the name of a packaged one, such as demo."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, or gs://BUCKET/PATH or s3://BUCKET/PATH; it is resumed if it "
    "holds one.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Check and describe the run, then stop. Nothing is written; --workdir is not needed.",
)
_MODEL = flags.DEFINE_string(
    "model",
    "",
    "Pretrained model: name on the Hub (OWNER/NAME or OWNER/NAME@REVISION), folder, GGUF "
    "file, or one of `agentrl list models`.",
)
_START = flags.DEFINE_string(
    "start_from",
    "",
    "Policy of another run to start from: its working directory, or one of its "
    "checkpoints/STEP. Model, tokenizer and chat are taken from there.",
)
_ALLOW = flags.DEFINE_list(
    "allow_changes",
    [],
    "Fields that may differ from those that the run began with, although it learns "
    "something else from then on: seed,stages.*.optimizer.learning_rate",
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Override of one field: --set=seed=1. Repeatable."
)


_LOG_TO = flags.DEFINE_list(
    "log_to",
    None,
    "Where metrics go besides metrics.jsonl: tensorboard, wandb, mlflow, trackio. By "
    "default what the experiment says, tensorboard unless it says something else.",
)

_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "With many hosts, ADDRESS:PORT of the first. TPU pods and Slurm need none.",
)
_NUM_HOSTS = flags.DEFINE_integer(
    "num_hosts",
    None,
    "Hosts of the run, which starts with this many or not at all. By default what the "
    "environment says, and one if it says nothing.",
    lower_bound=1,
)
_HOST = flags.DEFINE_integer(
    "host_index", None, "This host's number, from 0, with --coordinator.", lower_bound=0
)
_HOST_TIMEOUT = flags.DEFINE_float(
    "host_timeout_s",
    120.0,
    "With many hosts: one that gives no sign of life for so long is lost; the others "
    "name it and leave with exit code 69.",
    lower_bound=1.0,
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Iterations of each stage, after the first, to profile into WORKDIR/profile/STAGE, "
    "for xprof or ui.perfetto.dev.",
    lower_bound=0,
)


def _name_experiment(argv: Sequence[str]) -> str:
    """Returns what the command line names; refuses one that says too little or too much."""
    given = [*argv[1:], *([_CONFIG.value] if _CONFIG.value else [])]
    if len(given) > 1:
        raise errors.UsageError(
            f"one experiment is trained at a time, not {given}; did you mean --set=...?"
        )
    if not given:
        raise errors.UsageError("name an experiment, such as demo, or give --config.")
    if _WORKDIR.value is None and not _DRY_RUN.value:
        raise errors.UsageError("give --workdir, the directory of the run.")
    if _MODEL.value and _START.value:
        raise errors.UsageError("give either --model or --start_from.")
    return given[0]


def main(argv: Sequence[str]) -> None:
    """Loads the experiment, checks it, and trains."""
    experiment = _name_experiment(argv)
    # JAX is imported late: it reads flags and environment variables on import.
    logging.set_verbosity(logging.WARNING)  # orbax reports every step at INFO
    from agentrl import refusals, session
    from agentrl.buckets import mirror
    from agentrl.experiment import files
    from agentrl.hardware import compilation
    from agentrl.parallel import startup

    log_to = [] if _LOG_TO.value is None else [f"log_to={tuple(_LOG_TO.value)!r}"]
    compilation.enable_cache()
    try:
        startup.join(
            _COORDINATOR.value,
            _NUM_HOSTS.value,
            _HOST.value,
            host_timeout_s=_HOST_TIMEOUT.value,
        )
        given_start = str(mirror.readable(_START.value)) if _START.value else ""
        wanted = "" if _DRY_RUN.value else _WORKDIR.value or ""
        with mirror.opened(wanted) as (workdir, publish):
            settings = files.load(
                experiment,
                overrides=[*_SET.value, *log_to],
                model=session.model_of(_MODEL.value, workdir),
                start=session.starting_from(given_start, workdir),
            )
            if _DRY_RUN.value:
                print(session.describe(settings))
                return
            # A minute may pass before the first line of the run.
            print(
                f"{settings.name}: checking tasks, playing demonstrations", flush=True
            )
            session.train(
                settings,
                workdir,
                allow_changes=_ALLOW.value,
                num_profiled=_PROFILE.value,
                host_timeout_s=_HOST_TIMEOUT.value,
                publish=publish,
            )
    except errors.InterruptedRun as interrupted:
        print(
            f"launch.train: {interrupted} The same command goes on from there.",
            file=sys.stderr,
        )
        sys.exit(errors.INTERRUPTED_CODE)
    except refusals.EXPECTED as error:
        sys.exit(f"launch.train: {error}")


if __name__ == "__main__":
    # Until a session listens, Ctrl-C ends the process: Python's own handler raises, and
    # what a library imports may swallow that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    app.run(main)
