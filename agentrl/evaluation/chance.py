"""What a random policy achieves on the panels of an evaluation, played once for each."""

import pathlib

from agentrl import config
from agentrl.envs import base, pool, random_policy
from agentrl.statistics import results

MAX_EPISODES = (
    2000  # of a panel; larger ones are played with fewer samples of each task
)


def measure(
    envs: pool.EnvPool,
    panel: base.TaskPanel,
    settings: config.EvaluationConfig,
    workdir: pathlib.Path,
) -> None:
    """Plays a panel at random and stores the result, unless it is stored already.

    Args:
      envs: the pool that plays.
      panel: the tasks.
      settings: their split, tier and number of samples.
      workdir: directory of the evaluation.

    Raises:
      DamagedFileError: if a stored result cannot be read.
    """
    samples = max(1, min(settings.samples, MAX_EPISODES // len(panel.item_ids)))
    stored = results.load_random(workdir)
    if panel.digest in stored:
        known = stored[panel.digest]
        if known is None or known.samples == samples:
            return
    played = random_policy.play(envs, panel.item_ids, samples)
    result = None if played is None else _to_result(played, samples, panel, settings)
    results.save_random(workdir, panel.env, panel.digest, result)


def _to_result(
    played: list[random_policy.Outcome | None],
    samples: int,
    panel: base.TaskPanel,
    settings: config.EvaluationConfig,
) -> results.EvaluationResult:
    rows = [played[i : i + samples] for i in range(0, len(played), samples)]
    success, score, turns = (
        tuple(tuple(o and getattr(o, field) for o in row) for row in rows)
        for field in random_policy.Outcome._fields
    )
    return results.EvaluationResult(
        stage=results.RANDOM_STAGE,
        after_iteration=0,
        step=0,
        env=panel.env,
        split=settings.split,
        tier=settings.tier,
        panel_version=panel.version,
        panel_digest=panel.digest,
        item_ids=panel.item_ids,
        success=success,
        score=score,
        turns=turns,
        tokens=tuple(tuple(o and 0 for o in row) for row in rows),
    )
