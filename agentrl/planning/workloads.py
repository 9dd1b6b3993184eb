"""Planning of memory for `launch.plan`: workloads, candidate meshes, the report."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from agentrl import config
from agentrl.envs import base
from agentrl.experiment import fields, precision
from agentrl.hardware import devices
from agentrl.models import choices, model_config
from agentrl.planning import memory
from agentrl.pretrained import presets

ADVICE = {  # by largest component: flags, and fields of an experiment
    "trained parameters": "raise --fsdp, or train adapters (--lora_rank; lora.rank)",
    "frozen parameters": "raise --fsdp, or hold them in 8 bits (--int8_base; "
    "lora.int8_base)",
    "optimizer": "raise --fsdp, take --set=model.precision.moments=bfloat16, or train "
    "adapters (--lora_rank; lora.rank)",
    "references": "train adapters (--lora_rank; lora.rank), or leave out the KL term",
    "shared prefixes": "use a shorter context (--context; rollout.cache_buckets)",
    "gradients": "raise --fsdp, or train adapters (--lora_rank; lora.rank)",
    "loop over layers": "raise --fsdp, or train adapters (--lora_rank; lora.rank)",
    "activations": "use shorter or fewer rows (--row_tokens, --rows_per_device; "
    "learner.row_tokens, learner.rows_per_microbatch), or raise --tensor",
    "logits": "lower --logprob_chunk (learner.logprob_chunk), or raise --tensor",
    "gathered layers": "raise --tensor",
    "rollout parameters": "raise --tensor",
    "cache": "use fewer slots (--slots_per_device; rollout.num_slots) or a shorter context "
    "(--context; rollout.cache_buckets)",
    "sampling": "use a narrower --append (rollout.append_buckets) or fewer slots "
    "(--slots_per_device; rollout.num_slots)",
}


def of_model(
    name: str,
    overrides: Sequence[str],
    *,
    platform: str,
    lora_rank: int | None,
    int8_base: bool,
    **sizes: object,
) -> memory.Workload:
    """Returns the workload of a model by name, as `pretrained.presets` spells it.

    Args:
      name: of the shape; case does not count.
      overrides: of single fields, such as `model.precision.cache=float32`.
      platform: whose precision to use, as `experiment.precision` names it.
      lora_rank: of the adapters; None trains all parameters.
      int8_base: whether frozen kernels are held in int8.
      **sizes: further fields of `memory.Workload`.

    Raises:
      ConfigError: if there is no such shape, or no such field.
    """
    model = dataclasses.replace(
        presets.get(name.lower()), precision=precision.PLATFORMS[platform]
    )
    lora = None
    if lora_rank is not None:
        lora = model_config.LoraConfig(rank=lora_rank, int8_base=int8_base)
    work = memory.Workload(model=model, mesh=config.MeshConfig(), lora=lora, **sizes)  # type: ignore[arg-type]
    for override in overrides:
        work = fields.override(work, override)
    return _on_platform(work, platform)


def _on_platform(work: memory.Workload, platform: str) -> memory.Workload:
    """Says how the model is computed there, which is not where it is planned."""
    model = choices.for_platform(work.model, platform)
    return dataclasses.replace(work, model=model)


def rollouts_of(run: config.RunConfig) -> list[config.RolloutConfig]:
    """Returns the rollout settings of everything that a run plays."""
    played = [stage.rollout for stage in run.stages if not stage.supervised]
    return [*played, run.evaluation.rollout, *run.evaluation.rollouts.values()]


def of_run(
    run: config.RunConfig,
    *,
    platform: str,
    num_devices: int,
    tensor: int | None,
    num_local: int | None = None,
) -> memory.Workload:
    """The largest workload that any stage of a run, or its evaluation, needs.

    Args:
      run: the configuration.
      platform: of its devices, as `jax.default_backend` names it.
      num_devices: of the run.
      tensor: devices that share the work of each layer; None takes `mesh.model`.
      num_local: devices of a host, over which its slots are sharded; None takes all.
    """
    rollouts = rollouts_of(run)
    shards = num_devices // (tensor or run.mesh.model)
    local_shards = max((num_local or num_devices) // (tensor or run.mesh.model), 1)
    work = memory.Workload(
        model=run.model,
        mesh=run.mesh,
        lora=run.lora,
        trainable=run.trainable,
        rows_per_device=-(-run.learner.rows_per_microbatch // shards),
        row_tokens=run.learner.row_tokens,
        logprob_chunk=run.learner.logprob_chunk,
        remat=run.learner.remat == "full",
        slots_per_device=-(-max(r.num_slots for r in rollouts) // local_shards),
        context=max(r.cache_buckets[-1] for r in rollouts),
        append=max(r.append_buckets[-1] for r in rollouts),
        references=max(map(num_references, run.stages)),
        prefixes=0
        if all(stage.supervised for stage in run.stages)
        else memory.PREFIXES,
        overlap=any(stage.overlap for stage in run.stages),
    )
    return _on_platform(work, platform)


def to_run(
    run: config.RunConfig | None,
    work: memory.Workload,
    *,
    num_devices: int,
    num_local: int,
    max_action_tokens: int = 64,
) -> config.RunConfig:
    """Returns a run whose programs have the sizes of a workload.

    Args:
      run: the run that is planned; None makes one up that trains with GRPO.
      work: its sizes, and its mesh.
      num_devices: of the run.
      num_local: of a host.
      max_action_tokens: of a run that is made up.
    """
    if run is None:
        run = _made_up(work, max_action_tokens)
    shards = num_devices // work.mesh.model
    local_shards = max(num_local // work.mesh.model, 1)

    def resize(rollout: config.RolloutConfig) -> config.RolloutConfig:
        slots = work.slots_per_device * local_shards
        context = min(rollout.cache_buckets[-1], work.context)
        return dataclasses.replace(
            rollout,
            max_tokens=min(rollout.max_tokens, context),
            num_slots=min(rollout.num_slots, slots),
            append_buckets=_clipped(rollout.append_buckets, work.append),
            cache_buckets=_clipped(rollout.cache_buckets, context),
            row_buckets=tuple(n for n in rollout.row_buckets if n < slots),
        )

    stages = tuple(
        dataclasses.replace(stage, rollout=resize(stage.rollout))
        for stage in run.stages
    )
    return dataclasses.replace(
        run,
        model=work.model,
        mesh=work.mesh,
        lora=work.lora,
        stages=stages,
        evaluation=dataclasses.replace(
            run.evaluation,
            rollout=resize(run.evaluation.rollout),
            rollouts={
                env: resize(rollout) for env, rollout in run.evaluation.rollouts.items()
            },
        ),
        learner=dataclasses.replace(
            run.learner,
            row_tokens=work.row_tokens,
            rows_per_microbatch=work.rows_per_device * shards,
            logprob_chunk=work.logprob_chunk,
            remat="full" if work.remat else "none",
        ),
    )


def _clipped(buckets: tuple[int, ...], largest: int) -> tuple[int, ...]:
    return (*(size for size in buckets if size < largest), min(buckets[-1], largest))


def _made_up(work: memory.Workload, max_action_tokens: int) -> config.RunConfig:
    rollout = config.RolloutConfig(
        max_tokens=work.context,
        max_action_tokens=max_action_tokens,
        num_slots=2**31,  # `to_run` takes those of the workload
        append_buckets=(work.append,),
        cache_buckets=(work.context,),
    )
    kl = config.KLConfig(placement="loss") if work.references else None
    stage = config.StageConfig(
        name="plan",
        algorithm=config.Grpo(kl=kl),
        mixture=config.MixtureConfig(environments=(("textcraft", 1.0),)),
        num_iterations=1,
        rollout=rollout,
        overlap=work.overlap,
    )
    return config.RunConfig(
        name="plan",
        stages=(stage,),
        environments={"textcraft": base.EnvConfig()},
        model=work.model,
        trainable=work.trainable,
        evaluation=config.EvaluationConfig(rollout=rollout),
    )


def num_references(stage: config.StageConfig) -> int:
    """Returns how many other policies a stage holds: the KL term's, and its teachers."""
    teachers = dict(getattr(stage.algorithm, "teachers", ())).values()
    return (getattr(stage.algorithm, "kl", None) is not None) + len(set(teachers))


