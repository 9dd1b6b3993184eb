r"""Says whether a run fits into the memory of its devices, before any is touched.

  python -m launch.plan --model=qwen2.5-7b --devices=16 --accelerator=v5p
  python -m launch.plan --model=qwen2.5-3b --devices=1 --accelerator=h100 --lora_rank=32
  python -m launch.plan --config=experiments/demo/demo.py --devices=1 --hbm_gib=16

Without --fsdp and --tensor it tries meshes, and takes the first that fits, the one that
cuts the model least; with them it computes that mesh. The numbers are arithmetic
(`launch/memory.py`), per device; what XLA allocates differs, hence --headroom.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags

ACCELERATORS = {  # GiB of memory of one device, as JAX counts devices
    "v4": 32.0,
    "v5e": 16.0,
    "v5p": 95.0,
    "v6e": 32.0,
    "a100-40g": 40.0,
    "a100-80g": 80.0,
    "h100": 79.6,
    "h200": 140.4,
}
_GIB = 2**30
ADVICE = {
    "trained parameters": "raise --fsdp, or train adapters with --lora_rank",
    "frozen parameters": "raise --fsdp, or hold them in 8 bits with --int8_base",
    "optimizer": "raise --fsdp, take --moments=bfloat16, or adapters with --lora_rank",
    "reference": "set the KL coefficient to 0, or train adapters with --lora_rank",
    "gradients": "raise --fsdp, or train adapters with --lora_rank",
    "activations": "use shorter --row_tokens or fewer --rows_per_device, or raise --tensor",
    "logits": "lower --logprob_chunk, or raise --tensor",
    "gathered layers": "raise --tensor",
    "rollout parameters": "raise --tensor",
    "cache": "use fewer --slots_per_device or a shorter --context",
    "sampling": "use a narrower --append or fewer --slots_per_device",
}

_CONFIG = flags.DEFINE_string("config", None, "Experiment file, in place of --model.")
_SET = flags.DEFINE_multi_string("set", [], "Override of a field of --config.")
_MODEL = flags.DEFINE_string("model", None, "Name of a shape, such as qwen2.5-3b.")
_DEVICES = flags.DEFINE_integer("devices", 1, "Devices in all.", lower_bound=1)
_ACCELERATOR = flags.DEFINE_enum(
    "accelerator", None, sorted(ACCELERATORS), "Kind of device."
)
_HBM = flags.DEFINE_float(
    "hbm_gib", None, "GiB of a device, in place of --accelerator."
)
_HEADROOM = flags.DEFINE_float("headroom", 0.1, "Share of the memory left unplanned.")
_FSDP = flags.DEFINE_integer("fsdp", None, "Devices that share one copy's parameters.")
_TENSOR = flags.DEFINE_integer("tensor", None, "Devices that share each layer.")
_LORA = flags.DEFINE_integer("lora_rank", None, "Train adapters of this rank only.")
_INT8 = flags.DEFINE_bool("int8_base", False, "Hold adapted kernels in 8 bits.")
_COMPUTE = flags.DEFINE_enum(
    "compute", "bfloat16", ["float32", "bfloat16"], "Type of activations and cache."
)
_MOMENTS = flags.DEFINE_enum(
    "moments", "float32", ["float32", "bfloat16"], "Type of the optimizer's moments."
)
_NUMBERS = {
    "rows_per_device": flags.DEFINE_integer("rows_per_device", 1, "Of a microbatch."),
    "row_tokens": flags.DEFINE_integer("row_tokens", 4096, "Columns of a packed row."),
    "logprob_chunk": flags.DEFINE_integer("logprob_chunk", 2048, "Tokens with logits."),
    "slots_per_device": flags.DEFINE_integer("slots_per_device", 16, "Live episodes."),
    "context": flags.DEFINE_integer("context", 4096, "Cache columns of an episode."),
    "append": flags.DEFINE_integer("append", 256, "Widest append of observations."),
}


def main(argv: Sequence[str]) -> None:
    """Prints the plan; exits with 1 if nothing fits."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    from agentrl import errors

    try:
        sys.exit(0 if plan() else 1)
    except errors.ConfigError as error:
        sys.exit(f"launch.plan: {error}")


