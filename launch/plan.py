r"""Says whether a run fits into the memory of its devices, before any is touched.

  python -m agentrl.launch.plan --model=qwen2.5-7b --devices=16 --accelerator=v5p
  python -m agentrl.launch.plan --model=qwen2.5-3b --devices=1 --accelerator=h100 --lora_rank=32
  python -m agentrl.launch.plan --config=experiments/demo/demo.py --devices=1 --hbm_gib=16

Without --fsdp and --tensor it tries meshes, and takes the first that fits, the one that
shards the model least; with them it computes that mesh. --config takes all sizes from the
experiment. The numbers are arithmetic (`planning/memory.py`), per device; what XLA allocates
differs, hence --headroom. `docs/howto_plan.md` explains each line. Exits with 1 if nothing
fits.
"""  # noqa: E501

import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from agentrl.hardware import devices

_CONFIG = flags.DEFINE_string(
    "config", None, "Experiment file to plan for, in place of --model."
)
_SET = flags.DEFINE_multi_string(
    "set",
    [],
    "Override of a field of --config, as launch.train takes it. With --model those of the "
    "shape: --set=model.precision.moments=bfloat16.",
)
_MODEL = flags.DEFINE_string(
    "model", None, "Shape by name: qwen2.5-3b, qwen3-8b, llama-3.2-1b, smollm2-360m..."
)
_DEVICES = flags.DEFINE_integer(
    "devices", 1, "Devices in all, as JAX counts them: v5p-8 has 4.", lower_bound=1
)
_ACCELERATOR = flags.DEFINE_enum(
    "accelerator", None, devices.names(), "Kind of device, for its memory."
)
_HBM = flags.DEFINE_float(
    "hbm_gib", None, "Memory of a device in GiB, in place of --accelerator."
)
_HEADROOM = flags.DEFINE_float(
    "headroom",
    0.1,
    "Share of the memory left unplanned, for what the arithmetic does not see.",
    lower_bound=0.0,
    upper_bound=0.9,
)
_FSDP = flags.DEFINE_integer(
    "fsdp",
    None,
    "Devices that share one copy of parameters, moments and gradients (mesh.fsdp).",
    lower_bound=1,
)
_TENSOR = flags.DEFINE_integer(
    "tensor",
    None,
    "Devices that share the work of each layer, in rollouts too (mesh.model).",
    lower_bound=1,
)
_LORA = flags.DEFINE_integer(
    "lora_rank",
    None,
    "Train adapters of this rank; without it all parameters are trained.",
    lower_bound=1,
)
_INT8 = flags.DEFINE_bool(
    "int8_base", False, "With --lora_rank: hold the adapted kernels in 8 bits."
)
_SIZES = {  # fields of memory.Workload
    name: flags.DEFINE_integer(name, default, help, lower_bound=1)
    for name, default, help in (
        ("rows_per_device", 1, "Packed rows of one microbatch on each device."),
        ("row_tokens", 4096, "Tokens of a packed row (learner.row_tokens)."),
        (
            "logprob_chunk",
            2048,
            "Tokens, over all devices, whose logits exist at once.",
        ),
        (
            "slots_per_device",
            16,
            "Live episodes on each device: batch size of its cache.",
        ),
        ("context", 4096, "Tokens of the longest episode: length of the cache."),
        ("append", 256, "Tokens of the largest prefill chunk."),
    )
}


def main(argv: Sequence[str]) -> None:
    """Prints the plan; exits with 1 if nothing fits."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    if (_MODEL.value is None) == (_CONFIG.value is None):
        raise app.UsageError("give either --model or --config.")
    if (_ACCELERATOR.value is None) == (_HBM.value is None):
        raise app.UsageError("give either --accelerator or --hbm_gib.")
    # JAX is imported late: it reads flags and environment variables on import.
    logging.set_verbosity(logging.WARNING)
    import jax

    from agentrl import refusals
    from agentrl.planning import workloads

    accelerator = devices.get(_ACCELERATOR.value) if _ACCELERATOR.value else None
    platform = accelerator.platform if accelerator else "gpu"
    jax.config.update("jax_platforms", "cpu")  # does not touch the accelerator
    try:
        if _CONFIG.value:
            work = workloads.of_experiment(
                _CONFIG.value,
                _SET.value,
                platform=platform,
                num_devices=_DEVICES.value,
                tensor=_TENSOR.value,
            )
        else:
            work = workloads.of_model(
                _MODEL.value or "", _SET.value, platform=platform, **_flags_of_model()
            )
    except refusals.EXPECTED as error:
        sys.exit(f"launch.plan: {error}")
    meshes = list(
        workloads.meshes(
            _DEVICES.value,
            work.model.num_kv_heads,
            fsdp=_FSDP.value,
            tensor=_TENSOR.value,
        )
    )
    if not meshes:
        raise app.UsageError(
            f"--fsdp={_FSDP.value} x --tensor={_TENSOR.value} must divide "
            f"--devices={_DEVICES.value}."
        )
    hbm_bytes = accelerator.hbm_bytes if accelerator else _HBM.value * devices.GIB
    budget = hbm_bytes * (1 - _HEADROOM.value)
    plan = workloads.choose(work, meshes, budget)
    print(plan.format())
    sys.exit(not plan.fits)


def _flags_of_model() -> dict[str, Any]:
    return {
        "lora_rank": _LORA.value,
        "int8_base": _INT8.value,
        **{name: flag.value for name, flag in _SIZES.items()},
    }


if __name__ == "__main__":
    app.run(main)
