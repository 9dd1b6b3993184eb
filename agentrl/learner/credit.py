"""Advantage estimation: from the rewards of an iteration to a signal for each token.

The bridge from environments to the learner, in NumPy float64 on the host. Trajectories
come in whole groups, in order. One whose ending is masked neither trains nor counts in
anybody's baseline.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from agentrl import config, types
from agentrl.ops import advantages, kl

# (returns [P, G], valid [P, G], scale) -> float64[P, G]; one of `ops.advantages`
EstimatorFn = Callable[..., np.ndarray]

group_relative = advantages.group_relative_advantages
leave_one_out = advantages.leave_one_out_advantages


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """What models say about the A action tokens of one trajectory; float64[A] each."""

    behavior_logprobs: np.ndarray  # nats, as sampled
    values: np.ndarray | None = None  # the critic's, before each token
    reference_logprobs: np.ndarray | None = None  # nats, of reference or teacher


def from_groups(
    settings: config.Grouped,
    estimator: EstimatorFn,
    trajectories: Sequence[types.Trajectory],
    scores: Sequence[TokenScores],
    group_size: int,
    seed: int,
) -> list[types.Signal]:
    """Scores episodes against the others of their task.

    Args:
      settings: of the algorithm.
      estimator: what a group's returns become.
      trajectories: of whole groups, in order.
      scores: one for each trajectory.
      group_size: G.
      seed: of the iteration, for `shuffle_returns`.
    """
    costs = [_divergence_cost(settings.kl, score) for score in scores]
    returns, valid = outcomes(trajectories, settings)
    returns -= [cost.sum() for cost in costs]
    shape = (-1, group_size)
    returns, valid = returns.reshape(shape), valid.reshape(shape)
    if settings.shuffle_returns:
        returns = _shuffle(returns, valid, settings.shuffle_returns, seed)
    episodes = estimator(returns, valid, scale=settings.advantage_scale)
    if settings.normalize_per_environment:
        envs = np.array([t.task.env for t in trajectories]).reshape(shape)
        has_signal = np.any((episodes != 0) & valid, axis=1, keepdims=True)
        episodes = _normalize_per_environment(episodes, valid & has_signal, envs)
    turns = [
        np.full(len(trajectory.turns), advantage)
        for trajectory, advantage in zip(
            trajectories, episodes.reshape(-1), strict=True
        )
    ]
    if isinstance(settings, config.Gigpo):
        rewards = [
            _rewards(t, settings) - _sum_turns(cost, t)
            for t, cost in zip(trajectories, costs, strict=True)
        ]
        _add_step_advantages(turns, trajectories, rewards, valid.reshape(-1), settings)
    tokens = [
        np.repeat(turn_advantages, _lengths(trajectory))
        for turn_advantages, trajectory in zip(turns, trajectories, strict=True)
    ]
    kept = valid & (settings.keep_zero_variance | _has_signal(tokens, valid))
    return _to_signals(tokens, settings, kept.reshape(-1))


def from_batch(
    settings: config.ReinforcePP,
    trajectories: Sequence[types.Trajectory],
    scores: Sequence[TokenScores],
    group_size: int,
    seed: int,
) -> list[types.Signal]:
    """Scores episodes against all of the iteration; see `from_groups`."""
    del group_size, seed
    returns, valid = outcomes(trajectories, settings)
    returns -= [_divergence_cost(settings.kl, score).sum() for score in scores]
    episodes = advantages.batch_normalized_advantages(
        returns[None], valid[None], scale=settings.advantage_scale
    )[0]
    tokens = [
        np.full(trajectory.num_action_tokens, advantage)
        for trajectory, advantage in zip(trajectories, episodes, strict=True)
    ]
    kept = valid & _has_signal(tokens, valid[None])[0]
    return _to_signals(tokens, settings, kept)


def from_values(
    settings: config.Ppo,
    trajectories: Sequence[types.Trajectory],
    scores: Sequence[TokenScores],
    group_size: int,
    seed: int,
) -> list[types.Signal]:
    """Estimates advantages with a critic, scaled over the iteration; see `from_groups`."""
    del group_size, seed
    _, valid = outcomes(trajectories, settings)
    signals = [types.Signal()] * len(trajectories)
    played = np.array([t.num_action_tokens > 0 for t in trajectories], bool)
    kept = np.flatnonzero(valid & played).tolist()
    if not kept:
        return signals
    pairs = [_estimate(trajectories[i], scores[i], settings) for i in kept]
    flat = np.concatenate([found for found, _ in pairs])[None]
    scaled = advantages.batch_normalized_advantages(
        flat, np.ones(flat.shape, bool), scale=settings.advantage_scale
    )[0]
    parts = np.split(scaled, np.cumsum([len(found) for found, _ in pairs])[:-1])
    for i, part, (_, targets) in zip(kept, parts, pairs, strict=True):
        signals[i] = dataclasses.replace(
            _to_signal(part, settings),
            old_values=scores[i].values,
            value_targets=targets,
        )
    return signals


def from_teachers(
    settings: config.Distillation,
    trajectories: Sequence[types.Trajectory],
    scores: Sequence[TokenScores],
    group_size: int,
    seed: int,
) -> list[types.Signal]:
    """Takes log p_teacher - log p_policy as each token's advantage; see `from_groups`."""
    del group_size, seed
    _, valid = outcomes(trajectories, settings)
    tokens = []
    for score in scores:
        assert score.reference_logprobs is not None
        tokens.append(score.reference_logprobs - score.behavior_logprobs)
    return _to_signals(tokens, settings, valid)


