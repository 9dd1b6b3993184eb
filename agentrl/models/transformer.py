"""A decoder-only transformer of the Qwen2 / Llama kind, and its pure functions.

One block serves the learner, which sees packed rows, and the sampler, which appends to a
cache: they differ only in the attention function they pass in, so their log-probabilities
agree by construction.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agentrl import types
from agentrl.models import attention, induction, kv_cache, lora, rotary
from agentrl.models import config as model_config

# (layer, queries, keys, values) -> attended, all float[rows, columns, heads, D]
AttendFn = Callable[[int, jax.Array, jax.Array, jax.Array], jax.Array]
# Returns float[rows, columns, M] as given, with a constraint on where its parts lie
PlaceFn = Callable[[jax.Array], jax.Array]
# (queries, new keys, new values, cached keys, cached values, columns to write, positions)
# -> (attended, cached keys, cached values), of one layer
AttendCacheFn = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


def _dense(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """A kernel drawn with std 1 / sqrt(fan_in).

    Small models never learn to copy from the context with the usual constant 0.02.
    """
    return nnx.Param(jax.random.normal(rngs.params(), shape) * fan_in**-0.5)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation over the last axis, in float32."""

    def __init__(self, size: int, config: model_config.ModelConfig):
        self.scale = nnx.Param(jnp.ones(size))
        self.epsilon = config.norm_epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises float[..., size]."""
        x32 = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        normed = x32 * jax.lax.rsqrt(variance + self.epsilon)
        return normed.astype(x.dtype) * _align(self.scale[...], x)


class Attention(nnx.Module):
    """Projections around an attention function given by the caller."""

    def __init__(self, config: model_config.ModelConfig, rngs: nnx.Rngs):
        size, dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_heads, config.num_kv_heads
        self.query = _dense(rngs, (size, heads, dim), size)
        self.key = _dense(rngs, (size, kv_heads, dim), size)
        self.value = _dense(rngs, (size, kv_heads, dim), size)
        self.out = _dense(rngs, (heads, dim, size), heads * dim)
        if config.qkv_bias:
            self.query_bias = nnx.Param(jnp.zeros((heads, dim)))
            self.key_bias = nnx.Param(jnp.zeros((kv_heads, dim)))
            self.value_bias = nnx.Param(jnp.zeros((kv_heads, dim)))
        if config.qk_norm:
            self.query_norm = RMSNorm(dim, config)
            self.key_norm = RMSNorm(dim, config)
        self.config = config

    def __call__(
        self, x: jax.Array, positions: jax.Array, attend: Callable[..., jax.Array]
    ) -> jax.Array:
        """Mixes columns of float[rows, columns, M] with `attend`."""
        queries = lora.project(x, self.query.get_value())
        keys = lora.project(x, self.key.get_value())
        values = lora.project(x, self.value.get_value())
        if self.config.qkv_bias:
            queries = queries + _align(self.query_bias[...], queries)
            keys = keys + _align(self.key_bias[...], keys)
            values = values + _align(self.value_bias[...], values)
        if self.config.qk_norm:
            queries, keys = self.query_norm(queries), self.key_norm(keys)
        queries = rotary.rotate(queries, positions, self.config)
        keys = rotary.rotate(keys, positions, self.config)
        attended = attend(queries, keys, values)
        return lora.project(attended, self.out.get_value(), 2)


class MLP(nnx.Module):
    """Gated feed-forward layer with SiLU."""

    def __init__(self, config: model_config.ModelConfig, rngs: nnx.Rngs):
        size, wide = config.hidden_size, config.mlp_size
        self.gate = _dense(rngs, (size, wide), size)
        self.up = _dense(rngs, (size, wide), size)
        self.down = _dense(rngs, (wide, size), wide)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float[..., M] to float[..., M]."""
        gate = jax.nn.silu(lora.project(x, self.gate.get_value()))
        wide = gate * lora.project(x, self.up.get_value())
        return lora.project(wide, self.down.get_value())


class Block(nnx.Module):
    """Pre-norm attention and MLP with residual connections."""

    def __init__(self, config: model_config.ModelConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, config)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config)
        self.mlp = MLP(config, rngs)

    def __call__(
        self, x: jax.Array, positions: jax.Array, attend: Callable[..., jax.Array]
    ) -> jax.Array:
        """One layer on float[rows, columns, M]."""
        x = x + self.attention(self.attention_norm(x), positions, attend)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nnx.Module):
    """Embedding, blocks, final norm and, unless tied, an output head."""

    def __init__(self, config: model_config.ModelConfig, rngs: nnx.Rngs):
        shape = (config.vocab_size, config.hidden_size)
        self.embedding = _dense(rngs, shape, config.hidden_size)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.num_layers)])
        self.norm = RMSNorm(config.hidden_size, config)
        if not config.tied_embeddings:
            self.head = _dense(rngs, shape[::-1], config.hidden_size)
        if config.critic:
            self.critic = nnx.Param(jnp.zeros(config.hidden_size))
        self.config = config

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        attend: AttendFn,
        place: PlaceFn,
        remat: bool,
    ) -> jax.Array:
        """Final hidden states float[rows, columns, M] of int32[rows, columns] tokens."""
        x = place(self.embedding[...][tokens].astype(self.config.dtypes.compute))
        for layer, block in enumerate(self.blocks):
            apply = functools.partial(block, attend=functools.partial(attend, layer))
            x = jax.checkpoint(apply)(x, positions) if remat else apply(x, positions)
            x = place(x)
        return self.norm(x)

    def unembedding(self) -> jax.Array:
        """Output matrix float[M, V]."""
        tied = self.config.tied_embeddings
        matrix = self.embedding[...].T if tied else self.head[...]
        return matrix.astype(self.config.dtypes.head)


