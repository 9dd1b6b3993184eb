"""Where a run stands that is gone on with, and whether its stages still lead there."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp

from agentrl import config, errors, types
from agentrl.checkpoints import checkpoint
from agentrl.parallel import processes
from agentrl.reporting import metrics
from agentrl.run import assemble, stages
from agentrl.statistics import results


def restore_or_init(
    run: assemble.Run,
    checkpoints: checkpoint.Checkpoints,
    writer: metrics.Writer,
    workdir: pathlib.Path,
) -> tuple[stages.Stage, types.RunState, types.Progress]:
    """Returns the stage, state and progress that a run goes on from.

    A stage that is finished and evaluated is not built again: the run goes on with the
    one after it.

    Args:
      run: the run.
      checkpoints: of it.
      writer: its files are cut back to where the run goes on.
      workdir: where results of evaluations are.
    """
    step = checkpoints.latest_step()
    # First, as it loads the frozen ones, too: the weights are read once.
    params = run.parameters.init() if step is None else None
    digest = run.parameters.frozen_digest
    if step is None:
        progress = types.Progress(
            stage_name=run.config.stages[0].name, frozen_digest=digest
        )
    else:
        progress = checkpoints.restore_progress(step, frozen_digest=digest)
        check_place(progress, run.config.stages, step)
    done = step is not None and is_done(run.config, progress, step, workdir)
    index = progress.stage + done
    going_on = progress
    if done:
        name = run.config.stages[index].name
        going_on = dataclasses.replace(
            progress, stage=index, stage_name=name, iteration=0
        )
    if processes.is_process_zero():
        writer.resume(going_on, step=step or 0)
    stage = stages.build(run, index)
    if step is None:
        state = stage.initial_state(run, params, jnp.int32(0))
    else:
        state = checkpoints.restore(step, stages.abstract_state(run, progress.stage))
    if done:
        state = stage.init_from_previous(run, state)
    return stage, state, going_on


def is_done(
    settings: config.RunConfig,
    progress: types.Progress,
    step: int,
    workdir: pathlib.Path,
) -> bool:
    """Whether a stage is finished and evaluated, and another one comes after it."""
    stage = settings.stages[progress.stage]
    if progress.iteration < stage.num_iterations or progress.stage + 1 == len(
        settings.stages
    ):
        return False
    wanted = settings.evaluation.environments or settings.environments
    found = {result.env for result in results.load_stage(workdir, stage.name, step)}
    return not stage.evaluate_after or found.issuperset(wanted)


def check_place(
    progress: types.Progress, chain: Sequence[config.StageConfig], where: object
) -> None:
    """Raises `CheckpointError` if a checkpoint cannot be of a run with these stages.

    Args:
      progress: of the checkpoint.
      chain: stages of the run.
      where: the checkpoint, for the message.
    """
    index, name = progress.stage, progress.stage_name
    names = [stage.name for stage in chain]
    advice = (
        "It was saved by another run: move its folder away, or use the --workdir that "
        "it belongs to."
    )
    if index >= len(chain) or names[index] != name:
        raise errors.CheckpointError(
            f"checkpoint {where} is of stage number {index + 1}, '{name}', and the "
            f"stages of this run are {names}. {advice}"
        )
    if progress.iteration > chain[index].num_iterations:
        raise errors.CheckpointError(
            f"checkpoint {where} is of iteration {progress.iteration} of stage '{name}', "
            f"which has {chain[index].num_iterations} in this run. {advice}"
        )


def find_stage(settings: config.RunConfig, workdir: pathlib.Path) -> int:
    """Index of the first stage that the run's newest checkpoint does not finish."""
    progress = find_progress(workdir)
    chain = settings.stages[progress.stage :][:1]
    finished = any(progress.iteration >= stage.num_iterations for stage in chain)
    return progress.stage + finished


def find_progress(workdir: pathlib.Path) -> types.Progress:
    """Where a run stands by its newest checkpoint; at its start if there is none.

    Raises:
      CheckpointError: if the newest checkpoint is damaged.
    """
    steps = checkpoint.list_steps(workdir / checkpoint.FOLDER)
    if not steps:
        return types.Progress()
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        return types.Progress(**checkpoints.read_progress(steps[-1])["progress"])
