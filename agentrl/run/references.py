"""Other policies that a stage compares its own with: references and teachers."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from agentrl import config, errors, types
from agentrl.checkpoints import checkpoint
from agentrl.run import assemble, stages


@dataclasses.dataclass(frozen=True)
class References:
    """Trained parameters that a stage compares its policy with, on the learner's mesh."""

    divergence: types.PyTree | None = None  # what the KL term is measured from
    teachers: Mapping[str, types.PyTree] | None = None  # of each environment's episodes


def load(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.RunState,
    checkpoints: checkpoint.Checkpoints,
) -> References:
    """Loads the parameters that the stage's objective compares the policy with."""
    stage_ends = checkpoints.stage_ends()

    def load_end(stage_name: str) -> types.PyTree:
        if stage_name not in stage_ends:
            raise errors.CheckpointError(
                f"stage '{stage.settings.name}' compares its policy with that of stage "
                f"'{stage_name}', whose last checkpoint is missing or damaged; there are "
                f"those of {sorted(stage_ends)}."
            )
        step = stage_ends[stage_name]
        return checkpoints.restore_params(step, run.parameters.abstract)

    algorithm, settings = stage.algorithm, stage.settings.algorithm
    divergence = None
    if algorithm.reference == "run_start" or (algorithm.reference and not stage.index):
        at_start = int(state.learner.step) == 0
        # A copy: the learner donates its state. Files are not read a second time.
        divergence = (
            jax.tree.map(jnp.copy, state.learner.params)
            if at_start
            else run.parameters.init()
        )
    elif algorithm.reference == "stage_start":
        divergence = load_end(run.config.stages[stage.index - 1].name)
    teachers = None
    if isinstance(settings, config.Distillation):
        by_stage = {name: load_end(name) for name in dict(settings.teachers).values()}
        teachers = {env: by_stage[name] for env, name in settings.teachers}
    return References(divergence, teachers)
