"""The chain of stages: what of the state survives a border, and what a stage needs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from agentrl import config, types
from agentrl.envs import base
from agentrl.learner import algorithms, optimizer, scoring, update
from agentrl.models import transformer
from agentrl.parallel import processes, rng, sharding
from agentrl.rollout import collect, mixture
from agentrl.run import assemble
from agentrl.supervised import warmstart

# (state, batch of NumPy arrays, parameters of the reference or None) -> (state, metrics)
TrainStepFn = Callable[..., tuple[types.TrainState, types.Metrics]]
# (mixture, key, draw number, tasks that count) -> (environments, items, mixture)
DrawFn = Callable[..., tuple[jax.Array, jax.Array, types.MixtureState]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One link of the chain with its compiled functions."""

    settings: config.StageConfig
    index: int
    algorithm: algorithms.Algorithm
    key: jax.Array  # PRNG key of the stage
    panels: dict[str, base.TaskPanel]  # of every environment of the stage
    optimizer: optax.GradientTransformation
    train_step: TrainStepFn
    score_tokens: scoring.ScoreFn
    draw_tasks: DrawFn
    collector: collect.Collector | None  # None in a supervised stage
    demonstrations: Sequence[types.Trajectory]  # to learn from, or to rehearse

    def max_turns(self, iteration: int) -> int | None:
        """The stage's turn limit in this iteration; None leaves it to the environments."""
        reached = [
            turns for first, turns in self.settings.max_turns if first <= iteration
        ]
        return reached[-1] if reached else None

    def initial_state(
        self, run: assemble.Run, params: types.PyTree, step: jax.Array
    ) -> types.RunState:
        """Returns a state that starts this stage from `params`, with a fresh optimizer.

        It takes `params` over: the caller's arrays are gone.
        """
        placements = jax.tree.map(lambda s: s.sharding, self.abstract_state(run))
        make_state = _state_maker(run, self.settings, self.optimizer)
        make_state = jax.jit(make_state, donate_argnums=0, out_shardings=placements)
        return make_state(params, step)

    def abstract_state(self, run: assemble.Run) -> types.RunState:
        """Shapes and placements of this stage's state, to restore a checkpoint onto."""
        return abstract_state(run, self.settings, self.optimizer)

    def init_from_previous(
        self, run: assemble.Run, state: types.RunState
    ) -> types.RunState:
        """Hands the state of the stage before over to this one.

        Parameters and step count always go on; the mixture always starts anew; the
        optimizer's moments and schedule go on only with `carry_optimizer`. The old state
        is gone afterwards: a border between stages needs no more memory than an update.
        """
        if not self.settings.carry_optimizer:
            for leaf in jax.tree.leaves(state.learner.opt_state):
                leaf.delete()
        fresh = self.initial_state(run, state.learner.params, state.learner.step)
        if not self.settings.carry_optimizer:
            return fresh
        carried = dataclasses.replace(fresh.learner, opt_state=state.learner.opt_state)
        return dataclasses.replace(fresh, learner=carried)


def build(run: assemble.Run, index: int) -> Stage:
    """Compiles what stage `index` of the run needs."""
    settings = run.config.stages[index]
    panels = _select_panels(run, settings)
    algorithm = algorithms.resolve(settings)
    optimize = make_optimizer(run, settings)
    train_step, score_tokens = _make_learner(run, settings, algorithm, optimize)
    return Stage(
        settings=settings,
        index=index,
        algorithm=algorithm,
        key=rng.stream_key(run.key, "stage", index),
        panels=panels,
        optimizer=optimize,
        train_step=train_step,
        score_tokens=score_tokens,
        draw_tasks=_make_draw(run, settings, panels),
        collector=None if settings.supervised else run.collector(settings.rollout),
        demonstrations=_collect_demonstrations(run, settings, panels),
    )


def _select_panels(
    run: assemble.Run, settings: config.StageConfig
) -> dict[str, base.TaskPanel]:
    """The tasks of each environment of the stage."""
    rule = settings.mixture
    wanted = dict(rule.environments)
    return {
        name: run.panel(name, **rule.selection)
        for name in run.environments
        if name in wanted
    }


def _collect_demonstrations(
    run: assemble.Run,
    settings: config.StageConfig,
    panels: Mapping[str, base.TaskPanel],
) -> Sequence[types.Trajectory]:
    """What a supervised stage learns from, or any other rehearses."""
    if settings.name in run.demonstrations:
        return run.demonstrations[settings.name]
    rehearsal, rule = settings.rehearsal, settings.mixture
    if isinstance(settings.algorithm, config.Supervised):
        source = settings.algorithm
    elif rehearsal is not None:
        source = config.Supervised(
            demonstrations=rehearsal.demonstrations, thoughts=rehearsal.thoughts
        )
        panels = {
            name: run.panel(name, rule.split, tier="all")
            for name, _ in rehearsal.environments
        }
    else:
        return ()
    return warmstart.collect_demonstrations(
        dict(panels),
        run.pool,
        source,
        run.chat,
        max_tokens=settings.rollout.max_tokens,
        max_error_fraction=run.config.max_env_error_fraction,
    )


def make_optimizer(
    run: assemble.Layout, settings: config.StageConfig
) -> optax.GradientTransformation:
    """Returns the optimizer of a stage."""
    return optimizer.make_optimizer(
        settings.optimizer,
        total_steps=settings.num_iterations * settings.updates_per_iteration,
        moments=run.model.config.dtypes.moments,
    )


