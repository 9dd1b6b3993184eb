"""The training loop: everything a run does, in the order it happens.

One iteration of a reinforcement stage:
  1. mixture   draws an environment and a task for each of P groups       (device)
  2. rollout   plays P x G episodes in slots of one cache                 (both)
  3. pack      turns trajectories and advantages into packed rows         (host)
  4. update    applies one learner step per minibatch                     (device)
  5. record    writes metrics and episodes; now and then saves            (host)
A supervised stage has demonstrations in place of 1 and 2. A stage repeats this; the next
one starts from the state that it leaves, and after a stage the policy is evaluated.

With `overlap` the episodes of the next iteration are played while the device updates:
with the parameters from before the update, hence one update old when they are trained
on. Before a checkpoint nothing is played ahead, so that a checkpoint never has to hold
episodes, and a run repeats itself whether it is interrupted or not.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from agentrl import config, errors, types
from agentrl.hardware import roofline, timing
from agentrl.learner import algorithms, credit, packing
from agentrl.parallel import interruption, processes, rng, sharding
from agentrl.reporting import metrics, report, results
from agentrl.rollout import collect, mixture
from agentrl.run import assemble, checkpoint, evaluate, resume, stages, warmstart


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Where a run's results go."""

    workdir: pathlib.Path
    checkpoints: checkpoint.Checkpoints
    writer: metrics.Writer
    timers: timing.Timers
    compilations: timing.CompilationCounter
    peak_flops: float  # of the whole machine, per second
    num_profiled: int = 0  # iterations of each stage
    interrupted: interruption.Interruption = dataclasses.field(
        default_factory=interruption.Interruption
    )


@dataclasses.dataclass(frozen=True)
class Actor:
    """A copy of the parameters that plays while the learner changes its own."""

    params: types.PyTree
    step: int  # updates behind them

    @classmethod
    def of(cls, run: assemble.Run, state: types.TrainState) -> "Actor":
        """An actor with the parameters of `state`."""
        return cls(run.rollout_params(state.params), int(state.step))


@dataclasses.dataclass(frozen=True)
class Experience:
    """The episodes of one iteration."""

    iteration: int
    trajectories: list[types.Trajectory]
    mixture: types.MixtureState  # after their draws and successes
    values: types.Metrics  # what they cost


def train(run: assemble.Run, recorder: Recorder) -> types.TrainState:
    """Runs all stages, from wherever the working directory says the run stands."""
    abandonable = recorder.interrupted.abandonable
    with abandonable("its start, which the same command repeats"):
        stage, state, progress = restore_or_init(run, recorder)
    while True:
        reference = reference_params(run, stage, recorder)
        state, progress = run_stage(run, stage, state, progress, reference, recorder)
        if stage.settings.evaluate_after:
            recorder.timers.place = f"the evaluation after '{stage.settings.name}'"
            with abandonable(
                f"the evaluation after stage '{stage.settings.name}', which the same "
                "command repeats"
            ):
                assess(run, state, progress, recorder)
        if stage.index + 1 == len(run.config.stages):
            return state
        following = run.config.stages[stage.index + 1].name
        with abandonable(f"the start of stage '{following}', repeated likewise"):
            stage = stages.build(run, stage.index + 1)
            state = stage.enter(run, state)
        progress = dataclasses.replace(
            progress, stage=stage.index, stage_name=stage.settings.name, iteration=0
        )


