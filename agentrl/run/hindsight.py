"""What the updated policy says of the episodes that have just trained it."""

from collections.abc import Sequence

from agentrl import types
from agentrl.learner import scoring
from agentrl.run import assemble, stages
from agentrl.transcripts import tokens


def look_back(
    run: assemble.Run,
    stage: stages.Stage,
    params: types.PyTree,
    episodes: Sequence[types.Trajectory],
) -> list[tokens.Hindsight]:
    """Scores the episodes that are stored token by token, if the run asks for it.

    Args:
      run: the run.
      stage: whose learner scores.
      params: trained parameters after the update.
      episodes: of the iteration.
    """
    if not run.config.token_hindsight:
        return []
    stored = episodes[: run.config.token_episodes]
    found = (
        scoring.ask(stored, stage.score_tokens, run.config.learner, params, which)
        for which in ("logprobs", "entropy")
    )
    return list(map(tokens.Hindsight, *found))
