"""One training session: checks before anything runs, the loop, and what is left behind.

A session begins a run in an empty working directory or continues the one it finds there.
It refuses to touch the directory of another run. Whatever can be refused is refused
before anything is written.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import filelock
import jax

from agentrl import config, errors, loop, preflight, storage, types
from agentrl.checkpoints import checkpoint
from agentrl.experiment import changes, files, rules
from agentrl.hardware import roofline, timing, topology
from agentrl.learner import algorithms
from agentrl.loggers import outlets
from agentrl.models import choices
from agentrl.parallel import interruption, processes, startup, watch
from agentrl.planning import preview
from agentrl.reporting import metrics, tables
from agentrl.run import assemble, fork, parameters, resume
from agentrl.statistics import results
from agentrl.supervised import datasets
from agentrl.webpage import report

LOCK_FILE = ".lock"
_NOWHERE = pathlib.Path(os.devnull, "run")  # a directory that cannot exist


def train(
    settings: config.RunConfig,
    workdir: pathlib.Path,
    *,
    allow_changes: Sequence[str] = (),
    num_profiled: int = 0,
    host_timeout_s: float = startup.HOST_TIMEOUT_S,
    publish: Callable[[], None] | None = None,
) -> None:
    """Trains all stages, evaluates, and writes the report.

    Args:
      settings: the run.
      workdir: its directory.
      allow_changes: fields that may differ from those that the run began with although
        other things are learned then; see `experiment.rules`.
      num_profiled: iterations of each stage to write a trace of, in `profile/STAGE`.
      host_timeout_s: seconds without a sign of life of another host after which this
        one leaves.
      publish: called when a checkpoint is complete; see `buckets.mirror`.

    Raises:
      ConfigError: if the configuration cannot work, or the directory is another run's
        or in use.
      InterruptedRun: if a signal ended it in order; all that was finished is saved.
    """
    timers = timing.Timers()
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(interruption.Interruption())
        with interrupted.abandonable("its start, which the same command repeats"):
            settings = pin_conversations(settings, workdir)
            found = prepare(settings, workdir, stack, allow_changes=allow_changes)
            if processes.is_process_zero():
                print(choices.describe(settings.model), flush=True)
            stack.enter_context(
                watch.HostWatch(
                    workdir, timeout_s=host_timeout_s, describe_place=timers.describe
                )
            )
            run = stack.enter_context(
                assemble.assemble(
                    settings,
                    workdir,
                    chat=found and found.chat,
                    demonstrations=found and found.demonstrations,
                )
            )
            recorder = open_recorder(
                run,
                workdir,
                stack,
                timers=timers,
                num_profiled=num_profiled,
                interrupted=interrupted,
                publish=publish,
            )
        loop.train(run, recorder)
    if processes.is_process_zero():
        show_results(settings, workdir)


def open_recorder(
    run: assemble.Run,
    workdir: pathlib.Path,
    stack: contextlib.ExitStack,
    *,
    timers: timing.Timers,
    num_profiled: int,
    interrupted: interruption.Interruption,
    publish: Callable[[], None] | None,
) -> loop.Recorder:
    """Opens what a session writes to, until `stack` is closed."""
    settings = run.config
    checkpoints = stack.enter_context(
        checkpoint.Checkpoints(workdir, keep=settings.keep_checkpoints)
    )
    writer = stack.enter_context(
        metrics.Writer(workdir, settings, decode=run.chat.tokenizer.decode)
    )

    def published() -> None:
        if publish is not None:
            checkpoints.wait()
            publish()

    roofline.memory_bandwidth()  # measured now, not in the first iteration
    return loop.Recorder(
        workdir=workdir,
        checkpoints=checkpoints,
        writer=writer,
        timers=timers,
        peak_flops=roofline.peak_flops(),
        compilations=timing.CompilationCounter(),
        num_profiled=num_profiled,
        interrupted=interrupted,
        publish=published,
    )


def show_results(settings: config.RunConfig, workdir: pathlib.Path) -> None:
    """Prints the table of a run's results, and writes its report."""
    found = results.load_all(workdir, settings.environments)
    print(tables.format_table(found, results.load_random(workdir)))
    print(f"Report: {report.write([workdir], workdir / report.FILE)}")


def prepare(
    settings: config.RunConfig,
    workdir: pathlib.Path,
    stack: contextlib.ExitStack,
    *,
    allow_changes: Sequence[str] = (),
) -> preflight.Findings | None:
    """Checks all that can be checked, then makes the directory this run's.

    Args:
      settings: the run.
      workdir: its directory.
      stack: keeps the directory locked until it is closed.
      allow_changes: see `train`.

    Returns:
      What the checks have found, if the run's tasks had to be looked at on this host.

    Raises:
      ConfigError: as `train` does; nothing has been written then.
    """
    found = None
    with processes.agreed():
        check(settings)
        changed = find_changes(settings, workdir, allow_changes)
        is_new = not is_begun(workdir)
        # On every process: each waits for the others where checkpoints are opened.
        progress = types.Progress() if is_new else resume.find_progress(workdir)
    with processes.process_zero_first():
        if processes.is_process_zero() and (changed or is_new):
            first = resume.find_stage(settings, progress)
            found = preflight.check(settings, workdir, first_stage=first)
            for note in [*found.notes, *changes.describe_schedules(changed, settings)]:
                print(note, flush=True)
    with processes.agreed():
        stack.enter_context(hold(workdir))
    with processes.process_zero_first():
        if processes.is_process_zero():
            claim(settings, workdir, changed, allow_changes, progress)
    return found


