"""Initial parameters that can already copy: induction heads in the first two layers.

A pattern "A B ... A" is continued with "B" by two heads in sequence (Olsson et al. 2022,
https://arxiv.org/abs/2209.11895): one notes beside each token which token came before it,
the next looks for the place whose note is the present token, and repeats what stands
there. Small models need hundreds of millions of tokens to find this circuit; a warm start
of some minutes has under one. Here the circuit is part of the initial draw, over random
embeddings, and everything stays trainable: what to copy, and when, is still to be learned.
"""

import jax
import jax.numpy as jnp

from agentrl import types
from agentrl.models import config as model_config

_POSITION_BIAS = 6.0  # puts nearly all weight on one relative position
_MATCH_SHARPNESS = 1.5  # a match stands out from some hundred random tokens
_NUM_NOTES = 2  # the tokens one and two places back


def place_induction_heads(
    params: types.PyTree, config: model_config.ModelConfig, key: jax.Array
) -> types.PyTree:
    """Returns the parameters with the circuit in place of some of the random draws.

    Embeddings get unit variance, so that the first norm leaves them as they are.

    Args:
      params: a random draw, see `transformer.Model.init`.
      config: a shape that `has_room_for_induction`.
      key: of the circuit's own random projections.
    """
    embedding = params["embedding"] * config.hidden_size**0.5
    first, second, *others = params["blocks"].items()
    first = (first[0], first[1] | {"attention": dict(first[1]["attention"])})
    second = (second[0], second[1] | {"attention": dict(second[1]["attention"])})
    _place(first[1]["attention"], second[1]["attention"], config, key)
    return params | {
        "embedding": embedding,
        "blocks": dict((first, second, *others)),
        "head": _reading_copies(embedding, second[1]["attention"], config),
    }


def _place(
    noting: dict[str, jax.Array],
    matching: dict[str, jax.Array],
    config: model_config.ModelConfig,
    key: jax.Array,
) -> None:
    """Writes the two layers' heads into their attention parameters, in place."""
    size, dim = config.hidden_size, config.head_dim
    group = config.num_heads // config.num_kv_heads
    what, notes = jax.random.split(key)
    identity = jax.random.normal(what, (size, dim)) * size**-0.5
    notes = jax.random.normal(notes, (_NUM_NOTES, dim, size)) * dim**-0.5
    read = jnp.swapaxes(notes, 1, 2) * (dim / size)  # undoes what `notes` writes

    heads = jnp.arange(_NUM_NOTES)  # they share the first key-value head
    noting["query"] = noting["query"].at[:, heads].set(0)
    noting["key"] = noting["key"].at[:, 0].set(0)
    noting["value"] = noting["value"].at[:, 0].set(identity)
    noting["out"] = noting["out"].at[heads].set(notes)
    noting["key_bias"] = noting["key_bias"].at[0].set(_position_bias(0, config))
    for back in range(_NUM_NOTES):
        bias = _position_bias(back + 1, config)
        noting["query_bias"] = noting["query_bias"].at[back].set(bias)

    # Key-value head n reads note n: it holds the token that is to equal the present one
    # for n = 0, and the one before the present one, itself a note, for n = 1.
    wanted = (identity, 2 * read[0])
    for note in range(_NUM_NOTES):
        matching["key"] = matching["key"].at[:, note].set(read[note])
        queries = jnp.arange(note * group, (note + 1) * group)
        sharp = _MATCH_SHARPNESS * wanted[note]
        matching["query"] = matching["query"].at[:, queries].set(sharp[:, None])


def _position_bias(back: int, config: model_config.ModelConfig) -> jax.Array:
    """float[D]; as a query it attends `back` places before, as a key (0) to itself.

    Rotary embedding turns constant vectors into functions of relative position.
    """
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-jnp.arange(half) / half)
    turning = frequencies > 0.05  # slower ones tell near positions apart too little
    angle = back * frequencies
    pair = jnp.concatenate([jnp.cos(angle) * turning, -jnp.sin(angle) * turning])
    return _POSITION_BIAS * pair


def _reading_copies(
    embedding: jax.Array,
    matching: dict[str, jax.Array],
    config: model_config.ModelConfig,
) -> jax.Array:
    """Output matrix float[M, V] of unit columns that reads what the second layer writes."""
    group = config.num_heads // config.num_kv_heads
    values = jnp.repeat(matching["value"], group, axis=1)
    written = jnp.einsum("vm,mhd,hdn->vn", embedding, values, matching["out"])
    return (written / jnp.linalg.norm(written, axis=1, keepdims=True)).T