def plan() -> bool:
    """Computes the meshes asked for, prints one, and says whether it fits."""
    import dataclasses

    from launch import memory

    memory_gib = _HBM.value or ACCELERATORS.get(_ACCELERATOR.value or "")
    if memory_gib is None:
        raise app.UsageError("give --accelerator or --hbm_gib.")
    budget = memory_gib * (1 - _HEADROOM.value) * _GIB
    work = _from_config() if _CONFIG.value else _from_flags()
    meshes = list(_meshes(work.model.num_kv_heads))
    if not meshes:
        raise app.UsageError(
            f"no mesh of {_DEVICES.value} devices has --fsdp={_FSDP.value} and --tensor="
            f"{_TENSOR.value}; the product must divide the devices."
        )
    found = [
        (mesh, memory.estimate(dataclasses.replace(work, mesh=mesh))) for mesh in meshes
    ]
    fitting = [pair for pair in found if pair[1].peak <= budget]
    mesh, estimate = (fitting or [min(found, key=lambda pair: pair[1].peak)])[0]
    print(f"mesh: data {mesh.data}, fsdp {mesh.fsdp}, model {mesh.model}")
    for phase in ("state", "update", "rollout"):
        for name, size in getattr(estimate, phase).items():
            print(f"  {phase:8} {name:20} {size / _GIB:8.2f} GiB")
    print(
        f"peak {estimate.peak / _GIB:.2f} GiB of {budget / _GIB:.2f} GiB per device "
        f"({memory_gib:g} less {_HEADROOM.value:.0%}); largest: {estimate.largest}"
    )
    if not fitting:
        print(f"does not fit, on none of {len(found)} meshes tried (this needs least).")
        print(f"To make room: {ADVICE[estimate.largest]}; or take more devices.")
    return bool(fitting)


def _meshes(num_kv_heads: int) -> Iterator:
    """Meshes of all devices, those that cut the model least first."""
    from agentrl import config

    devices = _DEVICES.value
    for tensor in range(1, devices + 1):
        for fsdp in range(1, devices + 1):
            if (
                devices % (fsdp * tensor) == 0
                and _FSDP.value in (None, fsdp)
                and _TENSOR.value in (None, tensor)
                and (_TENSOR.value or num_kv_heads % tensor == 0)
            ):
                data = devices // (fsdp * tensor)
                yield config.MeshConfig(data=data, fsdp=fsdp, model=tensor)


def _from_flags():
    import dataclasses

    from agentrl import config
    from agentrl.models import config as model_config
    from launch import memory
    from pretrained import presets

    if _MODEL.value is None:
        raise app.UsageError("give --model or --config.")
    model = dataclasses.replace(
        presets.get(_MODEL.value.lower()), compute_dtype=_COMPUTE.value
    )
    adapters = None
    if _LORA.value is not None:
        adapters = model_config.LoraConfig(rank=_LORA.value, int8_base=_INT8.value)
    return memory.Workload(
        model=model,
        mesh=config.MeshConfig(),
        lora=adapters,
        moment_dtype="bfloat16" if _MOMENTS.value == "bfloat16" else "float32",
        **_numbers(),
    )


def _numbers() -> dict[str, Any]:
    return {name: flag.value for name, flag in _NUMBERS.items()}


def _from_config():
    from launch import experiment, memory

    run = experiment.load(_CONFIG.value or "", overrides=_SET.value)
    rollouts = [stage.rollout for stage in run.stages] + [run.evaluation.rollout]
    shards = _DEVICES.value // (_TENSOR.value or run.mesh.model)
    return memory.Workload(
        model=run.model,
        mesh=run.mesh,
        lora=run.lora,
        trainable=run.trainable,
        moment_dtype=max(stage.optimizer.moment_dtype for stage in run.stages),
        rows_per_device=-(-run.learner.rows_per_microbatch // shards),
        row_tokens=run.learner.row_tokens,
        logprob_chunk=run.learner.logprob_chunk,
        remat=run.learner.remat == "full",
        slots_per_device=-(-max(r.num_slots for r in rollouts) // shards),
        context=max(r.cache_buckets[-1] for r in rollouts),
        append=max(r.append_buckets[-1] for r in rollouts),
        reference=any(stage.algorithm.kl_coefficient > 0 for stage in run.stages),
    )


if __name__ == "__main__":
    app.run(main)
