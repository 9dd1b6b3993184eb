"""LoRA adapters, int8 base weights, and the partition into trained and frozen leaves.

The parameters of a run are partitioned into a nested dictionary that is trained and one
that is frozen. `join` combines them for the model: where both name a kernel, the trained
entry is a LoRA adapter and the kernel becomes an `Adapted` leaf, which `project` applies
without materialising the sum W + (alpha / rank) A B.
LoRA: https://arxiv.org/abs/2106.09685, section 4.1.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from agentrl import errors, types
from agentrl.models import layers, linear, model_config

_INT8_MAX = 127


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """A kernel in int8 with one scale per output channel."""

    values: jax.Array  # int8[*inputs, *outputs]
    scales: jax.Array  # float32[*outputs]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """LoRA-adapted kernel: W + (alpha / rank) A B."""

    base: Any  # W, frozen: jax.Array or Quantized, [*inputs, *outputs]
    a: jax.Array  # A, float[*inputs, rank]
    b: jax.Array  # (alpha / rank) B, float[rank, *outputs]


def project(x: jax.Array, kernel: Any, num_inputs: int = 1) -> jax.Array:
    """Contracts the last axes of float[..., *inputs] with a kernel [*inputs, *outputs].

    Args:
      x: float[..., *inputs].
      kernel: array, `Quantized` or `Adapted`.
      num_inputs: number of axes that are contracted.

    Returns:
      float[..., *outputs]; the product is computed in the dtype of `x`.
    """
    if isinstance(kernel, Adapted):
        low_rank = project(project(x, kernel.a, num_inputs), kernel.b)
        return project(x, kernel.base, num_inputs) + low_rank
    if isinstance(kernel, Quantized):
        # Scales are per output channel, so they commute with the contraction.
        product = jnp.tensordot(x, kernel.values.astype(x.dtype), num_inputs)
        scales = kernel.scales.astype(x.dtype)
        return product * jnp.expand_dims(scales, range(product.ndim - scales.ndim))
    return linear.contract(x, kernel.astype(x.dtype), num_inputs)


def split(
    params: types.PyTree,
    key: jax.Array,
    *,
    lora: model_config.LoraConfig | None,
    trainable: Sequence[str] | None,
    config: model_config.ModelConfig,
) -> tuple[types.PyTree, types.PyTree]:
    """Partitions parameters into trained and frozen; adds new adapters, with B = 0.

    A critic, which no published model has, is always trained. Frozen leaves that stay
    floats are cast to the type they are read in, because no update is added to them.

    Args:
      params: all parameters of the model.
      key: PRNG key of new adapters.
      lora: rank and targets of adapters; None adds none.
      trainable: regular expressions, searched in paths such as `blocks/0/mlp/up`, of
        leaves trained in full; None means all of them without `lora`, and none with it.
      config: shape and types of the model.

    Returns:
      The trained parameters and the frozen ones, both nested dictionaries.

    Raises:
      ConfigError: if a pattern matches no parameter, or only some of stacked layers.
    """
    if layers.is_stacked(params):  # names, and draws, are those of single layers
        unstacked = layers.unstack(params)
        parts = split(unstacked, key, lora=lora, trainable=trainable, config=config)
        trained, frozen = map(layers.stack, parts)
        return trained, frozen
    if trainable is None:
        trainable = () if lora else (".*",)
    targets = lora.targets if lora else ()
    trained, frozen = {}, {}
    leaves = traverse_util.flatten_dict(params)
    names = ["/".join(map(str, path)) for path in leaves]
    _require_matches([*trainable, *(f"/{t}$" for t in targets)], names)
    for name, (path, leaf) in zip(names, leaves.items(), strict=True):
        if name == "critic" or any(re.search(rule, name) for rule in trainable):
            trained[path] = leaf
            continue
        frozen[path] = leaf.astype(config.read_dtype(name))
        if lora and path[-1] in targets:
            stream = jax.random.fold_in(key, zlib.crc32(name.encode()))
            trained[path] = _new_adapter(leaf, path[-1], lora.rank, stream)
            if lora.int8_base:
                frozen[path] = _quantize(leaf, path[-1])
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(frozen)


def join(trained: types.PyTree, frozen: types.PyTree, scale: float = 1.0) -> Any:
    """Combines trained and frozen parameters for the model.

    Args:
      trained: from `split`.
      frozen: from `split`.
      scale: alpha / rank of the adapters.
    """
    if not isinstance(frozen, dict):
        return Adapted(frozen, trained["a"], trained["b"] * scale)
    joined = dict(frozen)
    for name, value in trained.items():
        joined[name] = join(value, frozen[name], scale) if name in frozen else value
    return joined


def merge(params: types.PyTree) -> types.PyTree:
    """Merges adapters into their kernels and dequantizes, in float32."""
    if layers.is_stacked(params):
        rest = {name: part for name, part in params.items() if name != layers.BLOCKS}
        return merge(rest) | {layers.BLOCKS: jax.vmap(merge)(params[layers.BLOCKS])}

    def to_array(leaf: Any) -> jax.Array:
        if isinstance(leaf, Adapted):
            return to_array(leaf.base).astype(jnp.float32) + jnp.tensordot(
                leaf.a, leaf.b, 1
            )
        if isinstance(leaf, Quantized):
            inputs = range(leaf.values.ndim - leaf.scales.ndim)
            return leaf.values * jnp.expand_dims(leaf.scales, inputs)
        return leaf

    return jax.tree.map(
        to_array, params, is_leaf=lambda leaf: isinstance(leaf, Adapted | Quantized)
    )


def for_rollouts(
    params: types.PyTree,
    lora: model_config.LoraConfig | None,
    config: model_config.ModelConfig,
) -> types.PyTree:
    """Returns the parameters that rollouts read.

    Adapters are merged if `lora` says so, kernels of blocks rounded if the precision says
    so, and floats cast to the types that they are read in.
    """

    def cast(path: tuple, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_float = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(config.read_dtype(name)) if is_float else x

    if lora is None or lora.merge_for_rollouts:
        params = merge(params)
    if config.dtypes.rollout_kernels == "int8":
        round_blocks = jax.vmap(_round_kernels)
        if not layers.is_stacked(params):
            round_blocks = _round_kernels
        params = params | {layers.BLOCKS: round_blocks(params[layers.BLOCKS])}
    return jax.tree.map_with_path(cast, params)


def digest(params: types.PyTree) -> jax.Array:
    """Returns a checksum uint32[] of all leaves, independent of their sharding.

    It depends on every bit, on its index and on the leaf's path in unstacked layers.
    """
    params = layers.unstack(params)
    total = jnp.uint32(0)
    for path, leaf in jax.tree.leaves_with_path(params):
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
        factors = jnp.ones(leaf.shape, jnp.uint32)  # odd: any single change is detected
        for axis in range(leaf.ndim):
            indices = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            factors += indices * jnp.uint32(2 * 7919 ** (axis + 1) % 2**32)
        name = zlib.crc32(jax.tree_util.keystr(path).encode()) | 1
        total += jnp.sum(bits * factors, dtype=jnp.uint32) * jnp.uint32(name)
    return total


def _num_inputs(name: str) -> int:
    """Returns how many leading axes of a kernel are inputs."""
    return 2 if name == "out" else 1  # attention's output contracts heads and head size


def _new_adapter(
    kernel: jax.Array, name: str, rank: int, key: jax.Array
) -> dict[str, jax.Array]:
    """Draws A ~ N(0, 1 / fan-in), and sets B = 0."""
    count = _num_inputs(name)
    inputs, outputs = kernel.shape[:count], kernel.shape[count:]
    a = jax.random.normal(key, (*inputs, rank), kernel.dtype)
    a = a * math.prod(inputs) ** -0.5
    return {"a": a, "b": jnp.zeros((rank, *outputs), kernel.dtype)}


def _quantize(kernel: jax.Array, name: str) -> Quantized:
    """Rounds a kernel to int8, with the largest value of each channel at 127."""
    inputs = tuple(range(_num_inputs(name)))
    largest = jnp.max(jnp.abs(kernel.astype(jnp.float32)), axis=inputs)
    scales = jnp.maximum(largest, 1e-12) / _INT8_MAX
    values = jnp.round(kernel / jnp.expand_dims(scales, inputs)).astype(jnp.int8)
    return Quantized(values, scales)


def _round_kernels(blocks: types.PyTree) -> types.PyTree:
    """Rounds kernels to int8, and those under adapters, which stay as they are."""

    def round_leaf(path: tuple, leaf: Any) -> Any:
        name = path[-1].key
        if name not in model_config.KERNELS or isinstance(leaf, Quantized):
            return leaf
        if not isinstance(leaf, Adapted):
            return _quantize(leaf, name)
        if isinstance(leaf.base, Quantized):
            return leaf
        return dataclasses.replace(leaf, base=_quantize(leaf.base, name))

    return jax.tree.map_with_path(
        round_leaf, blocks, is_leaf=lambda leaf: isinstance(leaf, Adapted | Quantized)
    )


def _require_matches(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            known = sorted({re.sub(r"\d+", "*", name) for name in names})
            raise errors.ConfigError(
                f"pattern {pattern!r} of `trainable` or `lora.targets` matches no "
                f"parameter; there are {known}."
            )
