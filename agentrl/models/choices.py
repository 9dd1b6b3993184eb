"""What suits a platform: how attention is computed, and whether blocks are scanned."""

import dataclasses

import jax

from agentrl.models import model_config

_KERNEL_HEAD_DIMS = (64, 128, 256)  # of the TPU kernels


def attention(
    config: model_config.ModelConfig, platform: str | None = None
) -> model_config.Implementation:
    """Returns how attention is computed, unless `config.attention` says it.

    Args:
      config: shape of the model.
      platform: as `jax.default_backend` names it; None takes that.
    """
    if config.attention != "auto":
        return config.attention
    platform = platform or jax.default_backend()
    if platform == "cpu":
        return "matmul"
    if platform == "tpu":
        return "pallas" if config.head_dim in _KERNEL_HEAD_DIMS else "xla"
    # cuDNN's kernel takes half precision, and head sizes in multiples of 8 up to 128.
    fits = config.dtypes.compute == "bfloat16" and config.head_dim in range(8, 129, 8)
    return "cudnn" if platform == "gpu" and fits else "xla"


def scans(config: model_config.ModelConfig, platform: str | None = None) -> bool:
    """Returns whether blocks are scanned, unless `config.scan_blocks` says it.

    A TPU keeps each program's code in its memory, and that of unrolled blocks grows with
    depth. GPUs do not, and the kernels there would read a copied layer of the cache.

    Args:
      config: shape of the model.
      platform: as `jax.default_backend` names it; None takes that.
    """
    if config.scan_blocks == "auto":
        return (platform or jax.default_backend()) == "tpu"
    return config.scan_blocks == "always"


def for_platform(
    config: model_config.ModelConfig, platform: str
) -> model_config.ModelConfig:
    """Replaces "auto" in `attention` and `scan_blocks` by what suits a platform.

    Programs that are compiled here for devices elsewhere need it.
    """
    return dataclasses.replace(
        config,
        attention=attention(config, platform),
        scan_blocks="always" if scans(config, platform) else "never",
    )


def describe(config: model_config.ModelConfig, platform: str | None = None) -> str:
    """Returns one line: what was chosen for a model, and why."""
    platform = platform or jax.default_backend()
    kernel = {
        "matmul": "matrix products",
        "xla": "XLA's",
        "cudnn": "cuDNN's flash attention",
        "pallas": "Pallas kernels, splash attention in updates and flash decoding in "
        "rollouts",
    }[attention(config, platform)]
    blocks = "compiled once and scanned" if scans(config, platform) else "unrolled"
    return (
        f"Attention: {kernel} (model.attention = {config.attention}). Layers: "
        f"{config.num_layers}, {blocks} (model.scan_blocks = {config.scan_blocks}). On "
        f"{platform}, with head size {config.head_dim} in {config.dtypes.compute}."
    )