def check(settings: config.RunConfig) -> None:
    """Raises `ConfigError` if the configuration itself cannot work."""
    stored = files.to_json(settings)
    rules.check_numbers(stored)
    rules.check_shape(stored["model"])
    settings.validate(num_devices=jax.device_count())
    rules.check_evaluation(settings, num_devices=jax.device_count())
    rules.check_extra_groups(settings, num_hosts=jax.process_count())
    preflight.check_selections(settings)
    preflight.check_oracles(settings)
    for stage in settings.stages:
        algorithms.resolve(stage)
    outlets.check(settings.log_to)
    parameters.check(settings)
    if settings.weights:
        from agentrl.sources import locate

        locate.find(settings.weights).check(settings.model)


def describe(settings: config.RunConfig) -> str:
    """Checks a run as a new one is, and says what it will do; nothing is written.

    Raises:
      ConfigError: if it cannot work; `preflight.check` says what else.
    """
    settings = pin_conversations(settings, _NOWHERE)
    check(settings)
    notes: list[str] = []
    with processes.process_zero_first():
        if processes.is_process_zero():
            notes = preflight.check(settings, _NOWHERE).notes
    target = topology.attached()
    described = preview.describe(
        settings,
        num_devices=len(target.devices),
        num_local=len(target.local_devices),
    )
    compiled = preview.describe_compiled(settings, target)
    return "\n".join([described, "", *compiled, *(["", *notes] if notes else [])])


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
    startup.prepare_cpu(settings.mesh)
    wanted = dataclasses.replace(settings.evaluation, **changes)
    settings = dataclasses.replace(settings, evaluation=wanted)
    settings.validate(num_devices=jax.device_count())
    preflight.check_selections(dataclasses.replace(settings, stages=()))
    with assemble.assemble(settings, workdir) as run:
        held = run.parameters
        stored = checkpoint.restore_policy(
            path, held.abstract, frozen_digest=held.frozen_digest
        )
        yield run, stored.params, stored.progress, stored.step


def model_of(model: str, workdir: pathlib.Path) -> str:
    """Returns what --model names: for a run that has begun, what it began with.

    A name on the Hub without a revision means the newest one when a run begins, and that
    same one whenever it goes on.
    """
    if not model or not is_begun(workdir):
        return model
    from agentrl.sources import hub, locate

    return hub.keep_revision(locate.hub_name(model), files.read_run(workdir).weights)


def pin_conversations(
    settings: config.RunConfig, workdir: pathlib.Path
) -> config.RunConfig:
    """Gives data sets on the Hub, to learn from, the revision that the run began with.

    Raises:
      ConfigError: if one can neither be found in the cache nor be fetched.
    """
    begun = files.read_run(workdir).stages if is_begun(workdir) else ()
    stages = []
    for index, stage in enumerate(settings.stages):
        source = stage.algorithm
        if isinstance(source, config.Supervised) and source.conversations:
            other = begun[index].algorithm if index < len(begun) else None
            known = getattr(other, "conversations", "")
            pinned = datasets.pin(source.conversations, known)
            source = dataclasses.replace(source, conversations=pinned)
            stage = dataclasses.replace(stage, algorithm=source)
        stages.append(stage)
    return dataclasses.replace(settings, stages=tuple(stages))


def starting_from(
    path: str, workdir: pathlib.Path
) -> Callable[[config.RunConfig], config.RunConfig] | None:
    """What --start_from makes of a run's configuration; see `fork.start_from`."""
    if not path:
        return None
    return lambda settings: fork.start_from(settings, path, workdir)


def is_begun(workdir: pathlib.Path) -> bool:
    """Whether the directory holds a run."""
    return (workdir / files.RUN_FILE).exists()


def find_changes(
    settings: config.RunConfig, workdir: pathlib.Path, allowed: Sequence[str]
) -> list[changes.Change]:
    """How the run in the directory changes, if there is one; see `changes.check`.

    Raises:
      ConfigError: if it may not change so, or files that are no run's are in the way.
      DamagedFileError: if the run's files are damaged.
    """
    if not is_begun(workdir):
        errors.refuse_files(workdir)
        return []
    stored = files.read_run(workdir)
    for read in (results.load_all, results.load_random):
        read(workdir)  # a damaged one is told now, not at the end
    found = changes.compare(stored, settings)
    changes.check(found, stored, allowed=allowed, workdir=workdir)
    return found


def claim(
    settings: config.RunConfig,
    workdir: pathlib.Path,
    changed: Sequence[changes.Change],
    allowed: Sequence[str],
    progress: types.Progress,
) -> None:
    """Writes `run.json`, or enters into it what changes, and where the run goes on."""
    path = workdir / files.RUN_FILE
    if not path.exists():
        storage.write_json(path, files.describe_run(settings))
        return
    described = files.read_description(workdir)
    place = {"stage": progress.stage_name, "iteration": progress.iteration}
    continued = files.describe_continuation(described, **place)
    if continued:
        described["continued"] = [*described.get("continued", []), continued]
    if changed:
        entry = changes.to_record(changed, **place, allowed=allowed)
        described["changes"] = [*described.get("changes", []), entry]
        described["config"] = files.to_json(settings)
    if continued or changed:
        storage.write_json(path, described)


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other sessions out of a directory; the lock ends with the process.

    Raises:
      ConfigError: if another session is at work there.
      OSError: if the directory cannot be made, naming it and what to do.
    """
    if not processes.is_process_zero():
        yield
        return
    lock = filelock.FileLock(workdir / LOCK_FILE, timeout=0)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise errors.ConfigError(
            f"another process trains in {workdir}: wait for its end, stop it, or use "
            "another --workdir."
        ) from None
    except OSError as error:
        raise storage.explain(error, workdir) from error
    try:
        yield
    finally:
        lock.release()
