"""The inference engine: compiled calls that prefill observations and decode actions.

A cohort is a batch of slots that take their turns together, with one key-value cache. One
jitted call per turn prefills each slot's new observation tokens and decodes its action, see
`turns`. Prefixes that several episodes share are prefilled once, see `prefix_cache`.
Shapes come from three short lists of buckets, for prefill chunks, cache lengths and batch
sizes, and every combination is compiled before the first episode; on CPUs one turn serves
all prefill chunks, and with a small model all batch sizes. Cache rows are sharded
over the local devices with `shard_map`: each batch shard's loop ends by itself, so no
collective of a turn may join two batch shards. One that did would wait for ever for a
shard that has left its loop.

With tensor parallelism, models are sharded over the mesh axis `model`. Collectives then
join the devices of one batch shard only, and there are few: attention runs on each device's
own heads, hidden states and logits are replicated before anything else reads them. Left to
itself the compiler shifts parts of the vocabulary between devices with
`collective-permute`, which has no groups: all devices of the process have to take part.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentrl import config, types
from agentrl.engine import buckets, prefix_cache, turns
from agentrl.models import choices, kv_cache, transformer
from agentrl.parallel import sharding


@dataclasses.dataclass(frozen=True)
class SlotInput:
    """New tokens of one slot, and how to sample its action."""

    tokens: Sequence[int]  # not yet in the cache; the last sampled token comes first
    stream: tuple[int, int]  # (episode, turn): names the randomness of this action
    budget: int  # most action tokens, stop token included
    # Of `tokens`, ascending; only if they are the whole context.
    shared_prefix_lengths: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class SlotOutput:
    """The action that was sampled in one slot."""

    tokens: np.ndarray  # int32[Ta]
    logprobs: np.ndarray  # float32[Ta], nats; 0 where tokens were not sampled
    sampled: np.ndarray | None = None  # bool[Ta]; None stands for True everywhere

    @property
    def sampled_mask(self) -> np.ndarray:
        """Tokens that were sampled, bool[Ta]."""
        return np.ones(len(self.tokens), bool) if self.sampled is None else self.sampled

    def followed_by(self, tokens: Sequence[int]) -> "SlotOutput":
        """Returns the action with further tokens, which are fixed."""
        return SlotOutput(
            np.append(self.tokens, np.asarray(tokens, np.int32)),
            np.append(self.logprobs, np.zeros(len(tokens), np.float32)),
            np.append(self.sampled_mask, np.zeros(len(tokens), bool)),
        )

    def joined(self, rest: "SlotOutput") -> "SlotOutput":
        """Returns the action that `rest` completes."""
        mask = np.append(self.sampled_mask, rest.sampled_mask)
        return SlotOutput(
            np.append(self.tokens, rest.tokens),
            np.append(self.logprobs, rest.logprobs),
            None if mask.all() else mask,
        )


@dataclasses.dataclass
class Cohort:
    """A batch of slots that decode together, and their key-value cache.

    A new cohort has a cache row for each slot; `Engine.compact` drops rows of finished
    slots.
    """

    cache: kv_cache.KVCache
    lengths: np.ndarray  # int32[slots], cached tokens of each slot
    slots: np.ndarray  # int[B], the slot of each cache row


class Engine:
    """Samples actions for cohorts of slots; parameters are an argument of every call."""

    def __init__(
        self,
        model: transformer.Model,
        mesh: Mesh,
        rollout: config.RolloutConfig,
        *,
        stop_tokens: Sequence[int],
        num_valid_tokens: int,
    ):
        """Jits the calls; nothing is compiled before `compile` or first use.

        Args:
          model: the transformer.
          mesh: this process's devices, from `sharding.make_rollout_mesh`.
          rollout: buckets, budgets and temperature.
          stop_tokens: any of them ends an action.
          num_valid_tokens: ids from here on are padding of the vocabulary, never sampled.
        """
        self.rollout = rollout
        self.slots_per_cohort = rollout.num_slots // rollout.num_cohorts
        self._model = model
        self._batch_sharding = sharding.row_sharding(mesh)
        append = _make_append(model, mesh)
        widths, sizes = rollout.append_buckets, rollout.row_buckets
        in_pieces = turns.prefills_in_pieces(model.config)
        self._chunk_buckets = widths[-1:] if in_pieces else widths
        self._row_buckets = () if turns.group_rows(model.config) else sizes
        self._prefixes = prefix_cache.PrefixCache(append, mesh, rollout, model)
        self._num_prefilled = 0  # tokens, in turns
        turn = functools.partial(
            turns.take_turn,
            model,
            append,
            rollout=rollout,
            stop_tokens=tuple(stop_tokens),
            num_valid_tokens=num_valid_tokens,
        )
        self._jit_calls(mesh, turn)

    def _jit_calls(self, mesh: Mesh, turn: Callable[..., Any]) -> None:
        """Jits what a rollout calls, with a fixed sharding for every cohort's cache."""
        shape = self._model.config
        specs = kv_cache.specs(
            shape,
            batch_axes=sharding.BATCH_AXES,
            heads_axis=sharding.heads_axis(mesh, shape.num_kv_heads),
        )
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        batch, replicated = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
        rows = kv_cache.specs(shape, batch_axes=sharding.BATCH_AXES)
        self.turn = jax.jit(
            sharding.shard_map_rows(
                turn,
                mesh,
                in_specs=(replicated, rows, replicated, batch),
                out_specs=(batch, rows),
            ),
            donate_argnums=1,
            out_shardings=(self._batch_sharding, shardings),
        )
        self._take_rows = jax.jit(kv_cache.take_rows, out_shardings=shardings)
        self._grow = jax.jit(kv_cache.grow, static_argnums=1, out_shardings=shardings)
        self.empty = jax.jit(
            lambda length: kv_cache.empty(shape, self.slots_per_cohort, length),
            static_argnums=0,
            out_shardings=shardings,
        )

    @property
    def num_turns(self) -> int:
        """Shapes of a turn, a compiled program each."""
        shapes = (self._chunk_buckets, self.rollout.cache_buckets)
        return math.prod(map(len, shapes)) * (1 + len(self._row_buckets))

    def new_cohort(self) -> Cohort:
        """Returns a cohort of empty slots, its cache of the smallest length bucket."""
        return Cohort(
            self.empty(self.rollout.cache_buckets[0]),
            lengths=np.zeros(self.slots_per_cohort, np.int32),
            slots=np.arange(self.slots_per_cohort),
        )

    def invalidate_prefix_cache(self) -> None:
        """Drops cached prefixes: after a weight update they are stale."""
        self._prefixes.invalidate()

    @property
    def num_prefilled(self) -> int:
        """Tokens prefilled so far: a shared prefix counts once, padding does not."""
        return self._num_prefilled + self._prefixes.num_prefilled

    def compact(self, cohort: Cohort, live: Collection[int]) -> None:
        """Drops cache rows of finished slots, as far as the batch size buckets allow."""
        for bucket in self._row_buckets[::-1]:  # one at a time: fewer shapes
            if len(live) <= bucket < len(cohort.slots):
                order = np.argsort(~np.isin(cohort.slots, list(live)), kind="stable")
                kept = order[:bucket]
                cohort.cache = self._take_rows(cohort.cache, kept)
                cohort.slots = cohort.slots[kept]

    def dispatch(
        self,
        params: types.PyTree,
        cohort: Cohort,
        inputs: dict[int, SlotInput],
        key: jax.Array,
    ) -> turns.InFlightDecode:
        """Starts one turn of the slots in `inputs`; other slots stay as they are.

        Set `cohort.lengths[slot] = 0` before a slot's first turn of a new episode. Returns
        at once; the caller may use the host until it calls `fetch`.
        """
        cached = self._copy_shared_prefixes(params, cohort, inputs)
        tokens = {
            slot: list(entry.tokens[cached.get(slot, 0) :])
            for slot, entry in inputs.items()
        }
        largest_chunk = self.rollout.append_buckets[-1]
        # Chunked prefill, without sampling: of long observations, and of whole contexts.
        while max(map(len, tokens.values())) > largest_chunk:
            chunks = {
                slot: ids[:largest_chunk]
                for slot, ids in tokens.items()
                if len(ids) > largest_chunk
            }
            self._run_turn(params, cohort, chunks, {}, {}, key)
            tokens = {
                slot: ids[largest_chunk:] if slot in chunks else ids
                for slot, ids in tokens.items()
            }
        budgets = {slot: entry.budget for slot, entry in inputs.items()}
        streams = {slot: entry.stream for slot, entry in inputs.items()}
        return self._run_turn(params, cohort, tokens, budgets, streams, key)

    def fetch(
        self, cohort: Cohort, in_flight: turns.InFlightDecode
    ) -> dict[int, SlotOutput]:
        """Waits for a decode call and returns the actions of the slots that took part."""
        tokens, logprobs, counts = jax.device_get(
            (in_flight.tokens, in_flight.logprobs, in_flight.counts)
        )
        outputs = {}
        for row in np.flatnonzero(counts):
            slot, count = int(cohort.slots[row]), counts[row]
            outputs[slot] = SlotOutput(tokens[row, :count], logprobs[row, :count])
            cohort.lengths[slot] += count - 1  # the last token is not in the cache yet
        return outputs

    def decode_bytes(self, params: types.PyTree) -> tuple[int, int]:
        """Returns the bytes that a decode step reads: of weights, and per cached token."""
        # With an untied head, a step reads only a row of the embedding per slot.
        read = {
            name: leaf
            for name, leaf in params.items()
            if name != "embedding" or "head" not in params
        }
        weight_bytes = sum(
            shard.data.nbytes
            for leaf in jax.tree.leaves(read)
            for shard in leaf.addressable_shards
        )
        return weight_bytes, kv_cache.bytes_per_token(self._model.config)

    def compile(
        self,
        params: types.PyTree,
        key: jax.Array,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """Compiles all shapes of a turn, so that none is later; reports after each."""
        length_buckets = self.rollout.cache_buckets
        for chunk in self.rollout.append_buckets:
            prefix = self._prefixes.prefill(params, [0] * chunk)
        for length, longer in itertools.zip_longest(length_buckets, length_buckets[1:]):
            cohort = self.new_cohort()
            self._ensure_cache_length(cohort, length)
            for size in (self.slots_per_cohort, *self._row_buckets[::-1]):
                self.compact(cohort, range(size))
                no_targets = self._shard_rows(np.zeros(size, bool))
                cohort.cache = self._prefixes.copy(cohort.cache, prefix, no_targets)
                if longer:
                    self._grow(cohort.cache, longer)
                for chunk in self._chunk_buckets:
                    ids = [0] * min(chunk, length)
                    self._run_turn(params, cohort, {0: ids}, {}, {}, key)
                    cohort.lengths[:] = 0
                    report()

    def _copy_shared_prefixes(
        self, params: types.PyTree, cohort: Cohort, inputs: dict[int, SlotInput]
    ) -> dict[int, int]:
        """Copies shared prefixes into fresh slots; returns tokens cached in each slot."""
        slots_by_prefix: dict[tuple[int, ...], list[int]] = {}
        for slot, entry in inputs.items():
            if entry.shared_prefix_lengths:
                tokens = tuple(entry.tokens[: entry.shared_prefix_lengths[-1]])
                slots_by_prefix.setdefault(tokens, []).append(slot)
        cached = {}
        for tokens, slots in slots_by_prefix.items():
            lengths = inputs[slots[0]].shared_prefix_lengths
            prefix = self._prefixes.lookup(params, tokens, lengths)
            self._ensure_cache_length(cohort, len(tokens))
            targets = self._shard_rows(np.isin(cohort.slots, slots))
            cohort.cache = self._prefixes.copy(cohort.cache, prefix, targets)
            cohort.lengths[slots] = len(tokens)
            cached |= dict.fromkeys(slots, len(tokens))
        return cached

    def _shard_rows(self, arrays: types.PyTree) -> types.PyTree:
        """Copies arrays with an entry per cache row to the devices that hold the rows."""
        return jax.device_put(arrays, self._batch_sharding)

    def _run_turn(
        self,
        params: types.PyTree,
        cohort: Cohort,
        tokens: dict[int, list[int]],
        budgets: dict[int, int],
        streams: dict[int, tuple[int, int]],
        key: jax.Array,
    ) -> turns.InFlightDecode:
        """Pads the slots' inputs to buckets and calls the compiled turn."""
        num_slots = len(cohort.lengths)
        self._num_prefilled += sum(map(len, tokens.values()))
        longest = max(map(len, tokens.values()))
        chunk = buckets.round_up(longest, self._chunk_buckets)
        inputs = turns.BatchInputs(
            tokens=np.zeros((num_slots, chunk), np.int32),
            counts=np.zeros(num_slots, np.int32),
            lengths=cohort.lengths.copy(),
            budgets=np.zeros(num_slots, np.int32),
            streams=np.zeros((num_slots, 2), np.int32),
        )
        for slot, ids in tokens.items():
            inputs.tokens[slot, : len(ids)] = ids
            inputs.counts[slot] = len(ids)
            inputs.budgets[slot] = budgets.get(slot, 0)
            inputs.streams[slot] = streams.get(slot, (0, 0))
        cohort.lengths += inputs.counts
        # Finished rows still compute a position past their end; nothing is written there.
        self._ensure_cache_length(cohort, int((cohort.lengths + inputs.budgets).max()))
        inputs = jax.tree.map(lambda field: field[cohort.slots], inputs)
        in_flight, cohort.cache = self.turn(
            params, cohort.cache, key, self._shard_rows(inputs)
        )
        return in_flight

    def _ensure_cache_length(self, cohort: Cohort, needed: int) -> None:
        """Grows the cohort's cache to the bucket that holds `needed` tokens per slot."""
        length = buckets.round_up(needed, self.rollout.cache_buckets)
        for bucket in self.rollout.cache_buckets:  # one step at a time: fewer shapes
            if cohort.cache.max_length < bucket <= length:
                cohort.cache = self._grow(cohort.cache, bucket)


def _make_append(model: transformer.Model, mesh: Mesh) -> transformer.AppendFn:
    """Returns the model's `append`, constrained if the model is sharded over `model`.

    The compiler leaves no kernel within its reach, not even on an axis of one device.
    """
    heads = sharding.heads_axis(mesh, model.config.num_kv_heads)
    cache_spec = kv_cache.layer_spec(model.config, heads)
    append = functools.partial(
        model.append,
        split_heads=lambda attend: sharding.split_heads(attend, heads, cache_spec),
    )
    if mesh.shape["model"] > 1:
        return functools.partial(append, constrain=sharding.replicate_over_model)
    return append if choices.attention(model.config) == "pallas" else model.append
