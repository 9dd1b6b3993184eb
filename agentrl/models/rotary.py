"""Rotary position embeddings, in the half-split convention of Llama and Qwen."""

import math

import jax
import jax.numpy as jnp

from agentrl.models import model_config


def rotate(
    x: jax.Array, positions: jax.Array, config: model_config.ModelConfig
) -> jax.Array:
    """Rotates pairs of features by angles that grow with the position.

    RoFormer: https://arxiv.org/abs/2104.09864, section 3.2.2.

    Args:
      x: float[batch, tokens, heads, Dh].
      positions: int32[batch, tokens].
      config: base of the geometric sequence of wavelengths, and its scaling.

    Returns:
      An array like `x`.
    """
    # float32: in bf16 the angles of far positions are off by whole turns.
    angles = positions[..., None].astype(jnp.float32) * frequencies(config)[None, None]
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return rotated.astype(x.dtype)


def frequencies(config: model_config.ModelConfig) -> jax.Array:
    """Returns the angle per position of each feature pair, float32[Dh / 2], radians.

    `linear` scaling divides all of them (https://arxiv.org/abs/2306.15595). `llama3` keeps
    high frequencies, by rotations within the original context, divides low ones, and
    interpolates in between (https://arxiv.org/abs/2407.21783, section 3.4.3, and its code).
    """
    half = config.head_dim // 2
    plain = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    rotations = plain * scaling.original_context / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = jnp.clip((rotations - low) / (high - low), 0, 1)
    return plain * (kept + (1 - kept) / scaling.factor)