def run_stage(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.TrainState,
    progress: types.Progress,
    reference: types.PyTree | None,
    recorder: Recorder,
) -> tuple[types.TrainState, types.Progress]:
    """Runs what is left of one stage, and saves its final state."""
    ahead: Experience | None = None
    iterations = range(progress.iteration, stage.settings.num_iterations)
    profile = recorder.workdir / "profile" / stage.settings.name
    for iteration in timing.traced(iterations, profile, recorder.num_profiled):
        at_end = iteration + 1 == stage.settings.num_iterations
        recorder.timers.place = f"stage '{stage.settings.name}', iteration {iteration}"
        save = at_end or (iteration + 1) % run.config.save_every == 0
        with recorder.timers("total"):
            if stage.settings.kind == "warm_start":
                state, values, trajectories = supervise(
                    run, stage, state, iteration, recorder
                )
            else:
                experience = ahead or play(
                    run, stage, Actor.of(run, state), state.mixture, iteration, recorder
                )
                trajectories = experience.trajectories
                play_ahead = stage.settings.overlap and not save
                state, values, ahead = reinforce(
                    run, stage, state, experience, reference, play_ahead, recorder
                )
        values |= recorder.timers.pop()
        values |= roofline.summarize(values, run.config.model, recorder.peak_flops)
        values["perf/compilations"] = recorder.compilations.pop()
        check_finite(values, stage.settings.name, iteration)
        progress = dataclasses.replace(progress, iteration=iteration + 1)
        if processes.is_first():
            recorder.writer.write(
                progress, step=int(state.step), values=values, trajectories=trajectories
            )
        stop = recorder.interrupted.requested()
        if save or stop:
            recorder.checkpoints.save(state, progress, end_of_stage=at_end)
        if stop:
            raise errors.InterruptedRun(
                f"iteration {iteration + 1} of {stage.settings.num_iterations} of stage "
                f"'{stage.settings.name}' is finished and saved as checkpoint "
                f"{int(state.step)}."
            )
    return state, progress


def play(
    run: assemble.Run,
    stage: stages.Stage,
    actor: Actor,
    state: types.MixtureState,
    iteration: int,
    recorder: Recorder,
) -> Experience:
    """Plays P groups; with refills, further ones until P of them carry a signal."""
    settings, collector, timers = stage.settings, stage.collector, recorder.timers
    assert collector is not None
    size, rounds = settings.rollout.group_size, settings.algorithm.max_refills + 1
    trajectories: list[types.Trajectory] = []
    statistics, missing = collect.Statistics(), settings.rollout.tasks_per_iteration
    for refill in range(rounds):
        with timers("mixture"):
            draw = jnp.int32(iteration * rounds + refill)
            env_ids, items, state = stage.draw_tasks(
                state, stage.key, draw, jnp.int32(missing)
            )
            drawn = zip(*jax.device_get((env_ids, items)), strict=True)
            panels = [stage.panels.get(name) for name in run.environments]
            item_ids = [panels[env].item_ids[item] for env, item in drawn][:missing]
        with timers("rollout"):
            played, cost = collector.collect(
                actor.params,
                assemble.make_tasks(
                    item_ids, size, first_group=len(trajectories) // size
                ),
                key=rng.stream_key(stage.key, "rollout", int(draw)),
                policy_step=actor.step,
                max_turns=stage.max_turns(iteration),
            )
        trajectories, statistics = [*trajectories, *played], statistics + cost
        missing -= credit.count_informative(played, settings)
        if not missing:
            break
    refuse_env_errors(trajectories, run.config.max_env_error_fraction)
    values = statistics.summarize() | metrics.summarize_trajectories(trajectories)
    if rounds > 1:
        values |= {"rollout/refills": refill, "rollout/groups_missing": missing}
    state = record_success(run, state, trajectories)
    return Experience(iteration, trajectories, state, values)


