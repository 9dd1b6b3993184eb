"""Memory of a run, by arithmetic: nothing is allocated, no device is needed.

Parameters, adapters, moments and the KV cache are counted exactly: their shapes come from
the functions that make them and are divided by their sharding rules. Activations are
formulas for what XLA keeps between a block's forward and backward pass.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import optax
from jax.sharding import AbstractMesh

from agentrl import config, types
from agentrl.engine import prefix_cache, turns
from agentrl.learner import optimizer
from agentrl.models import lora, model_config, transformer
from agentrl.parallel import sharding

Bytes = Mapping[str, int]  # component -> bytes on the fullest device
# What `engine.prefix_cache` keeps from one rollout to the next, its empty one included.
PREFIXES = prefix_cache.MAX_PREFIXES + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """Sizes of a run that decide on its memory."""

    model: model_config.ModelConfig  # its precision counts
    mesh: config.MeshConfig  # all three axes positive
    lora: model_config.LoraConfig | None = None
    trainable: tuple[str, ...] | None = None
    rows_per_device: int = 1  # of one microbatch
    row_tokens: int = 8192
    logprob_chunk: int = 2048  # tokens, over all devices
    remat: bool = True
    slots_per_device: int = 16
    context: int = 8192  # cache length
    append: int = 256  # prefill chunk
    references: int = 0  # further copies of what is trained: of a KL term, of teachers
    prefixes: int = PREFIXES  # cached prefixes, a cache row each; 0 plays nothing
    overlap: bool = False  # episodes are played during updates


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes on the fullest device."""

    state: Bytes  # allocated all the time
    update: Bytes  # during a learner step
    rollout: Bytes  # during rollouts
    overlap: bool = False  # whether both phases run concurrently

    @property
    def at_peak(self) -> Bytes:
        """Components that a device holds at the peak."""
        phases = (self.update, self.rollout)
        if self.overlap:
            return {**self.state, **self.update, **self.rollout}
        return {**self.state, **max(phases, key=lambda phase: sum(phase.values()))}

    @property
    def peak(self) -> int:
        """Bytes that a device needs."""
        return sum(self.at_peak.values())

    @property
    def largest(self) -> str:
        """The largest component of the peak."""
        return max(self.at_peak, key=self.at_peak.__getitem__)


def estimate(work: Workload) -> Estimate:
    """Estimates the memory of each phase of an iteration."""
    held = _parameter_bytes(work.model, work.lora, work.trainable, work.mesh)
    state = {
        name: held[name]
        for name in ("trained parameters", "frozen parameters", "optimizer")
    }
    if work.references:
        state["references"] = work.references * state["trained parameters"]
    state["shared prefixes"] = work.prefixes * (
        cache_bytes(work) // work.slots_per_device
    )
    rollout = {
        "rollout parameters": held["rollout parameters"],
        "cache": cache_bytes(work),
        "sampling": _sampling_bytes(work),
    }
    update = {
        "gradients": 2 * held["gradients"],  # summed and of a microbatch
        "activations": _activation_bytes(work),
        "logits": _logits_bytes(work),
    }
    if work.model.scan_blocks == "always":
        update["loop over layers"] = _scan_bytes(work, held)
    if work.mesh.fsdp > 1:
        # XLA gathers the next layer while it computes one.
        update["gathered layers"] = 2 * held["layer"]
    return Estimate(state, update, rollout, work.overlap)


def _scan_bytes(work: Workload, held: Bytes) -> int:
    """Returns what scanned blocks take besides, read off what XLA compiles for TPUs.

    Their gradients once more; their parameters in the compute type, cast ahead of the loop
    over microbatches where they are gathered; and the inputs of blocks once more.
    """
    cast = held["cast blocks"] if work.mesh.fsdp > 1 else 0
    return held["block gradients"] + cast + _input_bytes(work)


