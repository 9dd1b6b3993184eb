r"""Says whether a run fits into the memory of its devices, before any is touched.

  python -m agentrl.launch.plan --model=qwen2.5-7b --topology=v5e:4x8
  python -m agentrl.launch.plan --model=qwen2.5-7b --devices=16 --accelerator=v5p
  python -m agentrl.launch.plan --model=qwen2.5-3b --devices=1 --accelerator=h100 --lora_rank=32
  python -m agentrl.launch.plan --config=experiments/demo/demo.py --devices=1 --hbm_gib=16

With --topology the run's own learner step and turn are compiled for a TPU slice, which need
not be there: memory, code, cost and time of an iteration are the compiler's. Without it, and
for GPUs, the numbers are arithmetic (`planning/memory.py`), per device; what XLA allocates
differs, hence --headroom.

Without --fsdp and --tensor it tries meshes, and takes the first that fits, the one that
shards the model least; with them it computes that mesh. --config takes all sizes from the
experiment, and --set changes them. `docs/howto_plan.md` explains each line. Exits with 1 if nothing fits.
"""  # noqa: E501

import math
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

from agentrl import errors
from agentrl.hardware import devices

if TYPE_CHECKING:
    from agentrl import config
    from agentrl.planning import memory

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
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "TPU slice to compile for, such as v5e:4x8, v5p:2x2x4 or v6e:4x8, in place of "
    "--devices and --accelerator. Needs the extra `tpu-plan`.",
)
_LARGEST = flags.DEFINE_bool(
    "largest",
    False,
    "With --topology: search for the most slots, rows and context that fit, and compile "
    "them.",
)
_DEMAND = {  # fields of throughput.Demand
    field: flags.DEFINE_integer(flag, default, help, lower_bound=1)
    for field, flag, default, help in (
        ("tasks", "tasks", 64, "With --topology: tasks of an iteration."),
        ("group", "group", 8, "With --topology: episodes of each task."),
        ("turns", "turns", 8, "With --topology: turns of an episode."),
        (
            "observation",
            "observation_tokens",
            192,
            "With --topology: tokens that a turn appends.",
        ),
        ("action", "action_tokens", 64, "With --topology: tokens that a turn samples."),
    )
}
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
_REMAT = flags.DEFINE_bool(
    "remat", True, "Recompute activations in the backward pass (learner.remat)."
)
_KL = flags.DEFINE_bool("kl", False, "Hold a reference for a KL term.")
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

# What the experiment of --config says itself: flag -> fields that change it there.
OF_MODEL = {
    "lora_rank": "--set=lora.rank=...",
    "int8_base": "--set=lora.int8_base=True",
    "remat": "--set=learner.remat=none or full",
    "kl": "--set=stages.*.algorithm.kl.coefficient=...",
    "rows_per_device": "--set=learner.rows_per_microbatch=...",
    "row_tokens": "--set=learner.row_tokens=...",
    "logprob_chunk": "--set=learner.logprob_chunk=...",
    "slots_per_device": "--set=stages.*.rollout.num_slots=...",
    "context": "--set=stages.*.rollout.cache_buckets=(...,)",
    "append": "--set=stages.*.rollout.append_buckets=(...,)",
}
# What only a compiled plan has, and what its slice says itself.
OF_TOPOLOGY = (
    "largest",
    "tasks",
    "group",
    "turns",
    "observation_tokens",
    "action_tokens",
)
NOT_OF_TOPOLOGY = ("devices",)


def main(argv: Sequence[str]) -> None:
    """Prints the plan; exits with 1 if nothing fits."""
    if len(argv) > 1:
        raise errors.UsageError(f"unexpected arguments {argv[1:]}.")
    if (_MODEL.value is None) == (_CONFIG.value is None):
        raise errors.UsageError("give either --model or --config.")
    given = [_ACCELERATOR.value, _HBM.value, _TOPOLOGY.value]
    if sum(value is not None for value in given) != 1:
        raise errors.UsageError("give one of --topology, --accelerator and --hbm_gib.")
    _refuse_without_effect()
    # JAX is imported late: it reads flags and environment variables on import.
    logging.set_verbosity(logging.WARNING)
    import jax

    from agentrl import refusals

    jax.config.update("jax_platforms", "cpu")  # does not touch the accelerator
    try:
        fits = _plan_slice() if _TOPOLOGY.value else _plan_by_arithmetic()
    except refusals.EXPECTED as error:
        sys.exit(f"launch.plan: {error}")
    sys.exit(not fits)


