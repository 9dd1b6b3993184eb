"""`config.json` of Hugging Face folders: read strictly, written for `transformers`.

A field that is neither read nor known to leave the mathematics alone is refused by name.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from agentrl import errors
from agentrl.models import model_config

FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of model that the transformer can be."""

    architecture: str
    qkv_bias: bool = False
    qk_norm: bool = False


FAMILIES = {
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True),  # Qwen2.5 as well
    "qwen3": Family("Qwen3ForCausalLM", qk_norm=True),
    "llama": Family("LlamaForCausalLM"),  # SmolLM2 as well
}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_size",
}
# Left out, these would not mean the usual (as many as heads, hidden_size / heads).
_REQUIRED = {
    "qwen2": ["num_key_value_heads"],
    "qwen3": ["num_key_value_heads", "head_dim"],
    "llama": [],
}
# Fields of which one value is supported; it is also what leaving the field out means.
_FIXED = {
    "hidden_act": "silu",
    "attention_dropout": 0,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "use_sliding_window": False,
    "use_mrope": False,
    "rope_interleaved": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
}
_READ = {
    *_SIZES,
    "architectures",
    "attention_bias",
    "head_dim",
    "layer_types",
    "max_position_embeddings",
    "model_type",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
}
_WITHOUT_EFFECT = {
    "_attn_implementation_autoset",
    "_name_or_path",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_window_layers",  # of sliding windows, which are refused
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "sliding_window",  # in use only with use_sliding_window
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
}
_LLAMA3 = {
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_context",
}


