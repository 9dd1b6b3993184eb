"""The training loop: everything a run does, in the order it happens.

One iteration of a stage:
  1. mixture   draws an environment and a task for each of P groups       (device)
  2. rollout   plays P x G episodes in slots of one cache                 (both)
  3. score     asks critic, reference or teachers about their tokens      (device)
  4. assign    turns rewards into a signal for each token                 (host)
  5. pack      lays trajectories and signals out in packed rows           (host)
  6. update    applies one learner step per minibatch                     (device)
  7. record    writes metrics and episodes; now and then saves            (host)
A supervised stage has demonstrations in place of 1 to 4. A stage repeats this; the next
one starts from the state that it leaves, and after a stage the policy is evaluated.

With `overlap` rollout and update are pipelined: the episodes of the next iteration are
played while the device updates, with the parameters from before the update, hence one
update off-policy. With `extra_groups` an iteration does not wait for its longest episodes:
they go on in the next one. A checkpoint keeps the episodes that were played ahead or have
only begun, so that a run repeats itself whether it is interrupted or not.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from agentrl import actor, config, errors, types
from agentrl.checkpoints import checkpoint
from agentrl.evaluation import evaluator
from agentrl.hardware import roofline, timing
from agentrl.learner import credit, packing, scoring, update
from agentrl.parallel import interruption, processes, rng
from agentrl.pending import experiences
from agentrl.reporting import metrics, tables
from agentrl.run import (
    assemble,
    checks,
    hindsight,
    references,
    resume,
    stages,
)
from agentrl.statistics import results
from agentrl.supervised import warmstart


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
    publish: Callable[[], None] = lambda: None  # called when something was saved
    interrupted: interruption.Interruption = dataclasses.field(
        default_factory=interruption.Interruption
    )


def train(run: assemble.Run, recorder: Recorder) -> types.RunState:
    """Runs all stages, from wherever the working directory says the run stands."""
    abandonable = recorder.interrupted.abandonable
    with abandonable("its start, which the same command repeats"):
        stage, state, progress, ahead = resume.restore_or_init(
            run, recorder.checkpoints, recorder.writer, recorder.workdir
        )
        if run.config.evaluation.before_training and not int(state.learner.step):
            untrained = dataclasses.replace(
                progress, stage_name=results.UNTRAINED_STAGE
            )
            evaluate_after_stage(run, state, untrained, recorder)
    while True:
        compared = references.load(run, stage, state, recorder.checkpoints)
        state, progress = run_stage(
            run, stage, state, progress, compared, recorder, ahead
        )
        ahead = None
        if stage.settings.evaluate_after:
            recorder.timers.place = f"the evaluation after '{stage.settings.name}'"
            with abandonable(
                f"the evaluation after stage '{stage.settings.name}', which the same "
                "command repeats"
            ):
                evaluate_after_stage(run, state, progress, recorder)
        if stage.index + 1 == len(run.config.stages):
            return state
        following = run.config.stages[stage.index + 1].name
        with abandonable(f"the start of stage '{following}', repeated likewise"):
            stage = stages.build(run, stage.index + 1)
            state = stage.init_from_previous(run, state)
        progress = dataclasses.replace(
            progress, stage=stage.index, stage_name=stage.settings.name, iteration=0
        )


def run_stage(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.RunState,
    progress: types.Progress,
    compared: references.References,
    recorder: Recorder,
    ahead: experiences.Ahead | None = None,
) -> tuple[types.RunState, types.Progress]:
    """Runs what is left of one stage, of which `ahead` may have been played already."""
    ahead = ahead or experiences.Ahead()
    iterations = range(progress.iteration, stage.settings.num_iterations)
    profile = recorder.workdir / "profile" / stage.settings.name
    for iteration in timing.traced(iterations, profile, recorder.num_profiled):
        at_end = iteration + 1 == stage.settings.num_iterations
        recorder.timers.place = f"stage '{stage.settings.name}', iteration {iteration}"
        save = at_end or (iteration + 1) % run.config.save_every == 0
        trajectories: Sequence[types.Trajectory] = ()
        with recorder.timers("total"):
            if stage.settings.supervised:
                state, values = supervised_iteration(
                    run, stage, state, iteration, recorder
                )
            else:
                if ahead.experience is None:
                    ahead = actor.play(
                        run, stage, state, iteration, ahead, recorder.timers
                    )
                assert ahead.experience is not None
                trajectories = ahead.experience.trajectories
                state, values, ahead = rl_iteration(
                    run, stage, state, ahead, compared, recorder, at_end=at_end
                )
        values |= recorder.timers.pop()
        values |= roofline.summarize(values, run.config.model, recorder.peak_flops)
        values["perf/compilations"] = recorder.compilations.pop()
        checks.check_finite(values, stage.settings.name, iteration)
        progress = dataclasses.replace(progress, iteration=iteration + 1)
        if processes.is_process_zero():
            recorder.writer.write(
                progress,
                step=int(state.learner.step),
                values=values,
                trajectories=trajectories,
            )
        stop = recorder.interrupted.requested()
        if save or stop:
            waiting = experiences.to_json(ahead, stage.settings.rollout)
            recorder.checkpoints.save(
                state, progress, end_of_stage=at_end, episodes=waiting
            )
            recorder.publish()
        if stop:
            raise errors.InterruptedRun(
                f"iteration {iteration + 1} of {stage.settings.num_iterations} of stage "
                f"'{stage.settings.name}' is finished and saved as checkpoint "
                f"{int(state.learner.step)}."
            )
    return state, progress


def rl_iteration(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.RunState,
    ahead: experiences.Ahead,
    compared: references.References,
    recorder: Recorder,
    *,
    at_end: bool,
) -> tuple[types.RunState, types.Metrics, experiences.Ahead]:
    """Trains on the episodes of one iteration; with `overlap` plays the next ones.

    Args:
      run: the run.
      stage: the stage.
      state: of the run; its parameters are updated.
      ahead: the episodes, and what of others has been played.
      compared: other policies that the algorithm asks.
      recorder: for timers and stored episodes.
      at_end: whether this is the stage's last iteration.

    Returns:
      The new state, metrics, and what has been played for the next iterations.
    """
    experience = ahead.experience
    assert experience is not None
    learner, iteration = state.learner, experience.iteration
    first_step = int(learner.step)
    with recorder.timers("pack"):
        signals, batches, packed = assign_and_pack(
            run, stage, learner.params, experience, compared
        )
    state = dataclasses.replace(state, mixture=experience.mixture)
    ahead = dataclasses.replace(ahead, experience=None)
    # The learner donates its parameters: what plays meanwhile needs a copy.
    play_ahead = stage.settings.overlap and not at_end
    snapshot = actor.PolicySnapshot.take(run, learner) if play_ahead else None
    in_loss = stage.algorithm.objective.divergence is not None
    reference = compared.divergence if in_loss else None
    with recorder.timers("update"):
        pending = []
        for batch in batches:
            learner, values = stage.train_step(learner, batch, reference)
            pending.append(values)
        if snapshot:
            ahead = actor.play(
                run, stage, state, iteration + 1, ahead, recorder.timers, snapshot
            )
        updates = fetch(pending)
    recorder.writer.hold(
        signals,
        hindsight.look_back(run, stage, learner.params, experience.trajectories),
    )
    values = summarize_updates(run, stage, experience, updates, first_step)
    state = dataclasses.replace(state, learner=learner)
    return state, values | packed.summarize(), ahead


def summarize_updates(
    run: assemble.Run,
    stage: stages.Stage,
    experience: experiences.Experience,
    updates: Sequence[Mapping[str, float]],
    first_step: int,
) -> types.Metrics:
    """Metrics of an iteration's episodes and updates.

    Args:
      run: the run.
      stage: the stage.
      experience: the episodes.
      updates: metrics of each update.
      first_step: updates behind the parameters that the first one started from.

    Raises:
      TrainingError: if sampler and learner disagree about the tokens of one policy.
    """
    values = mean_of(updates) | experience.values
    if updates[0]["learner/policy_tokens"]:
        values["policy/first_logprob_mismatch"] = updates[0]["policy/logprob_mismatch"]
    oldest_step = min(t.policy_step for t in experience.trajectories)
    values["policy/staleness"] = first_step - oldest_step
    if not values["policy/staleness"] and "policy/first_logprob_mismatch" in values:
        precision = run.config.model.dtypes
        checks.check_logprob_mismatch(
            values, stage.settings, experience.iteration, precision
        )
    return values


def assign_and_pack(
    run: assemble.Run,
    stage: stages.Stage,
    params: types.PyTree,
    experience: experiences.Experience,
    compared: references.References,
) -> tuple[Sequence[types.Signal], Sequence[types.TrainBatch], packing.PackingReport]:
    """Turns an iteration's rewards into signals, and packs them with what is rehearsed.

    Args:
      run: the run.
      stage: the stage.
      params: of the policy before its updates.
      experience: the episodes.
      compared: other policies that the algorithm asks.

    Returns:
      Signals of the episodes, a batch for each update, and what packing cost.
    """
    algorithm, episodes = stage.algorithm, experience.trajectories
    scores = score_tokens(run, stage, params, episodes, compared)
    assert algorithm.estimate is not None
    group_size, iteration = stage.settings.rollout.group_size, experience.iteration
    seed = rng.host_seed(stage.key, "advantages", iteration)
    signals = algorithm.estimate(episodes, scores, group_size, seed)
    rehearsed, their_signals = rehearse(stage, iteration)
    batches, packed = packing.pack(
        [*episodes, *rehearsed],
        [*signals, *their_signals],
        learner_config=run.config.learner,
        num_batches=stage.settings.algorithm.updates_per_iteration,
        seed=rng.host_seed(stage.key, "minibatches", iteration),
        num_passes=algorithm.num_passes,
        streams=algorithm.streams,
        local_rows=run.local_rows,
    )
    return signals, batches, packed


def supervised_iteration(
    run: assemble.Run,
    stage: stages.Stage,
    state: types.RunState,
    iteration: int,
    recorder: Recorder,
) -> tuple[types.RunState, types.Metrics]:
    """Trains on demonstrations."""
    settings = stage.settings.algorithm
    assert isinstance(settings, config.Supervised)
    with recorder.timers("pack"):
        chosen = warmstart.choose_batch(
            stage.demonstrations,
            rng.stream_key(stage.key, "demonstrations"),
            iteration,
            weights=stage.settings.mixture.tempered_weights,
            batch_size=settings.episodes_per_step,
        )
        batches, packed = packing.pack(
            chosen,
            [types.Signal(ce_weights=1.0)] * len(chosen),
            learner_config=run.config.learner,
            num_batches=settings.updates_per_iteration,
            seed=rng.host_seed(stage.key, "minibatches", iteration),
            streams=stage.algorithm.streams,
            local_rows=run.local_rows,
        )
    learner, pending = state.learner, []
    with recorder.timers("update"):
        for batch in batches:
            learner, values = stage.train_step(learner, batch, None)
            pending.append(values)
        updates = fetch(pending)
    state = dataclasses.replace(state, learner=learner)
    return state, mean_of(updates) | packed.summarize()


def score_tokens(
    run: assemble.Run,
    stage: stages.Stage,
    params: types.PyTree,
    episodes: Sequence[types.Trajectory],
    compared: references.References,
) -> list[credit.TokenScores]:
    """Asks for what the algorithm must know of tokens before it assigns credit."""
    others = None
    if stage.algorithm.needs_reference_scores:
        others = compared.teachers or dict.fromkeys(
            run.environments, compared.divergence
        )
    return scoring.score(
        episodes,
        stage.score_tokens,
        run.config.learner,
        critic=params if stage.algorithm.needs_values else None,
        references=others,
        local_rows=run.local_rows,
    )


def rehearse(
    stage: stages.Stage, iteration: int
) -> tuple[list[types.Trajectory], list[types.Signal]]:
    """Chooses the demonstrations of earlier environments that an iteration rehearses."""
    settings = stage.settings.rehearsal
    if settings is None:
        return [], []
    chosen = warmstart.choose_batch(
        stage.demonstrations,
        rng.stream_key(stage.key, "rehearsal"),
        iteration,
        weights=settings.environments,
        batch_size=settings.episodes_per_iteration,
    )
    return chosen, [types.Signal(ce_weights=settings.coefficient)] * len(chosen)


def fetch(updates: Sequence[types.Metrics]) -> list[Mapping[str, float]]:
    """Waits for learner steps; one device-to-host copy for all their metrics."""
    return [
        {name: float(value) for name, value in values.items()}
        for values in jax.device_get(updates)
    ]


def evaluate_after_stage(
    run: assemble.Run,
    state: types.RunState,
    progress: types.Progress,
    recorder: Recorder,
) -> None:
    """Evaluates the policy after a stage; what an earlier session has measured stays.

    Raises:
      EnvWorkerError: if environments lost too many episodes. The stage's checkpoint is
        on disk by then: the same command goes on with this evaluation.
    """
    settings, step = run.config.evaluation, int(state.learner.step)
    environments = settings.environments or run.environments

    def load_done() -> list[results.EvaluationResult]:
        return results.load_stage(
            recorder.workdir, progress.stage_name, step, environments
        )

    done = {result.env for result in load_done()}
    missing = tuple(env for env in environments if env not in done)
    if missing:
        evaluator.evaluate(
            run,
            state.learner.params,
            dataclasses.replace(settings, environments=missing),
            stage=progress.stage_name,
            after_iteration=progress.iteration,
            step=step,
            workdir=recorder.workdir,
        )
    if processes.is_process_zero():
        found, by_chance = load_done(), results.load_random(recorder.workdir)
        recorder.writer.write_evaluations(found)
        if missing:
            print(tables.format_table(found, by_chance), flush=True)


def mean_of(updates: Sequence[Mapping[str, float]]) -> types.Metrics:
    """Averages metrics over the updates of an iteration.

    A mean over tokens is that of the updates that had such tokens; it is left out where
    none had: nothing was measured.
    """
    found = {}
    for name in updates[0]:
        counted = update.counted_by(name)
        kept = [values[name] for values in updates if values.get(counted, 1)]
        if kept:
            found[name] = float(np.mean(kept))
    return found
