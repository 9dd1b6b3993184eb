"""Log-probabilities of tokens. The only module that shifts them against predictions."""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

_MASKED = -1e30  # finite: probability 0, and 0 * log 0 stays free of NaN


def chunked_token_logprobs(
    hidden: jax.Array,
    unembedding: jax.Array,
    tokens: jax.Array,
    *,
    chunk: int,
    temperature: float = 1.0,
    num_valid: int | None = None,
    mask: jax.Array | None = None,
    entropy_gradient: bool = False,
    gather: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each token, and entropy of the distribution it came from.

    Logits exist for one chunk at a time, in the backward pass too, where they are
    computed again: memory does not grow with T x V. A chunk is a block of whole
    columns, because rows are spread over devices and columns are not. With a mask the
    columns it selects are moved to the front of each row, and chunks without any are
    not computed: most of a trajectory is text of its environment.

    Args:
      hidden: float[R, T, D]; column `t` predicts token `t + 1`.
      unembedding: float[D, V]. The product is taken in the common dtype of both and
        summed in float32.
      tokens: int32[R, T], ids below `num_valid`.
      chunk: tokens whose logits may exist at one time, at least R in practice; at most an
        eighth of each row is taken, because half of a last chunk is padding on average.
      temperature: divides the logits.
      num_valid: ids from here on are padding of the vocabulary and have probability 0;
        None takes all V.
      mask: bool[R, T], tokens that matter; the others get 0. None takes all.
      entropy_gradient: whether a gradient flows through the entropy.
      gather: constrains the rows of a chunk, where devices share the vocabulary.

    Returns:
      logprobs float32[R, T], nats, aligned with `tokens`; column 0 has no predictor and
      is 0. The first token of a later segment is predicted from another trajectory: the
      caller's mask must leave it out.
      entropy float32[R, T], nats, aligned the same way.
    """
    chex.assert_rank([hidden, unembedding, tokens], [3, 2, 2])
    chex.assert_equal_shape_prefix([hidden, tokens], 2)
    num_rows, num_columns = tokens.shape
    width = max(min(chunk // num_rows, num_columns // 8), 1)
    num_valid = unembedding.shape[1] if num_valid is None else num_valid
    targets = jnp.roll(tokens, -1, axis=1)  # the last column predicts nothing
    if mask is None:
        mask = jnp.ones(tokens.shape, bool)
    wanted = jnp.roll(mask.at[:, 0].set(False), -1, axis=1)
    scores: tuple[jax.Array, jax.Array] = _score(
        hidden,
        unembedding,
        targets,
        jnp.argsort(~wanted, axis=1, stable=True),  # the wanted ones first
        -(-jnp.max(jnp.sum(wanted, axis=1)) // width),
        _Settings(width, temperature, num_valid, entropy_gradient, gather),
    )
    logprobs, entropy = (align(jnp.where(wanted, x, 0)) for x in scores)
    return logprobs, entropy


def align(predictions: jax.Array) -> jax.Array:
    """Moves [R, T] to the column of the token predicted; 0 for the first."""
    return jnp.pad(predictions[:, :-1], ((0, 0), (1, 0)))


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The static arguments of `chunked_token_logprobs`, and columns of a chunk."""

    width: int
    temperature: float
    num_valid: int
    entropy_gradient: bool
    gather: Callable[[jax.Array], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _score(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    order: jax.Array,
    num_chunks: jax.Array,
    settings: _Settings,
) -> tuple[jax.Array, jax.Array]:
    """Scores of the columns in the first `num_chunks` chunks of `order`, else 0."""
    arguments = (hidden, unembedding, targets, order, num_chunks)
    return _score_forward(*arguments, settings)[0]


def _score_forward(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    order: jax.Array,
    num_chunks: jax.Array,
    settings: _Settings,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    chunks = [_split(x, order, settings.width) for x in (hidden, targets)]

    def score_chunk(index: jax.Array, scores: jax.Array) -> jax.Array:
        states, ids = (settings.gather(x[index]) for x in chunks)
        logits = _logits(states, unembedding, settings)
        total = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
        probabilities = jnp.exp(logits - total[..., None])
        entropy = total - jnp.sum(probabilities * logits, axis=-1)
        return scores.at[:, index].set(jnp.stack([chosen - total, entropy, total]))

    scores = jnp.zeros((3, *chunks[1].shape), jnp.float32)
    scores = jax.lax.fori_loop(0, num_chunks, score_chunk, scores)
    logprobs, entropy, total = (_join(part, order) for part in scores)
    residuals = (hidden, unembedding, targets, order, num_chunks, total)
    if settings.entropy_gradient:
        residuals = (*residuals, entropy)
    return (logprobs, entropy), residuals


def _score_backward(
    settings: _Settings,
    residuals: tuple[jax.Array, ...],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, None, None, None]:
    hidden, unembedding, targets, order, num_chunks, total, *entropy = residuals
    dtype = jnp.result_type(hidden, unembedding)
    whole = (hidden, targets, total, cotangents[0])
    if settings.entropy_gradient:
        whole = (*whole, *entropy, cotangents[1])
    chunks = tuple(_split(x, order, settings.width) for x in whole)

    def differentiate_chunk(
        index: jax.Array, sums: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        weight_gradient, state_gradients = sums
        states, ids, totals, gradients, *of_entropy = (
            settings.gather(x[index]) for x in chunks
        )
        logits = _logits(states, unembedding, settings)
        columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
        scores = logits - totals[..., None]
        surprise = (columns == ids[..., None]) - jnp.exp(scores)
        scaled = surprise * (gradients / settings.temperature)[..., None]
        if settings.entropy_gradient:  # dH / dlogit = -p (log p + H)
            entropies, slopes = of_entropy
            moved = -jnp.exp(scores) * (scores + entropies[..., None])
            scaled += moved * (slopes / settings.temperature)[..., None]
        scaled = scaled.astype(dtype)
        weight_gradient += jnp.einsum(
            "rcd,rcv->dv", states, scaled, preferred_element_type=jnp.float32
        )
        gradient = jnp.einsum("rcv,dv->rcd", scaled, unembedding)
        return weight_gradient, state_gradients.at[index].set(gradient)

    weight_gradient, state_gradients = jax.lax.fori_loop(
        0,
        num_chunks,
        differentiate_chunk,
        (jnp.zeros(unembedding.shape, jnp.float32), jnp.zeros(chunks[0].shape, dtype)),
    )
    gradient = _join(state_gradients, order).astype(hidden.dtype)
    return gradient, weight_gradient.astype(unembedding.dtype), None, None, None


_score.defvjp(_score_forward, _score_backward)


def _logits(
    states: jax.Array, unembedding: jax.Array, settings: _Settings
) -> jax.Array:
    # bf16 logits would put an error of about 1e-2 nats on every log-probability. "high":
    # TPUs round float32 operands to bf16 otherwise.
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    logits = product("rcd,dv->rcv", states, unembedding, precision="high")
    columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    return jnp.where(
        columns < settings.num_valid, logits / settings.temperature, _MASKED
    )


def _split(x: jax.Array, order: jax.Array, width: int) -> jax.Array:
    """Columns of [R, T, ...] in `order`: [chunks, R, width, ...], padded with zeros."""
    num_rows, num_columns, *rest = x.shape
    x = jnp.take_along_axis(x, order.reshape(num_rows, -1, *(1 for _ in rest)), axis=1)
    x = jnp.pad(x, ((0, 0), (0, -num_columns % width)) + ((0, 0),) * len(rest))
    return jnp.moveaxis(x.reshape(num_rows, -1, width, *rest), 1, 0)


def _join(chunks: jax.Array, order: jax.Array) -> jax.Array:
    """Inverse of `_split`; its derivative, too, without a scatter, slow on CPUs."""
    _, num_rows, _, *rest = chunks.shape
    joined = jnp.moveaxis(chunks, 0, 1).reshape(num_rows, -1, *rest)
    back = jnp.argsort(order, axis=1).reshape(num_rows, -1, *(1 for _ in rest))
    return jnp.take_along_axis(joined, back, axis=1)
