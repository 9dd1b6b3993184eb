"""The training loop: everything a run does, in the order it happens.

One iteration of a reinforcement stage:
  1. mixture   draws an environment and a task for each of P groups       (device)
  2. rollout   plays P x G episodes in slots of one cache                 (both)
  3. pack      turns trajectories and advantages into packed rows         (host)
  4. update    applies one learner step per minibatch                     (device)
  5. record    writes metrics and episodes; now and then saves            (host)
A supervised stage has demonstrations in place of 1 and 2. A stage repeats this; the next
one starts from the state that it leaves, and after a stage the policy is evaluated.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from agentrl import (
    algorithms,
    checkpoint,
    config,
    errors,
    evaluate,
    mixture,
    packing,
    sharding,
    stages,
    timing,
    types,
    warmstart,
)
from agentrl import run as runs
from reporting import metrics, report, results


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Where a run's results go."""

    workdir: pathlib.Path
    checkpoints: checkpoint.Checkpoints
    writer: metrics.Writer
    timers: timing.Timers
    compilations: timing.CompilationCounter


def train(run: runs.Run, recorder: Recorder) -> types.TrainState:
    """Runs all stages, from wherever the working directory says the run stands."""
    stage, state, progress = restore_or_init(run, recorder)
    while True:
        reference = reference_params(run, stage, recorder)
        state, progress = run_stage(run, stage, state, progress, reference, recorder)
        if stage.settings.evaluate_after:
            assess(run, state, progress, recorder)
        if stage.index + 1 == len(run.config.stages):
            return state
        stage = stages.build(run, stage.index + 1)
        state = stage.enter(run, state)
        progress = dataclasses.replace(
            progress, stage=stage.index, stage_name=stage.settings.name, iteration=0
        )


def run_stage(
    run: runs.Run,
    stage: stages.Stage,
    state: types.TrainState,
    progress: checkpoint.Progress,
    reference: types.PyTree | None,
    recorder: Recorder,
) -> tuple[types.TrainState, checkpoint.Progress]:
    """Runs what is left of one stage, and saves its final state."""
    iterations = range(progress.iteration, stage.settings.num_iterations)
    for iteration in iterations:
        with recorder.timers("total"):
            if stage.settings.kind == "warm_start":
                state, values, trajectories = supervise(
                    run, stage, state, iteration, recorder
                )
            else:
                state, values, trajectories = reinforce(
                    run, stage, state, reference, iteration, recorder
                )
        values |= recorder.timers.pop()
        values["perf/compilations"] = recorder.compilations.pop()
        check_finite(values, stage.settings.name, iteration)
        progress = dataclasses.replace(progress, iteration=iteration + 1)
        recorder.writer.write(
            progress, step=int(state.step), values=values, trajectories=trajectories
        )
        at_end = iteration + 1 == stage.settings.num_iterations
        if at_end or (iteration + 1) % run.config.save_every == 0:
            recorder.checkpoints.save(state, progress, end_of_stage=at_end)
    return state, progress


def reinforce(
    run: runs.Run,
    stage: stages.Stage,
    state: types.TrainState,
    reference: types.PyTree | None,
    iteration: int,
    recorder: Recorder,
) -> tuple[types.TrainState, types.Metrics, Sequence[types.Trajectory]]:
    """One iteration of reinforcement learning."""
    settings, timers = stage.settings, recorder.timers
    assert stage.collector is not None
    with timers("mixture"):
        env_ids, items, drawn = stage.draw_tasks(
            state.mixture, stage.key, jnp.int32(iteration)
        )
        state = dataclasses.replace(state, mixture=drawn)
        item_ids = name_items(run, stage, *jax.device_get((env_ids, items)))
    with timers("rollout"):
        trajectories, statistics = stage.collector.collect(
            run.rollout_params(state.params),
            runs.make_tasks(item_ids, settings.rollout.group_size),
            key=runs.stream_key(stage.key, "rollout", iteration),
            policy_step=int(state.step),
            max_turns=stage.max_turns(iteration),
        )
        refuse_env_errors(trajectories, run.config.max_env_error_fraction)
    with timers("pack"):
        kept, advantages = score(trajectories, settings)
        batches, report = packing.to_train_batches(
            kept,
            advantages,
            env_index={name: i for i, name in enumerate(run.environments)},
            learner_config=run.config.learner,
            num_batches=settings.algorithm.updates_per_iteration,
            keep_zero_variance=settings.algorithm.keep_zero_variance,
            seed=iteration,
        )
    with timers("update"):
        state, updates = update(run, stage, state, batches, reference)
        check_gap(updates[0], settings, iteration)
    state = dataclasses.replace(
        state, mixture=record_success(run, state.mixture, trajectories)
    )
    values = mean_of(updates) | statistics.summarize() | report.summarize()
    values["policy/first_gap"] = updates[0]["policy/behavior_gap"]
    values |= metrics.summarize_trajectories(trajectories)
    return state, values, trajectories


