"""One training session: checks before anything runs, the loop, and what is left behind.

A session begins a run in an empty working directory or continues the one it finds there.
It refuses to touch the directory of another run.
"""

import json
import pathlib

import jax

from agentrl import (
    checkpoint,
    config,
    errors,
    evaluate,
    experiment,
    loop,
    metrics,
    report,
    timing,
)
from agentrl import run as runs

RUN_FILE = "run.json"


def train(settings: config.RunConfig, workdir: pathlib.Path) -> None:
    """Trains all stages, evaluates, and writes the report.

    Raises:
      ConfigError: if the configuration cannot work, or the directory is another run's.
    """
    settings.validate(num_devices=jax.device_count())
    claim(settings, workdir)
    with (
        runs.assemble(settings, workdir) as run,
        checkpoint.Checkpoints(workdir, keep=settings.keep_checkpoints) as checkpoints,
    ):
        with metrics.Writer(workdir, settings) as writer:
            loop.train(
                run,
                loop.Recorder(
                    workdir=workdir,
                    checkpoints=checkpoints,
                    writer=writer,
                    timers=timing.Timers(),
                    compilations=timing.CompilationCounter(),
                ),
            )
    print(report.format_table(evaluate.load_all(workdir)))
    print(f"Report: {report.write(workdir)}")


def claim(settings: config.RunConfig, workdir: pathlib.Path) -> None:
    """Writes `run.json`, or checks that the one there describes this very run."""
    path = workdir / RUN_FILE
    if path.exists():
        stored = json.loads(path.read_text())["config"]
        if changed := experiment.differences(stored, experiment.to_json(settings)):
            raise errors.ConfigError(
                f"{workdir} holds a run with another configuration; these fields differ: "
                f"{', '.join(changed)}. Use another --workdir, or repeat the original "
                "command to continue that run."
            )
        return
    if workdir.exists() and any(workdir.iterdir()):
        raise errors.ConfigError(
            f"{workdir} is not empty and holds no {RUN_FILE}; nothing is overwritten. "
            "Use another --workdir."
        )
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(experiment.describe_run(settings), indent=2) + "\n")
