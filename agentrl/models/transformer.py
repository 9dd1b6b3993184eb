"""A decoder-only transformer of the Qwen2 / Llama kind, and its pure functions.

One block serves the learner, which sees packed rows, and the sampler, which reads and
writes a key-value cache: they differ only in the attention function that they pass in, so
their log-probabilities agree by construction.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agentrl import types
from agentrl.models import (
    attention,
    choices,
    kv_cache,
    layers,
    lora,
    model_config,
    rotary,
)

# (layer, memory, queries, keys, values) -> (attended, memory); arrays are float[batch,
# tokens, heads, Dh], `memory` is what passes from layer to layer: a cache, or nothing.
# `layer` is a number where blocks are unrolled, and traced where they are scanned.
AttendFn = Callable[..., tuple[jax.Array, types.PyTree]]
# (queries, keys, values, segment ids) -> attended
AttendSegmentsFn = Callable[..., jax.Array]
# (embedding float[V, D], tokens int32[batch, tokens]) -> float[batch, tokens, D]
LookUpFn = Callable[[jax.Array, jax.Array], jax.Array]
# (parameters of a block) -> the same, gathered from the devices that share them
GatherFn = Callable[[types.PyTree], types.PyTree]
# Constrains the sharding of hidden states float[batch, tokens, D]
ConstrainFn = Callable[[jax.Array], jax.Array]
# As `attention.append_and_attend`, with its keyword arguments bound
AttendCacheFn = Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
# Signature of `Model.append`, with its keyword arguments bound
AppendFn = Callable[..., tuple[jax.Array, kv_cache.KVCache]]


def _dense(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """Draws a kernel with standard deviation 1 / sqrt(fan_in).

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
        self,
        x: jax.Array,
        positions: jax.Array,
        memory: types.PyTree,
        attend: AttendFn,
    ) -> tuple[jax.Array, types.PyTree]:
        """Mixes the tokens of float[batch, tokens, D] with `attend`."""
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
        attended, memory = attend(memory, queries, keys, values)
        return lora.project(attended, self.out.get_value(), 2), memory