def supervise(
    run: runs.Run,
    stage: stages.Stage,
    state: types.TrainState,
    iteration: int,
    recorder: Recorder,
) -> tuple[types.TrainState, types.Metrics, Sequence[types.Trajectory]]:
    """One update on oracle demonstrations."""
    with recorder.timers("pack"):
        chosen = warmstart.choose_batch(
            stage.demonstrations,
            runs.stream_key(stage.key, "demonstrations"),
            iteration,
            stage.settings.warm_start.episodes_per_step,
        )
        batches, report = packing.to_train_batches(
            chosen,
            [1.0] * len(chosen),
            env_index={name: i for i, name in enumerate(run.environments)},
            learner_config=run.config.learner,
            num_batches=1,
            seed=iteration,
        )
    with recorder.timers("update"):
        state, updates = update(run, stage, state, batches)
    return state, mean_of(updates) | report.summarize(), ()


def update(
    run: runs.Run,
    stage: stages.Stage,
    state: types.TrainState,
    batches: Sequence[types.TrainBatch],
    reference: types.PyTree | None = None,
) -> tuple[types.TrainState, list[Mapping[str, float]]]:
    """Applies one learner step per batch; one device-to-host copy for all metrics."""
    collected = []
    for batch in batches:
        placed = sharding.to_global(batch, run.mesh)
        state, values = stage.train_step(state, placed, reference)
        collected.append(values)
    return state, [
        {name: float(value) for name, value in values.items()}
        for values in jax.device_get(collected)
    ]


def score(
    trajectories: Sequence[types.Trajectory], settings: config.StageConfig
) -> tuple[list[types.Trajectory], list[np.ndarray]]:
    """Chooses the trajectories that may train, and the advantage of each of their turns.

    Those whose ending is masked neither train nor count in their group's baseline.
    """
    shape = (-1, settings.rollout.group_size)
    chosen = settings.algorithm
    policies = [ending_policy(t.ending, chosen) for t in trajectories]
    returns = [
        t.episode_return - chosen.penalty * (p == "penalize")
        for t, p in zip(trajectories, policies, strict=True)
    ]
    valid = np.asarray([p != "mask" for p in policies])
    algorithm = algorithms.get(chosen)
    per_episode = algorithm.advantage(
        np.asarray(returns, np.float64).reshape(shape), valid.reshape(shape), chosen
    )
    per_turn = algorithm.turn_advantages(
        trajectories, per_episode.reshape(-1).tolist(), valid.tolist(), chosen
    )
    kept = np.flatnonzero(valid).tolist()
    return [trajectories[i] for i in kept], [per_turn[i] for i in kept]


def ending_policy(ending: types.Ending, settings: config.AlgorithmConfig) -> str:
    """How an episode that ended so enters the loss; broken environments never do."""
    return {
        types.Ending.ENV_ERROR: "mask",
        types.Ending.ENV_TIMEOUT: settings.on_env_timeout,
        types.Ending.MAX_TURNS: settings.on_max_turns,
        types.Ending.MAX_TOKENS: settings.on_max_tokens,
    }.get(ending, "keep")


def record_success(
    run: runs.Run, state: types.MixtureState, trajectories: Sequence[types.Trajectory]
) -> types.MixtureState:
    """Feeds an iteration's successes back to the mixture."""
    totals = np.zeros((2, len(run.environments)), np.float32)
    for trajectory in trajectories:
        env = run.environments.index(trajectory.task.env)
        totals[:, env] += (trajectory.success, 1)
    return mixture.record_success(state, *jax.device_put(totals))


