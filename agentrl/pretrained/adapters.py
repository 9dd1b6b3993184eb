"""LoRA adapters in the folder layout of the `peft` library.

`peft` holds A as [rank, inputs] and B as [outputs, rank] under the name of the module that
it adapts, and adds B A alpha / rank to that module's matrix. Ours keeps heads apart, in
the same order.
"""

import pathlib

import jax
import numpy as np
import safetensors.numpy

from agentrl import errors, types
from agentrl.models import layers, model_config
from agentrl.pretrained import hf_export, names, weights

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def write(
    trained: types.PyTree,
    config: model_config.ModelConfig,
    lora: model_config.LoraConfig,
    folder: pathlib.Path,
    *,
    base: str,
    dtype: str | None = None,
) -> None:
    """Writes a folder that `peft.PeftModel.from_pretrained` loads onto the base model.

    Args:
      trained: the trained half of a run's parameters.
      config: shape of the model.
      lora: rank, alpha and targets of the adapters.
      folder: new or empty.
      base: folder or name of the model that the adapters belong to, for `peft`.
      dtype: of the tensors; None keeps each parameter's.

    Raises:
      ConfigError: if `folder` is not empty, or parameters besides adapters were trained.
    """
    table = names.table(config)
    tensors, modules, others = {}, set(), []
    for path, leaf in jax.tree.leaves_with_path(layers.unstack(trained)):
        kernel, _, factor = weights.path_of(path).rpartition("/")
        if factor not in ("a", "b") or kernel not in table:
            others.append(weights.path_of(path))
            continue
        module = table[kernel].name.removesuffix(".weight")
        matrix = np.asarray(jax.device_get(leaf)).astype(dtype or leaf.dtype)
        outer = (-1, lora.rank) if factor == "a" else (lora.rank, -1)
        tensors[f"base_model.model.{module}.lora_{factor.upper()}.weight"] = (
            np.ascontiguousarray(matrix.reshape(outer).T)
        )
        modules.add(module.rpartition(".")[2])
    if others := [name for name in others if name != "critic"]:
        raise errors.ConfigError(
            f"the run trained {len(others)} parameters besides its adapters, such as "
            f"{others[0]}, which a folder of adapters cannot hold; export the merged model."
        )
    hf_export.claim(folder)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    hf_export.write_json(fields, folder / CONFIG)
