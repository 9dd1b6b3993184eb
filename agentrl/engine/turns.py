"""One turn of a cohort on the device: its new tokens are prefilled, its actions decoded.

On CPUs, where padding costs what tokens cost, a turn does no more than its rows need: it
prefills in short pieces up to the longest row's tokens, and with a small model it goes
through the rows that take part in groups, each with its own part of the cache, prefill
and decoding.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from agentrl import config, types
from agentrl.engine import sampling
from agentrl.models import choices, kv_cache, model_config, transformer
from agentrl.parallel import sharding

# On CPUs, as measured (`benchmarks/RESULTS.md`). Small models: rows of a group, and tokens
# of a row in a piece. Larger ones take all rows, and a piece has so many tokens of all rows
# together.
_SMALL_PARAMETERS = 2_000_000  # of a small model's kernels
_SMALL_ROWS, _SMALL_PIECE = 8, 8
_LARGE_TOKENS = 512


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchInputs:
    """Host inputs of one compiled turn, an entry per cache row."""

    tokens: Any  # int32[B, C], right-padded; NumPy on the host, jax.Array inside
    counts: Any  # int32[B], tokens to prefill
    lengths: Any  # int32[B], tokens cached before the prefill
    budgets: Any  # int32[B], most action tokens; 0 prefills only
    streams: Any  # int32[B, 2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InFlightDecode:
    """A decode call that has been dispatched: device arrays that `Engine.fetch` reads."""

    tokens: jax.Array  # int32[B, N]
    logprobs: jax.Array  # float32[B, N]
    counts: jax.Array  # int32[B], action tokens of each row


def prefills_in_pieces(shape: model_config.ModelConfig) -> bool:
    """Whether a turn loops over pieces of its new tokens, up to the longest row's.

    A CPU computes at the same rate however many tokens there are, so that padding to a
    bucket costs what tokens cost. Accelerators want all of them at once.
    """
    return choices.attention(shape) == "matmul"


def prefill_sizes(
    shape: model_config.ModelConfig, num_rows: int, chunk: int
) -> tuple[int, int]:
    """Returns how many rows prefill at a time, and how many tokens of each.

    A small model's kernels stay close to a CPU's cores, beside the keys and values of few
    rows. Those of a larger one are read for each piece, which should have enough tokens to
    be worth it.

    Args:
      shape: of the model.
      num_rows: of a cohort.
      chunk: tokens that a call takes of each row.
    """
    if not prefills_in_pieces(shape):
        return num_rows, chunk
    rows = min(group_rows(shape) or num_rows, num_rows)
    piece = _SMALL_PIECE if _is_small(shape) else max(1, _LARGE_TOKENS // num_rows)
    return rows, min(piece, chunk)


def group_rows(shape: model_config.ModelConfig) -> int | None:
    """Returns how many rows of a cohort take their turn at a time; None for all.

    Such a group ends with its own longest action. A larger model's kernels would be read
    for each group.
    """
    grouped = prefills_in_pieces(shape) and _is_small(shape)
    return _SMALL_ROWS if grouped else None


def _is_small(shape: model_config.ModelConfig) -> bool:
    heads = 2 * shape.head_dim * (shape.num_heads + shape.num_kv_heads)
    block = shape.hidden_size * (heads + 3 * shape.mlp_size)
    parameters = shape.num_layers * block + shape.vocab_size * shape.hidden_size
    return parameters <= _SMALL_PARAMETERS


def take_turn(
    model: transformer.Model,
    append: transformer.AppendFn,
    params: types.PyTree,
    cache: kv_cache.KVCache,
    key: jax.Array,
    inputs: BatchInputs,
    *,
    rollout: config.RolloutConfig,
    stop_tokens: Sequence[int],
    num_valid_tokens: int,
) -> tuple[InFlightDecode, kv_cache.KVCache]:
    """Prefills the rows' new tokens and decodes their actions; runs on each device.

    Args:
      model: the transformer.
      append: its `append`, with its constraints on sharding.
      params: parameters in the rollout's layout.
      cache: B rows, of which this device has all.
      key: names the randomness, together with each row's stream.
      inputs: what the rows append, and how far they decode.
      rollout: budgets, temperature, cuts of the distribution.
      stop_tokens: any of them ends an action.
      num_valid_tokens: ids from here on are never sampled.

    Returns:
      The actions, and the cache with all tokens but each action's last.
    """
    cache = dataclasses.replace(cache, lengths=inputs.lengths)
    turn = functools.partial(
        _prefill_and_decode,
        model,
        append,
        params,
        key,
        rollout=rollout,
        stop_tokens=stop_tokens,
        num_valid_tokens=num_valid_tokens,
    )
    size = group_rows(model.config)
    if size is None or size >= len(inputs.counts):
        return turn(cache, inputs)
    return _in_groups(turn, cache, inputs, size, rollout.max_action_tokens)


def _in_groups(
    turn: Callable[..., tuple[InFlightDecode, kv_cache.KVCache]],
    cache: kv_cache.KVCache,
    inputs: BatchInputs,
    size: int,
    max_action_tokens: int,
) -> tuple[InFlightDecode, kv_cache.KVCache]:
    """Takes the turn group by group, each of `size` rows; idle rows are left out.

    Rows are sorted by their new tokens, so that the rows of a group have about as many.
    """
    batch_size = len(inputs.counts)
    busy = (inputs.counts > 0) | (inputs.budgets > 0)
    order = jnp.argsort(jnp.where(busy, -inputs.counts, 1))  # idle rows last
    order = jnp.pad(order, (0, -batch_size % size), constant_values=batch_size)

    def advance(state: Any) -> Any:
        begun, outputs, cache = state
        rows = jax.lax.dynamic_slice(order, (begun,), (size,))
        is_row, clipped = rows < batch_size, jnp.minimum(rows, batch_size - 1)
        group = jax.tree.map(lambda entries: entries[clipped], inputs)
        group = dataclasses.replace(
            group,
            counts=jnp.where(is_row, group.counts, 0),
            budgets=jnp.where(is_row, group.budgets, 0),
        )
        actions, part = turn(kv_cache.take_rows(cache, clipped), group)
        outputs = jax.tree.map(
            lambda all_rows, some: all_rows.at[rows].set(some, mode="drop"),
            outputs,
            actions,
        )
        return begun + size, outputs, kv_cache.put_rows(cache, rows, part)

    nothing = InFlightDecode(
        jnp.zeros((batch_size, max_action_tokens), jnp.int32),
        jnp.zeros((batch_size, max_action_tokens), jnp.float32),
        jnp.zeros(batch_size, jnp.int32),
    )
    state = (jnp.int32(0), nothing, cache)
    num_busy = jnp.sum(busy)
    return jax.lax.while_loop(lambda state: state[0] < num_busy, advance, state)[1:]


def _prefill_and_decode(
    model: transformer.Model,
    append: transformer.AppendFn,
    params: types.PyTree,
    key: jax.Array,
    cache: kv_cache.KVCache,
    inputs: BatchInputs,
    *,
    rollout: config.RolloutConfig,
    stop_tokens: Sequence[int],
    num_valid_tokens: int,
) -> tuple[InFlightDecode, kv_cache.KVCache]:
    unembedding = model.unembedding(params)
    temperature = rollout.temperature
    top_k = rollout.top_k if temperature else 1  # greedy
    is_padding = jnp.arange(unembedding.shape[1]) >= num_valid_tokens

    def to_logits(hidden: jax.Array) -> jax.Array:
        logits = jnp.dot(  # as the learner does: see `ops.logprobs`
            hidden, unembedding, precision="high", preferred_element_type=jnp.float32
        )
        logits = sharding.replicate_over_model(logits)
        logits = jnp.where(is_padding[None], -jnp.inf, logits / (temperature or 1.0))
        if top_k or rollout.top_p < 1:
            logits = sampling.apply_top_k_top_p(
                logits, top_k=top_k, top_p=rollout.top_p
            )
        return logits

    def next_logits(
        tokens: jax.Array, live: jax.Array, cache: kv_cache.KVCache
    ) -> tuple[jax.Array, kv_cache.KVCache]:
        counts = live.astype(jnp.int32)
        hidden, cache = append(params, tokens[:, None], counts, cache)
        return to_logits(hidden), cache

    def draw(stream: jax.Array) -> jax.Array:
        folded = jax.random.fold_in(jax.random.fold_in(key, stream[0]), stream[1])
        return jax.random.uniform(folded, (rollout.max_action_tokens,))

    hidden, cache = _prefill(model, append, params, cache, inputs)
    state = sampling.decode(
        next_logits,
        to_logits(hidden),
        cache,
        jax.vmap(draw)(inputs.streams),
        inputs.budgets,
        stop_tokens=stop_tokens,
    )
    return InFlightDecode(state.tokens, state.logprobs, state.counts), state.cache


def _prefill(
    model: transformer.Model,
    append: transformer.AppendFn,
    params: types.PyTree,
    cache: kv_cache.KVCache,
    inputs: BatchInputs,
) -> tuple[jax.Array, kv_cache.KVCache]:
    """Appends the rows' new tokens; returns the last one's hidden state float[B, D]."""
    if not prefills_in_pieces(model.config):
        return append(params, inputs.tokens, inputs.counts, cache)
    batch_size, chunk = inputs.tokens.shape
    _, size = prefill_sizes(model.config, batch_size, chunk)
    tokens = jnp.pad(inputs.tokens, ((0, 0), (0, -chunk % size)))

    def advance(state: Any) -> Any:
        begun, hidden, cache = state
        piece = jax.lax.dynamic_slice(tokens, (0, begun), (batch_size, size))
        counts = jnp.clip(inputs.counts - begun, 0, size)
        last, cache = append(params, piece, counts, cache)
        return begun + size, jnp.where((counts > 0)[:, None], last, hidden), cache

    shape = model.config
    nothing = jnp.zeros((batch_size, shape.hidden_size), shape.dtypes.compute)
    longest = jnp.max(inputs.counts)
    return jax.lax.while_loop(
        lambda state: state[0] < longest, advance, (jnp.int32(0), nothing, cache)
    )[1:]
