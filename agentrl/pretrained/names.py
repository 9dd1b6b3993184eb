"""Mapping of parameters to tensors of Hugging Face checkpoints: names and layouts.

Qwen2, Qwen3, Llama and SmolLM2 share one set of names; they differ in which are present.
Hugging Face stores a matrix as [outputs, inputs] and folds the heads of a projection into
one axis; here inputs come first and heads have an axis of their own.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from agentrl.models import model_config

# (name, [start, stop) of each axis) -> that part of the tensor
ReadFn = Callable[[str, Sequence[slice]], np.ndarray]

# Tensors of old checkpoints that follow from the configuration.
_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A Hugging Face tensor and its layout, for one parameter.

    The parameter is the tensor with `heads_axis` split into (heads, head_dim) and its axes
    permuted.
    """

    name: str
    shape: tuple[int, ...]  # in the Hugging Face layout
    axes: tuple[int, ...]  # of the split tensor, in the order of the parameter
    heads_axis: int | None = None
    head_dim: int = 1

    @property
    def split_shape(self) -> tuple[int, ...]:
        """Shape of the tensor with `heads_axis` split."""
        if self.heads_axis is None:
            return self.shape
        at, dim = self.heads_axis, self.head_dim
        return (*self.shape[:at], self.shape[at] // dim, dim, *self.shape[at + 1 :])

    def read(self, read: ReadFn, index: Sequence[slice]) -> np.ndarray:
        """Reads the slice `index` of the parameter; reads only that of the tensor."""
        split = self.split_shape
        region = [slice(0, size) for size in split]
        for axis, hf_axis in enumerate(self.axes):
            region[hf_axis] = slice(*index[axis].indices(split[hf_axis])[:2])
        if self.heads_axis is None:
            return read(self.name, region).transpose(self.axes)
        at, dim = self.heads_axis, self.head_dim
        heads, features = region[at : at + 2]
        region[at : at + 2] = [slice(heads.start * dim, heads.stop * dim)]
        block = read(self.name, region)
        block = block.reshape(*block.shape[:at], -1, dim, *block.shape[at + 1 :])
        within = (*[slice(None)] * (at + 1), features)
        return block[within].transpose(self.axes)

    def to_hf(self, param: np.ndarray) -> np.ndarray:
        """Converts a whole parameter to the Hugging Face layout."""
        split = param.transpose(np.argsort(self.axes))
        return np.ascontiguousarray(split.reshape(self.shape))


def table(config: model_config.ModelConfig) -> dict[str, Tensor]:
    """Returns the tensor of every parameter of a model, by the parameter's path."""
    size = config.hidden_size
    tensors = {
        "embedding": _same("model.embed_tokens.weight", config.vocab_size, size),
        "norm/scale": _same("model.norm.weight", size),
    }
    if not config.tied_embeddings:
        tensors["head"] = _matrix("lm_head.weight", size, config.vocab_size)
    for layer in range(config.num_layers):
        for path, tensor in _layer(config, f"model.layers.{layer}").items():
            tensors[f"blocks/{layer}/{path}"] = tensor
    return tensors


def output_biases(config: model_config.ModelConfig) -> dict[str, str]:
    """Returns paths and names of attention output biases, which are zero here."""
    return {
        f"blocks/{layer}/attention/out_bias": f"model.layers.{layer}.self_attn.o_proj.bias"
        for layer in range(config.num_layers)
    }


def is_derived(name: str) -> bool:
    """Returns whether a tensor follows from the configuration."""
    return bool(_DERIVED.search(name))


def _layer(config: model_config.ModelConfig, prefix: str) -> dict[str, Tensor]:
    size, wide, dim = config.hidden_size, config.mlp_size, config.head_dim
    attention = f"{prefix}.self_attn"
    tensors = {
        "attention_norm/scale": _same(f"{prefix}.input_layernorm.weight", size),
        "mlp_norm/scale": _same(f"{prefix}.post_attention_layernorm.weight", size),
        "mlp/gate": _matrix(f"{prefix}.mlp.gate_proj.weight", size, wide),
        "mlp/up": _matrix(f"{prefix}.mlp.up_proj.weight", size, wide),
        "mlp/down": _matrix(f"{prefix}.mlp.down_proj.weight", wide, size),
        "attention/out": Tensor(
            f"{attention}.o_proj.weight",
            shape=(size, config.num_heads * dim),
            axes=(1, 2, 0),
            heads_axis=1,
            head_dim=dim,
        ),
    }
    kv_heads = config.num_kv_heads
    for kind, heads in (
        ("query", config.num_heads),
        ("key", kv_heads),
        ("value", kv_heads),
    ):
        projection = f"{attention}.{kind[0]}_proj"
        tensors[f"attention/{kind}"] = Tensor(
            f"{projection}.weight", (heads * dim, size), (2, 0, 1), 0, dim
        )
        if config.qkv_bias:
            tensors[f"attention/{kind}_bias"] = Tensor(
                f"{projection}.bias", (heads * dim,), (0, 1), 0, dim
            )
        if config.qk_norm and kind != "value":
            name = f"{attention}.{kind[0]}_norm.weight"
            tensors[f"attention/{kind}_norm/scale"] = _same(name, dim)
    return tensors


def _same(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, tuple(range(len(shape))))


def _matrix(name: str, num_inputs: int, num_outputs: int) -> Tensor:
    return Tensor(name, (num_outputs, num_inputs), (1, 0))
