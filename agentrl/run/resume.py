"""Where a run stands that is gone on with, and whether its stages still lead there."""

import pathlib
from collections.abc import Sequence

from agentrl import config, errors, types
from agentrl.checkpoints import checkpoint


def check_place(
    progress: types.Progress, stages: Sequence[config.StageConfig], where: object
) -> None:
    """Raises `CheckpointError` if a checkpoint cannot be of a run with these stages.

    Args:
      progress: of the checkpoint.
      stages: of the run.
      where: the checkpoint, for the message.
    """
    index, name = progress.stage, progress.stage_name
    names = [stage.name for stage in stages]
    advice = (
        "It was saved by another run: move its folder away, or use the --workdir that "
        "it belongs to."
    )
    if index >= len(stages) or names[index] != name:
        raise errors.CheckpointError(
            f"checkpoint {where} is of stage number {index + 1}, '{name}', and the "
            f"stages of this run are {names}. {advice}"
        )
    if progress.iteration > stages[index].num_iterations:
        raise errors.CheckpointError(
            f"checkpoint {where} is of iteration {progress.iteration} of stage '{name}', "
            f"which has {stages[index].num_iterations} in this run. {advice}"
        )


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
