"""Acting: compiled calls that append observations and decode actions for a cohort.

A cohort is a set of cache rows that turn together. One jitted call per turn appends each
row's new tokens and samples its action in a `while_loop`. What several episodes begin with
is computed once, in a cache of one row, and copied. Shapes come from three short lists,
appended columns, cache columns and rows, and every combination is compiled before the
first episode. The rows are spread over the local devices with `shard_map`: each batch
shard's loop ends by itself, so no collective of a turn may join two of them. One that did
would wait for ever for a shard that has left its loop.

Wide models are cut over the mesh axis `model`. Collectives then join the devices of one
batch shard only, and there are few: attention runs on each device's own heads, hidden
states and logits are made whole before anything else reads them. Left to itself the
compiler shifts parts of the vocabulary between devices with `collective-permute`, which
has no groups: all devices of the host have to take part in it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentrl import config, types
from agentrl.models import kv_cache, transformer
from agentrl.parallel import sharding
from agentrl.rollout import sampling

_KEPT_PREFIXES = 8  # caches of one row; groups start in order, so few are in use


@dataclasses.dataclass(frozen=True)
class RowInput:
    """What one row brings to a turn."""

    tokens: Sequence[int]  # new since the last call, the last sampled token first
    stream: tuple[int, int]  # (episode, turn): names the randomness of this action
    budget: int  # most action tokens, stop token included
    shared: tuple[int, ...] = ()  # lengths of beginnings that other rows have, too


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
    rows: np.ndarray  # which of the B rows each row of the cache is


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
        stop_tokens: Sequence[int],
        num_valid_tokens: int,
    ):
        """Prepares the compiled functions.

        Args:
          model: the transformer.
          mesh: this host's devices, from `sharding.make_rollout_mesh`.
          rollout: buckets, budgets and temperature.
          stop_tokens: any of them ends an action.
          num_valid_tokens: ids from here on are padding of the vocabulary, never drawn.
        """
        self.rollout = rollout
        self.rows_per_cohort = rollout.num_slots // rollout.num_cohorts
        self._model = model
        self._rows = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))
        self._prefixes: dict[tuple[int, ...], kv_cache.KVCache] = {}  # last used last
        append = _make_append(model, mesh)
        turn = functools.partial(
            _turn,
            model,
            append,
            rollout=rollout,
            stop_tokens=tuple(stop_tokens),
            num_valid=num_valid_tokens,
        )
        self._make_calls(mesh, turn, functools.partial(_extend, append))

    def _make_calls(
        self, mesh: Mesh, turn: Callable[..., Any], extend: Callable[..., Any]
    ) -> None:
        """Jits what a rollout calls, with a fixed placement for every cache."""
        shape = self._model.config
        heads = sharding.heads_axis(mesh, shape.num_kv_heads)
        cached = kv_cache.specs(shape, rows=sharding.BATCH_AXES, heads=heads)
        shared = kv_cache.specs(shape, heads=heads)
        in_place, in_copies = (
            jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
            for specs in (cached, shared)
        )
        rows, whole = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
        spread = functools.partial(sharding.spread_rows, mesh=mesh)
        self._turn = jax.jit(
            spread(turn, in_specs=(whole, rows, whole, rows), out_specs=rows),
            donate_argnums=1,
            out_shardings=(self._rows, in_place),
        )
        # Every batch shard computes the shared beginnings for itself.
        self._extend = jax.jit(
            spread(extend, in_specs=whole, out_specs=whole), out_shardings=in_copies
        )
        copy = spread(
            kv_cache.copy_row,
            in_specs=(cached, shared, rows),
            out_specs=cached,
            manual_model=True,
        )
        self._copy = jax.jit(copy, donate_argnums=0, out_shardings=in_place)
        self._take = jax.jit(
            lambda cache, rows: jax.tree.map(lambda x: x[rows], cache),
            out_shardings=in_place,
        )
        self._grow = jax.jit(kv_cache.grow, static_argnums=1, out_shardings=in_place)
        self._empty = jax.jit(
            lambda columns: kv_cache.empty(shape, self.rows_per_cohort, columns),
            static_argnums=0,
            out_shardings=in_place,
        )
        self._blank = jax.jit(
            lambda: kv_cache.empty(shape, 1, self.rollout.cache_buckets[-1]),
            out_shardings=in_copies,
        )()

    def new_cohort(self) -> Cohort:
        """A cohort of empty rows, allocated at the smallest bucket."""
        return Cohort(
            self._empty(self.rollout.cache_buckets[0]),
            lengths=np.zeros(self.rows_per_cohort, np.int32),
            rows=np.arange(self.rows_per_cohort),
        )

    def forget_prefixes(self) -> None:
        """Drops what was computed with parameters that are out of date."""
        self._prefixes.clear()

    def narrow(self, cohort: Cohort, live: Collection[int]) -> None:
        """Drops rows that are not in use, as far as the buckets of rows allow."""
        for bucket in self.rollout.row_buckets[::-1]:  # one at a time: fewer shapes
            if len(live) <= bucket < len(cohort.rows):
                order = np.argsort(~np.isin(cohort.rows, list(live)), kind="stable")
                chosen = order[:bucket]
                cohort.cache = self._take(cohort.cache, chosen)
                cohort.rows = cohort.rows[chosen]

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
        copied = self._copy_prefixes(params, cohort, inputs)
        tokens = {
            row: list(entry.tokens[copied.get(row, 0) :])
            for row, entry in inputs.items()
        }
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
        for place in np.flatnonzero(counts):
            row, count = int(cohort.rows[place]), counts[place]
            actions[row] = Action(tokens[place, :count], logprobs[place, :count])
            cohort.lengths[row] += count - 1  # the last token is not in the cache yet
        return actions

    def bytes_read(self, params: types.PyTree) -> tuple[int, int]:
        """Bytes that a token step has to read: of weights, and per cache column in use."""
        read = {
            k: v for k, v in params.items() if k != "embedding" or "head" not in params
        }
        weights = sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(read)
            for shard in leaf.addressable_shards
        )
        shape = self._model.config
        numbers = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
        return weights, numbers * jnp.dtype(shape.dtypes.cache).itemsize

    def compile(self, params: types.PyTree, key: jax.Array) -> None:
        """Compiles every shape that a turn can take, so that none is met later."""
        widths, buckets = self.rollout.append_buckets, self.rollout.cache_buckets
        for width in widths:
            prefix = self._append_prefix(params, self._blank, [0] * width, 0)
        for columns, wider in itertools.zip_longest(buckets, buckets[1:]):
            cohort = self.new_cohort()
            self._ensure_columns(cohort, columns)
            for num_rows in (self.rows_per_cohort, *self.rollout.row_buckets[::-1]):
                self.narrow(cohort, range(num_rows))
                nowhere = self._place(np.zeros(num_rows, bool))
                cohort.cache = self._copy(cohort.cache, prefix, nowhere)
                if wider:
                    self._grow(cohort.cache, wider)
                for width in widths:
                    ids = [0] * min(width, columns)
                    self._call(params, cohort, {0: ids}, {}, {}, key)
                    cohort.lengths[:] = 0

    def _copy_prefixes(
        self, params: types.PyTree, cohort: Cohort, inputs: dict[int, RowInput]
    ) -> dict[int, int]:
        """Copies shared beginnings to fresh rows; returns the tokens each row got."""
        targets: dict[tuple[int, ...], list[int]] = {}
        for row, entry in inputs.items():
            if entry.shared:
                beginning = tuple(entry.tokens[: entry.shared[-1]])
                targets.setdefault(beginning, []).append(row)
        copied = {}
        for beginning, rows in targets.items():
            prefix = self._prefix(params, beginning, inputs[rows[0]].shared)
            self._ensure_columns(cohort, len(beginning))
            chosen = self._place(np.isin(cohort.rows, rows))
            cohort.cache = self._copy(cohort.cache, prefix, chosen)
            cohort.lengths[rows] = len(beginning)
            copied |= dict.fromkeys(rows, len(beginning))
        return copied

    def _prefix(
        self, params: types.PyTree, tokens: tuple[int, ...], lengths: Sequence[int]
    ) -> kv_cache.KVCache:
        """The cache of `tokens`; its beginnings of the given lengths are kept, too."""
        prefix, start = self._blank, 0
        for end in lengths:
            known = self._prefixes.pop(tokens[:end], None)
            prefix = known or self._append_prefix(
                params, prefix, tokens[start:end], start
            )
            self._prefixes[tokens[:end]] = prefix
            start = end
        while len(self._prefixes) > _KEPT_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        return prefix

    def _append_prefix(
        self,
        params: types.PyTree,
        prefix: kv_cache.KVCache,
        tokens: Sequence[int],
        start: int,
    ) -> kv_cache.KVCache:
        widest = self.rollout.append_buckets[-1]
        for first in range(0, len(tokens), widest):
            piece = tokens[first : first + widest]
            width = _bucket(len(piece), self.rollout.append_buckets)
            padded = np.zeros((1, width), np.int32)
            padded[0, : len(piece)] = piece
            prefix = self._extend(
                params,
                prefix,
                padded,
                np.array([len(piece)], np.int32),
                np.array([start + first], np.int32),
            )
        return prefix

    def _place(self, host: types.PyTree) -> types.PyTree:
        """Spreads arrays with an entry per row over the devices."""
        return jax.device_put(host, self._rows)

    def _call(
        self,
        params: types.PyTree,
        cohort: Cohort,
        tokens: dict[int, list[int]],
        budgets: dict[int, int],
        streams: dict[int, tuple[int, int]],
        key: jax.Array,
    ) -> PendingActions:
        num_rows = len(cohort.lengths)
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
        inputs = self._place(jax.tree.map(lambda field: field[cohort.rows], inputs))
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


AppendFn = Callable[..., tuple[jax.Array, kv_cache.KVCache]]  # `Model.append`


def _make_append(model: transformer.Model, mesh: Mesh) -> AppendFn:
    """The model's `append`, with its parts placed if the model is cut over devices."""
    if mesh.shape["model"] == 1:
        return model.append
    heads = sharding.heads_axis(mesh, model.config.num_kv_heads)
    cached: Any = kv_cache.specs(model.config, heads=heads).keys[0]
    return functools.partial(
        model.append,
        place=sharding.make_whole,
        split_heads=lambda attend: sharding.split_heads(attend, heads, cached),
    )