@dataclasses.dataclass(frozen=True)
class Model:
    """The transformer as pure functions of a plain parameter tree."""

    config: model_config.ModelConfig

    def init(self, key: jax.Array) -> types.PyTree:
        """Random parameters, nested dicts of arrays."""
        model = Transformer(self.config, nnx.Rngs(params=key))
        params = nnx.to_pure_dict(nnx.split(model)[1])
        if self.config.init == "induction":
            params = induction.place_induction_heads(params, self.config, key)
        return optax.tree.cast(params, self.config.dtypes.params)

    def hidden(
        self,
        params: types.PyTree,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        remat: bool = False,
        place: PlaceFn = lambda x: x,
    ) -> jax.Array:
        """Hidden states of packed rows; every array int32[R, T], result float[R, T, M]."""

        def attend(
            layer: int, queries: jax.Array, keys: jax.Array, values: jax.Array
        ) -> jax.Array:
            del layer
            return attention.attend_segments(
                queries, keys, values, segment_ids, attention.choose(self.config)
            )

        return self._bind(params).hidden(tokens, positions, attend, place, remat)

    def append(
        self,
        params: types.PyTree,
        tokens: jax.Array,
        counts: jax.Array,
        cache: kv_cache.KVCache,
        *,
        place: PlaceFn = lambda x: x,
        split_heads: Callable[[AttendCacheFn], AttendCacheFn] = lambda attend: attend,
    ) -> tuple[jax.Array, kv_cache.KVCache]:
        """Appends up to C tokens to every row of the cache.

        Args:
          params: parameters.
          tokens: int32[B, C], right-padded.
          counts: int32[B], valid tokens of each row; 0 leaves the row as it is.
          cache: with room for `lengths + counts` columns.
          place: constrains where hidden states lie.
          split_heads: makes attention run on each device's own heads.

        Returns:
          Hidden state float[B, M] of each row's last valid token (of column 0 where the
          count is 0), and the cache.
        """
        columns = jnp.arange(tokens.shape[1])
        positions = cache.lengths[:, None] + columns[None]
        unwritten = cache.num_columns  # out of range, hence dropped
        targets = jnp.where(columns[None] < counts[:, None], positions, unwritten)
        keys, values = list(cache.keys), list(cache.values)
        attend_layer = split_heads(
            functools.partial(
                _attend_cache,
                transposed=cache.transposed,
                implementation=attention.choose(self.config),
            )
        )

        def attend(layer: int, *projected: jax.Array) -> jax.Array:
            attended, keys[layer], values[layer] = attend_layer(
                *projected, keys[layer], values[layer], targets, positions
            )
            return attended

        hidden = self._bind(params).hidden(
            tokens, positions, attend, place=place, remat=False
        )
        last = jnp.maximum(counts - 1, 0)[:, None, None]
        last_hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
        lengths = cache.lengths + counts
        return last_hidden, dataclasses.replace(
            cache, keys=tuple(keys), values=tuple(values), lengths=lengths
        )

    def unembedding(self, params: types.PyTree) -> jax.Array:
        """Output matrix float[M, V]."""
        return self._bind(params).unembedding()

    def values(self, params: types.PyTree, hidden: jax.Array) -> jax.Array:
        """The critic's float32[R, T] of hidden states float[R, T, M], in units of return.

        Column t is the value after token t. It starts at 0 everywhere.
        """
        critic = self._bind(params).critic[...]
        return jnp.einsum("rtm,m->rt", hidden, critic, preferred_element_type="float32")

    @functools.cached_property
    def _structure(self) -> tuple[nnx.GraphDef, nnx.State]:
        abstract = nnx.eval_shape(lambda: Transformer(self.config, nnx.Rngs(params=0)))
        return nnx.split(abstract)

    def _bind(self, params: types.PyTree) -> Transformer:
        graph, abstract = self._structure
        state = jax.tree.map(lambda leaf: leaf, abstract)  # a copy: replaced in place
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)


def _attend_cache(
    queries: jax.Array,
    new_keys: jax.Array,
    new_values: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    targets: jax.Array,
    positions: jax.Array,
    *,
    transposed: bool,
    implementation: attention.Implementation,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Writes columns of one layer into the cache, then attends to it."""
    keys, values = kv_cache.write(
        keys, values, new_keys, new_values, targets, transposed
    )
    attended = attention.attend_cache(queries, keys, values, positions, implementation)
    return attended, keys, values


def _align(param: jax.Array, x: jax.Array) -> jax.Array:
    """Casts a vector to the compute dtype and gives it leading axes up to those of `x`."""
    return jnp.expand_dims(param.astype(x.dtype), range(x.ndim - param.ndim))
