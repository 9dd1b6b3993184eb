"""Token sampling on device: one `while_loop` per turn, no host round trip per token."""

import dataclasses
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp

from agentrl.models import kv_cache

_CHUNK = 64  # vocabulary entries per chunk of the two-level sampler


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Loop carry of `decode`."""

    step: jax.Array  # int32[], tokens decoded so far, the same for all rows
    tokens: jax.Array  # int32[B, N], 0 after the stop token
    logprobs: jax.Array  # float32[B, N], nats, 0 after the stop token
    counts: jax.Array  # int32[B], tokens of each row, stop token included
    done: jax.Array  # bool[B]
    cache: kv_cache.KVCache  # every token but each row's last one


# (int32[B] tokens, bool[B] live, cache) -> (float32[B, V] logits, cache)
NextLogitsFn = Callable[
    [jax.Array, jax.Array, kv_cache.KVCache], tuple[jax.Array, kv_cache.KVCache]
]


def decode(
    next_logits: NextLogitsFn,
    first_logits: jax.Array,
    cache: kv_cache.KVCache,
    uniforms: jax.Array,
    budgets: jax.Array,
    *,
    stop_tokens: Sequence[int],
) -> DecodeState:
    """Samples one action per row, until all rows have stopped or used their budget.

    Args:
      next_logits: runs one decode step: caches a token of each live row and returns the
        logits of the next.
      first_logits: float32[B, V], at the sampling temperature, for the first token.
      cache: the context of every row.
      uniforms: float32[B, N] in [0, 1), one per row and token: the only randomness.
      budgets: int32[B], most tokens to decode in each row; 0 skips the row.
      stop_tokens: any of them ends a row; it is part of the action.

    Returns:
      The final loop carry, with the tokens, their log-probabilities and the cache.
    """
    chex.assert_rank([first_logits, uniforms, budgets], [2, 2, 1])
    batch_size, max_tokens = uniforms.shape
    stops = jnp.asarray(stop_tokens, jnp.int32)

    def record(state: DecodeState, logits: jax.Array) -> DecodeState:
        uniform = jax.lax.dynamic_index_in_dim(uniforms, state.step, 1, keepdims=False)
        token, logprob = sample(logits, uniform)
        write = ~state.done
        counts = state.counts + write
        return dataclasses.replace(
            state,
            step=state.step + 1,
            tokens=state.tokens.at[:, state.step].set(jnp.where(write, token, 0)),
            logprobs=state.logprobs.at[:, state.step].set(jnp.where(write, logprob, 0)),
            counts=counts,
            done=state.done | jnp.isin(token, stops) | (counts >= budgets),
        )

    def keep_going(state: DecodeState) -> jax.Array:
        return (state.step < max_tokens) & ~jnp.all(state.done)

    def advance(state: DecodeState) -> DecodeState:
        last = jax.lax.dynamic_index_in_dim(
            state.tokens, state.step - 1, 1, keepdims=False
        )
        logits, cache = next_logits(last, ~state.done, state.cache)
        return record(dataclasses.replace(state, cache=cache), logits)

    state = DecodeState(
        step=jnp.int32(0),
        tokens=jnp.zeros((batch_size, max_tokens), jnp.int32),
        logprobs=jnp.zeros((batch_size, max_tokens), jnp.float32),
        counts=jnp.zeros(batch_size, jnp.int32),
        done=budgets <= 0,
        cache=cache,
    )
    return jax.lax.while_loop(keep_going, advance, record(state, first_logits))


def sample(logits: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws one token per row by inverting the cumulative distribution in two levels.

    One uniform number picks a chunk of the vocabulary, then an entry inside it: no noise
    is drawn per vocabulary entry, and the exact log-probability falls out.

    Args:
      logits: float32[B, V], -inf where a token must not be drawn.
      uniform: float32[B] in [0, 1).

    Returns:
      tokens int32[B] and their log-probabilities float32[B], nats.
    """
    chex.assert_rank([logits, uniform], [2, 1])
    padding = -logits.shape[1] % _CHUNK
    padded = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    chunks = padded.reshape(padded.shape[0], -1, _CHUNK)
    highest = jnp.max(chunks, axis=(1, 2), keepdims=True)
    weights = jnp.exp(chunks - highest)

    chunk_ends = jnp.cumsum(jnp.sum(weights, axis=2), axis=1)
    total = chunk_ends[:, -1:]
    # Strictly below the total, so that the last chunk with weight is always found.
    target = jnp.minimum(uniform[:, None] * total, jnp.nextafter(total, 0))
    chunk = _first_above(chunk_ends, target)
    before = jnp.where(
        chunk > 0, jnp.take_along_axis(chunk_ends, jnp.maximum(chunk - 1, 0), 1), 0
    )
    inside = jnp.take_along_axis(weights, chunk[:, :, None], axis=1)[:, 0]
    entry = _first_above(jnp.cumsum(inside, axis=1), target - before)
    # Rounding may step past the last entry with weight: fall back to the chunk's best.
    weight = jnp.take_along_axis(inside, entry, axis=1)
    entry = jnp.where(weight > 0, entry, jnp.argmax(inside, axis=1, keepdims=True))

    token = (chunk * _CHUNK + entry)[:, 0].astype(jnp.int32)
    chosen = jnp.take_along_axis(padded, token[:, None], axis=1)
    logprob = chosen - highest[:, :, 0] - jnp.log(total)
    return token, logprob[:, 0]


def apply_top_k_top_p(logits: jax.Array, *, top_k: int, top_p: float) -> jax.Array:
    """Masks all but the most likely tokens with -inf.

    Nucleus sampling: https://arxiv.org/abs/1904.09751, section 3.1.

    Args:
      logits: float32[B, V].
      top_k: number of tokens kept; 0 keeps all.
      top_p: keeps the smallest set of tokens with this total probability; 1 keeps all.

    Returns:
      float32[B, V].
    """
    ranked = jnp.sort(logits, axis=1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(ranked), axis=1) - jax.nn.softmax(ranked)
    rank = jnp.arange(ranked.shape[1])[None]
    kept = (before < top_p) & (rank < (top_k or ranked.shape[1]))
    lowest = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=1, keepdims=True)
    return jnp.where(logits >= lowest, logits, -jnp.inf)


def _first_above(cumulative: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the index int32[B, 1] of the first cumulative sum above `target`.

    Args:
      cumulative: float32[B, ...], one axis, ascending.
      target: float32[B, 1].
    """
    index = jnp.sum(cumulative <= target, axis=1, keepdims=True)
    return jnp.minimum(index, cumulative.shape[1] - 1)
