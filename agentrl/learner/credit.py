"""Credit: which trajectories train, and the advantage of each of their tokens.

The bridge from rewards to the learner, in NumPy float64 on the host.
"""

from collections.abc import Sequence

import numpy as np

from agentrl import config, types
from agentrl.learner import algorithms, packing
from agentrl.ops import advantages


def assign(
    trajectories: Sequence[types.Trajectory],
    scores: Sequence[np.ndarray],
    settings: config.StageConfig,
) -> list[packing.Example]:
    """Advantages of every trajectory that may train.

    Those whose ending is masked neither train nor count in their group's baseline. With
    `kl_in = "reward"` each token pays for its distance from the reference.

    Args:
      trajectories: of whole groups, in order.
      scores: float[2, A] of each: the critic's value before each action token, and its
        divergence from the reference in nats; 0 where not needed.
      settings: of the stage.
    """
    chosen = settings.algorithm
    algorithm = algorithms.get(chosen)
    costs = [chosen.kl_coefficient * score[1] for score in scores]
    returns, valid = _outcomes(trajectories, chosen)
    returns -= [cost.sum() for cost in costs]
    kept = np.flatnonzero(valid).tolist()
    if algorithm.critic and kept:
        pairs = [
            _estimate(trajectories[i], scores[i][0], costs[i], chosen) for i in kept
        ]
        flat = np.concatenate([estimates for estimates, _ in pairs])[None]
        scaled = algorithm.advantage(flat, np.ones(flat.shape, bool), chosen)[0]
        parts = np.split(scaled, np.cumsum([len(a) for a, _ in pairs])[:-1])
        return [
            packing.Example(trajectories[i], part, scores[i][0], targets)
            for i, part, (_, targets) in zip(kept, parts, pairs, strict=True)
        ]
    shape = (-1, settings.rollout.group_size)
    episodes = algorithm.advantage(returns.reshape(shape), valid.reshape(shape), chosen)
    pairs = zip(trajectories, costs, strict=True)
    rewards = [_rewards(t, chosen) - _sum_turns(c, t) for t, c in pairs]
    turns = algorithm.turn_advantages(
        trajectories, rewards, episodes.reshape(-1).tolist(), valid.tolist(), chosen
    )
    spread = [np.repeat(turns[i], _lengths(trajectories[i])) for i in kept]
    return [
        packing.Example(trajectories[i], a) for i, a in zip(kept, spread, strict=True)
    ]


def count_informative(
    trajectories: Sequence[types.Trajectory], settings: config.StageConfig
) -> int:
    """Groups whose episodes do not all have the same return."""
    returns, valid = _outcomes(trajectories, settings.algorithm)
    groups = np.where(valid, returns, np.nan).reshape(-1, settings.rollout.group_size)
    return sum(len(set(group[~np.isnan(group)])) > 1 for group in groups)


def ending_policy(ending: types.Ending, settings: config.AlgorithmConfig) -> str:
    """How an episode that ended so enters the loss; broken environments never do."""
    return {
        types.Ending.ENV_ERROR: "mask",
        types.Ending.ENV_TIMEOUT: settings.on_env_timeout,
        types.Ending.MAX_TURNS: settings.on_max_turns,
        types.Ending.MAX_TOKENS: settings.on_max_tokens,
    }.get(ending, "keep")


def _outcomes(
    trajectories: Sequence[types.Trajectory], settings: config.AlgorithmConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64[B] after penalties, and whether they count, bool[B]."""
    policies = [ending_policy(t.ending, settings) for t in trajectories]
    returns = [
        t.episode_return - settings.penalty * (p == "penalize")
        for t, p in zip(trajectories, policies, strict=True)
    ]
    return np.asarray(returns, np.float64), np.asarray([p != "mask" for p in policies])


def _rewards(
    trajectory: types.Trajectory, settings: config.AlgorithmConfig
) -> np.ndarray:
    """Reward of each turn, float64[K], with the penalty taken off the last."""
    rewards = np.array([turn.reward for turn in trajectory.turns], np.float64)
    if ending_policy(trajectory.ending, settings) == "penalize":
        rewards[-1:] -= settings.penalty
    return rewards


def _sum_turns(tokens: np.ndarray, trajectory: types.Trajectory) -> np.ndarray:
    """Sums float64[A] within turns, float64[K]."""
    turns = np.repeat(np.arange(len(trajectory.turns)), _lengths(trajectory))
    return np.bincount(turns, tokens, minlength=len(trajectory.turns))


def _lengths(trajectory: types.Trajectory) -> np.ndarray:
    return np.array([len(turn.action_tokens) for turn in trajectory.turns], int)


def _estimate(
    trajectory: types.Trajectory,
    values: np.ndarray,
    costs: np.ndarray,
    settings: config.AlgorithmConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantages and value targets of the action tokens, float64[A] each.

    With turns as steps of time, a turn's value is that before its first token, and all
    of its tokens share advantage and target. An episode that a limit cuts counts as
    ended: the limit is part of the task, so nothing is bootstrapped.
    """
    lengths = _lengths(trajectory)
    ends = np.cumsum(lengths)
    rewards = _rewards(trajectory, settings)
    by_turn = settings.gae_level == "turn"
    if by_turn:
        values = values[ends - lengths]
        steps = rewards - _sum_turns(costs, trajectory)
    else:
        steps = -costs
        steps[ends - 1] += rewards
    estimates = advantages.generalized_advantages(
        steps[None],
        values[None],
        np.ones((1, len(values)), bool),
        np.zeros(1),
        discount=algorithms.get(settings).discount_of(settings),
        decay=settings.gae_decay,
    )[0]
    targets = estimates + values
    if by_turn:
        return np.repeat(estimates, lengths), np.repeat(targets, lengths)
    return estimates, targets
