"""The chain of stages: what of the state survives a border, and what a stage needs."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from agentrl import config, types
from agentrl.envs import base
from agentrl.learner import algorithms, optimizer, update
from agentrl.ops import kl
from agentrl.parallel import rng, sharding
from agentrl.rollout import collect, mixture
from agentrl.run import assemble, warmstart


@dataclasses.dataclass(frozen=True)
class Stage:
    """One link of the chain with its compiled functions."""

    settings: config.StageConfig
    index: int
    key: jax.Array  # PRNG key of the stage
    panels: dict[str, base.TaskPanel]  # of every environment of the run, maybe empty
    optimizer: optax.GradientTransformation
    train_step: update.TrainStepFn
    score_tokens: Callable[..., tuple[jax.Array | None, jax.Array]]
    draw_tasks: Callable[..., tuple[jax.Array, jax.Array, types.MixtureState]]
    collector: collect.Collector | None  # None in a supervised stage
    demonstrations: Sequence[types.Trajectory]

    def max_turns(self, iteration: int) -> int | None:
        """The stage's turn limit in this iteration; None leaves it to the environments."""
        reached = [
            turns for first, turns in self.settings.max_turns if first <= iteration
        ]
        return reached[-1] if reached else None

    def initial_state(
        self, run: assemble.Run, params: types.PyTree, step: jax.Array
    ) -> types.TrainState:
        """A state that starts this stage from `params`, with a fresh optimizer.

        Every array is a new one: the learner donates the state it is given.
        """
        placements = jax.tree.map(lambda s: s.sharding, self.abstract_state(run))
        make_state = _state_maker(run, self.settings, self.optimizer)
        return jax.jit(make_state, out_shardings=placements)(params, step, run.key)

    def abstract_state(self, run: assemble.Run) -> types.TrainState:
        """Shapes and placements of this stage's state."""
        return abstract_state(run, self.settings, self.optimizer)

    def enter(self, run: assemble.Run, state: types.TrainState) -> types.TrainState:
        """Hands the state of the stage before over to this one.

        Parameters, step count and key always go on; the mixture always starts anew; the
        optimizer's moments and schedule go on only with `carry_optimizer`.
        """
        fresh = self.initial_state(run, state.params, state.step)
        if not self.settings.carry_optimizer:
            return fresh
        return dataclasses.replace(fresh, opt_state=state.opt_state)


def build(run: assemble.Run, index: int) -> Stage:
    """Compiles what stage `index` of the run needs."""
    settings = run.config.stages[index]
    rule = settings.mixture
    wanted = dict(rule.environments)
    panels = {
        name: run.panel(
            name,
            rule.split,
            tier=rule.tier,
            tier_file=rule.tier_file,
            subsets=rule.subsets,
        )
        for name in run.environments
        if name in wanted
    }
    supervised = settings.kind == "warm_start"
    optimize = optimizer.make_optimizer(
        settings.optimizer,
        total_steps=settings.num_iterations * settings.algorithm.updates_per_iteration,
        moments=run.model.config.dtypes.moments,
    )
    train_step, score_tokens = _make_train_step(run, settings, optimize)
    return Stage(
        settings=settings,
        index=index,
        key=rng.stream_key(run.key, "stage", index),
        panels=panels,
        optimizer=optimize,
        train_step=train_step,
        score_tokens=score_tokens,
        draw_tasks=_make_draw(run, settings, panels),
        collector=None if supervised else run.collector(settings.rollout),
        demonstrations=warmstart.collect_demonstrations(
            panels,
            dict(run.config.environments),
            settings.warm_start,
            run.chat,
            max_tokens=settings.rollout.max_tokens,
        )
        if supervised
        else (),
    )