def read_fields(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the fields of a folder's `config.json`.

    Raises:
      ConfigError: if there is none, or it is no JSON object.
    """
    path = folder / FILE
    try:
        fields = json.loads(path.read_text())
        if not isinstance(fields, dict):
            raise ValueError(f"holds a {type(fields).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise errors.ConfigError(
            f"{path} cannot be read ({error}); give a Hugging Face folder with "
            f"{FILE}, safetensors and tokenizer files."
        ) from error
    return fields


def parse(fields: Mapping[str, Any], where: object) -> model_config.ModelConfig:
    """Converts a `config.json` to a model configuration without a precision.

    Args:
      fields: of the file.
      where: the file, for messages.

    Raises:
      ConfigError: naming the field that is missing, unknown or not supported.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    family = _family(given, where)
    _refuse_unsupported(given, where)
    required = [*_SIZES, *_REQUIRED[given["model_type"]]]
    if missing := [name for name in required if name not in given]:
        raise errors.ConfigError(f"{where} lacks {', '.join(missing)}.")
    sizes = {ours: given[theirs] for theirs, ours in _SIZES.items()}
    theta, scaling = _rope(given, where)
    config = model_config.ModelConfig(
        **sizes,
        num_kv_heads=given.get("num_key_value_heads", sizes["num_heads"]),
        head_dim=given.get("head_dim", sizes["hidden_size"] // sizes["num_heads"]),
        qkv_bias=family.qkv_bias or given.get("attention_bias", False),
        qk_norm=family.qk_norm,
        tied_embeddings=given.get("tie_word_embeddings", False),
        rope_theta=float(theta),
        rope_scaling=scaling,
        norm_epsilon=given.get("rms_norm_eps", 1e-6),
        max_positions=given.get("max_position_embeddings", 2048),
    )
    if config.num_heads % config.num_kv_heads or config.head_dim % 2:
        raise errors.ConfigError(
            f"{where}: num_attention_heads = {config.num_heads} must be a multiple of "
            f"num_key_value_heads = {config.num_kv_heads}, and head_dim = "
            f"{config.head_dim} even."
        )
    return config


def types_of(config: model_config.ModelConfig) -> list[str]:
    """Types of model as which a model can be written, the usual one first.

    Raises:
      ConfigError: if no family has the model's combination of biases and norms.
    """
    wanted = (config.qkv_bias, config.qk_norm)
    fitting = [n for n, f in FAMILIES.items() if (f.qkv_bias, f.qk_norm) == wanted]
    if wanted == (True, False):
        fitting.append("llama")  # with attention_bias, and zeros after the attention
    if not fitting:
        raise errors.ConfigError(
            f"model.qkv_bias = {config.qkv_bias} with model.qk_norm = {config.qk_norm} "
            f"is none of {sorted(FAMILIES)}, so no other tool could load it."
        )
    return fitting


def to_fields(
    config: model_config.ModelConfig, dtype: str, model_type: str
) -> dict[str, Any]:
    """Returns the `config.json` of a model, so that `transformers` builds the same.

    Releases 5 read `rope_parameters` and `dtype`; releases 4, and the servers built on
    them, `rope_theta`, `rope_scaling` and `torch_dtype`.

    Args:
      config: shape of the model.
      dtype: of the stored tensors.
      model_type: one of `types_of`.
    """
    scaling: dict[str, Any] | None = None
    if config.rope_scaling is not None:
        given = dataclasses.asdict(config.rope_scaling)
        scaling = {"rope_type": given["kind"], "factor": given["factor"]}
        if given["kind"] == "llama3":
            scaling |= {theirs: given[ours] for theirs, ours in _LLAMA3.items()}
    rope = {"rope_theta": config.rope_theta, **(scaling or {"rope_type": "default"})}
    return {
        "architectures": [FAMILIES[model_type].architecture],
        "model_type": model_type,
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": config.qkv_bias and model_type == "llama",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": config.tied_embeddings,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _family(given: Mapping[str, Any], where: object) -> Family:
    family = FAMILIES.get(given.get("model_type", ""))
    architectures = given.get("architectures", [])
    if family is None or architectures not in ([], [family.architecture]):
        known = {name: f.architecture for name, f in FAMILIES.items()}
        raise errors.ConfigError(
            f"{where}: model_type = {given.get('model_type')!r} with architectures = "
            f"{architectures} is not supported; these are: {known}."
        )
    return family


def _refuse_unsupported(given: Mapping[str, Any], where: object) -> None:
    for name, value in given.items():
        if name in _FIXED and value != _FIXED[name]:
            raise errors.ConfigError(
                f"{where}: {name} = {value!r} is not supported, only {_FIXED[name]!r}."
            )
        if name not in _FIXED and name not in _READ | _WITHOUT_EFFECT:
            raise errors.ConfigError(
                f"{where}: {name} = {value!r} is not a field known here, so the model "
                "may compute something else than ours would."
            )
    # Of Llama's kind it is qkv_bias, if the bias after the attention is zero, as ours are.
    if (
        given.get("attention_bias", False) is not False
        and given["model_type"] != "llama"
    ):
        raise errors.ConfigError(
            f"{where}: attention_bias = {given['attention_bias']!r} is supported for "
            f"model_type 'llama' only, not {given['model_type']!r}."
        )
    kinds = set(given.get("layer_types", [])) - {"full_attention"}
    if kinds:
        raise errors.ConfigError(
            f"{where}: layer_types has {sorted(kinds)}; only full_attention is supported."
        )


def _rope(
    given: Mapping[str, Any], where: object
) -> tuple[float, model_config.RopeScaling | None]:
    """Reads rotary base and scaling, as transformers 5 or earlier releases write them."""
    rope: dict[str, Any] = {"rope_theta": given.get("rope_theta", 10_000.0)}
    rope |= given.get("rope_scaling", {}) | given.get("rope_parameters", {})
    theta = rope.pop("rope_theta")
    kind = rope.pop("type", rope.get("rope_type", "default"))
    kind = rope.pop("rope_type", kind)
    fields = {"default": (), "linear": ("factor",), "llama3": ("factor", *_LLAMA3)}
    if kind not in fields:
        raise errors.ConfigError(
            f"{where}: rope_type = {kind!r} is not supported, only {list(fields)}."
        )
    if rope.pop("partial_rotary_factor", 1.0) != 1:
        raise errors.ConfigError(f"{where}: partial_rotary_factor must be 1.")
    if set(rope) != set(fields[kind]):
        raise errors.ConfigError(
            f"{where}: rope_type {kind!r} takes the fields {list(fields[kind])}, the "
            f"file gives {sorted(rope)}."
        )
    if kind == "default":
        return theta, None
    renamed = {_LLAMA3.get(name, name): value for name, value in rope.items()}
    return theta, model_config.RopeScaling(kind=kind, **renamed)
