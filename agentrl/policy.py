"""Acting: compiled calls that append observations and decode actions for a cohort.

A cohort is a set of cache rows that turn together. One jitted call per turn appends each
row's new tokens and samples its action in a `while_loop`. Shapes come from two short lists,
appended columns and cache columns, and every combination is compiled before the first
episode. The rows are spread over the local devices with `shard_map`: each device's loop
ends by itself, and no token needs a collective.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentrl import config, decode, sharding, types
from agentrl.models import kv_cache, transformer


@dataclasses.dataclass(frozen=True)
class RowInput:
    """What one row brings to a turn."""

    tokens: Sequence[int]  # new since the last call, the last sampled token first
    stream: tuple[int, int]  # (episode, turn): names the randomness of this action
    budget: int  # most action tokens, stop token included


@dataclasses.dataclass(frozen=True)
class Action:
    """What one row wrote in a turn."""

    tokens: np.ndarray  # int32[Ta]
    logprobs: np.ndarray  # float32[Ta], nats


@dataclasses.dataclass
class Cohort:
    """The cache rows that turn together, and how much of each is in use."""

    cache: kv_cache.KVCache
    lengths: np.ndarray  # int32[B]


@dataclasses.dataclass(frozen=True)
class PendingActions:
    """A turn on its way: device arrays that `Policy.fetch` waits for."""

    tokens: jax.Array  # int32[B, N]
    logprobs: jax.Array  # float32[B, N]
    counts: jax.Array  # int32[B]


class Policy:
    """Samples actions for cohorts of rows; parameters are an argument of every call."""

    def __init__(
        self,
        model: transformer.Model,
        mesh: Mesh,
        rollout: config.RolloutConfig,
        *,
        stop_token: int,
        num_valid_tokens: int,
    ):
        """Prepares the compiled functions.

        Args:
          model: the transformer.
          mesh: this host's devices, from `sharding.make_rollout_mesh`.
          rollout: buckets, budgets and temperature.
          stop_token: ends an action.
          num_valid_tokens: ids from here on are padding of the vocabulary, never drawn.
        """
        self.rollout = rollout
        self.rows_per_cohort = rollout.num_slots // rollout.num_cohorts
        self._model = model
        self._rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
        turn = functools.partial(
            _turn,
            model,
            temperature=rollout.temperature,
            num_tokens=rollout.max_action_tokens,
            stop_token=stop_token,
            num_valid=num_valid_tokens,
        )
        rows, whole = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
        mapped = jax.shard_map(
            turn,
            mesh=mesh,
            in_specs=(whole, rows, whole, rows),
            out_specs=rows,
            axis_names=set(sharding.BATCH_AXES),
            check_vma=False,
        )
        self._turn = jax.jit(mapped, donate_argnums=1)
        self._grow = jax.jit(kv_cache.grow, static_argnums=1, out_shardings=self._rows)
        self._empty = jax.jit(
            lambda columns: kv_cache.empty(model.config, self.rows_per_cohort, columns),
            static_argnums=0,
            out_shardings=self._rows,
        )

    def new_cohort(self) -> Cohort:
        """A cohort of empty rows, allocated at the smallest bucket."""
        cache = self._empty(self.rollout.cache_buckets[0])
        return Cohort(cache, np.zeros(self.rows_per_cohort, np.int32))

    def act(
        self,
        params: types.PyTree,
        cohort: Cohort,
        inputs: dict[int, RowInput],
        key: jax.Array,
    ) -> PendingActions:
        """Starts one turn of the rows in `inputs`; other rows stay as they are.

        Set `cohort.lengths[row] = 0` before a row's first turn of a new episode. Returns
        at once; the caller may use the host until it calls `fetch`.
        """
        tokens = {row: list(entry.tokens) for row, entry in inputs.items()}
        widest = self.rollout.append_buckets[-1]
        while (
            max(map(len, tokens.values())) > widest
        ):  # rare: in pieces, no sampling yet
            head = {
                row: ids[:widest] for row, ids in tokens.items() if len(ids) > widest
            }
            self._call(params, cohort, head, {}, {}, key)
            tokens = {row: ids[widest * (row in head) :] for row, ids in tokens.items()}
        budgets = {row: entry.budget for row, entry in inputs.items()}
        streams = {row: entry.stream for row, entry in inputs.items()}
        return self._call(params, cohort, tokens, budgets, streams, key)

    def fetch(self, cohort: Cohort, pending: PendingActions) -> dict[int, Action]:
        """Waits for a turn and returns the actions of the rows that took part."""
        tokens, logprobs, counts = jax.device_get(
            (pending.tokens, pending.logprobs, pending.counts)
        )
        actions = {}
        for row in np.flatnonzero(counts):
            count = counts[row]
            actions[int(row)] = Action(tokens[row, :count], logprobs[row, :count])
            cohort.lengths[row] += count - 1  # the last token is not in the cache yet
        return actions

    def compile(self, params: types.PyTree, key: jax.Array) -> None:
        """Compiles every shape that a turn can take, so that none is met later."""
        for columns in self.rollout.cache_buckets:
            cohort = self.new_cohort()
            self._ensure_columns(cohort, columns)
            for width in self.rollout.append_buckets:
                self._call(params, cohort, {0: [0] * width}, {}, {}, key)
                cohort.lengths[:] = 0

    def _call(
        self,
        params: types.PyTree,
        cohort: Cohort,
        tokens: dict[int, list[int]],
        budgets: dict[int, int],
        streams: dict[int, tuple[int, int]],
        key: jax.Array,
    ) -> PendingActions:
        num_rows = self.rows_per_cohort
        width = _bucket(max(map(len, tokens.values())), self.rollout.append_buckets)
        inputs = TurnInputs(
            tokens=np.zeros((num_rows, width), np.int32),
            counts=np.zeros(num_rows, np.int32),
            lengths=cohort.lengths.copy(),
            budgets=np.zeros(num_rows, np.int32),
            streams=np.zeros((num_rows, 2), np.int32),
        )
        for row, ids in tokens.items():
            inputs.tokens[row, : len(ids)] = ids
            inputs.counts[row] = len(ids)
            inputs.budgets[row] = budgets.get(row, 0)
            inputs.streams[row] = streams.get(row, (0, 0))
        cohort.lengths += inputs.counts
        # Done rows still compute a column past their end; nothing is written there.
        self._ensure_columns(cohort, int((cohort.lengths + inputs.budgets).max()))
        inputs = jax.device_put(inputs, self._rows)
        pending, cohort.cache = self._turn(params, cohort.cache, key, inputs)
        return pending

    def _ensure_columns(self, cohort: Cohort, needed: int) -> None:
        columns = _bucket(needed, self.rollout.cache_buckets)
        for bucket in self.rollout.cache_buckets:  # one step at a time: fewer shapes
            if cohort.cache.num_columns < bucket <= columns:
                cohort.cache = self._grow(cohort.cache, bucket)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TurnInputs:
    """Host inputs of one compiled turn, one entry per row."""

    tokens: Any  # int32[B, C], right-padded; NumPy on the host, jax.Array inside
    counts: Any  # int32[B]
    lengths: Any  # int32[B], columns in use before the append
    budgets: Any  # int32[B]
    streams: Any  # int32[B, 2]


jax.tree_util.register_dataclass(PendingActions)


def _turn(
    model: transformer.Model,
    params: types.PyTree,
    cache: kv_cache.KVCache,
    key: jax.Array,
    inputs: TurnInputs,
    *,
    temperature: float,
    num_tokens: int,
    stop_token: int,
    num_valid: int,
) -> tuple[PendingActions, kv_cache.KVCache]:
    """Appends the rows' new tokens and samples their actions; runs on each device."""
    unembedding = model.unembedding(params)
    is_padding = jnp.arange(unembedding.shape[1]) >= num_valid

    def to_logits(hidden: jax.Array) -> jax.Array:
        logits = jnp.dot(hidden, unembedding, preferred_element_type=jnp.float32)
        return jnp.where(is_padding[None], -jnp.inf, logits / temperature)

    def next_logits(
        tokens: jax.Array, live: jax.Array, cache: kv_cache.KVCache
    ) -> tuple[jax.Array, kv_cache.KVCache]:
        counts = live.astype(jnp.int32)
        hidden, cache = model.append(params, tokens[:, None], counts, cache)
        return to_logits(hidden), cache

    def draw(stream: jax.Array) -> jax.Array:
        folded = jax.random.fold_in(jax.random.fold_in(key, stream[0]), stream[1])
        return jax.random.uniform(folded, (num_tokens,))

    cache = dataclasses.replace(cache, lengths=inputs.lengths)
    hidden, cache = model.append(params, inputs.tokens, inputs.counts, cache)
    state = decode.decode(
        next_logits,
        to_logits(hidden),
        cache,
        jax.vmap(draw)(inputs.streams),
        inputs.budgets,
        stop_token=stop_token,
    )
    return PendingActions(state.tokens, state.logprobs, state.counts), state.cache


def _bucket(needed: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `needed`."""
    for bucket in buckets:
        if needed <= bucket:
            return bucket
    raise ValueError(f"{needed} columns exceed the largest bucket {buckets[-1]}.")
