"""Where a run stands that is gone on with, and whether its stages still lead there."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from agentrl import config, errors, types
from agentrl.checkpoints import checkpoint
from agentrl.parallel import processes
from agentrl.pending import experiences, unfinished
from agentrl.reporting import metrics
from agentrl.rollout import mixture
from agentrl.run import assemble, stages
from agentrl.statistics import results


def restore_or_init(
    run: assemble.Run,
    checkpoints: checkpoint.Checkpoints,
    writer: metrics.Writer,
    workdir: pathlib.Path,
) -> tuple[stages.Stage, types.RunState, types.Progress, experiences.Ahead | None]:
    """Returns what a run goes on from: stage, state, progress, episodes played ahead.

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
    at = progress.stage
    done = step is not None and is_done(run.config, progress, step, workdir)
    if done:
        following = run.config.stages[at + 1].name
        evaluated = results.load_stage(workdir, progress.stage_name, step or 0)
        progress = dataclasses.replace(
            progress, stage=at + 1, stage_name=following, iteration=0
        )
    if processes.is_process_zero():
        writer.resume(progress, step=step or 0)
        if done:  # their events were cut
            writer.write_evaluations(evaluated)
    stage = stages.build(run, progress.stage)
    if step is None:
        state = stage.initial_state(run, params, jnp.int32(0))
        return stage, state, progress, None
    state, ahead = restore(run, at, step, checkpoints, with_episodes=not done)
    if done:
        state = stage.init_from_previous(run, state)
    return stage, state, progress, ahead


def is_done(
    settings: config.RunConfig,
    progress: types.Progress,
    step: int,
    workdir: pathlib.Path,
) -> bool:
    """Whether a stage is finished and evaluated, and another one comes after it."""
    stage = settings.stages[progress.stage]
    last = progress.stage + 1 == len(settings.stages)
    if progress.iteration < stage.num_iterations or last:
        return False
    wanted = settings.evaluation.environments or settings.environments
    found = {result.env for result in results.load_stage(workdir, stage.name, step)}
    return not stage.evaluate_after or found.issuperset(wanted)


def check_place(
    progress: types.Progress, planned: Sequence[config.StageConfig], where: object
) -> None:
    """Raises `CheckpointError` if a checkpoint cannot be of a run with these stages.

    Args:
      progress: of the checkpoint.
      planned: stages of the run.
      where: the checkpoint, for the message.
    """
    index, name = progress.stage, progress.stage_name
    names = [stage.name for stage in planned]
    advice = (
        "It was saved by another run: move its folder away, or use the --workdir that "
        "it belongs to."
    )
    if index >= len(planned) or names[index] != name:
        raise errors.CheckpointError(
            f"checkpoint {where} is of stage number {index + 1}, '{name}', and the "
            f"stages of this run are {names}. {advice}"
        )
    if progress.iteration > planned[index].num_iterations:
        raise errors.CheckpointError(
            f"checkpoint {where} is of iteration {progress.iteration} of stage '{name}', "
            f"which has {planned[index].num_iterations} in this run. {advice}"
        )


def find_stage(settings: config.RunConfig, progress: types.Progress) -> int:
    """Index of the first stage that is not finished where a run stands."""
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


def restore(
    run: assemble.Run,
    index: int,
    step: int,
    checkpoints: checkpoint.Checkpoints,
    *,
    with_episodes: bool = True,
) -> tuple[types.RunState, experiences.Ahead | None]:
    """Restores what a stage goes on from.

    Environments that came to the run later have not been drawn yet, and the mixture's
    weights are those of the configuration, which may have been changed.

    Args:
      run: the run.
      index: of the stage that the checkpoint is of.
      step: of the checkpoint.
      checkpoints: of the run.
      with_episodes: whether episodes that were played ahead are needed.

    Returns:
      The state, and the episodes that were played ahead, if there are any.

    Raises:
      CheckpointError: if it is missing, damaged, or of another run.
    """
    settings = run.config.stages[index]
    optimize = stages.make_optimizer(run, settings)
    like = stages.abstract_state(run, settings, optimize)
    num_stored = checkpoints.num_environments(step)
    narrow = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((num_stored,), s.dtype, sharding=s.sharding),
        like.mixture,
    )
    state = checkpoints.restore(step, dataclasses.replace(like, mixture=narrow))
    fresh = mixture.init(settings.mixture, run.environments)

    def widen(stored: types.MixtureState) -> types.MixtureState:
        wide = jax.tree.map(
            lambda old, new: np.concatenate([old, new[num_stored:]]),
            *jax.device_get((stored, fresh)),
        )
        wide = dataclasses.replace(wide, weights=jax.device_get(fresh.weights))
        return jax.device_put(wide, jax.tree.map(lambda s: s.sharding, like.mixture))

    ahead = experiences.from_json(
        checkpoints.restore_episodes(step) if with_episodes else None,
        settings.rollout,
        restore=lambda episodes: unfinished.restore(episodes, run.pool, run.chat),
    )
    if ahead is not None and (whole := ahead.experience) is not None:
        whole = dataclasses.replace(whole, mixture=widen(whole.mixture))
        ahead = dataclasses.replace(ahead, experience=whole)
    return dataclasses.replace(state, mixture=widen(state.mixture)), ahead
