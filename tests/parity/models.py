"""Small random models of `transformers`, and ours beside them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from agentrl import config
from agentrl.models import transformer
from agentrl.parallel import sharding
from agentrl.sources import locate

VOCABULARY = 64
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # large logits: small ones would agree whatever is wrong
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
# Family -> (class of transformers, changes to the shape).
FAMILIES = {
    "qwen2": ("Qwen2", {}),
    "qwen2_tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2_mha": ("Qwen2", {"num_key_value_heads": 4}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3_tied": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "llama": ("Llama", {}),
    "llama_tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama_mha": ("Llama", {"num_key_value_heads": 4}),
    "llama_llama3": ("Llama", {"rope_parameters": _LLAMA3}),
    "llama_linear": ("Llama", {"rope_parameters": _LINEAR}),
}


def make(family, **changed):
    """A model of `transformers` whose every parameter is random, norms and biases too."""
    import torch
    import transformers

    name, changes = FAMILIES[family]
    torch.manual_seed(0)
    settings = getattr(transformers, f"{name}Config")(**_SHAPE | changes | changed)
    model = getattr(transformers, f"{name}ForCausalLM")(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return model


def abstract(model_config, **mesh):
    """Placements of a model's parameters, sharded if `mesh` says so."""
    shapes = jax.eval_shape(transformer.Model(model_config).init, jax.random.key(0))
    return sharding.with_shardings(
        shapes, sharding.make_mesh(config.MeshConfig(**mesh))
    )


def load(folder, **mesh):
    """Our model and its parameters, from a Hugging Face folder."""
    found = locate.find.__wrapped__(str(folder))
    return transformer.Model(found.config), found.load(abstract(found.config, **mesh))


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens, segment_ids, positions):
    """Logits of padded rows."""
    hidden = model.hidden(params, tokens, positions, segment_ids)
    return jnp.einsum("btm,mv->btv", hidden, model.unembedding(params))


def full_logits(model, params, tokens, mask=None):
    """Logits of int[B, T] tokens; positions are counted from the first one in `mask`."""
    mask = np.ones(np.shape(tokens), np.int32) if mask is None else mask
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    return np.asarray(logits(model, params, np.asarray(tokens), mask, positions))


def their_logits(theirs, tokens, mask=None):
    """Logits of `transformers`."""
    import torch

    mask = None if mask is None else torch.tensor(mask)
    with torch.no_grad():
        found = theirs(torch.tensor(np.asarray(tokens)), attention_mask=mask).logits
    return found.float().numpy()