class MLP(nnx.Module):
    """Gated feed-forward layer with SiLU."""

    def __init__(self, config: model_config.ModelConfig, rngs: nnx.Rngs):
        size, mlp_size = config.hidden_size, config.mlp_size
        self.gate = _dense(rngs, (size, mlp_size), size)
        self.up = _dense(rngs, (size, mlp_size), size)
        self.down = _dense(rngs, (mlp_size, size), mlp_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps float[..., D] to float[..., D]."""
        gate = jax.nn.silu(lora.project(x, self.gate.get_value()))
        gated = gate * lora.project(x, self.up.get_value())
        return lora.project(gated, self.down.get_value())


class Block(nnx.Module):
    """Pre-norm attention and MLP with residual connections."""

    def __init__(self, config: model_config.ModelConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, config)
        self.attention = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config)
        self.mlp = MLP(config, rngs)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        memory: types.PyTree,
        attend: AttendFn,
    ) -> tuple[jax.Array, types.PyTree]:
        """Applies the layer to float[batch, tokens, D]; passes the memory on."""
        mixed, memory = self.attention(
            self.attention_norm(x), positions, memory, attend
        )
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), memory


class Transformer(nnx.Module):
    """Embedding, blocks, final norm and, unless tied, an output head.

    If blocks are scanned there is one, whose parameters are stacked arrays; see `layers`.
    """

    def __init__(
        self,
        config: model_config.ModelConfig,
        rngs: nnx.Rngs,
        *,
        scanned: bool = False,
    ):
        shape = (config.vocab_size, config.hidden_size)
        self.embedding = _dense(rngs, shape, config.hidden_size)
        self.blocks = (
            Block(config, rngs)
            if scanned
            else nnx.List([Block(config, rngs) for _ in range(config.num_layers)])
        )
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
        memory: types.PyTree,
        *,
        constrain: ConstrainFn,
        remat: bool,
        look_up: LookUpFn = operator.getitem,
        gather: GatherFn = lambda params: params,
    ) -> tuple[jax.Array, types.PyTree]:
        """Returns final hidden states float[batch, tokens, D] of int32[batch, tokens].

        The second result is what became of `memory` in the layers.
        """
        embedded = look_up(self.embedding[...], tokens)
        x = constrain(embedded.astype(self.config.dtypes.compute))
        rest = (x, positions, attend, memory, constrain, remat)
        if isinstance(self.blocks, Block):
            x, memory = _scan(self.blocks, *rest, gather)
        else:
            x, memory = _unroll(self.blocks, *rest)
        return self.norm(x), memory

    def unembedding(self) -> jax.Array:
        """Returns the output matrix float[D, V]."""
        tied = self.config.tied_embeddings
        matrix = self.embedding[...].T if tied else self.head[...]
        return matrix.astype(self.config.dtypes.head)


@dataclasses.dataclass(frozen=True)
class Model:
    """The transformer as pure functions of a plain parameter tree."""

    config: model_config.ModelConfig

    @property
    def scanned(self) -> bool:
        """Whether blocks are scanned, and their parameters stacked; see `layers`."""
        return choices.scans(self.config)

    def init(self, key: jax.Array) -> types.PyTree:
        """Draws random parameters, nested dicts of arrays; the same in either form."""
        model = Transformer(self.config, nnx.Rngs(params=key))
        params = nnx.to_pure_dict(nnx.split(model)[1])
        params = optax.tree.cast(params, self.config.dtypes.params)
        return layers.stack(params) if self.scanned else params

    def hidden(
        self,
        params: types.PyTree,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        *,
        remat: bool = False,
        constrain: ConstrainFn = lambda x: x,
        look_up: LookUpFn = operator.getitem,
        gather: GatherFn = lambda params: params,
        split_rows: Callable[[AttendSegmentsFn], AttendSegmentsFn] = lambda f: f,
    ) -> jax.Array:
        """Computes the hidden states of packed rows.

        Args:
          params: parameters.
          tokens: int32[R, T].
          positions: int32[R, T], within each segment.
          segment_ids: int32[R, T]; tokens attend within their segment.
          remat: recomputes activations in the backward pass, block by block.
          constrain: constrains the sharding of hidden states.
          look_up: reads the embeddings of tokens.
          gather: gathers the parameters of a scanned block, forward and backward.
          split_rows: makes a kernel run on each device's own rows and heads; the compiler
            cannot partition one.

        Returns:
          float[R, T, D], after the final norm.
        """
        implementation = choices.attention(self.config)
        attend_segments = functools.partial(
            attention.attend_segments, implementation=implementation
        )
        if implementation == "pallas":
            attend_segments = split_rows(attend_segments)

        def attend(
            layer: int,
            memory: types.PyTree,
            queries: jax.Array,
            keys: jax.Array,
            values: jax.Array,
        ) -> tuple[jax.Array, types.PyTree]:
            del layer
            return attend_segments(queries, keys, values, segment_ids), memory

        return self._bind(params).hidden(
            tokens,
            positions,
            attend,
            (),
            constrain=constrain,
            remat=remat,
            look_up=look_up,
            gather=gather,
        )[0]

    def append(
        self,
        params: types.PyTree,
        tokens: jax.Array,
        counts: jax.Array,
        cache: kv_cache.KVCache,
        *,
        constrain: ConstrainFn = lambda x: x,
        split_heads: Callable[[AttendCacheFn], AttendCacheFn] = lambda attend: attend,
    ) -> tuple[jax.Array, kv_cache.KVCache]:
        """Appends up to C tokens to every row of the cache: prefill, or decode if C = 1.

        Args:
          params: parameters.
          tokens: int32[B, C], right-padded.
          counts: int32[B], valid tokens of each row; 0 leaves the row as it is.
          cache: at least `lengths + counts` long.
          constrain: constrains the sharding of hidden states.
          split_heads: makes attention run on each device's own heads.

        Returns:
          Hidden state float[B, D] of each row's last valid token (of the first one where
          the count is 0), and the cache.
        """
        positions = cache.lengths[:, None] + jnp.arange(tokens.shape[1])[None]
        attend_layer = split_heads(
            functools.partial(
                attention.append_and_attend,
                layout=cache.layout,
                implementation=choices.attention(self.config),
            )
        )

        hidden, (keys, values) = self._bind(params).hidden(
            tokens,
            positions,
            _attend_in(cache, counts, attend_layer),
            (cache.keys, cache.values),
            constrain=constrain,
            remat=False,
        )
        last = jnp.maximum(counts - 1, 0)[:, None, None]
        last_hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
        lengths = cache.lengths + counts
        return last_hidden, dataclasses.replace(
            cache, keys=keys, values=values, lengths=lengths
        )

    def unembedding(self, params: types.PyTree) -> jax.Array:
        """Returns the output matrix float[D, V]."""
        return self._bind(params).unembedding()

    def values(self, params: types.PyTree, hidden: jax.Array) -> jax.Array:
        """Returns the critic's values float32[R, T] of hidden states float[R, T, D].

        Entry t is the value after token t, in units of return. A new critic returns 0.
        """
        critic = self._bind(params).critic[...]
        return jnp.einsum("rtm,m->rt", hidden, critic, preferred_element_type="float32")

    @functools.cached_property
    def _structure(self) -> tuple[nnx.GraphDef, nnx.State]:
        make = functools.partial(Transformer, self.config, scanned=self.scanned)
        abstract = nnx.eval_shape(lambda: make(nnx.Rngs(params=0)))
        return nnx.split(abstract)

    def _bind(self, params: types.PyTree) -> Transformer:
        graph, abstract = self._structure
        state = jax.tree.map(lambda leaf: leaf, abstract)  # a copy: replaced in place
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)


def _attend_in(
    cache: kv_cache.KVCache, counts: jax.Array, attend_layer: AttendCacheFn
) -> AttendFn:
    """Returns attention over a cache, whose keys and values pass through the layers."""

    def attend_stacked(
        layer: jax.Array, memory: types.PyTree, *projected: jax.Array
    ) -> tuple[jax.Array, types.PyTree]:
        attended, *memory = attend_layer(
            *projected, *memory, cache.lengths, counts, layer
        )
        return attended, tuple(memory)

    def attend_one(
        layer: int, memory: types.PyTree, *projected: jax.Array
    ) -> tuple[jax.Array, types.PyTree]:
        keys, values = map(list, memory)
        attended, keys[layer], values[layer] = attend_layer(
            *projected, keys[layer], values[layer], cache.lengths, counts, None
        )
        return attended, (tuple(keys), tuple(values))

    return attend_stacked if cache.stacked else attend_one


def _unroll(
    blocks: Iterable[Block],
    x: jax.Array,
    positions: jax.Array,
    attend: AttendFn,
    memory: types.PyTree,
    constrain: ConstrainFn,
    remat: bool,
) -> tuple[jax.Array, types.PyTree]:
    """Applies one block after the other."""
    for layer, block in enumerate(blocks):
        apply = functools.partial(block, attend=functools.partial(attend, layer))
        apply = jax.checkpoint(apply) if remat else apply
        x, memory = apply(x, positions, memory)
        x = constrain(x)
    return x, memory


def _scan(
    stacked: Block,
    x: jax.Array,
    positions: jax.Array,
    attend: AttendFn,
    memory: types.PyTree,
    constrain: ConstrainFn,
    remat: bool,
    gather: GatherFn,
) -> tuple[jax.Array, types.PyTree]:
    """Applies a block to each layer of its stacked parameters, compiled once."""
    graph, params = nnx.split(stacked)

    def apply(
        carry: tuple[jax.Array, types.PyTree], one: tuple[jax.Array, nnx.State]
    ) -> tuple[tuple[jax.Array, types.PyTree], None]:
        (x, memory), (layer, layer_params) = carry, one
        gathered = gather(nnx.to_pure_dict(layer_params))
        nnx.replace_by_pure_dict(layer_params, gathered)
        block = nnx.merge(graph, layer_params)
        attend_layer = functools.partial(attend, layer)
        x, memory = block(x, positions, memory, attend_layer)
        return (constrain(x), memory), None

    # In a scan nothing is merged across layers that had to be prevented.
    apply = jax.checkpoint(apply, prevent_cse=False) if remat else apply
    num_layers = jax.tree.leaves(params)[0].shape[0]
    numbers = jnp.arange(num_layers)
    return jax.lax.scan(apply, (x, memory), (numbers, params))[0]


def _align(param: jax.Array, x: jax.Array) -> jax.Array:
    """Casts a vector to the compute dtype and gives it leading axes up to those of `x`."""
    return jnp.expand_dims(param.astype(x.dtype), range(x.ndim - param.ndim))
