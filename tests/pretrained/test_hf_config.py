import dataclasses
import json

import pytest

from agentrl import errors
from agentrl.models.model_config import RopeScaling
from agentrl.pretrained import hf_config, presets

QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 32768,
    "max_window_layers": 70,
    "model_type": "qwen2",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SCALING = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
# Changes to a good file, and what the error must name.
REFUSED = {
    "foreign": ({"model_type": "mamba"}, "model_type = 'mamba'"),
    "other head": (
        {"architectures": ["Qwen2ForSequenceClassification"]},
        "Qwen2ForSequenceClassification",
    ),
    "unknown field": ({"residual_multiplier": 0.5}, "residual_multiplier = 0.5"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config"),
    "sliding window": ({"use_sliding_window": True}, "use_sliding_window"),
    "mixed layers": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "sliding_attention",
    ),
    "activation": ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    "yarn": ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
    "rope field": ({"rope_scaling": {**SCALING, "beta": 1}}, "beta"),
    "partial rope": (
        {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor",
    ),
    "missing": ({"hidden_size": None}, "lacks hidden_size"),
    "missing heads": ({"num_key_value_heads": None}, "lacks num_key_value_heads"),
    "heads": ({"num_key_value_heads": 3}, "num_key_value_heads = 3"),
}


def test_a_published_file_gives_the_preset():
    assert hf_config.parse(QWEN, "config.json") == presets.get("qwen2.5-3b")


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_named(case):
    changes, message = REFUSED[case]
    with pytest.raises(errors.ConfigError, match=f"config.json.*{message}"):
        hf_config.parse(QWEN | changes, "config.json")


def test_rope_is_read_as_old_and_new_releases_write_it():
    llama = {**QWEN, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    old = hf_config.parse({**llama, "rope_scaling": SCALING}, "old")
    del llama["rope_theta"]
    new = {**SCALING, "rope_theta": 1e6}
    assert old == hf_config.parse({**llama, "rope_parameters": new}, "new")
    assert old.rope_scaling == RopeScaling(kind="llama3", factor=32.0)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_what_is_written_is_read_back(name):
    config = presets.get(name)
    for model_type in hf_config.types_of(config):
        fields = hf_config.to_fields(config, "bfloat16", model_type)
        assert hf_config.parse(json.loads(json.dumps(fields)), "c.json") == config


@pytest.mark.parametrize("name", ["qwen2.5-3b", "qwen3-8b", "llama-3.2-1b"])
def test_what_is_written_serves_readers_of_both_releases(name):
    config = presets.get(name)
    fields = hf_config.to_fields(config, "bfloat16", hf_config.types_of(config)[0])
    # Releases 4 take the former fields, releases 5 the one that holds them all.
    old = {**(fields["rope_scaling"] or {}), "rope_theta": fields["rope_theta"]}
    assert {"rope_type": "default", **old} == fields["rope_parameters"]
    assert fields["rope_theta"] == config.rope_theta
    assert fields["dtype"] == fields["torch_dtype"] == "bfloat16"
    for dropped in (["rope_parameters"], ["rope_theta", "rope_scaling"]):
        kept = {k: v for k, v in fields.items() if k not in dropped}
        assert hf_config.parse(kept, "config.json") == config


def test_a_model_that_no_family_fits_is_refused():
    odd = dataclasses.replace(presets.get("qwen3-0.6b"), qkv_bias=True)
    with pytest.raises(errors.ConfigError, match=r"model\.qkv_bias"):
        hf_config.types_of(odd)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_file_that_is_absent_or_damaged_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(errors.ConfigError, match=str(tmp_path / "config.json")):
        hf_config.read_fields(tmp_path)