def reference_params(
    run: runs.Run, stage: stages.Stage, recorder: Recorder
) -> types.PyTree | None:
    """Parameters at the start of the stage, if its objective has a KL term."""
    if stage.settings.algorithm.kl_coefficient == 0:
        return None
    if stage.index == 0:
        return run.init_params()
    before = run.config.stages[stage.index - 1].name
    step = recorder.checkpoints.stage_ends()[before]
    return recorder.checkpoints.restore_params(step, run.abstract_params)


def name_items(
    run: runs.Run, stage: stages.Stage, env_ids: np.ndarray, items: np.ndarray
) -> list[str]:
    """Item ids of the drawn (environment, panel index) pairs."""
    names = [run.environments[i] for i in env_ids]
    return [
        stage.panels[name].item_ids[item]
        for name, item in zip(names, items, strict=True)
    ]


def restore_or_init(
    run: runs.Run, recorder: Recorder
) -> tuple[stages.Stage, types.TrainState, checkpoint.Progress]:
    """The stage, state and progress a run goes on from."""
    step = recorder.checkpoints.latest_step()
    if step is None:
        stage = stages.build(run, 0)
        state = stage.initial_state(run, run.init_params(), jnp.int32(0))
        return stage, state, checkpoint.Progress(stage_name=stage.settings.name)
    progress = recorder.checkpoints.restore_progress(step)
    stage = stages.build(run, progress.stage)
    state = recorder.checkpoints.restore(step, stage.abstract_state(run))
    return stage, state, progress


def assess(
    run: runs.Run,
    state: types.TrainState,
    progress: checkpoint.Progress,
    recorder: Recorder,
) -> None:
    """Evaluates the policy after a stage, unless an earlier session already has."""
    settings, step = run.config.evaluation, int(state.step)
    done = [
        result.env
        for result in results.load_all(recorder.workdir)
        if (result.stage, result.step) == (progress.stage_name, step)
    ]
    if set(done) >= set(settings.environments or run.environments):
        return
    found = evaluate.evaluate(
        run,
        state.params,
        settings,
        stage=progress.stage_name,
        after_iteration=progress.iteration,
        step=step,
        workdir=recorder.workdir,
    )
    print(report.format_table(found), flush=True)


def refuse_env_errors(
    trajectories: Sequence[types.Trajectory], max_fraction: float
) -> None:
    """Raises `EnvWorkerError` if too many episodes were lost to their environments."""
    broken = [t for t in trajectories if t.ending is types.Ending.ENV_ERROR]
    if len(broken) > max_fraction * len(trajectories):
        raise errors.EnvWorkerError(
            f"{len(broken)} of {len(trajectories)} episodes ended in an environment "
            f"error, more than max_env_error_fraction = {max_fraction}. The first:\n"
            f"{broken[0].error}"
        )


def check_gap(
    first: Mapping[str, float], settings: config.StageConfig, iteration: int
) -> None:
    """Raises `TrainingError` if sampler and learner disagree before any update."""
    gap, limit = first["policy/behavior_gap"], settings.algorithm.max_first_gap
    if gap > limit:
        raise errors.TrainingError(
            f"stage '{settings.name}', iteration {iteration}: sampler and learner "
            f"log-probabilities differ by {gap:.2e} nats on average before the first "
            f"update, more than algorithm.max_first_gap = {limit:.2e}. The learner would "
            "train on a context or a model that the sampler did not use."
        )


def check_finite(values: types.Metrics, stage: str, iteration: int) -> None:
    """Raises `TrainingError` naming the first training quantity that is not finite."""
    for name, value in values.items():
        if name.startswith(("policy/", "optimizer/")) and not np.isfinite(value):
            raise errors.TrainingError(
                f"stage '{stage}', iteration {iteration}: {name} = {value}. The last "
                "checkpoint is from before; lower the learning rate or look at the "
                "episodes of this iteration."
            )


def mean_of(updates: Sequence[Mapping[str, float]]) -> types.Metrics:
    """Averages metrics over the updates of an iteration."""
    return {
        name: float(np.mean([values[name] for values in updates]))
        for name in updates[0]
    }