def _refuse_without_effect() -> None:
    """Raises `UsageError` if a flag is given that this plan would not be changed by."""

    def refuse(names: Iterable[str], without: str, instead: str = "") -> None:
        for name in names:
            if flags.FLAGS[name].present:
                raise errors.UsageError(f"--{name} has no effect {without}.{instead}")

    if _CONFIG.value is not None:
        for name, change in OF_MODEL.items():
            refuse([name], "with --config", f" Change the experiment: {change}.")
    elif _LORA.value is None:
        refuse(["int8_base"], "without --lora_rank")
    if _TOPOLOGY.value is None:
        refuse(OF_TOPOLOGY, "without --topology")
    else:
        refuse(NOT_OF_TOPOLOGY, "with --topology")
    if _HBM.value is not None and not (math.isfinite(_HBM.value) and _HBM.value > 0):
        raise errors.UsageError(f"--hbm_gib={_HBM.value} is no size of a memory.")


def _plan_slice() -> bool:
    """Compiles for a slice and prints the plan; returns whether it fits."""
    from agentrl.hardware import topology
    from agentrl.planning import advise
    from agentrl.programs import throughput

    target = topology.open_slice(_TOPOLOGY.value or "")
    num_devices, num_local = len(target.devices), len(target.local_devices)
    run, work = _load("tpu", num_devices, num_local)
    advisor = advise.Advisor(
        advise.Request(
            work=work,
            run=run,
            target=target,
            meshes=_meshes(work, run, num_devices, num_local),
            headroom=_HEADROOM.value,
            demand=throughput.Demand(
                **{name: flag.value for name, flag in _DEMAND.items()}
            ),
            find_largest=_LARGEST.value,
        )
    )
    for line in advisor.lines():
        print(line, flush=True)
    return advisor.fits


def _plan_by_arithmetic() -> bool:
    """Prints the plan by arithmetic; returns whether it fits."""
    from agentrl.planning import workloads

    accelerator = devices.get(_ACCELERATOR.value) if _ACCELERATOR.value else None
    platform = accelerator.platform if accelerator else "gpu"
    run, work = _load(platform, _DEVICES.value, _DEVICES.value)
    meshes = _meshes(work, run, _DEVICES.value, _DEVICES.value)
    gib = _HBM.value or 0.0
    hbm_bytes = accelerator.hbm_bytes if accelerator else gib * devices.GIB
    plan = workloads.choose(work, meshes, hbm_bytes * (1 - _HEADROOM.value))
    print(plan.format())
    return plan.fits


def _load(
    platform: str, num_devices: int, num_local: int
) -> tuple["config.RunConfig | None", "memory.Workload"]:
    """Returns the experiment, if one is given, and the workload."""
    from agentrl.experiment import files
    from agentrl.planning import workloads

    if not _CONFIG.value:
        return None, workloads.of_model(
            _MODEL.value or "", _SET.value, platform=platform, **_flags_of_model()
        )
    run = files.load(_CONFIG.value, overrides=_SET.value, platform=platform)
    work = workloads.of_run(
        run,
        platform=platform,
        num_devices=num_devices,
        num_local=num_local,
        tensor=_TENSOR.value,
    )
    return run, work


def _meshes(
    work: "memory.Workload",
    run: "config.RunConfig | None",
    num_devices: int,
    num_local: int,
) -> "list[config.MeshConfig]":
    """Returns the meshes to try; an experiment that is compiled has its own."""
    from agentrl.planning import workloads

    fsdp, tensor = _FSDP.value, _TENSOR.value
    if run is not None and _TOPOLOGY.value:
        fsdp, tensor = fsdp or run.mesh.fsdp, tensor or run.mesh.model
    found = [
        mesh
        for mesh in workloads.meshes(
            num_devices, work.model.num_kv_heads, fsdp=fsdp, tensor=tensor
        )
        if num_local % mesh.model == 0
    ]
    if not found:
        raise errors.UsageError(
            f"fsdp = {fsdp} x tensor = {tensor} must divide the {num_devices} devices, and "
            f"tensor the {num_local} of a host."
        )
    return found


def _flags_of_model() -> dict[str, Any]:
    return {
        "lora_rank": _LORA.value,
        "int8_base": _INT8.value,
        "remat": _REMAT.value,
        "references": int(_KL.value),
        **{name: flag.value for name, flag in _SIZES.items()},
    }


if __name__ == "__main__":
    app.run(main)
