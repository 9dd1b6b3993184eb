"""Qwen2 of Hugging Face Transformers, in the shape of one of our models."""

import transformers


def make_model(shape, **fields):
    """A random model; `fields` are further ones of its configuration."""
    settings = transformers.Qwen2Config(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["mlp_size"],
        num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"],
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
        rms_norm_eps=shape["norm_epsilon"],
        tie_word_embeddings=shape["tied_embeddings"],
        attn_implementation="sdpa",
        **fields,
    )
    return transformers.Qwen2ForCausalLM(settings).float()