def reinforce(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.TrainState,
    experience: Experience,
    reference: types.PyTree | None,
    play_ahead: bool,
    recorder: Recorder,
) -> tuple[types.TrainState, types.Metrics, Experience | None]:
    """Trains on an iteration's episodes, maybe while those of the next are played."""
    settings, step, iteration = stage.settings, int(state.step), experience.iteration
    with recorder.timers("pack"):
        trajectories = experience.trajectories
        scores = score_tokens(run, stage, state.params, trajectories, reference)
        examples = credit.assign(trajectories, scores, settings)
        critic = algorithms.get(settings.algorithm).critic
        batches, report = pack(run, stage, examples, iteration, has_critic=critic)
    state, ahead = dataclasses.replace(state, mixture=experience.mixture), None
    actor = Actor.of(run, state) if play_ahead else None
    in_loss = reference if settings.algorithm.kl_in == "loss" else None
    with recorder.timers("update"):
        state, pending = update(run, stage, state, batches, in_loss)
        if actor:
            ahead = play(run, stage, actor, state.mixture, iteration + 1, recorder)
        updates = fetch(pending)
    staleness = step - min(t.policy_step for t in trajectories)
    if not staleness:
        check_gap(updates[0], settings, iteration)
    values = mean_of(updates) | experience.values | report.summarize()
    values["policy/first_gap"] = updates[0]["policy/behavior_gap"]
    values["policy/staleness"] = staleness
    return state, values, ahead


def score_tokens(
    run: assemble.Run,
    stage: stages.Stage,
    params: types.PyTree,
    trajectories: Sequence[types.Trajectory],
    reference: types.PyTree | None,
) -> list[np.ndarray]:
    """What credit must know of tokens: `scores` of `credit.assign`."""
    chosen, mesh = stage.settings.algorithm, run.mesh
    ends = np.cumsum([t.num_action_tokens for t in trajectories])
    scores = np.zeros((2, ends[-1]))
    critic = params if algorithms.get(chosen).critic else None
    models = critic, reference if chosen.kl_in == "reward" else None
    if models != (None, None):
        # The advantages of these batches number the tokens; float32 counts to 2 ** 24.
        numbers = np.split(np.arange(ends[-1]), ends[:-1])
        examples = list(map(packing.Example, trajectories, numbers))
        batches, _ = pack(run, stage, examples, 0, keep_all=True)
        cuts = [
            (b, m) for b in batches for m in np.flatnonzero(b.segment_ids.any((1, 2)))
        ]
        for batch, m in cuts:
            rows = jax.tree.map(lambda x, m=m: x[m : m + 1], batch)
            places = rows.advantages[rows.action_mask].astype(int)
            for kind, model in enumerate(models):
                if model is not None:
                    found = stage.score_tokens(model, sharding.to_global(rows, mesh))
                    scores[kind, places] = np.asarray(found[kind])[rows.action_mask[0]]
    return np.split(scores, ends[:-1], axis=1)


def pack(
    run: assemble.Run,
    stage: stages.Stage,
    examples: Sequence[packing.Example],
    seed: int,
    *,
    keep_all: bool = False,
    has_critic: bool = False,
) -> tuple[list[types.TrainBatch], packing.PackingReport]:
    """Packs an iteration's examples into one batch per update."""
    algorithm = stage.settings.algorithm
    return packing.to_train_batches(
        examples,
        env_index={name: i for i, name in enumerate(run.environments)},
        learner_config=run.config.learner,
        num_batches=algorithm.updates_per_iteration,
        seed=seed,
        keep_zero_variance=keep_all or algorithm.keep_zero_variance,
        has_critic=has_critic,
    )


def supervise(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.TrainState,
    iteration: int,
    recorder: Recorder,
) -> tuple[types.TrainState, types.Metrics, Sequence[types.Trajectory]]:
    """One update on oracle demonstrations."""
    with recorder.timers("pack"):
        chosen = warmstart.choose_batch(
            stage.demonstrations,
            rng.stream_key(stage.key, "demonstrations"),
            iteration,
            stage.settings,
        )
        examples = [packing.Example(t, advantages=1.0) for t in chosen]
        batches, report = pack(run, stage, examples, iteration)
    with recorder.timers("update"):
        state, pending = update(run, stage, state, batches)
        updates = fetch(pending)
    return state, mean_of(updates) | report.summarize(), ()


