"""Losses of policy and critic, one number per token, and the weights that average them."""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from agentrl.ops import segments

Aggregation = Literal["token", "sequence", "constant"]

_MAX_LOG_RATIO = 20.0  # exp of more overflows in the end, and inf * 0 is NaN


def importance_ratio(log_ratio: jax.Array) -> jax.Array:
    """exp(log_ratio), kept finite. float[...] to float[...]."""
    return jnp.exp(jnp.minimum(log_ratio, _MAX_LOG_RATIO))


def clipped_surrogate(
    log_ratio: jax.Array,
    advantages: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    importance_cap: float | None = None,
) -> jax.Array:
    """Clipped policy-gradient loss of PPO, per token.

      r = pi(a) / mu(a);  loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    PPO: https://arxiv.org/abs/1707.06347, eq. 7. Separate bounds ("clip-higher"): DAPO,
    https://arxiv.org/abs/2503.14476, eq. 10. Dual clip: https://arxiv.org/abs/1912.09729,
    eq. 5.

    Args:
      log_ratio: float32[R, T], learner minus behavior log-probability.
      advantages: float32[R, T]; no gradient flows through them.
      clip_low: how far the ratio may fall below 1.
      clip_high: how far the ratio may rise above 1.
      dual_clip: for A < 0 the loss is at most -dual_clip * A, so that an action far
        more likely than when it was sampled cannot dominate. Above 1.
      importance_cap: scales the loss by min(1, cap / r), without gradient: tokens still
        count, but none with an importance weight above the cap (truncated importance
        sampling).

    Returns:
      float32[R, T], not masked and not reduced.
    """
    chex.assert_equal_shape([log_ratio, advantages])
    advantages = jax.lax.stop_gradient(advantages)
    ratio = importance_ratio(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = -jnp.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        bounded = jnp.minimum(loss, -dual_clip * advantages)
        loss = jnp.where(advantages < 0, bounded, loss)
    if importance_cap is not None:
        # Not cap / r: a ratio that underflows to 0 would make it infinite.
        fixed = jax.lax.stop_gradient(ratio)
        loss *= importance_cap / jnp.maximum(fixed, importance_cap)
    return loss


def clipped_importance(
    log_ratio: jax.Array,
    advantages: jax.Array,
    *,
    clip_low: float,
    clip_high: float,
) -> jax.Array:
    """CISPO's loss, per token: the importance weight is clipped, the token never is.

      loss = -stop_gradient(clip(r, 1 - clip_low, 1 + clip_high)) A log r

    MiniMax-M1: https://arxiv.org/abs/2506.13585, eq. 4 and 5. log r stands where the
    paper has log pi: the gradient is the same and the value is 0 on-policy.

    Args:
      log_ratio: float32[R, T], learner minus behavior log-probability.
      advantages: float32[R, T]; no gradient flows through them.
      clip_low: how far the weight may fall below 1; 1 sets no lower bound.
      clip_high: how far the weight may rise above 1.

    Returns:
      float32[R, T], not masked and not reduced.
    """
    chex.assert_equal_shape([log_ratio, advantages])
    weight = jnp.clip(importance_ratio(log_ratio), 1 - clip_low, 1 + clip_high)
    return -jax.lax.stop_gradient(weight * advantages) * log_ratio


def clipped_value_loss(
    values: jax.Array, old_values: jax.Array, targets: jax.Array, *, clip: float
) -> jax.Array:
    """Squared error of a critic that may not move far at one time, per token.

      loss = max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2) / 2

    As in the code that came with PPO; https://arxiv.org/abs/2005.12729, section 3.

    Args:
      values: float32[R, T], of the critic under training.
      old_values: float32[R, T], of the critic that the advantages came from.
      targets: float32[R, T], what the critic is to predict.
      clip: c, in units of return.

    Returns:
      float32[R, T], not masked and not reduced.
    """
    chex.assert_equal_shape([values, old_values, targets])
    moved = old_values + jnp.clip(values - old_values, -clip, clip)
    errors = jnp.square(values - targets), jnp.square(moved - targets)
    return jnp.maximum(*errors) / 2


def sequence_log_ratio(
    log_ratio: jax.Array, mask: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    """Length-normalised log-ratio of whole sequences, at each of their tokens (GSPO).

      log s = mean over the sequence's action tokens of log r

    GSPO: https://arxiv.org/abs/2507.18071, eq. 7. A sequence is one packed trajectory.

    Args:
      log_ratio: float32[R, T], learner minus behavior log-probability.
      mask: bool[R, T], True at action tokens.
      segment_ids: int32[R, T].

    Returns:
      float32[R, T]; 0 outside the mask.
    """
    chex.assert_equal_shape([log_ratio, mask, segment_ids])
    counts = segments.segment_sum(mask.astype(log_ratio.dtype), segment_ids)
    sums = segments.segment_sum(jnp.where(mask, log_ratio, 0), segment_ids)
    return jnp.where(mask, sums / jnp.maximum(counts, 1), 0)


def aggregation_weights(
    mask: jax.Array, segment_ids: jax.Array, over: Aggregation, *, horizon: int
) -> jax.Array:
    """Weights whose inner product with a loss per token is the loss of the batch.

    Taken over the whole batch before it is cut into microbatches, they make the result
    independent of the cut.

      token     1 / (number of action tokens): every token counts the same (DAPO)
      sequence  mean over the sequences of the means over their tokens (GRPO): tokens of
                long trajectories count less
      constant  1 / (number of sequences x horizon): the sum over a sequence's tokens
                divided by a fixed length (Dr. GRPO, https://arxiv.org/abs/2503.20783)

    Args:
      mask: bool[..., T], True at action tokens.
      segment_ids: int32[..., T]; a sequence is one segment of one row.
      over: what the average is taken over.
      horizon: the fixed length of "constant": the most tokens that an episode may have,
        however wide the rows are that it is packed into.

    Returns:
      float32[..., T]; 0 outside the mask, and all 0 if the mask is empty.
    """
    chex.assert_equal_shape([mask, segment_ids])
    chex.assert_type(mask, bool)
    selected = mask.astype(jnp.float32)
    if over == "token":
        return selected / jnp.maximum(jnp.sum(selected), 1)
    lengths = segments.segment_sum(selected, segment_ids)
    shares = selected / jnp.maximum(lengths, 1)  # these sum to 1 in each sequence
    num_sequences = jnp.maximum(jnp.sum(shares), 1)
    if over == "sequence":
        return shares / num_sequences
    if over == "constant":
        return selected / (num_sequences * horizon)
    raise ValueError(f"unknown aggregation {over!r}; use token, sequence or constant.")