def jit_learner(
    run: assemble.Layout,
    settings: config.StageConfig,
    algorithm: algorithms.Algorithm,
    optimize: optax.GradientTransformation,
) -> tuple[jax.stages.Wrapped, jax.stages.Wrapped]:
    """Jits the learner step, and its forward pass alone.

    Returns:
      Functions of (state, frozen parameters, batch, parameters of the reference or None),
      and of (parameters, microbatch).
    """
    forward = _make_forward(run, settings, algorithm)
    placements = jax.tree.map(
        lambda s: s.sharding, abstract_state(run, settings, optimize).learner
    )
    replicated = sharding.replicated(run.mesh)
    step = jax.jit(
        functools.partial(
            update.train_step,
            forward=forward,
            objective=algorithm.objective,
            optimizer=optimize,
        ),
        donate_argnums=0,
        out_shardings=(placements, replicated),
    )
    score = jax.jit(
        functools.partial(scoring.score_rows, forward=forward), out_shardings=replicated
    )
    return step, score


def _make_learner(
    run: assemble.Run,
    settings: config.StageConfig,
    algorithm: algorithms.Algorithm,
    optimize: optax.GradientTransformation,
) -> tuple[TrainStepFn, scoring.ScoreFn]:
    """Binds frozen parameters and the placement of batches to the jitted functions."""
    step, score = map(
        processes.compile_together, jit_learner(run, settings, algorithm, optimize)
    )
    frozen = run.parameters.frozen

    def train_step(
        state: types.TrainState, batch: types.TrainBatch, reference: types.PyTree
    ) -> tuple[types.TrainState, types.Metrics]:
        return step(state, frozen, sharding.to_global(batch, run.mesh), reference)

    def score_tokens(
        params: types.PyTree, batch: types.TrainBatch
    ) -> update.TokenOutputs:
        placed = sharding.to_global(batch, run.mesh)
        return score(types.Params(params, frozen), placed)

    return train_step, score_tokens


def _make_forward(
    run: assemble.Layout, settings: config.StageConfig, algorithm: algorithms.Algorithm
) -> update.ForwardFn:
    return place_forward(
        run.model,
        run.mesh,
        remat=run.config.learner.remat == "full",
        chunk=run.config.learner.logprob_chunk,
        temperature=1.0 if settings.supervised else settings.rollout.temperature,
        join=run.parameters.join,
        num_valid_tokens=run.num_valid_tokens,
        value_fn=run.model.values if algorithm.needs_values else None,
        entropy_gradient=algorithm.objective.entropy_coefficient > 0,
    )


def place_forward(
    model: transformer.Model, mesh: Mesh, *, remat: bool, **settings: Any
) -> update.ForwardFn:
    """Binds a model, as its parameters and rows lie on the learner's mesh.

    Args:
      model: whose forward pass it is.
      mesh: the learner's.
      remat: as of `Model.hidden`.
      **settings: as of `update.make_forward`.
    """

    def unembedding(params: types.PyTree) -> jax.Array:
        return sharding.split_vocabulary(model.unembedding(params), mesh)

    return update.make_forward(
        functools.partial(
            model.hidden,
            remat=remat,
            constrain=functools.partial(sharding.constrain_rows, mesh=mesh),
            look_up=functools.partial(sharding.look_up, mesh=mesh),
            gather=functools.partial(
                sharding.gather_layer, mesh=mesh, dtype=model.config.dtypes.compute
            ),
            split_rows=functools.partial(sharding.split_rows, mesh=mesh),
        ),
        unembedding,
        gather=functools.partial(
            sharding.gather_rows, mesh=mesh, vocab_size=model.config.vocab_size
        ),
        **settings,
    )


def abstract_state(
    run: assemble.Layout,
    settings: config.StageConfig,
    optimize: optax.GradientTransformation,
) -> types.RunState:
    """Shapes and placements of a stage's state.

    Moments are placed like their parameters, everything else is replicated.
    """
    step = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = jax.eval_shape(
        _state_maker(run, settings, optimize), run.parameters.abstract, step
    )
    return sharding.with_shardings(shapes, run.mesh)


def _state_maker(
    run: assemble.Layout,
    settings: config.StageConfig,
    optimize: optax.GradientTransformation,
) -> Callable[..., types.RunState]:
    def make_state(params: types.PyTree, step: jax.Array) -> types.RunState:
        return types.RunState(
            learner=types.TrainState(step, params, optimize.init(params)),
            mixture=mixture.init(settings.mixture, run.environments),
        )

    return make_state


def _make_draw(
    run: assemble.Run, settings: config.StageConfig, panels: dict[str, base.TaskPanel]
) -> DrawFn:
    sizes = [
        len(panels[name].item_ids) if name in panels else 1 for name in run.environments
    ]

    def draw(
        state: types.MixtureState,
        key: jax.Array,
        draw: jax.Array,
        num_drawn: jax.Array,
    ) -> tuple[jax.Array, jax.Array, types.MixtureState]:
        return mixture.draw_tasks(
            state,
            key,
            draw,
            num_drawn=num_drawn,
            stage=settings.mixture,
            panel_sizes=sizes,
            num_groups=settings.rollout.tasks_per_iteration,
        )

    return jax.jit(draw)
