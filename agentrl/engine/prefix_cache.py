"""Prefix caching: KV caches of token prefixes that several episodes share.

All episodes of an environment begin with the same instructions, and all episodes of a
group with the same prompt. Such a prefix is prefilled once, into a cache of one row, and
copied into the cache rows of the episodes that begin with it.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentrl import config, types
from agentrl.engine import buckets
from agentrl.models import kv_cache, transformer
from agentrl.parallel import sharding

MAX_PREFIXES = 8  # groups start in order, so few prefixes are in use at a time


class PrefixCache:
    """Prefilled prefixes by their tokens; evicts the least recently used."""

    def __init__(
        self,
        append: transformer.AppendFn,
        mesh: Mesh,
        rollout: config.RolloutConfig,
        model: transformer.Model,
    ):
        """Jits prefill and copy.

        Args:
          append: the model's `append`, with its constraints on sharding.
          mesh: this process's devices, from `sharding.make_rollout_mesh`.
          rollout: buckets of prefill chunks and of cache lengths.
          model: the transformer, whose config gives the cache its shape.
        """
        shape = model.config
        heads = sharding.heads_axis(mesh, shape.num_kv_heads)
        cohort_specs = kv_cache.specs(
            shape, batch_axes=sharding.BATCH_AXES, heads_axis=heads
        )
        prefix_specs = kv_cache.specs(shape, heads_axis=heads)
        cohort_shardings, prefix_shardings = (
            jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
            for specs in (cohort_specs, prefix_specs)
        )
        batch, replicated = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
        self._chunk_buckets = rollout.append_buckets
        self.num_prefilled = 0  # tokens, since it was made
        self._prefixes: dict[tuple[int, ...], kv_cache.KVCache] = {}  # last used last
        # Every batch shard prefills the prefixes for itself.
        self._prefill_chunk = jax.jit(
            sharding.shard_map_rows(
                functools.partial(_prefill_chunk, append),
                mesh,
                in_specs=replicated,
                out_specs=replicated,
            ),
            out_shardings=prefix_shardings,
        )
        self._copy = jax.jit(
            sharding.shard_map_rows(
                kv_cache.copy_row,
                mesh,
                in_specs=(cohort_specs, prefix_specs, batch),
                out_specs=cohort_specs,
                manual_model=True,
            ),
            donate_argnums=0,
            out_shardings=cohort_shardings,
        )
        self._make_empty = jax.jit(
            lambda: kv_cache.empty(shape, 1, rollout.cache_buckets[-1]),
            out_shardings=prefix_shardings,
        )

    @functools.cached_property
    def _empty(self) -> kv_cache.KVCache:
        return self._make_empty()

    def invalidate(self) -> None:
        """Drops all prefixes: after a weight update they are stale."""
        self._prefixes.clear()

    def lookup(
        self, params: types.PyTree, tokens: tuple[int, ...], lengths: Sequence[int]
    ) -> kv_cache.KVCache:
        """Returns the KV cache of a prefix; prefills the part that is not cached yet.

        Args:
          params: parameters in the rollout's layout.
          tokens: the prefix.
          lengths: lengths in ascending order of the shorter prefixes of `tokens` to keep
            for other episodes; the last one is the length of `tokens`.

        Returns:
          A cache of one row.
        """
        prefix, start = self._empty, 0
        for end in lengths:
            cached = self._prefixes.pop(tokens[:end], None)
            if cached is None:
                cached = self.prefill(params, tokens[start:end], prefix, start=start)
            prefix = cached
            self._prefixes[tokens[:end]] = prefix
            start = end
        while len(self._prefixes) > MAX_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        return prefix

    def prefill(
        self,
        params: types.PyTree,
        tokens: Sequence[int],
        prefix: kv_cache.KVCache | None = None,
        *,
        start: int = 0,
    ) -> kv_cache.KVCache:
        """Prefills tokens behind a prefix, in chunks, and returns the longer prefix.

        Args:
          params: parameters in the rollout's layout.
          tokens: what follows the prefix.
          prefix: a cache of one row; None for an empty one.
          start: length of `prefix` in tokens.
        """
        self.num_prefilled += len(tokens)
        longer: kv_cache.KVCache = self._empty if prefix is None else prefix
        largest_chunk = self._chunk_buckets[-1]
        for first in range(0, len(tokens), largest_chunk):
            chunk = tokens[first : first + largest_chunk]
            padded = np.zeros(
                (1, buckets.round_up(len(chunk), self._chunk_buckets)), np.int32
            )
            padded[0, : len(chunk)] = chunk
            longer = self._prefill_chunk(
                params,
                longer,
                padded,
                np.array([len(chunk)], np.int32),
                np.array([start + first], np.int32),
            )
        return longer

    def copy(
        self, cache: kv_cache.KVCache, prefix: kv_cache.KVCache, targets: jax.Array
    ) -> kv_cache.KVCache:
        """Copies a prefix into rows of a cohort's cache, whose buffers are donated.

        Args:
          cache: the cohort's cache, B rows; its allocation holds the prefix.
          prefix: a cache of one row.
          targets: bool[B], True for the rows to write.
        """
        return self._copy(cache, prefix, targets)


def _prefill_chunk(
    append: transformer.AppendFn,
    params: types.PyTree,
    cache: kv_cache.KVCache,
    tokens: jax.Array,
    counts: jax.Array,
    lengths: jax.Array,
) -> kv_cache.KVCache:
    """Appends a chunk of tokens to a cache of `lengths` int32[B] cached tokens."""
    cache = dataclasses.replace(cache, lengths=lengths)
    return append(params, tokens, counts, cache)[1]
