"""GGUF files of Llama-kind models: configuration and weights, through the package `gguf`.

Quantised blocks run along rows, so rows are read and dequantised alone. The format stores
query and key projections for interleaved rotary pairs: within each head the rows of the two
halves alternate. Reading puts them back.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gguf
import numpy as np

from agentrl import errors
from agentrl.pretrained import weights

# Parts of a layer: theirs in GGUF -> in the Hugging Face layout.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_SIZES = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "head_dim": "rope.dimension_count",
}
_KNOWN = {
    *_SIZES.values(),
    "attention.key_length",
    "attention.value_length",
    "rope.scaling.type",
}


class GGUFFile:
    """A mapped file; its tensors under their Hugging Face names."""

    def __init__(self, path: pathlib.Path):
        """Maps the file and reads its header.

        Raises:
          CheckpointError: if it is no GGUF file, or cut short.
        """
        self.path = path
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, OSError, IndexError) as error:
            size = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
            raise errors.CheckpointError(
                f"{path} ({size}) is no GGUF file, or cut short ({error}); fetch it "
                "again."
            ) from error
        self._tensors = {_rename(t.name): t for t in self._reader.tensors}
        self.entries: Mapping[str, weights.Entry] = {
            name: weights.Entry(
                tuple(map(int, reversed(tensor.shape))), "F32", path.name
            )
            for name, tensor in self._tensors.items()
        }

    def metadata(self, name: str) -> Any:
        """Returns a value of the header; None if it is not there."""
        field = self._reader.get_field(name)
        return None if field is None else field.contents()

    @functools.cached_property
    def config_fields(self) -> dict[str, Any]:
        """The model's `config.json`.

        Raises:
          ConfigError: if the architecture, or a field that matters, is not supported.
        """
        kind = self.metadata("general.architecture")
        if kind != "llama":
            raise errors.ConfigError(
                f"{self.path}: general.architecture = {kind!r} is not supported, only "
                "'llama'; give a Hugging Face folder instead."
            )
        prefix = f"{kind}."
        names = [n for n in self._reader.fields if n.startswith(prefix)]
        if unknown := [n for n in names if n.removeprefix(prefix) not in _KNOWN]:
            raise errors.ConfigError(f"{self.path}: {unknown[0]} is not supported.")
        if missing := [n for n in _SIZES.values() if f"{prefix}{n}" not in names]:
            raise errors.ConfigError(f"{self.path} lacks {', '.join(missing)}.")
        if self.metadata("llama.rope.scaling.type") not in (None, "none"):
            raise errors.ConfigError(
                f"{self.path}: llama.rope.scaling.type is not supported in GGUF files."
            )
        sizes = {ours: self.metadata(prefix + name) for ours, name in _SIZES.items()}
        for name in ("rms_norm_eps", "rope_theta"):
            sizes[name] = float(
                str(np.float32(sizes[name]))
            )  # 1e-05, as it was written
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **sizes,
            "tie_word_embeddings": "lm_head.weight" not in self.entries,
        }

    def read(self, name: str, region: Sequence[slice]) -> np.ndarray:
        """Reads a slice of a tensor in float32; see `weights.Source`."""
        tensor = self._tensors[name]
        rows = region[0]
        kind = name.rpartition(".self_attn.")[2]
        if kind not in ("q_proj.weight", "k_proj.weight"):
            return self._rows(tensor, rows)[(slice(None), *region[1:])]
        dim = self.config_fields["head_dim"]
        first, last = rows.start // dim, -(-rows.stop // dim)  # whole heads
        heads = self._rows(tensor, slice(first * dim, last * dim))
        pairs = heads.reshape(last - first, dim // 2, 2, -1)
        halves = pairs.swapaxes(1, 2).reshape(heads.shape)
        within = slice(rows.start - first * dim, rows.stop - first * dim)
        return halves[(within, *region[1:])]

    def _rows(self, tensor: gguf.ReaderTensor, rows: slice) -> np.ndarray:
        data = np.asarray(tensor.data)  # slices of a np.memmap cost more than the work
        return gguf.dequantize(data[rows], tensor.tensor_type)


def _rename(name: str) -> str:
    """Returns a tensor's Hugging Face name; an unknown one stays as it is."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    block, _, part = stem.partition(".")[2].partition(".")
    if stem.startswith("blk.") and part in _LAYER:
        return f"model.layers.{block}.{_LAYER[part]}.{kind}"
    return name