def update(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.TrainState,
    batches: Sequence[types.TrainBatch],
    reference: types.PyTree | None = None,
) -> tuple[types.TrainState, list[types.Metrics]]:
    """Starts one learner step per batch, and waits for none."""
    mixture_state, collected = state.mixture, []
    state = dataclasses.replace(state, mixture=None)  # donated otherwise
    for batch in batches:
        placed = sharding.to_global(batch, run.mesh)
        state, values = stage.train_step(state, placed, reference)
        collected.append(values)
    return dataclasses.replace(state, mixture=mixture_state), collected


def fetch(updates: Sequence[types.Metrics]) -> list[Mapping[str, float]]:
    """Waits for learner steps; one device-to-host copy for all their metrics."""
    return [
        {name: float(value) for name, value in values.items()}
        for values in jax.device_get(updates)
    ]


def record_success(
    run: assemble.Run,
    state: types.MixtureState,
    trajectories: Sequence[types.Trajectory],
) -> types.MixtureState:
    """Feeds an iteration's successes back to the mixture.

    Episodes that their environments lost say nothing of the policy and are left out.
    """
    totals = np.zeros((2, len(run.environments)), np.float32)
    for trajectory in trajectories:
        if trajectory.ending.lost:
            continue
        env = run.environments.index(trajectory.task.env)
        totals[:, env] += (trajectory.success, 1)
    return mixture.record_success(state, *jax.device_put(totals))


def reference_params(
    run: assemble.Run, stage: stages.Stage, recorder: Recorder
) -> types.PyTree | None:
    """Parameters at the start of the stage, if its objective has a KL term."""
    if stage.settings.algorithm.kl_coefficient == 0:
        return None
    if stage.index == 0:
        return run.parameters.init()
    before = run.config.stages[stage.index - 1].name
    step = recorder.checkpoints.stage_ends()[before]
    return recorder.checkpoints.restore_params(step, run.parameters.abstract)


def restore_or_init(
    run: assemble.Run, recorder: Recorder
) -> tuple[stages.Stage, types.TrainState, types.Progress]:
    """The stage, state and progress a run goes on from."""
    step = recorder.checkpoints.latest_step()
    digest = run.parameters.frozen_digest
    if step is None:
        progress = types.Progress(
            stage_name=run.config.stages[0].name, frozen_digest=digest
        )
    else:
        progress = recorder.checkpoints.restore_progress(step, frozen_digest=digest)
        resume.check_place(progress, run.config.stages, step)
    if processes.is_first():
        recorder.writer.resume(progress, step=step or 0)
    stage = stages.build(run, progress.stage)
    if step is None:
        state = stage.initial_state(run, run.parameters.init(), jnp.int32(0))
    else:
        state = recorder.checkpoints.restore(step, stage.abstract_state(run))
    return stage, state, progress


def assess(
    run: assemble.Run,
    state: types.TrainState,
    progress: types.Progress,
    recorder: Recorder,
) -> None:
    """Evaluates the policy after a stage; what an earlier session has measured stays.

    Raises:
      EnvWorkerError: if environments lost too many episodes. The stage's checkpoint is
        on disk by then: the same command goes on with this evaluation.
    """
    settings, step = run.config.evaluation, int(state.step)
    environments = settings.environments or run.environments

    def load_done() -> list[results.EvaluationResult]:
        stored = results.load_all(recorder.workdir, environments)
        place = (progress.stage_name, step)
        return [result for result in stored if (result.stage, result.step) == place]

    done = {result.env for result in load_done()}
    missing = tuple(env for env in environments if env not in done)
    if not missing:
        return
    evaluate.evaluate(
        run,
        state.params,
        dataclasses.replace(settings, environments=missing),
        stage=progress.stage_name,
        after_iteration=progress.iteration,
        step=step,
        workdir=recorder.workdir,
    )
    if processes.is_first():
        print(report.format_table(load_done()), flush=True)


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
