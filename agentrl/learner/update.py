"""The learner step: one pure function from (state, batch) to (state, metrics).

The loss is a weighted sum over the tokens of the batch. The weights are fixed before the
batch is walked through in microbatches, so the gradient does not depend on the cut, and
microbatches that are all padding are never computed.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from agentrl import types
from agentrl.learner import algorithms
from agentrl.ops import kl, logprobs, losses

# (params, tokens, positions, segment_ids, each int32[R, T]) -> float[R, T, D]
HiddenFn = Callable[[types.PyTree, jax.Array, jax.Array, jax.Array], jax.Array]
UnembeddingFn = Callable[[types.PyTree], jax.Array]  # params -> float[D, V]
# (params, hidden states float[R, T, D]) -> values after each token, float32[R, T]
ValueFn = Callable[[types.PyTree, jax.Array], jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenOutputs:
    """What the model says about the tokens of one microbatch; float32[R, T] each."""

    logprobs: jax.Array  # nats
    entropy: jax.Array  # nats, of the distribution that each token was drawn from
    values: jax.Array | None  # before each token, if there is a critic


# (params, rows of one microbatch) -> outputs
ForwardFn = Callable[[types.Params, types.TrainBatch], TokenOutputs]
# (trained parameters, rows of one microbatch, weights of their tokens) -> loss and what
# metrics are made of: sums over tokens of either loss, and maxima
LossFn = Callable[
    [types.PyTree, types.TrainBatch, types.Metrics],
    tuple[jax.Array, tuple[types.Metrics, ...]],
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Totals:
    """What is accumulated over microbatches."""

    grads: types.PyTree
    loss: jax.Array  # float32[]
    rl_sums: types.Metrics  # over tokens of the policy-gradient loss
    ce_sums: types.Metrics  # over tokens of the likelihood loss
    maxima: types.Metrics


def make_forward(
    hidden_fn: HiddenFn,
    unembedding_fn: UnembeddingFn,
    *,
    chunk: int,
    temperature: float,
    join: Callable[[types.Params], types.PyTree] = lambda params: params.trained,
    num_valid_tokens: int | None = None,
    value_fn: ValueFn | None = None,
    entropy_gradient: bool = False,
    gather: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> ForwardFn:
    """Binds the static parts of the forward pass over one microbatch.

    Args:
      hidden_fn: final hidden states of packed rows.
      unembedding_fn: the output matrix.
      chunk: tokens whose logits may exist at one time.
      temperature: the one the tokens were sampled at.
      join: makes one tree, which the other functions read, of trained and frozen ones.
      num_valid_tokens: ids from here on are padding of the vocabulary.
      value_fn: the critic, where the algorithm has one.
      entropy_gradient: whether a gradient flows through the entropy.
      gather: as of `logprobs.chunked_token_logprobs`.
    """

    def forward(params: types.Params, rows: types.TrainBatch) -> TokenOutputs:
        joined = join(params)
        with jax.named_scope("learner_forward"):
            hidden = hidden_fn(joined, rows.tokens, rows.positions, rows.segment_ids)
        with jax.named_scope("logprobs"):
            scores = logprobs.chunked_token_logprobs(
                hidden,
                unembedding_fn(joined),
                rows.tokens,
                chunk=chunk,
                temperature=temperature,
                num_valid=num_valid_tokens,
                mask=rows.trained,
                entropy_gradient=entropy_gradient,
                gather=gather,
            )
        values = None if value_fn is None else logprobs.align(value_fn(joined, hidden))
        return TokenOutputs(*scores, values)

    return forward


def train_step(
    state: types.TrainState,
    frozen: types.PyTree,
    batch: types.TrainBatch,
    reference: types.PyTree | None,
    *,
    forward: ForwardFn,
    objective: algorithms.Objective,
    optimizer: optax.GradientTransformation,
) -> tuple[types.TrainState, types.Metrics]:
    """Applies one optimizer update. Pure; the caller binds, jits and shards it.

    Args:
      state: the learner's.
      frozen: parameters beside the trained ones, or an empty tree.
      batch: its streams say what each token is trained for.
      reference: trained parameters of the reference model; needed exactly if the
        objective has a divergence.
      forward: from `make_forward`.
      objective: the losses to add up.
      optimizer: any optax transformation, clipping and schedule included.

    Returns:
      The new state and metrics, float32[] each. A batch that trains no token is an
      update with a gradient of 0.
    """
    if (objective.divergence is None) != (reference is None):
        raise ValueError(
            "reference parameters must be given exactly if the objective has a divergence."
        )
    batch = batch.check()
    weights = _token_weights(objective, batch)

    loss_fn = _make_loss(forward, objective, frozen, reference)
    totals = _accumulate(loss_fn, state.params, batch, weights)
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(
            totals.grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
    new_state = types.TrainState(state.step + 1, params, opt_state)
    return new_state, _to_metrics(totals, batch, opt_state)


def _make_loss(
    forward: ForwardFn,
    objective: algorithms.Objective,
    frozen: types.PyTree,
    reference: types.PyTree | None,
) -> LossFn:
    """Returns the loss of one microbatch as a function of the trained parameters."""

    def loss_fn(
        trained: types.PyTree, rows: types.TrainBatch, weights: types.Metrics
    ) -> tuple[jax.Array, tuple[types.Metrics, ...]]:
        outputs = forward(types.Params(trained, frozen), rows)
        loss, rl_means, maxima = jnp.float32(0), {}, {}
        if objective.surrogate is not None:
            loss, rl_means, maxima = _policy_loss(
                objective, outputs, rows, weights["rl"]
            )
        if reference is not None:
            reference_logprobs = forward(types.Params(reference, frozen), rows).logprobs
            away = reference_logprobs - outputs.logprobs
            divergence = _divergence(objective, away, rows)
            loss += jnp.sum(weights["kl"] * divergence)
            rl_means["policy/reference_kl"] = divergence
        ce_means = {}
        if "ce" in weights:
            ce_means = {"nll": -outputs.logprobs, "entropy": outputs.entropy}
            loss += jnp.sum(weights["ce"] * ce_means["nll"])
        rl_sums = _sum_where(rows.rl_weights != 0, rl_means)
        ce_sums = _sum_where(weights.get("ce", jnp.float32(0)) != 0, ce_means)
        return loss, (rl_sums, ce_sums, maxima)

    return loss_fn


def _token_weights(
    objective: algorithms.Objective, batch: types.TrainBatch
) -> types.Metrics:
    """What each token's losses count in the loss of the batch, float32[M, R, T] each."""

    def average(mask: jax.Array, over: losses.Aggregation) -> jax.Array:
        return losses.aggregation_weights(
            mask, batch.segment_ids, over, horizon=objective.horizon
        )

    weights = {}
    if objective.surrogate is not None:
        shares = average(_in_policy_loss(batch), objective.aggregation)
        weights["rl"] = shares * batch.rl_weights
        if batch.kl_weights is not None:
            weights["kl"] = shares * batch.kl_weights
    if batch.ce_weights is not None:
        weights["ce"] = average(batch.ce_weights != 0, "token") * batch.ce_weights
    return weights