def _make_train_step(
    run: assemble.Run,
    settings: config.StageConfig,
    optimize: optax.GradientTransformation,
) -> tuple[update.TrainStepFn, Callable[..., tuple[jax.Array | None, jax.Array]]]:
    """The compiled learner step, and its forward pass alone."""
    supervised = settings.kind == "warm_start"
    algorithm = settings.algorithm
    critic = not supervised and algorithms.get(algorithm).critic
    score = update.make_score(
        functools.partial(
            run.model.hidden,
            remat=run.config.learner.remat == "full",
            constrain=functools.partial(sharding.constrain_rows, mesh=run.mesh),
        ),
        run.model.unembedding,
        chunk=run.config.learner.logprob_chunk,
        temperature=1.0 if supervised else settings.rollout.temperature,
        num_valid_tokens=run.chat.tokenizer.vocab_size,
        value_fn=run.model.values if critic else None,
    )

    def score_beside(frozen: types.PyTree) -> update.ScoreFn:
        def score_all(trained: types.PyTree, rows: types.TrainBatch) -> update.Scores:
            params = sharding.gather_vocabulary(
                run.parameters.join(trained, frozen), run.mesh
            )
            return score(params, rows)

        return score_all

    def train_step(
        frozen: types.PyTree, state: types.TrainState, *data: Any
    ) -> tuple[types.TrainState, types.Metrics]:
        step = update.make_train_step(
            score_beside(frozen), optimize, algorithm=algorithm, supervised=supervised
        )
        return step(state, *data)

    def score_tokens(
        frozen: types.PyTree, params: types.PyTree, batch: types.TrainBatch
    ) -> tuple[jax.Array | None, jax.Array]:
        return _score_tokens(
            score_beside(frozen), algorithm.kl_estimator, params, batch
        )

    # The learner has no business with the mixture, which may be drawn from meanwhile.
    state = dataclasses.replace(abstract_state(run, settings, optimize), mixture=None)
    placements = jax.tree.map(lambda s: s.sharding, state)
    whole = sharding.replicated(run.mesh)
    step = jax.jit(train_step, donate_argnums=1, out_shardings=(placements, whole))
    forward = jax.jit(score_tokens, out_shardings=whole)
    return (
        functools.partial(step, run.parameters.frozen),
        functools.partial(forward, run.parameters.frozen),
    )


def _score_tokens(
    score: update.ScoreFn,
    estimator: str,
    params: types.PyTree,
    batch: types.TrainBatch,  # one microbatch, M = 1
) -> tuple[jax.Array | None, jax.Array]:
    """Values of the critic, and divergence from `params` in nats; [R, T] each."""
    rows = jax.tree.map(lambda x: x[0], batch)
    scores = score(params, rows)
    away = jnp.where(rows.action_mask, scores.logprobs - rows.behavior_logprobs, 0)
    return scores.values, kl.ESTIMATORS[estimator](away)


def abstract_state(
    run: assemble.Run,
    settings: config.StageConfig,
    optimize: optax.GradientTransformation,
) -> types.TrainState:
    """Shapes and placements of a stage's state, to restore a checkpoint onto.

    Moments are placed like their parameters, everything else is replicated.
    """
    step = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = jax.eval_shape(
        _state_maker(run, settings, optimize), run.parameters.abstract, step, run.key
    )
    return sharding.with_shardings(shapes, run.mesh)


def _state_maker(
    run: assemble.Run,
    settings: config.StageConfig,
    optimize: optax.GradientTransformation,
) -> Callable[..., types.TrainState]:
    def make_state(
        params: types.PyTree, step: jax.Array, key: jax.Array
    ) -> types.TrainState:
        return types.TrainState(
            step=step,
            params=params,
            opt_state=optimize.init(params),
            mixture=mixture.init(settings.mixture, run.environments),
            key=key,
        )

    return make_state


def _make_draw(
    run: assemble.Run, settings: config.StageConfig, panels: dict[str, base.TaskPanel]
) -> Callable[..., tuple[jax.Array, jax.Array, types.MixtureState]]:
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
