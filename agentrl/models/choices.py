"""What suits a platform: how attention is computed, and whether blocks are scanned."""

import dataclasses

import jax

from agentrl.models import model_config

_KERNEL_HEAD_DIMS = (64, 128, 256)  # of the TPU kernels


def for_platform(
    config: model_config.ModelConfig, platform: str | None = None
) -> model_config.ModelConfig:
    """Replaces "auto" in `attention` and `scan_blocks` by what suits a platform.

    Args:
      config: shape of the model.
      platform: as `jax.default_backend` names it; None takes that. Programs that are
        compiled here for devices elsewhere need the platform of those.
    """
    platform = platform or jax.default_backend()
    attention, scan = config.attention, config.scan_blocks
    if attention == "auto":
        attention = _attention(config, platform)
    if scan == "auto":
        # A TPU keeps each program's code in its memory, and code of unrolled blocks grows
        # with depth. GPUs do not, and the kernels there would read a copied layer of the
        # cache.
        scan = "always" if platform == "tpu" else "never"
    return dataclasses.replace(config, attention=attention, scan_blocks=scan)


def describe(config: model_config.ModelConfig, platform: str | None = None) -> str:
    """Returns one line: what was chosen for a model, and why."""
    platform = platform or jax.default_backend()
    chosen = for_platform(config, platform)
    kernel = {
        "matmul": "matrix products",
        "xla": "XLA's",
        "cudnn": "cuDNN's flash attention",
        "pallas": "Pallas kernels, splash attention in updates and flash decoding in "
        "rollouts",
    }[chosen.attention]
    scanned = chosen.scan_blocks == "always"
    return (
        f"Attention: {kernel} (model.attention = {config.attention}). Layers: "
        f"{chosen.num_layers}, {'compiled once and scanned' if scanned else 'unrolled'} "
        f"(model.scan_blocks = {config.scan_blocks}). On {platform}, with head size "
        f"{chosen.head_dim} in {chosen.dtypes.compute}."
    )


def _attention(
    config: model_config.ModelConfig, platform: str
) -> model_config.Implementation:
    if platform == "cpu":
        return "matmul"
    if platform == "tpu":
        return "pallas" if config.head_dim in _KERNEL_HEAD_DIMS else "xla"
    # cuDNN's kernel takes half precision, and head sizes in multiples of 8 up to 128.
    fits = config.dtypes.compute == "bfloat16" and config.head_dim in range(8, 129, 8)
    return "cudnn" if platform == "gpu" and fits else "xla"