def meshes(
    num_devices: int, num_kv_heads: int, *, fsdp: int | None, tensor: int | None
) -> Iterator[config.MeshConfig]:
    """Yields meshes of all devices, in order of growing model parallelism.

    Args:
      num_devices: that every mesh covers.
      num_kv_heads: divided by the size of `model`, unless `tensor` is given.
      fsdp: the only size to try of this axis; None tries all.
      tensor: the only size to try of the axis `model`; None tries all.
    """
    for model in range(1, num_devices + 1):
        for shards in range(1, num_devices + 1):
            if (
                num_devices % (shards * model) == 0
                and fsdp in (None, shards)
                and tensor in (None, model)
                and (tensor or num_kv_heads % model == 0)
            ):
                data = num_devices // (shards * model)
                yield config.MeshConfig(data=data, fsdp=shards, model=model)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A mesh, the memory it needs per device, and the memory that a device has."""

    mesh: config.MeshConfig
    estimate: memory.Estimate
    budget: float  # bytes of a device that may be planned for
    num_tried: int  # meshes

    @property
    def fits(self) -> bool:
        """Whether the peak is within the budget."""
        return self.estimate.peak <= self.budget

    def format(self) -> str:
        """Formats the components, their peak, and what to change if it does not fit."""
        lines = [
            f"mesh: data {self.mesh.data}, fsdp {self.mesh.fsdp}, model {self.mesh.model}"
        ]
        parts: Mapping[str, memory.Bytes] = {
            "state": self.estimate.state,
            "update": self.estimate.update,
            "rollout": self.estimate.rollout,
        }
        for phase, sizes in parts.items():
            for name, size in sizes.items():
                lines.append(f"  {phase:8} {name:20} {size / devices.GIB:8.2f} GiB")
        largest = self.estimate.largest
        lines.append(
            f"peak {self.estimate.peak / devices.GIB:.2f} GiB of "
            f"{self.budget / devices.GIB:.2f} GiB per device; largest: {largest}"
        )
        if not self.fits:
            lines.append(
                f"does not fit, on none of {self.num_tried} meshes tried (this one needs "
                f"least).\nTo reduce memory: {ADVICE[largest]}; or use more devices."
            )
        return "\n".join(lines)


def choose(
    work: memory.Workload, candidates: Sequence[config.MeshConfig], budget: float
) -> Plan:
    """Returns the first plan within `budget` bytes, else the one that needs least."""
    plans = []
    for mesh in candidates:
        estimate = memory.estimate(dataclasses.replace(work, mesh=mesh))
        plans.append(Plan(mesh, estimate, budget, len(candidates)))
        if plans[-1].fits:
            return plans[-1]
    return min(plans, key=lambda plan: plan.estimate.peak)
