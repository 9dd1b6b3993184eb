"""Evaluation: fixed task panels, k samples per task, success and its uncertainty.

The randomness of sample s of task t depends on the run's seed and on (t, s) alone, so two
policies are compared on the same draws, and `launch.evaluate` repeats what training
printed.
"""

import pathlib
from collections.abc import Sequence

from agentrl import config, hosts, keys, types
from agentrl import run as runs
from envs import base
from reporting import episodes, failures, results


def evaluate(
    run: runs.Run,
    params: types.PyTree,
    settings: config.EvaluationConfig,
    *,
    stage: str,
    after_iteration: int,
    step: int,
    workdir: pathlib.Path,
) -> list[results.EvaluationResult]:
    """Plays every panel and stores results and episodes.

    Args:
      run: the run; its pool plays the episodes.
      params: parameters in the learner's layout.
      settings: panels, samples and how to play.
      stage: name of the stage the policy comes from, for the results.
      after_iteration: iterations of that stage behind the policy.
      step: optimizer updates behind the policy.
      workdir: where `evaluations/` and `episodes/` are written.

    Returns:
      One result per environment, in the order of the settings.
    """
    placed = run.rollout_params(params)
    collector = run.collector(settings.rollout)
    names = settings.environments or run.environments
    found = []
    for env in names:
        panel = select_panel(run, env, settings)
        trajectories, _ = collector.collect(
            placed,
            runs.make_tasks(panel.item_ids, settings.samples),
            key=keys.stream_key(run.key, "evaluation", env),
            policy_step=step,
        )
        result = to_result(
            trajectories,
            panel,
            settings,
            stage=stage,
            after_iteration=after_iteration,
            step=step,
        )
        found.append(result)
        if not hosts.is_first():
            continue
        path = workdir / episodes.FOLDER / f"evaluation.{stage}.{env}.jsonl"
        path.unlink(missing_ok=True)
        episodes.append(
            path,
            (
                failures.tag(
                    episodes.from_trajectory(t, stage=stage, iteration=after_iteration)
                )
                for t in trajectories
            ),
        )
        result.save(workdir)  # last: its presence says that the evaluation is whole
    return found


def select_panel(
    run: runs.Run, env: str, settings: config.EvaluationConfig
) -> base.TaskPanel:
    """The tasks of one environment that an evaluation plays."""
    return run.panel(
        env,
        settings.split,
        tier=settings.tier,
        tier_file=settings.tier_file,
        subsets=settings.subsets,
        limit=settings.tasks or None,
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
    """Arranges finished episodes by task; k consecutive episodes are one task's samples."""
    k = settings.samples
    rows = [trajectories[i : i + k] for i in range(0, len(trajectories), k)]
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
        success=tuple(tuple(t.success for t in row) for row in rows),
        score=tuple(tuple(t.score for t in row) for row in rows),
        turns=tuple(tuple(len(t.turns) for t in row) for row in rows),
        tokens=tuple(tuple(t.num_action_tokens for t in row) for row in rows),
    )
