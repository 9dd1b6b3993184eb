"""What models say about finished episodes, before any of them trains.

A critic's values and the log-probabilities of a reference or a teacher are needed to
estimate advantages. Episodes are packed as the learner packs them, scored row by row, and
the results are read back.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import numpy as np

from agentrl import config, types
from agentrl.learner import credit, packing, update

# (trained parameters, microbatch of NumPy arrays [1, R, T]) -> float32[R, T] each
ScoreFn = Callable[[types.PyTree, types.TrainBatch], update.TokenOutputs]


def score(
    trajectories: Sequence[types.Trajectory],
    score_fn: ScoreFn,
    learner_config: config.LearnerConfig,
    *,
    critic: types.PyTree | None = None,
    references: Mapping[str, types.PyTree] | None = None,
    local_rows: Collection[int] | None = None,
) -> list[credit.TokenScores]:
    """Scores the action tokens of every trajectory.

    Args:
      trajectories: of an iteration.
      score_fn: the compiled forward pass.
      learner_config: T, R and M.
      critic: trained parameters whose values are wanted, if any.
      references: trained parameters of the model that each environment's episodes are
        compared with, if any.
      local_rows: of the R rows those to write, see `packing.fill`.

    Returns:
      One entry for each trajectory.
    """
    ask_of = functools.partial(
        ask, trajectories, score_fn, learner_config, local_rows=local_rows
    )
    values = [None] * len(trajectories) if critic is None else ask_of(critic, "values")
    logprobs: list[np.ndarray | None] = [None] * len(trajectories)
    for reference in _distinct(references or {}):
        found = ask_of(reference, "logprobs")
        for index, trajectory in enumerate(trajectories):
            if (references or {})[trajectory.task.env] is reference:
                logprobs[index] = found[index]
    return [
        credit.TokenScores(_behavior_logprobs(trajectory), *scores)
        for trajectory, *scores in zip(trajectories, values, logprobs, strict=True)
    ]


def score_rows(
    params: types.Params, batch: types.TrainBatch, *, forward: update.ForwardFn
) -> update.TokenOutputs:
    """Runs the forward pass over one microbatch [1, R, T]; see `ScoreFn`."""
    return forward(params, jax.tree.map(lambda x: x[0], batch))


def ask(
    trajectories: Sequence[types.Trajectory],
    score_fn: ScoreFn,
    learner_config: config.LearnerConfig,
    params: types.PyTree,
    which: str,
    *,
    local_rows: Collection[int] | None = None,
) -> list[np.ndarray]:
    """Returns a field of what a model says of each trajectory's sampled tokens, float64[A].

    Args:
      trajectories: any.
      score_fn: the compiled forward pass.
      learner_config: T, R and M.
      params: trained parameters of the model.
      which: field of `TokenOutputs`.
      local_rows: of the R rows those to write, see `packing.fill`.
    """
    pieces, origins = packing.unfold(trajectories)
    everything = [types.Signal(rl_weights=1.0)] * len(pieces)
    found = [np.zeros(t.num_action_tokens) for t in pieces]
    for placement in packing.place(pieces, learner_config):
        batch = packing.fill(
            placement, pieces, everything, learner_config, local_rows=local_rows
        )
        num_used = -(-len(placement.rows) // learner_config.rows_per_microbatch)
        rows = []
        for m in range(num_used):
            microbatch = jax.tree.map(lambda x, m=m: x[m : m + 1], batch)
            outputs = score_fn(params, microbatch)
            rows.append(np.asarray(getattr(outputs, which)))
        unpacked = packing.unpack(placement, pieces, np.concatenate(rows))
        for index, values in unpacked.items():
            found[index] = values
    joined: list[list[np.ndarray]] = [[np.zeros(0)] for _ in trajectories]
    for origin, values in zip(origins, found, strict=True):
        joined[origin].append(values)
    return [np.concatenate(parts) for parts in joined]


def _behavior_logprobs(trajectory: types.Trajectory) -> np.ndarray:
    parts = [turn.action_logprobs[turn.sampled_mask] for turn in trajectory.turns]
    return np.concatenate([np.zeros(0), *parts])


def _distinct(references: Mapping[str, types.PyTree]) -> list[types.PyTree]:
    return list({id(tree): tree for tree in references.values()}.values())
