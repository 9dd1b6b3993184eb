"""A named initial model that can already copy: induction heads in its first two layers.

A pattern "A B ... A" is continued with "B" by two heads in sequence (Olsson et al. 2022,
https://arxiv.org/abs/2209.11895): a previous-token head writes to each position which
token came before it; an induction head attends to the position where that was the current
token, and copies the token there. Small models need hundreds of millions of tokens to
learn this circuit; a warm start of some minutes has under one. Here the circuit is part of
the random initialisation, over random embeddings, and all parameters stay trainable: what
to copy, and when, is still to be learned.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from agentrl import types
from agentrl.models import layers, model_config, transformer

_POSITION_BIAS = 6.0  # puts nearly all weight on one relative position
_MATCH_SHARPNESS = 1.5  # a match stands out from some hundred random tokens
_NUM_OFFSETS = 2  # previous-token heads look one and two positions back


def init(model: transformer.Model, key: jax.Array) -> types.PyTree:
    """Draws random parameters with induction heads.

    Args:
      model: a shape that `has_room_for_induction`.
      key: PRNG key.
    """
    # The circuit in float32, in layers that can be told apart.
    full = dataclasses.replace(model.config, precision=None, scan_blocks="never")
    params = transformer.Model(full).init(key)
    params = add_induction_heads(params, model.config, key)
    params = optax.tree.cast(params, model.config.dtypes.params)
    return layers.stack(params) if model.scanned else params


def add_induction_heads(
    params: types.PyTree, config: model_config.ModelConfig, key: jax.Array
) -> types.PyTree:
    """Replaces some heads of the first two layers by the circuit.

    Embeddings get unit variance, so that the first norm leaves them as they are.

    Args:
      params: random parameters in float32, see `transformer.Model.init`.
      config: a shape that `has_room_for_induction`.
      key: PRNG key of the circuit's own random projections.

    Returns:
      New parameters; `params` stays as it is.
    """
    embedding = params["embedding"] * config.hidden_size**0.5
    first, second, *others = params["blocks"].items()
    first = (first[0], first[1] | {"attention": dict(first[1]["attention"])})
    second = (second[0], second[1] | {"attention": dict(second[1]["attention"])})
    _write_heads(first[1]["attention"], second[1]["attention"], config, key)
    return params | {
        "embedding": embedding,
        "blocks": dict((first, second, *others)),
        "head": _reading_copies(embedding, second[1]["attention"], config),
    }


def _write_heads(
    previous: dict[str, jax.Array],
    matching: dict[str, jax.Array],
    config: model_config.ModelConfig,
    key: jax.Array,
) -> None:
    """Writes the heads into the attention parameters of two layers, in place.

    Args:
      previous: of the first layer, which gets the previous-token heads.
      matching: of the second layer, which gets the induction heads.
      config: shape of the model.
      key: PRNG key.
    """
    size, dim = config.hidden_size, config.head_dim
    group = config.num_heads // config.num_kv_heads
    identity_key, write_key = jax.random.split(key)
    identity = jax.random.normal(identity_key, (size, dim)) * size**-0.5
    write = jax.random.normal(write_key, (_NUM_OFFSETS, dim, size)) * dim**-0.5
    read = jnp.swapaxes(write, 1, 2) * (dim / size)  # inverts `write`, approximately

    heads = jnp.arange(_NUM_OFFSETS)  # they share the first key-value head
    previous["query"] = previous["query"].at[:, heads].set(0)
    previous["key"] = previous["key"].at[:, 0].set(0)
    previous["value"] = previous["value"].at[:, 0].set(identity)
    previous["out"] = previous["out"].at[heads].set(write)
    previous["key_bias"] = previous["key_bias"].at[0].set(_position_bias(0, config))
    for back in range(_NUM_OFFSETS):
        bias = _position_bias(back + 1, config)
        previous["query_bias"] = previous["query_bias"].at[back].set(bias)

    # The keys of head n are the tokens n + 1 positions before. Queries that match them are
    # the current token for n = 0, and the one before it, as layer one wrote it, for n = 1.
    matched = (identity, 2 * read[0])
    for head in range(_NUM_OFFSETS):
        matching["key"] = matching["key"].at[:, head].set(read[head])
        queries = jnp.arange(head * group, (head + 1) * group)
        sharp = _MATCH_SHARPNESS * matched[head]
        matching["query"] = matching["query"].at[:, queries].set(sharp[:, None])


def _position_bias(back: int, config: model_config.ModelConfig) -> jax.Array:
    """Returns float[Dh], a query bias that attends `back` positions before.

    With `back` = 0 it is the matching key bias. Rotary embedding turns constant vectors
    into functions of relative position.
    """
    half = config.head_dim // 2
    frequencies = config.rope_theta ** (-jnp.arange(half) / half)
    used = frequencies > 0.05  # lower ones hardly distinguish neighbouring positions
    angle = back * frequencies
    pair = jnp.concatenate([jnp.cos(angle) * used, -jnp.sin(angle) * used])
    return _POSITION_BIAS * pair


def _reading_copies(
    embedding: jax.Array,
    matching: dict[str, jax.Array],
    config: model_config.ModelConfig,
) -> jax.Array:
    """Returns the output matrix float[D, V], unit columns, for what layer two writes."""
    group = config.num_heads // config.num_kv_heads
    values = jnp.repeat(matching["value"], group, axis=1)
    written = jnp.einsum("vm,mhd,hdn->vn", embedding, values, matching["out"])
    return (written / jnp.linalg.norm(written, axis=1, keepdims=True)).T
