"""The learner step: one pure function from (state, batch) to (state, metrics).

The loss is a weighted sum over all action tokens of the batch. The weights are fixed
before the batch is walked through in microbatches, so the gradient does not depend on
the cut, and microbatches that are all padding are never computed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from agentrl import config, types
from agentrl.learner import algorithms
from agentrl.ops import kl, logprobs, losses

# (params, tokens, positions, segment_ids, each int32[R, T]) -> float[R, T, D]
HiddenFn = Callable[[types.PyTree, jax.Array, jax.Array, jax.Array], jax.Array]
UnembeddingFn = Callable[[types.PyTree], jax.Array]  # params -> float[D, V]
# (params, hidden states float[R, T, D]) -> values after each token, float32[R, T]
ValueFn = Callable[[types.PyTree, jax.Array], jax.Array]
TrainStepFn = Callable[..., tuple[types.TrainState, types.Metrics]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """What the model says about one microbatch; float32[R, T] each, nats."""

    logprobs: jax.Array
    entropy: jax.Array
    values: jax.Array | None  # before each token, if there is a critic
    reference: jax.Array | None = None  # log-probabilities of the reference model


ScoreFn = Callable[[types.PyTree, types.TrainBatch], Scores]  # (params, rows)


@dataclasses.dataclass(frozen=True)
class _Objective:
    """What is minimised."""

    # (scores, rows) -> loss per token, quantities to average, quantities to maximise
    per_token: Callable[
        [Scores, types.TrainBatch], tuple[jax.Array, types.Metrics, types.Metrics]
    ]
    aggregation: losses.Aggregation
    needs_reference: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Totals:
    """What microbatches add up to."""

    grads: types.PyTree
    loss: jax.Array  # float32[]
    sums: types.Metrics  # over action tokens
    maxima: types.Metrics  # over action tokens


def make_score(
    hidden_fn: HiddenFn,
    unembedding_fn: UnembeddingFn,
    *,
    chunk: int,
    temperature: float,
    num_valid_tokens: int | None = None,
    value_fn: ValueFn | None = None,
) -> ScoreFn:
    """Binds the static parts of the forward pass over one microbatch.

    Args:
      hidden_fn: final hidden states of packed rows.
      unembedding_fn: the output matrix.
      chunk: tokens whose logits may exist at one time.
      temperature: the one the tokens were sampled at.
      num_valid_tokens: ids from here on are padding of the vocabulary.
      value_fn: the critic, where the algorithm has one.
    """

    def score(params: types.PyTree, rows: types.TrainBatch) -> Scores:
        with jax.named_scope("learner_forward"):
            hidden = hidden_fn(params, rows.tokens, rows.positions, rows.segment_ids)
        with jax.named_scope("logprobs"):
            scores = logprobs.chunked_token_logprobs(
                hidden,
                unembedding_fn(params),
                rows.tokens,
                chunk=chunk,
                temperature=temperature,
                num_valid=num_valid_tokens,
                mask=rows.action_mask,
            )
        values = None if value_fn is None else logprobs.align(value_fn(params, hidden))
        return Scores(*scores, values)

    return score


def make_train_step(
    score: ScoreFn,
    optimizer: optax.GradientTransformation,
    *,
    algorithm: config.AlgorithmConfig,
    supervised: bool = False,
) -> TrainStepFn:
    """Binds the static parts; the result is pure, and the caller jits and shards it.

    Args:
      score: from `make_score`.
      optimizer: any optax transformation, clipping and schedule included.
      algorithm: the objective; not used if `supervised`.
      supervised: maximise the likelihood of the action tokens, weighted by advantages.

    Returns:
      train_step(state, batch, reference_params=None) -> (state, metrics), every metric
      float32[]. `reference_params` is needed exactly if the policy loss has a KL term.
      A batch without action tokens is an update with a gradient of 0.

    Raises:
      ConfigError: if the algorithm is unknown or does not have a field that is set.
    """
    objective = _likelihood() if supervised else _policy_objective(algorithm)

    def train_step(
        state: types.TrainState,
        batch: types.TrainBatch,
        reference_params: types.PyTree | None = None,
    ) -> tuple[types.TrainState, types.Metrics]:
        if objective.needs_reference != (reference_params is not None):
            raise ValueError(
                "reference_params must be given exactly if algorithm.kl_coefficient is "
                "above 0, kl_in is 'loss' and the stage is not supervised."
            )
        totals = _accumulate(
            objective, score, state.params, reference_params, batch.check()
        )
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(
                totals.grads, state.opt_state, state.params
            )
            params = optax.apply_updates(state.params, updates)
        new_state = dataclasses.replace(
            state, step=state.step + 1, params=params, opt_state=opt_state
        )
        return new_state, _to_metrics(totals, batch.action_mask, opt_state)

    return train_step


def _accumulate(
    objective: _Objective,
    score: ScoreFn,
    params: types.PyTree,
    reference_params: types.PyTree | None,
    batch: types.TrainBatch,
) -> _Totals:
    """Sums loss, gradient and metrics over the microbatches in use, in float32."""
    weights = losses.aggregation_weights(
        batch.action_mask, batch.segment_ids, objective.aggregation
    )

    def loss_fn(
        params: types.PyTree, rows: types.TrainBatch, weights: jax.Array
    ) -> tuple[jax.Array, tuple[types.Metrics, types.Metrics]]:
        scores = score(params, rows)
        if reference_params is not None:
            reference = score(reference_params, rows).logprobs
            scores = dataclasses.replace(scores, reference=reference)
        per_token, means, maxima = objective.per_token(scores, rows)
        mask = rows.action_mask
        sums = {k: jnp.sum(v, where=mask) for k, v in means.items()}
        maxima = {k: jnp.max(v, where=mask, initial=0) for k, v in maxima.items()}
        return jnp.sum(weights * per_token), (sums, maxima)

    def compute(index: jax.Array) -> _Totals:
        rows, row_weights = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False),
            (batch, weights),
        )
        (loss, (sums, maxima)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, rows, row_weights
        )
        return _Totals(optax.tree.cast(grads, jnp.float32), loss, sums, maxima)

    def add(index: jax.Array, totals: _Totals) -> _Totals:
        new = compute(index)
        return _Totals(
            grads=optax.tree.add(totals.grads, new.grads),
            loss=totals.loss + new.loss,
            sums=optax.tree.add(totals.sums, new.sums),
            maxima=jax.tree.map(jnp.maximum, totals.maxima, new.maxima),
        )

    empty = optax.tree.zeros_like(jax.eval_shape(compute, jnp.int32(0)))
    in_use = jnp.any(batch.segment_ids != 0, axis=(1, 2))
    num_in_use = jnp.max(jnp.where(in_use, jnp.arange(1, in_use.size + 1), 0))
    return jax.lax.fori_loop(0, num_in_use, add, empty)


def _policy_objective(settings: config.AlgorithmConfig) -> _Objective:
    """The named algorithm's loss per token, plus those of KL and critic if any."""
    algorithm = algorithms.get(settings)
    clip_low, clip_high = algorithm.clip_range(settings)

    def per_token(
        scores: Scores, rows: types.TrainBatch
    ) -> tuple[jax.Array, types.Metrics, types.Metrics]:
        mask = rows.action_mask
        gap = jnp.where(mask, scores.logprobs - rows.behavior_logprobs, 0)
        log_ratio = algorithm.log_ratio(gap, mask, rows.segment_ids)
        advantages = jnp.where(mask, rows.advantages, 0)
        loss = algorithm.token_loss(log_ratio, advantages, settings)
        ratio = losses.importance_ratio(log_ratio)
        means = {
            # Not 0 at the first update means that sampler and learner disagree.
            "policy/behavior_kl": kl.k3(gap),
            "policy/behavior_gap": jnp.abs(gap),
            "policy/clip_fraction": (ratio < 1 - clip_low) | (ratio > 1 + clip_high),
            "policy/entropy": scores.entropy,
        }
        if scores.reference is not None:
            away = jnp.where(mask, scores.reference - scores.logprobs, 0)
            divergence = kl.ESTIMATORS[settings.kl_estimator](away)
            loss += settings.kl_coefficient * divergence
            means["policy/reference_kl"] = divergence
        if scores.values is not None:
            columns: Any = scores.values, rows.values, rows.returns
            means["critic/loss"] = losses.clipped_value_loss(
                *(jnp.where(mask, x, 0) for x in columns), clip=settings.value_clip
            )
            loss += settings.value_coefficient * means["critic/loss"]
        return loss, means, {"policy/ratio_max": ratio}

    return _Objective(
        per_token,
        aggregation=algorithm.aggregation_of(settings),
        needs_reference=settings.kl_coefficient > 0 and settings.kl_in == "loss",
    )


def _likelihood() -> _Objective:
    """Negative log-likelihood of the actions, weighted by advantages."""

    def per_token(
        scores: Scores, rows: types.TrainBatch
    ) -> tuple[jax.Array, types.Metrics, types.Metrics]:
        weights = jnp.where(rows.action_mask, rows.advantages, 0)
        return -weights * scores.logprobs, {"policy/entropy": scores.entropy}, {}

    return _Objective(per_token, aggregation="token", needs_reference=False)


def _to_metrics(
    totals: _Totals, action_mask: jax.Array, opt_state: optax.OptState
) -> types.Metrics:
    num_tokens = jnp.sum(action_mask, dtype=jnp.float32)
    metrics = {k: v / jnp.maximum(num_tokens, 1) for k, v in totals.sums.items()}
    metrics |= totals.maxima
    metrics["policy/loss"] = totals.loss
    metrics["learner/action_tokens"] = num_tokens
    metrics["optimizer/grad_norm"] = optax.tree.norm(totals.grads)
    rate = optax.tree.get(opt_state, "learning_rate")  # None: kept by no part of it
    if rate is not None:
        metrics["optimizer/learning_rate"] = rate
    return metrics