def _policy_loss(
    objective: algorithms.Objective,
    outputs: TokenOutputs,
    rows: types.TrainBatch,
    weights: jax.Array,
) -> tuple[jax.Array, types.Metrics, types.Metrics]:
    """Policy-gradient, entropy and value losses of one microbatch.

    Returns:
      Their weighted sum float32[]; quantities to average over tokens, float32[R, T];
      and maxima over tokens, float32[].
    """
    assert objective.surrogate is not None
    mask = rows.rl_weights != 0
    gap = jnp.where(mask, outputs.logprobs - rows.behavior_logprobs, 0)
    log_ratio = gap
    if objective.sequence_ratio:
        log_ratio = losses.sequence_log_ratio(gap, mask, rows.segment_ids)
    per_token = objective.surrogate(log_ratio, jnp.where(mask, rows.advantages, 0))
    ratio = losses.importance_ratio(log_ratio)
    below, above = objective.clip_range
    means = {
        # Not 0 at the first update means that sampler and learner disagree.
        "policy/behavior_kl": kl.k3(gap),
        "policy/logprob_mismatch": jnp.abs(gap),
        "policy/clip_fraction": (ratio < 1 - below) | (ratio > 1 + above),
        "policy/entropy": outputs.entropy,
    }
    if objective.entropy_coefficient:
        per_token -= objective.entropy_coefficient * outputs.entropy
    if objective.value_coefficient:
        streams = (outputs.values, rows.old_values, rows.value_targets)
        means["critic/loss"] = losses.clipped_value_loss(
            *(jnp.where(mask, stream, 0) for stream in streams),  # type: ignore[arg-type]
            clip=objective.value_clip,
        )
        per_token += objective.value_coefficient * means["critic/loss"]
    maxima = {"policy/ratio_max": jnp.max(ratio, where=mask, initial=0)}
    return jnp.sum(weights * per_token), means, maxima


