"""Evaluation: fixed task panels, k samples per task, success and its uncertainty.

The randomness of an episode depends on the run's seed and on the index of its task and
sample in the panel, so two policies are compared on the same random numbers, and
`launch.evaluate` reproduces what training printed. An episode that its environment loses,
because it raises, dies or hangs, is replayed with the same randomness. What stays lost
counts as lost, never as a failure of the policy; an evaluation that loses too much fails.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from agentrl import config, errors, types
from agentrl.envs import base
from agentrl.evaluation import chance, comparison
from agentrl.parallel import processes, rng
from agentrl.run import assemble
from agentrl.statistics import results
from agentrl.transcripts import episodes, failures, tokens

MAX_ATTEMPTS = 3  # for an episode that its environment loses

_Value = TypeVar("_Value")


def evaluate(
    run: assemble.Run,
    params: types.PyTree,
    settings: config.EvaluationConfig,
    *,
    stage: str,
    after_iteration: int,
    step: int,
    workdir: pathlib.Path,
    others: Sequence[comparison.Other] = (),
) -> list[results.EvaluationResult]:
    """Plays every panel and stores results and episodes.

    Args:
      run: the run; its pool plays the episodes.
      params: parameters in the learner's layout.
      settings: panels, samples and rollout settings.
      stage: name of the stage the policy comes from, for the results.
      after_iteration: iterations of that stage behind the policy.
      step: optimizer updates behind the policy.
      workdir: where `evaluations/` and `episodes/` are written.
      others: policies to measure the drift from, once all panels are played.

    Returns:
      One result per environment, in the order of the settings.

    Raises:
      EnvWorkerError: if an environment lost more than `max_env_error_fraction` of its
        episodes, or all of them. It has no result then; earlier ones are stored.
    """
    played: dict[str, list[types.Trajectory]] = {}
    with assemble.open_evaluation(run, settings) as playing:
        found = _play_panels(
            playing,
            run.rollout_params(params),
            settings,
            stage=stage,
            after_iteration=after_iteration,
            step=step,
            workdir=workdir,
            keep=played.__setitem__ if others else None,
        )
    if not others:
        return found
    measured = comparison.measure(run, params, played, settings, others)
    found = [dataclasses.replace(one, drifts=measured[one.env]) for one in found]
    for result in found:
        result.save(workdir)
    return found


def _play_panels(
    run: assemble.Run,
    rollout_params: types.PyTree,
    settings: config.EvaluationConfig,
    *,
    stage: str,
    after_iteration: int,
    step: int,
    workdir: pathlib.Path,
    keep: Callable[[str, list[types.Trajectory]], None] | None,
) -> list[results.EvaluationResult]:
    found = []
    for env in settings.environments or run.environments:
        panel = select_panel(run, env, settings)
        if processes.is_process_zero():
            set_aside(workdir, stage, env, settings, step=step)
            delete_results(workdir, stage, env, settings)
        trajectories = _play_panel(
            run, rollout_params, panel, settings, stage=stage, step=step
        )
        result = to_result(
            trajectories,
            panel,
            settings,
            stage=stage,
            after_iteration=after_iteration,
            step=step,
        )
        if processes.is_process_zero():
            numbers = tokens.keep(
                trajectories, run.chat.tokenizer.decode, run.config.token_episodes
            )
            env_config = run.config.environments[env]
            store(result, trajectories, workdir, env_config, numbers)
            if settings.random_policy:
                chance.measure(run.pool, panel, settings, workdir)
        if keep is not None:
            keep(panel.env, trajectories)
        found.append(result)
    return found


def select_panel(
    run: assemble.Run, env: str, settings: config.EvaluationConfig
) -> base.TaskPanel:
    """Returns the tasks of one environment that an evaluation plays.

    The version names what the evaluation changes of the environment, as results under
    another turn limit or list of actions are other results.
    """
    panel = run.panel(env, **settings.selection)
    changes = "".join(f", {k} {v}" for k, v in settings.env_changes.items())
    return dataclasses.replace(panel, version=panel.version + changes)


def _play_panel(
    run: assemble.Run,
    rollout_params: types.PyTree,
    panel: base.TaskPanel,
    settings: config.EvaluationConfig,
    *,
    stage: str,
    step: int,
) -> list[types.Trajectory]:
    """Plays a panel; raises `EnvWorkerError` if too much of it is lost."""
    trajectories = play_tasks(
        run,
        rollout_params,
        panel.item_ids,
        samples=settings.samples,
        settings=settings.rollout_of(panel.env),
        key=rng.stream_key(run.key, "evaluation", panel.env),
        step=step,
    )
    check_lost_fraction(
        [t for t in trajectories if t.ending.lost],
        num_episodes=len(trajectories),
        max_fraction=run.config.max_env_error_fraction,
        what=f"the evaluation of stage '{stage}' on '{panel.env}'",
    )
    return trajectories


def play_tasks(
    run: assemble.Run,
    rollout_params: types.PyTree,
    item_ids: Sequence[str],
    *,
    samples: int,
    settings: config.RolloutConfig,
    key: jax.Array,
    step: int,
    streams: Sequence[int] | None = None,
) -> list[types.Trajectory]:
    """Plays each task `samples` times; replays episodes that environments lose.

    A replayed episode draws the same random numbers as the one that was lost.

    Args:
      run: the run; its pool plays the episodes.
      rollout_params: parameters in the rollout's layout.
      item_ids: the tasks.
      samples: episodes of each task.
      settings: rollout settings.
      key: PRNG key.
      step: optimizer updates behind the policy.
      streams: number of each episode's random stream under `key`; None takes its index
        among all episodes.

    Returns:
      One trajectory for each episode, the samples of a task side by side. Episodes that
      were lost `MAX_ATTEMPTS` times end with `env_error` or `env_timeout`.
    """
    collector = run.collector(settings, rollout_params)
    tasks = assemble.make_tasks(item_ids, samples)
    numbers = range(len(tasks)) if streams is None else streams
    played: dict[int, types.Trajectory] = {}

    def play(indices: Sequence[int]) -> None:
        chosen = [tasks[index] for index in indices]
        found, _ = collector.collect(
            rollout_params,
            chosen,
            key=key,
            policy_step=step,
            streams=[numbers[index] for index in indices],
        )
        played.update(zip(indices, found, strict=True))

    play(range(len(tasks)))
    for attempt in range(2, MAX_ATTEMPTS + 1):
        lost = [index for index in range(len(tasks)) if played[index].ending.lost]
        if not lost:
            break
        _announce_replay(tasks[lost[0]].env, len(lost), len(tasks), attempt)
        for indices in _split_hung(lost, played):
            play(indices)
    return [played[index] for index in range(len(tasks))]


def _announce_replay(env: str, num_lost: int, num_episodes: int, attempt: int) -> None:
    if processes.is_process_zero():
        print(
            f"{env}: the environment lost {num_lost} of {num_episodes} episodes; replaying "
            f"them, attempt {attempt} of {MAX_ATTEMPTS}.",
            flush=True,
        )


def _split_hung(
    lost: Sequence[int], played: Mapping[int, types.Trajectory]
) -> list[list[int]]:
    """Splits lost episodes into those of tasks that did not hang, and the others.

    A worker that hangs takes the other episodes in it along, so tasks that are known to
    hang are played apart, after the rest.
    """
    hung = {
        played[index].task.item_id
        for index in lost
        if played[index].ending is types.Ending.ENV_TIMEOUT
    }
    others = [index for index in lost if played[index].task.item_id not in hung]
    hanging = [index for index in lost if played[index].task.item_id in hung]
    return [indices for indices in (others, hanging) if indices]


def store(
    result: results.EvaluationResult,
    trajectories: Sequence[types.Trajectory],
    workdir: pathlib.Path,
    env_config: base.EnvConfig,
    numbers: Sequence[Sequence[Mapping[str, Any]] | None],
) -> None:
    """Writes the episodes of an evaluation, with the numbers of tokens, and its result."""
    stage, iteration = result.stage, result.after_iteration
    stored = (
        episodes.from_trajectory(
            t,
            stage=stage,
            iteration=iteration,
            env_config=env_config,
            tokens=of_episode,
        )
        for t, of_episode in zip(trajectories, numbers, strict=True)
    )
    path = _find_episodes(workdir, stage, result.env)
    episodes.append(path, map(failures.tag, stored))
    result.save(workdir)  # last: its presence marks the evaluation as complete


def set_aside(
    workdir: pathlib.Path,
    stage: str,
    env: str,
    settings: config.EvaluationConfig,
    *,
    step: int,
) -> None:
    """Keeps the result of a stage that has grown since, as that of STAGE@ITERATIONS.

    Args:
      workdir: of the run.
      stage: name of the stage.
      env: environment of the panel.
      settings: give the panel.
      step: optimizer updates behind the policy that is evaluated now.
    """
    path = results.find_path(
        workdir, stage=stage, env=env, split=settings.split, tier=settings.tier
    )
    if not path.is_file() or (earlier := results.load(path)).step >= step:
        return
    name = f"{stage}@{earlier.after_iteration}"  # no name of a stage has an @
    dataclasses.replace(earlier, stage=name).save(workdir)
    if (played := _find_episodes(workdir, stage, env)).is_file():
        played.replace(_find_episodes(workdir, name, env))


def delete_results(
    workdir: pathlib.Path, stage: str, env: str, settings: config.EvaluationConfig
) -> None:
    """Deletes the files of an earlier evaluation, so that a failed one leaves none."""
    results.find_path(
        workdir, stage=stage, env=env, split=settings.split, tier=settings.tier
    ).unlink(missing_ok=True)
    _find_episodes(workdir, stage, env).unlink(missing_ok=True)


def check_lost_fraction(
    lost: Sequence[types.Trajectory],
    *,
    num_episodes: int,
    max_fraction: float,
    what: str,
    num_lost_before: int = 0,
) -> None:
    """Raises `EnvWorkerError` if environments lost too many episodes, or all.

    Args:
      lost: the episodes that were lost.
      num_episodes: how many were, or will be, played in all.
      max_fraction: the run's `max_env_error_fraction`.
      what: what was played, for the message.
      num_lost_before: episodes lost besides `lost`, by earlier sessions.
    """
    count = len(lost) + num_lost_before
    if not lost or (count <= max_fraction * num_episodes and count < num_episodes):
        return
    raise errors.EnvWorkerError(
        f"{what} has no result: the environment lost {count} of {num_episodes} episodes "
        f"in {MAX_ATTEMPTS} attempts each, and max_env_error_fraction = {max_fraction} "
        f"allows {int(max_fraction * num_episodes)}, never all. The first, sample "
        f"{lost[0].task.sample} of {lost[0].task.item_id}:\n{lost[0].error}\n"
        "Fix the environment; the same command plays these tasks again."
    )


def to_result(
    trajectories: Sequence[types.Trajectory],
    panel: base.TaskPanel,
    settings: config.EvaluationConfig,
    *,
    stage: str,
    after_iteration: int,
    step: int,
) -> results.EvaluationResult:
    """Makes the result of a panel; k consecutive trajectories are samples of one task."""
    k = settings.samples
    rows = [trajectories[i : i + k] for i in range(0, len(trajectories), k)]

    def table(
        read: Callable[[types.Trajectory], _Value],
    ) -> tuple[tuple[_Value | None, ...], ...]:
        return tuple(
            tuple(None if t.ending.lost else read(t) for t in row) for row in rows
        )

    return results.EvaluationResult(
        stage=stage,
        after_iteration=after_iteration,
        step=step,
        env=panel.env,
        split=settings.split,
        tier=settings.tier,
        panel_version=panel.version,
        panel_digest=panel.digest,
        item_ids=panel.item_ids,
        success=table(lambda t: t.success),
        score=table(lambda t: t.score),
        turns=table(lambda t: len(t.turns)),
        tokens=table(lambda t: t.num_action_tokens),
    )


def _find_episodes(workdir: pathlib.Path, stage: str, env: str) -> pathlib.Path:
    return workdir / episodes.FOLDER / f"evaluation.{stage}.{env}.jsonl"
