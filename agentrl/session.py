"""One training session: checks before anything runs, the loop, and what is left behind.

A session begins a run in an empty working directory or continues the one it finds there.
It refuses to touch the directory of another run.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping

import filelock
import jax

from agentrl import config, errors, loop, types
from agentrl.experiment import files, preview
from agentrl.hardware import roofline, timing
from agentrl.parallel import processes, startup
from agentrl.reporting import metrics, report, tables
from agentrl.run import assemble, checkpoint
from agentrl.statistics import results

LOCK_FILE = ".lock"


def train(
    settings: config.RunConfig, workdir: pathlib.Path, *, num_profiled: int = 0
) -> None:
    """Trains all stages, evaluates, and writes the report.

    Args:
      settings: the run.
      workdir: its directory.
      num_profiled: iterations of each stage to write a trace of, in `profile/STAGE`.

    Raises:
      ConfigError: if the configuration cannot work, or the directory is another run's
        or in use.
    """
    check(settings)
    with processes.process_zero_first("claim"):
        claim(settings, workdir)
    with (
        hold(workdir),
        assemble.assemble(settings, workdir) as run,
        checkpoint.Checkpoints(workdir, keep=settings.keep_checkpoints) as checkpoints,
        metrics.Writer(workdir, settings) as writer,
    ):
        roofline.memory_bandwidth()  # measured now, not in the first iteration
        recorder = loop.Recorder(
            workdir=workdir,
            checkpoints=checkpoints,
            writer=writer,
            timers=timing.Timers(),
            peak_flops=roofline.peak_flops(),
            compilations=timing.CompilationCounter(),
            num_profiled=num_profiled,
        )
        loop.train(run, recorder)
    if processes.is_process_zero():
        found = results.load_all(workdir, settings.environments)
        print(tables.format_table(found, results.load_random(workdir)))
        print(f"Report: {report.write(workdir, settings)}")


def check(settings: config.RunConfig) -> None:
    """Raises `ConfigError` if a run cannot work on the devices that are here."""
    settings.validate(num_devices=jax.device_count())
    if settings.weights:
        from agentrl.pretrained import locate

        locate.find(settings.weights).check(settings.model)


def describe(settings: config.RunConfig) -> str:
    """Checks a run and says what it will do; nothing is written.

    Raises:
      ConfigError: if it cannot work.
    """
    check(settings)
    return preview.describe(settings, num_devices=jax.device_count())


@contextlib.contextmanager
def open_policy(
    path: pathlib.Path, changes: Mapping[str, object]
) -> Iterator[tuple[assemble.Run, types.PyTree, types.Progress, int]]:
    """Restores a stored policy to play with.

    Args:
      path: working directory of a run, or one of its checkpoints.
      changes: fields of the run's `EvaluationConfig` to replace.

    Yields:
      The run, the parameters in the learner's layout, and the progress and optimizer
      step they were saved at.

    Raises:
      CheckpointError: if there is no such checkpoint.
      ConfigError: if a change cannot work.
    """
    workdir, _ = checkpoint.find_checkpoint(path)
    settings = files.read_run(workdir)
    startup.split_cpu(settings.mesh)
    wanted = dataclasses.replace(settings.evaluation, **changes)
    settings = dataclasses.replace(settings, evaluation=wanted)
    settings.validate(num_devices=jax.device_count())
    with assemble.assemble(settings, workdir) as run:
        parameters = run.parameters
        stored = checkpoint.restore_policy(
            path, parameters.abstract, frozen_digest=parameters.frozen_digest
        )
        yield run, stored.params, stored.progress, stored.step


def claim(settings: config.RunConfig, workdir: pathlib.Path) -> None:
    """Writes `run.json`, or checks that the one there describes this very run."""
    path = workdir / files.RUN_FILE
    if path.exists():
        stored = json.loads(path.read_text())["config"]
        if changed := files.differences(stored, files.to_json(settings)):
            raise errors.ConfigError(
                f"{workdir} holds a run with another configuration; these fields differ: "
                f"{', '.join(changed)}. Use another --workdir, or repeat the original "
                "command to continue that run."
            )
        return
    errors.refuse_files(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(files.describe_run(settings), indent=2) + "\n")


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other sessions out of a directory; the lock ends with the process.

    Raises:
      ConfigError: if another session is at work there.
    """
    if not processes.is_process_zero():
        yield
        return
    lock = filelock.FileLock(workdir / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise errors.ConfigError(
            f"another process trains in {workdir}: wait for its end, stop it, or use "
            "another --workdir."
        ) from None
    try:
        yield
    finally:
        lock.release()
