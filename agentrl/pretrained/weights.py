"""Weights of a checkpoint in the Hugging Face layout, placed leaf by leaf.

Each device's part of a parameter, of all layers if they are stacked, is read from the file
and put onto the device before the next one is read: no host ever holds the model.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from agentrl import errors, types
from agentrl.models import layers, model_config
from agentrl.pretrained import names

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAX_LISTED = 20  # problems of one checkpoint that a message names
_BLOCK = 1 << 14  # rows compared at a time


@dataclasses.dataclass(frozen=True)
class Entry:
    """Header of a tensor: what is known before it is read."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors names it: F32, BF16, ...
    file: str = dataclasses.field(compare=False)  # its name, for messages


class Source(Protocol):
    """Tensors under their Hugging Face names, read piece by piece."""

    @property
    def path(self) -> pathlib.Path:
        """Folder or file, for messages."""
        ...

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Returns the headers of all tensors, by name."""
        ...

    def read(self, name: str, region: Sequence[slice]) -> np.ndarray:
        """Reads a slice of a tensor; slices with start and stop, one for each axis."""
        ...


def load(
    source: Source, config: model_config.ModelConfig, like: types.PyTree
) -> types.PyTree:
    """Reads all parameters of a model onto their placements.

    Args:
      source: where from.
      config: shape of the model.
      like: `jax.ShapeDtypeStruct`s with shardings, blocks unrolled or stacked; values
        are converted to its dtypes.

    Raises:
      CheckpointError: listing every tensor that is missing, not expected, or of another
        shape or a type that is no plain float.
    """
    tensors = names.table(config)
    check(source, config)

    def load_leaf(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path_of(path)

        def read(index: Any) -> np.ndarray:  # a slice for each axis
            if name in tensors:
                part = tensors[name].read(source.read, index)
                return part.astype(leaf.dtype, order="C")
            parts = [
                tensors[layers.path_in_layer(name, n)].read(source.read, index[1:])
                for n in range(*index[0].indices(config.num_layers))
            ]
            return np.stack(parts, dtype=leaf.dtype, casting="unsafe")

        array = jax.make_array_from_callback(leaf.shape, leaf.sharding, read)
        return jax.block_until_ready(array)  # or copies of many leaves pile up

    return jax.tree.map_with_path(load_leaf, like)


def stored_dtypes(source: Source, config: model_config.ModelConfig) -> dict[str, str]:
    """Returns the type in which each parameter is stored, by its path."""
    check(source, config)
    return {
        path: _DTYPES[source.entries[tensor.name].dtype]
        for path, tensor in names.table(config).items()
    }


def path_of(path: tuple) -> str:
    """Returns a leaf's path in a parameter tree, as `names.table` spells it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check(source: Source, config: model_config.ModelConfig) -> None:
    """Raises `CheckpointError` unless the source holds exactly this model's tensors."""
    expected = {t.name: t for t in names.table(config).values()}
    problems = [f"{name} is missing" for name in expected if name not in source.entries]
    for name, entry in source.entries.items():
        if name not in expected:
            if not _is_redundant(source, config, name):
                problems.append(
                    f"{entry.file}: {name} {list(entry.shape)} is not expected"
                )
            continue
        if entry.shape != (shape := expected[name].shape):
            problems.append(
                f"{entry.file}: {name} is {list(entry.shape)}, expected {list(shape)}"
            )
        if entry.dtype not in _DTYPES:
            problems.append(
                f"{entry.file}: {name} is {entry.dtype}, expected {' or '.join(_DTYPES)}"
            )
    if problems:
        more = len(problems) - _MAX_LISTED
        listed = problems[:_MAX_LISTED] + [f"and {more} more"] * (more > 0)
        raise errors.CheckpointError(
            f"{source.path} does not hold the model that its configuration describes; "
            f"{len(problems)} problems:\n  " + "\n  ".join(listed) + "\nCompare "
            "config.json with the weights, or fetch both again."
        )


def _is_redundant(source: Source, config: model_config.ModelConfig, name: str) -> bool:
    """Returns whether an extra tensor is redundant: derived, zero, or a tied copy."""
    if names.is_derived(name):
        return True
    if config.qkv_bias and name in names.output_biases(config).values():
        region = [slice(0, size) for size in source.entries[name].shape]
        return not np.any(source.read(name, region))
    if name != "lm_head.weight" or not config.tied_embeddings:
        return False
    embedding = names.table(config)["embedding"]
    head, table = source.entries[name], source.entries.get(embedding.name)
    if head != table:
        return False
    num_rows, num_columns = head.shape
    for start in range(0, num_rows, _BLOCK):
        region = [slice(start, min(start + _BLOCK, num_rows)), slice(0, num_columns)]
        if not np.array_equal(
            source.read(name, region), source.read(embedding.name, region)
        ):
            return False
    return True


@dataclasses.dataclass(frozen=True)
class Export:
    """Our parameters in their layout, fetched from the devices one at a time."""

    leaves: Mapping[str, jax.Array]  # by path, blocks unrolled or stacked
    tensors: Mapping[str, names.Tensor]  # by path, of single layers
    dtype: str | None  # None keeps each parameter's

    @classmethod
    def of(
        cls,
        params: types.PyTree,
        config: model_config.ModelConfig,
        dtype: str | None = None,
    ) -> "Export":
        """Iterates over the parameters of a model."""
        leaves = {
            path_of(path): leaf for path, leaf in jax.tree.leaves_with_path(params)
        }
        return cls(leaves, names.table(config), dtype)

    def with_output_biases(self, config: model_config.ModelConfig) -> "Export":
        """Adds zero output biases, which Llama models with attention biases have."""
        dtype = self.leaves["embedding"].dtype
        zeros = jnp.zeros(config.hidden_size, dtype)
        added = names.output_biases(config)
        tensors = {
            path: names.Tensor(name, zeros.shape, (0,)) for path, name in added.items()
        }
        return Export(
            {**self.leaves, **dict.fromkeys(added, zeros)},
            {**self.tensors, **tensors},
            self.dtype,
        )

    def num_bytes(self, path: str) -> int:
        """Returns the size of one tensor in the file."""
        dtype = jnp.dtype(self.dtype or layers.find(self.leaves, path)[0].dtype)
        return math.prod(self.tensors[path].shape) * dtype.itemsize

    def fetch(self, path: str) -> np.ndarray:
        """Returns one tensor in host memory."""
        leaf, layer = layers.find(self.leaves, path)
        leaf = np.asarray(jax.device_get(leaf if layer is None else leaf[layer]))
        return self.tensors[path].to_hf(leaf.astype(self.dtype or leaf.dtype))