@functools.lru_cache(maxsize=1024)
def _parameter_bytes(
    shape: model_config.ModelConfig,
    adapters: model_config.LoraConfig | None,
    trainable: tuple[str, ...] | None,
    mesh: config.MeshConfig,
) -> Bytes:
    """Returns the bytes of parameters, and of what is as large, on one device."""
    trees = _parameter_shapes(shape, adapters, trainable)
    # Rollouts read parameters that are sharded over `model` only.
    local = config.MeshConfig(data=1, fsdp=1, model=mesh.model)
    sizes = {
        name: _sharded(tree, local if name in ("rollout parameters", "layer") else mesh)
        for name, tree in trees.items()
    }
    return sizes | {"layer": sizes["layer"] // shape.num_layers}


@functools.lru_cache(maxsize=64)
def _parameter_shapes(
    shape: model_config.ModelConfig,
    adapters: model_config.LoraConfig | None,
    trainable: tuple[str, ...] | None,
) -> Mapping[str, types.PyTree]:
    dtypes = shape.dtypes
    model = transformer.Model(shape)
    params = jax.eval_shape(model.init, jax.random.key(0))
    split = functools.partial(
        lora.split, lora=adapters, trainable=trainable, config=shape
    )
    trained, frozen = jax.eval_shape(split, params, jax.random.key(0))
    adam = optimizer.make_optimizer(
        config.OptimizerConfig(), total_steps=1, moments=dtypes.moments
    )

    def view(trained: types.PyTree, frozen: types.PyTree) -> types.PyTree:
        return lora.for_rollouts(lora.join(trained, frozen), adapters, shape)

    def cast(dtype: str, tree: types.PyTree) -> types.PyTree:
        return jax.eval_shape(lambda x: optax.tree.cast(x, dtype), tree)

    return {
        "trained parameters": trained,
        "frozen parameters": frozen,
        "optimizer": jax.eval_shape(adam.init, trained),
        "gradients": cast("float32", trained),
        "block gradients": cast("float32", {"blocks": trained.get("blocks", {})}),
        # Frozen parameters are held in the compute type already.
        "cast blocks": cast(dtypes.compute, {"blocks": trained.get("blocks", {})}),
        "rollout parameters": jax.eval_shape(view, trained, frozen),
        "layer": cast(dtypes.compute, {"blocks": params["blocks"]}),  # all of them
    }


def cache_bytes(work: Workload) -> int:
    """Returns the bytes of the key-value cache on one device."""
    shape = work.model
    size = shape.head_dim
    if shape.attention == "pallas":  # which fills lanes
        size = -(-size // 128) * 128
    numbers = 2 * shape.num_layers * shape.num_kv_heads * size
    token = numbers * _size(shape.dtypes.cache)
    return work.slots_per_device * work.context * token // _head_shards(work)


def _head_shards(work: Workload) -> int:
    """Returns the number of devices that rollouts shard key-value heads over."""
    cut = sharding.heads_axis(_abstract(work.mesh), work.model.num_kv_heads)
    return work.mesh.model if cut else 1


def _sharded(tree: types.PyTree, mesh: config.MeshConfig) -> int:
    """Returns the bytes of a tree on one device of a mesh, by the sharding rules."""
    shardings = sharding.shardings_for(
        tree,
        _abstract(mesh),  # type: ignore[arg-type]
        sharding.TRANSFORMER_RULES,
        warn=False,  # most meshes are candidates only
    )
    return sum(
        math.prod(chosen.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, chosen in zip(
            jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True
        )
    )


def _abstract(mesh: config.MeshConfig) -> AbstractMesh:
    return AbstractMesh((mesh.data, mesh.fsdp, mesh.model), sharding.AXES)


def _size(dtype: model_config.Dtype) -> int:
    return jax.numpy.dtype(dtype).itemsize


def _activation_bytes(work: Workload) -> int:
    """Returns the bytes that one microbatch keeps for the backward pass.

    A block keeps, per token: its input, both norms and the residual in between (4 hidden
    sizes), the queries, keys, values and attention outputs, three MLP sizes, and the
    attention weights of all earlier tokens, in float32 and in the compute dtype; the
    TPU kernels keep one float32 number for each head in their place. With
    remat only the inputs of blocks are kept, and one block is recomputed at a time.
    """
    model, size = work.model, _size(work.model.dtypes.compute)
    tokens, shards = work.rows_per_device * work.row_tokens, work.mesh.model
    heads = model.num_heads / shards
    kv_heads = model.num_kv_heads / shards
    wide = 3 * model.mlp_size / shards + 2 * (heads + kv_heads) * model.head_dim
    flash = model.attention == "pallas"
    weights = heads * (4 if flash else work.row_tokens * (size + 4))
    per_block = tokens * (size * (4 * model.hidden_size + wide) + weights)
    if not work.remat:
        return int(per_block * model.num_layers)
    return int(_input_bytes(work) + 2 * per_block)  # kept, and their gradients


def _input_bytes(work: Workload) -> int:
    """Returns the bytes of the inputs of all blocks, of one microbatch."""
    tokens = work.rows_per_device * work.row_tokens
    size = _size(work.model.dtypes.compute)
    return tokens * work.model.hidden_size * size * work.model.num_layers


def _logits_bytes(work: Workload) -> int:
    """Returns the bytes of a chunk of logits, their gradient and a part of the head.

    Where devices share the vocabulary, each has the logits of all their rows for its part.
    """
    model, mesh = work.model, work.mesh
    axes = sharding.vocabulary_axes(model.vocab_size, _abstract(mesh))
    columns = model.vocab_size / math.prod(getattr(mesh, axis) for axis in axes)
    rows = work.rows_per_device * mesh.data * mesh.fsdp
    sharers = mesh.fsdp if "fsdp" in axes else 1
    chunk = max(work.logprob_chunk // rows, 1) * work.rows_per_device * sharers
    frozen = work.lora is not None or work.trainable is not None
    held = model.dtypes.head if frozen else model.dtypes.params
    placed = _size(held) if mesh.fsdp > 1 else 0
    gradient = 0 if frozen else 4  # of the vocabulary, summed over chunks in float32
    return int(columns * (chunk * 2 * 4 + model.hidden_size * (gradient + placed)))


def _sampling_bytes(work: Workload) -> int:
    """Returns the peak bytes of a turn besides parameters and cache.

    That is the larger of float32 logits in decoding, and in prefill one layer's attention
    scores, in float32 and in the compute dtype, which the TPU kernels never hold, or its
    MLP; and, of rows that take their turn in groups, a group's part of the cache.
    """
    model = work.model
    size = _size(model.dtypes.compute)
    rows, tokens_of_row = turns.prefill_sizes(model, work.slots_per_device, work.append)
    tokens = rows * tokens_of_row
    heads = 0 if model.attention == "pallas" else model.num_heads // _head_shards(work)
    widest = max(
        3 * 4 * rows * model.vocab_size,
        tokens * heads * work.context * (4 + size),
        tokens * 3 * model.mlp_size * size,
    )
    copied = 0
    if rows < work.slots_per_device:
        copied = cache_bytes(work) * rows // work.slots_per_device
    return widest + copied + tokens * 4 * model.hidden_size * size
