"""Low-rank adapters, int8 base weights, and the split into trained and frozen leaves.

A run trains a nested dictionary of parameters and holds another one still. `join` puts the
two together for the model: where both name a kernel, the trained entry is an adapter and
the kernel becomes an `Adapted` leaf, which `project` applies without ever forming the sum.
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
from agentrl.models import config as model_config

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
    """A frozen kernel and the adapter beside it; they stand for base + a b alpha / rank."""

    base: Any  # jax.Array or Quantized, [*inputs, *outputs]
    a: jax.Array  # float[*inputs, rank]
    b: jax.Array  # float[rank, *outputs], times alpha / rank


def project(x: jax.Array, kernel: Any, num_inputs: int = 1) -> jax.Array:
    """Contracts the last axes of float[..., *inputs] with a kernel [*inputs, *outputs].

    Returns float[..., *outputs]; the product is taken in the dtype of `x`.
    """
    if isinstance(kernel, Adapted):
        low_rank = project(project(x, kernel.a, num_inputs), kernel.b)
        return project(x, kernel.base, num_inputs) + low_rank
    if isinstance(kernel, Quantized):
        # The scales belong to outputs, so they can wait until after the contraction.
        product = jnp.tensordot(x, kernel.values.astype(x.dtype), num_inputs)
        scales = kernel.scales.astype(x.dtype)
        return product * jnp.expand_dims(scales, range(product.ndim - scales.ndim))
    return jnp.tensordot(x, kernel.astype(x.dtype), num_inputs)


def split(
    params: types.PyTree,
    key: jax.Array,
    *,
    lora: model_config.LoraConfig | None,
    trainable: Sequence[str] | None,
    config: model_config.ModelConfig,
) -> tuple[types.PyTree, types.PyTree]:
    """Splits parameters by rule; with LoRA, adapters that change nothing yet are added.

    `trainable` holds regular expressions, searched in paths such as `blocks/0/mlp/up`, of
    leaves trained in full; None takes all of them without `lora`, and none with it. A
    critic, which no published model brings along, is always trained.
    Frozen leaves that stay floats are cast: no update is ever added to them.

    Raises:
      ConfigError: if a pattern matches no parameter.
    """
    if trainable is None:
        trainable = () if lora else (".*",)
    targets = lora.targets if lora else ()
    trained, frozen = {}, {}
    leaves = traverse_util.flatten_dict(params)
    names = ["/".join(map(str, path)) for path in leaves]
    _refuse_unmatched([*trainable, *(f"/{t}$" for t in targets)], names)
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
    """The model's view of both halves; `scale` is alpha / rank of the adapters."""
    if not isinstance(frozen, dict):
        return Adapted(frozen, trained["a"], trained["b"] * scale)
    joined = dict(frozen)
    for name, value in trained.items():
        joined[name] = join(value, frozen[name], scale) if name in frozen else value
    return joined


def merge(params: types.PyTree) -> types.PyTree:
    """Replaces adapted and quantized kernels by float32 arrays that act the same."""

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
    """What rollouts read: merged unless `lora` says otherwise, floats cast."""

    def cast(path: tuple, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return x if x.dtype == "int8" else x.astype(config.read_dtype(name))

    merges = lora is None or lora.merge_for_rollouts
    return jax.tree.map_with_path(cast, merge(params) if merges else params)


def digest(params: types.PyTree) -> jax.Array:
    """A checksum uint32[] of every bit, its place and its name, whatever the sharding."""
    total = jnp.uint32(0)
    for path, leaf in jax.tree.leaves_with_path(params):
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
        factors = jnp.ones(leaf.shape, jnp.uint32)  # odd: any single change shows
        for axis in range(leaf.ndim):
            places = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            factors += places * jnp.uint32(2 * 7919 ** (axis + 1) % 2**32)
        name = zlib.crc32(jax.tree_util.keystr(path).encode()) | 1
        total += jnp.sum(bits * factors, dtype=jnp.uint32) * jnp.uint32(name)
    return total


def _num_inputs(name: str) -> int:
    return 2 if name == "out" else 1  # attention's output reads heads and their size


def _new_adapter(
    kernel: jax.Array, name: str, rank: int, key: jax.Array
) -> dict[str, jax.Array]:
    """Draws a ~ N(0, 1 / fan-in), and sets b = 0."""
    count = _num_inputs(name)
    inputs, outputs = kernel.shape[:count], kernel.shape[count:]
    a = jax.random.normal(key, (*inputs, rank), kernel.dtype)
    a = a * math.prod(inputs) ** -0.5
    return {"a": a, "b": jnp.zeros((rank, *outputs), kernel.dtype)}


def _quantize(kernel: jax.Array, name: str) -> Quantized:
    inputs = tuple(range(_num_inputs(name)))
    largest = jnp.max(jnp.abs(kernel.astype(jnp.float32)), axis=inputs)
    scales = jnp.maximum(largest, 1e-12) / _INT8_MAX
    values = jnp.round(kernel / jnp.expand_dims(scales, inputs)).astype(jnp.int8)
    return Quantized(values, scales)


def _refuse_unmatched(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            known = sorted({re.sub(r"\d+", "*", name) for name in names})
            raise errors.ConfigError(
                f"pattern {pattern!r} of `trainable` or `lora.targets` matches no "
                f"parameter; there are {known}."
            )