def _extend(
    append: AppendFn,
    params: types.PyTree,
    cache: kv_cache.KVCache,
    tokens: jax.Array,
    counts: jax.Array,
    lengths: jax.Array,
) -> kv_cache.KVCache:
    """Appends tokens to a cache that is `lengths` int32[B] long."""
    cache = dataclasses.replace(cache, lengths=lengths)
    return append(params, tokens, counts, cache)[1]


def _turn(
    model: transformer.Model,
    append: AppendFn,
    params: types.PyTree,
    cache: kv_cache.KVCache,
    key: jax.Array,
    inputs: TurnInputs,
    *,
    rollout: config.RolloutConfig,
    stop_tokens: Sequence[int],
    num_valid: int,
) -> tuple[PendingActions, kv_cache.KVCache]:
    """Appends the rows' new tokens and samples their actions; runs on each device."""
    unembedding = model.unembedding(params)
    temperature = rollout.temperature
    top_k = rollout.top_k if temperature else 1  # greedy
    is_padding = jnp.arange(unembedding.shape[1]) >= num_valid

    def to_logits(hidden: jax.Array) -> jax.Array:
        logits = jnp.dot(  # as the learner does: see `ops.logprobs`
            hidden, unembedding, precision="high", preferred_element_type=jnp.float32
        )
        logits = sharding.make_whole(logits)
        logits = jnp.where(is_padding[None], -jnp.inf, logits / (temperature or 1.0))
        if top_k or rollout.top_p < 1:
            logits = sampling.restrict(logits, top_k=top_k, top_p=rollout.top_p)
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

    cache = dataclasses.replace(cache, lengths=inputs.lengths)
    hidden, cache = append(params, inputs.tokens, inputs.counts, cache)
    state = sampling.decode(
        next_logits,
        to_logits(hidden),
        cache,
        jax.vmap(draw)(inputs.streams),
        inputs.budgets,
        stop_tokens=stop_tokens,
    )
    return PendingActions(state.tokens, state.logprobs, state.counts), state.cache


def _bucket(needed: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `needed`."""
    for bucket in buckets:
        if needed <= bucket:
            return bucket
    raise ValueError(f"{needed} columns exceed the largest bucket {buckets[-1]}.")
