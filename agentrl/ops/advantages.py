"""Advantage estimators, in NumPy: they run on the host, on numbers per episode or turn.

Float64 throughout; P groups, G samples of each. An episode that must not count has
`valid` False: it gets 0 and does not move the others.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import chex
import numpy as np

# What advantages are divided by: the population or the sample standard deviation.
Scale = Literal["std", "sample_std", "none"]

_EPSILON = 1e-6  # added to spreads, in units of return


def group_relative_advantages(
    returns: np.ndarray, valid: np.ndarray, *, scale: Scale
) -> np.ndarray:
    """Scores each sample against its group (GRPO).

      A[p, g] = (R[p, g] - mean_g R[p]) / (std_g R[p] + 1e-6)

    GRPO: https://arxiv.org/abs/2402.03300, section 4.1. Without the division this is
    the estimator of Dr. GRPO: https://arxiv.org/abs/2503.20783.

    Args:
      returns: float[P, G], undiscounted return of each trajectory.
      valid: bool[P, G].
      scale: spread within the group that advantages are divided by. The formula shows
        "std", with 1 / G; "sample_std" has 1 / (G - 1).

    Returns:
      float64[P, G]; 0 in groups whose valid returns are all equal.
    """
    returns, count = _select(returns, valid)
    # Equal returns must give 0 exactly, which the mean of a sum does not promise.
    returns = returns - _first_valid(returns, valid)
    mean = np.sum(returns, axis=1, keepdims=True, where=valid) / count
    centered = np.where(valid, returns - mean, 0.0)
    return _scale_by_group(centered, count, scale)


def leave_one_out_advantages(
    returns: np.ndarray, valid: np.ndarray, *, scale: Scale = "none"
) -> np.ndarray:
    """Scores each sample against the mean of the others of its group (RLOO).

      A[p, g] = R[p, g] - mean_{h != g} R[p, h] = G / (G - 1) (R[p, g] - mean_g R[p])

    RLOO: https://arxiv.org/abs/2402.14740, section 2.

    Args:
      returns: float[P, G], undiscounted return of each trajectory.
      valid: bool[P, G].
      scale: spread of the group to divide by; RLOO itself has none.

    Returns:
      float64[P, G]; 0 where a group has only one valid sample.
    """
    centered = group_relative_advantages(returns, valid, scale=scale)
    count = np.sum(valid, axis=1, keepdims=True)
    return centered * count / np.maximum(count - 1, 1)


def batch_normalized_advantages(
    returns: np.ndarray, valid: np.ndarray, *, scale: Scale = "std"
) -> np.ndarray:
    """Scores each sample against the whole batch (REINFORCE++).

      A = (R - mean R) / (std R + 1e-6), mean and std over all valid entries

    REINFORCE++: https://arxiv.org/abs/2501.03262. Constant groups keep a signal: tasks
    that are always solved are pushed up and tasks that never are, down.

    Args:
      returns: float[P, G], undiscounted return of each trajectory.
      valid: bool[P, G].
      scale: spread of the batch to divide by.

    Returns:
      float64[P, G].
    """
    _select(returns, valid)
    flat = group_relative_advantages(
        returns.reshape(1, -1), valid.reshape(1, -1), scale=scale
    )
    return flat.reshape(returns.shape)


def generalized_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    mask: np.ndarray,
    bootstrap: np.ndarray,
    *,
    discount: float,
    decay: float,
) -> np.ndarray:
    """Generalised advantage estimation over the selected columns.

      delta_k = r_k + discount V_{k+1} - V_k
      A_k     = delta_k + discount decay A_{k+1}

    GAE: https://arxiv.org/abs/1506.02438, eq. 16. k counts the selected columns of a
    row, so that observation tokens are not time steps. With one column per action
    token this is the token-level form, with one per turn the turn-level one.

    Args:
      rewards: float[B, K], after the action of each column.
      values: float[B, K], predicted before the action of each column.
      mask: bool[B, K], columns that are actions.
      bootstrap: float[B], value after the last action: 0 where the task itself ended,
        the prediction where a limit cut the episode.
      discount: gamma, per selected column.
      decay: lambda in [0, 1]; 1 is the return minus the value.

    Returns:
      float64[B, K]; 0 outside the mask. Adding `values` gives the value targets.
    """
    chex.assert_rank([rewards, values, mask, bootstrap], [2, 2, 2, 1])
    chex.assert_equal_shape([rewards, values, mask])
    advantages = np.zeros(rewards.shape)
    next_value = bootstrap.astype(np.float64)
    next_advantage = np.zeros(len(rewards))
    for k in reversed(range(rewards.shape[1])):
        delta = rewards[:, k] + discount * next_value - values[:, k]
        advantage = delta + discount * decay * next_advantage
        next_advantage = np.where(mask[:, k], advantage, next_advantage)
        next_value = np.where(mask[:, k], values[:, k], next_value)
        advantages[:, k] = np.where(mask[:, k], advantage, 0.0)
    return advantages


def discounted_returns(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Return from each turn on, float64[K], of one episode's rewards, float[K]."""
    returns = np.zeros(len(rewards))
    following = 0.0
    for k in reversed(range(len(rewards))):
        following = returns[k] = rewards[k] + discount * following
    return returns


def anchor_state_advantages(
    returns: np.ndarray, anchors: Sequence[Hashable], *, scale: Scale
) -> np.ndarray:
    """Scores each turn against the turns that started from the same state (GiGPO).

      A_k = (R_k - mean R) / (std R + 1e-6), over the turns with the anchor of k

    GiGPO: https://arxiv.org/abs/2505.10978, section 4.2.

    Args:
      returns: float[K], discounted return from each turn on, over all episodes.
      anchors: what the turns of a step group share: group of the task and state.
      scale: spread of the step group to divide by.

    Returns:
      float64[K]; 0 for a state that was met only once.
    """
    chex.assert_rank(returns, 1)
    members: dict[Hashable, list[int]] = {}
    for index, anchor in enumerate(anchors):
        members.setdefault(anchor, []).append(index)
    advantages = np.zeros(len(returns))
    for indices in members.values():
        row = returns[indices][None]
        advantages[indices] = group_relative_advantages(
            row, np.ones(row.shape, bool), scale=scale
        )[0]
    return advantages


def _select(returns: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks shapes; returns float64[P, G] free of invalid NaN, and counts [P, 1]."""
    chex.assert_rank([returns, valid], 2)
    chex.assert_equal_shape([returns, valid])
    chex.assert_type(valid, bool)
    count = np.maximum(np.sum(valid, axis=1, keepdims=True), 1)
    return np.where(valid, returns, 0.0).astype(np.float64), count


def _first_valid(returns: np.ndarray, valid: np.ndarray) -> np.ndarray:
    first = np.argmax(valid, axis=1, keepdims=True)
    return np.take_along_axis(returns, first, axis=1)


def _scale_by_group(
    centered: np.ndarray, count: np.ndarray, scale: Scale
) -> np.ndarray:
    if scale == "none":
        return centered
    if scale == "sample_std":
        count = np.maximum(count - 1, 1)
    std = np.sqrt(np.sum(centered**2, axis=1, keepdims=True) / count)
    return centered / (std + _EPSILON)