def ending_policy(ending: types.Ending, settings: config.PolicyGradient) -> str:
    """How an episode that ended so enters the loss; broken environments never do."""
    return {
        types.Ending.ENV_ERROR: "mask",
        types.Ending.ENV_TIMEOUT: settings.on_env_timeout,
        types.Ending.MAX_TURNS: settings.on_max_turns,
        types.Ending.MAX_TOKENS: settings.on_max_tokens,
    }.get(ending, "keep")


def outcomes(
    trajectories: Sequence[types.Trajectory], settings: config.AlgorithmConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Returns after penalties float64[B], and whether episodes count, bool[B]."""
    assert isinstance(settings, config.PolicyGradient)
    policies = [ending_policy(t.ending, settings) for t in trajectories]
    returns = [
        t.episode_return - settings.penalty * (p == "penalize")
        for t, p in zip(trajectories, policies, strict=True)
    ]
    return np.asarray(returns, np.float64), np.asarray([p != "mask" for p in policies])


def _has_signal(tokens: Sequence[np.ndarray], valid: np.ndarray) -> np.ndarray:
    """Whether an episode's group has an advantage other than 0, bool like `valid` [P, G].

    Of a group that has, all count: one at the mean is no less of a sample.
    """
    nonzero = np.array([np.any(found) for found in tokens], bool).reshape(valid.shape)
    return np.broadcast_to(np.any(nonzero & valid, axis=1, keepdims=True), valid.shape)


def _to_signals(
    tokens: Sequence[np.ndarray], settings: config.PolicyGradient, kept: np.ndarray
) -> list[types.Signal]:
    """Makes signals of the advantages of each trajectory's tokens, float64[A] each.

    Args:
      tokens: of each trajectory.
      settings: of the algorithm.
      kept: bool[B], which trajectories train; the others have no signal.
    """
    return [
        _to_signal(found, settings) if trains and len(found) else types.Signal()
        for found, trains in zip(tokens, kept, strict=True)
    ]


def _to_signal(found: np.ndarray, settings: config.PolicyGradient) -> types.Signal:
    penalty = settings.kl
    in_loss = penalty is not None and penalty.placement == "loss"
    return types.Signal(
        advantages=found,
        rl_weights=1.0,
        kl_weights=penalty.coefficient if penalty and in_loss else 0.0,
    )


def _divergence_cost(
    penalty: config.KLConfig | None, scores: TokenScores
) -> np.ndarray:
    """What each action token pays for its distance from the reference, float64[A]."""
    if penalty is None or penalty.placement == "loss":
        return np.zeros(len(scores.behavior_logprobs))
    assert scores.reference_logprobs is not None
    away = scores.reference_logprobs - scores.behavior_logprobs
    return penalty.coefficient * kl.ESTIMATORS[penalty.estimator](away)


def _shuffle(
    returns: np.ndarray, valid: np.ndarray, within: str, seed: int
) -> np.ndarray:
    """Deals the valid returns float64[P, G] out at random, within groups or everywhere."""
    rng = np.random.default_rng((seed, 1))
    shuffled = returns.copy()
    for part in [slice(None)] if within == "iteration" else range(len(returns)):
        chosen = np.zeros(returns.shape, bool)
        chosen[part] = valid[part]
        shuffled[chosen] = rng.permutation(returns[chosen])
    return shuffled


def _normalize_per_environment(
    found: np.ndarray, counts: np.ndarray, envs: np.ndarray
) -> np.ndarray:
    """Scales each environment's advantages to unit root mean square.

    Args:
      found: of episodes or turns, of any shape.
      counts: whether each has a signal. How many have none must not decide how much the
        others of their environment weigh.
      envs: of each.
    """
    scaled = found.copy()
    for env in np.unique(envs):
        chosen = (envs == env) & counts
        if chosen.any():
            scaled[chosen] /= np.sqrt(np.mean(found[chosen] ** 2))
    return scaled


def _add_step_advantages(
    turns: list[np.ndarray],
    trajectories: Sequence[types.Trajectory],
    rewards: Sequence[np.ndarray],
    valid: np.ndarray,
    settings: config.Gigpo,
) -> None:
    """Adds to each turn's advantage that among the turns from the same state (GiGPO).

    The state that a turn starts from is the observation that it answers.
    """
    counted = np.flatnonzero(valid).tolist()
    if not counted:
        return
    returns = [
        advantages.discounted_returns(rewards[i], settings.discount) for i in counted
    ]
    anchors = [
        (trajectories[i].task.group, turn.observation)
        for i in counted
        for turn in trajectories[i].turns
    ]
    steps = advantages.anchor_state_advantages(
        np.concatenate(returns), anchors, scale=settings.advantage_scale
    )
    if settings.normalize_per_environment:
        envs = np.array(
            [trajectories[i].task.env for i in counted for _ in trajectories[i].turns]
        )
        steps = _normalize_per_environment(steps, steps != 0, envs)
    ends = np.cumsum([len(part) for part in returns])
    for i, part in zip(counted, np.split(steps, ends[:-1]), strict=True):
        turns[i] = turns[i] + settings.step_advantage_weight * part


def _rewards(
    trajectory: types.Trajectory, settings: config.PolicyGradient
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
    return np.array([turn.num_sampled for turn in trajectory.turns], int)


def _estimate(
    trajectory: types.Trajectory, scores: TokenScores, settings: config.Ppo
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantages and value targets of the action tokens, float64[A] each.

    With turns as steps of time, a turn's value is that before its first token, and all
    of its tokens share advantage and target. An episode that a limit cuts counts as
    ended: the limit is part of the task, so nothing is bootstrapped.
    """
    assert scores.values is not None
    costs, values = _divergence_cost(settings.kl, scores), scores.values
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
    found = advantages.generalized_advantages(
        steps[None],
        values[None],
        np.ones((1, len(values)), bool),
        np.zeros(1),
        discount=settings.discount,
        decay=settings.gae_decay,
    )[0]
    targets = found + values
    if by_turn:
        return np.repeat(found, lengths), np.repeat(targets, lengths)
    return found, targets
