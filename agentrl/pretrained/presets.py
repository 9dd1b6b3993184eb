"""Shapes of published models, from their config.json: to plan with, to train from scratch.

Base and instruction-tuned models of one name share a shape.
"""

import dataclasses
import difflib
import re
from typing import Any

from agentrl import errors
from agentrl.models.model_config import ModelConfig, RopeScaling

_QWEN2 = ModelConfig(vocab_size=151_936, head_dim=128, rope_theta=1e6)
_QWEN3 = dataclasses.replace(_QWEN2, qkv_bias=False, qk_norm=True, max_positions=40_960)
_LLAMA = ModelConfig(
    vocab_size=128_256,
    qkv_bias=False,
    rope_theta=5e5,
    rope_scaling=RopeScaling(kind="llama3", factor=32.0),
    norm_epsilon=1e-5,
    max_positions=131_072,
)
_SMOLLM2 = ModelConfig(
    vocab_size=49_152,
    head_dim=64,
    qkv_bias=False,
    rope_theta=1e5,
    norm_epsilon=1e-5,
    max_positions=8192,
)


def _sized(
    family: ModelConfig,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    mlp_size: int,
    **changes: Any,
) -> ModelConfig:
    return dataclasses.replace(
        family,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        mlp_size=mlp_size,
        **changes,
    )


PRESETS = {
    "qwen2.5-0.5b": _sized(_QWEN2, 896, 24, 14, 2, 4864, head_dim=64),
    "qwen2.5-1.5b": _sized(_QWEN2, 1536, 28, 12, 2, 8960),
    "qwen2.5-3b": _sized(_QWEN2, 2048, 36, 16, 2, 11_008),
    "qwen2.5-7b": _sized(
        _QWEN2, 3584, 28, 28, 4, 18_944, vocab_size=152_064, tied_embeddings=False
    ),
    "qwen3-0.6b": _sized(_QWEN3, 1024, 28, 16, 8, 3072),
    "qwen3-1.7b": _sized(_QWEN3, 2048, 28, 16, 8, 6144),
    "qwen3-4b": _sized(_QWEN3, 2560, 36, 32, 8, 9728),
    "qwen3-8b": _sized(_QWEN3, 4096, 36, 32, 8, 12_288, tied_embeddings=False),
    "llama-3.2-1b": _sized(_LLAMA, 2048, 16, 32, 8, 8192, head_dim=64),
    "llama-3.2-3b": _sized(_LLAMA, 3072, 28, 24, 8, 8192, head_dim=128),
    "smollm2-135m": _sized(_SMOLLM2, 576, 30, 9, 3, 1536),
    "smollm2-360m": _sized(_SMOLLM2, 960, 32, 15, 5, 2560),
    "smollm2-1.7b": _sized(_SMOLLM2, 2048, 24, 32, 32, 8192, rope_theta=130_000.0),
}


# Preset -> where its weights are on the Hub; "-instruct" asks for the tuned ones.
_REPOSITORIES = {
    "qwen2.5": ("Qwen/Qwen2.5-{}", "Qwen/Qwen2.5-{}-Instruct"),
    "qwen3": ("Qwen/Qwen3-{}-Base", "Qwen/Qwen3-{}"),
    "llama-3.2": ("meta-llama/Llama-3.2-{}", "meta-llama/Llama-3.2-{}-Instruct"),
    "smollm2": ("HuggingFaceTB/SmolLM2-{}", "HuggingFaceTB/SmolLM2-{}-Instruct"),
}
_SUFFIXES = re.compile(r"-(instruct|base|it|chat)$")


def get(name: str) -> ModelConfig:
    """Returns the shape of a published model.

    Args:
      name: of a preset, or of a model on the Hub, such as `Qwen/Qwen2.5-7B-Instruct`.

    Raises:
      ConfigError: if there is no preset of that name.
    """
    known = _SUFFIXES.sub("", name.partition("@")[0].rpartition("/")[2].lower())
    if known not in PRESETS:
        close = difflib.get_close_matches(known, PRESETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise errors.ConfigError(
            f"no preset named {name!r}.{hint} There are {', '.join(PRESETS)}."
        )
    return PRESETS[known]


def repository(name: str) -> str | None:
    """Returns where the weights of a preset are on the Hub; None if it is no preset.

    Args:
      name: of the preset; `-instruct` behind it asks for the instruction-tuned weights.
    """
    shape = name.removesuffix("-instruct")
    if shape not in PRESETS:
        return None
    family, _, size = shape.rpartition("-")
    base, tuned = _REPOSITORIES[family]
    return (base if shape == name else tuned).format(size.upper())
