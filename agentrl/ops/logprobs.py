"""Log-probabilities of tokens. The only module that shifts them against predictions."""

import functools

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
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each token, and entropy of the distribution it came from.

    Logits exist for one chunk at a time, in the backward pass too, where they are
    computed again: memory does not grow with T x V. A chunk is a block of whole
    columns, because rows are spread over devices and columns are not.

    Args:
      hidden: float[R, T, D]; column `t` predicts token `t + 1`.
      unembedding: float[D, V]. The product is taken in the common dtype of both and
        summed in float32.
      tokens: int32[R, T], ids below `num_valid`.
      chunk: tokens whose logits may exist at one time, at least R in practice.
      temperature: divides the logits.
      num_valid: ids from here on are padding of the vocabulary and have probability 0;
        None takes all V.

    Returns:
      logprobs float32[R, T], nats, aligned with `tokens`; column 0 has no predictor and
      is 0. The first token of a later segment is predicted from another trajectory: the
      caller's mask must leave it out.
      entropy float32[R, T], nats, aligned the same way. No gradient flows through it.
    """
    chex.assert_rank([hidden, unembedding, tokens], [3, 2, 2])
    chex.assert_equal_shape_prefix([hidden, tokens], 2)
    num_rows, num_columns = tokens.shape
    width = min(max(chunk // num_rows, 1), num_columns)
    num_valid = unembedding.shape[1] if num_valid is None else num_valid
    targets = jnp.roll(tokens, -1, axis=1)  # the last column predicts nothing
    scores: tuple[jax.Array, jax.Array] = _score(
        hidden, unembedding, targets, width, temperature, num_valid
    )
    logprobs, entropy = (jnp.pad(x[:, :-1], ((0, 0), (1, 0))) for x in scores)
    return logprobs, entropy


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _score(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    width: int,
    temperature: float,
    num_valid: int,
) -> tuple[jax.Array, jax.Array]:
    scores, _ = _score_forward(
        hidden, unembedding, targets, width, temperature, num_valid
    )
    return scores


def _score_forward(
    hidden: jax.Array,
    unembedding: jax.Array,
    targets: jax.Array,
    width: int,
    temperature: float,
    num_valid: int,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    def score_chunk(chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        states, ids = chunk
        logits = _logits(states, unembedding, temperature, num_valid)
        total = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
        probabilities = jnp.exp(logits - total[..., None])
        entropy = total - jnp.sum(probabilities * logits, axis=-1)
        return chosen - total, entropy, total

    chunks = _split(hidden, width), _split(targets, width)
    num_columns = targets.shape[1]
    logprobs, entropy, total = (
        _join(part, num_columns) for part in jax.lax.map(score_chunk, chunks)
    )
    return (logprobs, entropy), (hidden, unembedding, targets, total)


def _score_backward(
    width: int,
    temperature: float,
    num_valid: int,
    residuals: tuple[jax.Array, ...],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, None]:
    hidden, unembedding, targets, total = residuals
    dtype = jnp.result_type(hidden, unembedding)

    def differentiate_chunk(
        weight_gradient: jax.Array, chunk: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        states, ids, totals, gradients = chunk
        logits = _logits(states, unembedding, temperature, num_valid)
        columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
        surprise = (columns == ids[..., None]) - jnp.exp(logits - totals[..., None])
        scaled = (surprise * (gradients / temperature)[..., None]).astype(dtype)
        weight_gradient += jnp.einsum(
            "rcd,rcv->dv", states, scaled, preferred_element_type=jnp.float32
        )
        return weight_gradient, jnp.einsum("rcv,dv->rcd", scaled, unembedding)

    chunks = tuple(_split(x, width) for x in (hidden, targets, total, cotangents[0]))
    weight_gradient, state_gradient = jax.lax.scan(
        differentiate_chunk, jnp.zeros(unembedding.shape, jnp.float32), chunks
    )
    state_gradient = _join(state_gradient, targets.shape[1]).astype(hidden.dtype)
    return state_gradient, weight_gradient.astype(unembedding.dtype), None


_score.defvjp(_score_forward, _score_backward)


def _logits(
    states: jax.Array, unembedding: jax.Array, temperature: float, num_valid: int
) -> jax.Array:
    # bf16 logits would put an error of about 1e-2 nats on every log-probability.
    logits = jnp.einsum(
        "rcd,dv->rcv", states, unembedding, preferred_element_type=jnp.float32
    )
    columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    return jnp.where(columns < num_valid, logits / temperature, _MASKED)


def _split(x: jax.Array, width: int) -> jax.Array:
    """[R, T, ...] to [chunks, R, width, ...], the last chunk padded with zeros."""
    num_rows, num_columns, *rest = x.shape
    padding = -num_columns % width
    x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * len(rest))
    return jnp.moveaxis(x.reshape(num_rows, -1, width, *rest), 1, 0)


def _join(chunks: jax.Array, num_columns: int) -> jax.Array:
    """Inverse of `_split`."""
    _, num_rows, _, *rest = chunks.shape
    joined = jnp.moveaxis(chunks, 0, 1).reshape(num_rows, -1, *rest)
    return joined[:, :num_columns]