def _divergence(
    objective: algorithms.Objective, away: jax.Array, rows: types.TrainBatch
) -> jax.Array:
    """Divergence from the reference at policy tokens, float32[R, T] nats."""
    assert objective.divergence is not None
    return objective.divergence(jnp.where(_in_policy_loss(rows), away, 0))


def _in_policy_loss(batch: types.TrainBatch) -> jax.Array:
    """Tokens that the policy loss averages over, bool: drawn or held by a reference."""
    if batch.kl_weights is None:
        return batch.rl_weights != 0
    return (batch.rl_weights != 0) | (batch.kl_weights != 0)


def _sum_where(mask: jax.Array, values: types.Metrics) -> types.Metrics:
    return {name: jnp.sum(value, where=mask) for name, value in values.items()}


def _accumulate(
    loss_fn: LossFn,
    params: types.PyTree,
    batch: types.TrainBatch,
    weights: types.Metrics,
) -> _Totals:
    """Sums loss, gradient and metrics over the microbatches in use, in float32."""

    def compute(index: jax.Array) -> _Totals:
        rows, row_weights = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False),
            (batch, weights),
        )
        (loss, sums), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, rows, row_weights
        )
        return _Totals(optax.tree.cast(grads, jnp.float32), loss, *sums)

    def add(index: jax.Array, totals: _Totals) -> _Totals:
        new = compute(index)
        return _Totals(
            grads=optax.tree.add(totals.grads, new.grads),
            loss=totals.loss + new.loss,
            rl_sums=optax.tree.add(totals.rl_sums, new.rl_sums),
            ce_sums=optax.tree.add(totals.ce_sums, new.ce_sums),
            maxima=jax.tree.map(jnp.maximum, totals.maxima, new.maxima),
        )

    empty = optax.tree.zeros_like(jax.eval_shape(compute, jnp.int32(0)))
    in_use = jnp.any(batch.segment_ids != 0, axis=(1, 2))
    num_in_use = jnp.max(jnp.where(in_use, jnp.arange(1, in_use.size + 1), 0))
    return jax.lax.fori_loop(0, num_in_use, add, empty)


def counted_by(metric: str) -> str:
    """Returns the metric that counts the tokens another one is a mean over; "" for none."""
    if metric.startswith("rehearsal/"):
        return "rehearsal/tokens"
    of_tokens = metric.startswith(("policy/", "critic/")) and metric != "policy/loss"
    return "learner/policy_tokens" if of_tokens else ""


def _to_metrics(
    totals: _Totals, batch: types.TrainBatch, opt_state: optax.OptState
) -> types.Metrics:
    def average(
        sums: types.Metrics, weights: jax.Array | None
    ) -> tuple[types.Metrics, jax.Array]:
        if weights is None:
            return {}, jnp.float32(0)
        count = jnp.sum(weights != 0, dtype=jnp.float32)
        means = {name: total / jnp.maximum(count, 1) for name, total in sums.items()}
        return means, count

    metrics, num_sampled = average(totals.rl_sums, batch.rl_weights)
    demonstrated, num_demonstrated = average(totals.ce_sums, batch.ce_weights)
    metrics |= totals.maxima
    if totals.rl_sums:
        metrics["learner/policy_tokens"] = num_sampled
    if totals.rl_sums and demonstrated:
        metrics["rehearsal/nll"] = demonstrated["nll"]
        metrics["rehearsal/tokens"] = num_demonstrated
    elif demonstrated:
        metrics["policy/entropy"] = demonstrated["entropy"]
    metrics["policy/loss"] = totals.loss
    metrics["learner/action_tokens"] = jnp.sum(batch.trained, dtype=jnp.float32)
    metrics["optimizer/grad_norm"] = optax.tree.norm(totals.grads)
    rate = optax.tree.get(opt_state, "learning_rate")  # None: kept by no part of it
    if rate is not None:
        metrics["optimizer/learning_rate"] = rate
    return metrics
