"""What fits: changes that make a run fit, and the largest sizes that still do.

Candidates are counted by arithmetic, corrected by what the compiler said of the run that
was planned; what is found is compiled before it is recommended (`launch.plan`).
"""

import dataclasses
from collections.abc import Callable, Sequence

from agentrl import config
from agentrl.models import model_config
from agentrl.planning import compiled, memory

_MAX_CHANGES = 40
_LORA = model_config.LoraConfig(rank=32)
Change = Callable[[memory.Workload], memory.Workload | None]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How much more the compiler takes than arithmetic says."""

    update: float = 1.0  # factor of what a learner step takes besides the state
    sampling: float = 1.0  # factor of what a turn takes besides parameters and cache
    code: int = 0  # bytes

    @classmethod
    def of(
        cls, plan: compiled.CompiledPlan, estimate: memory.Estimate
    ) -> "Calibration":
        """Compares a compiled plan with the arithmetic for the same run."""
        rollout = plan.sizes["rollout"]
        turn = rollout["temporary"] + rollout["inputs and padding"]
        return cls(
            update=sum(plan.sizes["update"].values()) / sum(estimate.update.values()),
            sampling=turn / estimate.rollout["sampling"],
            code=sum(plan.sizes["code"].values()),
        )

    def apply(self, estimate: memory.Estimate) -> memory.Estimate:
        """Corrects an estimate."""
        update = {n: int(b * self.update) for n, b in estimate.update.items()}
        rollout = dict(estimate.rollout)
        rollout["sampling"] = int(rollout["sampling"] * self.sampling)
        state = {**estimate.state, "code": self.code}
        return memory.Estimate(state, update, rollout, estimate.overlap)


def peak(work: memory.Workload, calibration: Calibration) -> int:
    """Returns the bytes that a device needs, corrected."""
    return calibration.apply(memory.estimate(work)).peak


def relax(
    work: memory.Workload,
    meshes: Sequence[config.MeshConfig],
    budget: float,
    calibration: Calibration,
) -> memory.Workload | None:
    """Returns the run with the fewest changes that fits; None if nothing helps.

    Each change relieves the largest component of the peak that any can: first those that
    change nothing but speed, then types, then adapters, at last the length of contexts.
    """
    for _ in range(_MAX_CHANGES):
        work = best_mesh(work, meshes, budget, calibration)
        found = calibration.apply(memory.estimate(work))
        if found.peak <= budget:
            return work
        changed = _relieve(work, found, calibration)
        if changed is None:
            return None
        work = changed
    return None


def best_mesh(
    work: memory.Workload,
    meshes: Sequence[config.MeshConfig],
    budget: float,
    calibration: Calibration,
) -> memory.Workload:
    """Returns the run on the first mesh that it fits on, else on that which takes least."""
    tried = []
    for mesh in meshes:
        candidate = dataclasses.replace(work, mesh=mesh)
        tried.append((peak(candidate, calibration), candidate))
        if tried[-1][0] <= budget:
            return candidate
    return min(tried, key=lambda pair: pair[0])[1]


def _relieve(
    work: memory.Workload, estimate: memory.Estimate, calibration: Calibration
) -> memory.Workload | None:
    components = sorted(estimate.at_peak.items(), key=lambda item: -item[1])
    for changes in CHANGES:
        for name, _ in components:
            for change in changes.get(name, ()):
                changed = change(work)
                if changed and peak(changed, calibration) < estimate.peak:
                    return changed
    return None


def _halve(field: str, least: int) -> Change:
    def change(work: memory.Workload) -> memory.Workload | None:
        size = getattr(work, field) // 2
        return dataclasses.replace(work, **{field: size}) if size >= least else None

    return change


def _remat(work: memory.Workload) -> memory.Workload | None:
    return None if work.remat else dataclasses.replace(work, remat=True)


def _round_moments(work: memory.Workload) -> memory.Workload | None:
    precision = work.model.dtypes
    if precision.moments == "bfloat16":
        return None
    rounded = dataclasses.replace(precision, moments="bfloat16")
    model = dataclasses.replace(work.model, precision=rounded)
    return dataclasses.replace(work, model=model)


def _adapt(work: memory.Workload) -> memory.Workload | None:
    return None if work.lora else dataclasses.replace(work, lora=_LORA)


def _round_base(work: memory.Workload) -> memory.Workload | None:
    if work.lora is None or work.lora.int8_base:
        return None
    rounded = dataclasses.replace(work.lora, int8_base=True)
    return dataclasses.replace(work, lora=rounded)


def _shorten(work: memory.Workload) -> memory.Workload | None:
    if work.context < 1024:
        return None
    rows = min(work.row_tokens, max(work.context // 2, work.row_tokens // 2))
    return dataclasses.replace(work, context=work.context // 2, row_tokens=rows)


# Component of the peak -> what relieves it, from what costs least.
CHANGES: Sequence[dict[str, Sequence[Change]]] = (
    {
        "activations": (_remat, _halve("rows_per_device", 1)),
        "logits": (_halve("logprob_chunk", 256),),
        "cache": (_halve("slots_per_device", 4),),
        "sampling": (_halve("append", 64), _halve("slots_per_device", 4)),
    },
    {"optimizer": (_round_moments,)},
    {
        "trained parameters": (_adapt,),
        "optimizer": (_adapt,),
        "references": (_adapt,),
        "gradients": (_adapt,),
        "loop over layers": (_adapt,),
        "frozen parameters": (_round_base,),
        "cache": (_halve("slots_per_device", 1),),
    },
    dict.fromkeys(("activations", "cache", "sampling", "shared prefixes"), (_shorten,)),
)


def largest(
    work: memory.Workload, field: str, budget: float, calibration: Calibration
) -> int:
    """Returns the largest size of a field with which the run fits, else what it has.

    Args:
      work: a run that fits.
      field: `slots_per_device`, `rows_per_device` or `context`, which takes the rows of
        the learner with it.
      budget: bytes of a device.
      calibration: of the compiled run.
    """

    def fits(size: int) -> bool:
        return peak(resized(work, field, size), calibration) <= budget

    size = step = getattr(work, field)
    while step and fits(size + step):
        size, step = size + step, step * 2
    granule = 256 if field == "context" else 1
    while step >= granule:
        if fits(size + step):
            size += step
        step //= 2
    return size // granule * granule if size >= granule else size


def resized(work: memory.Workload, field: str, size: int) -> memory.Workload:
    """Returns a run with another size of a field; rows hold an episode of a context."""
    changed = dataclasses.replace(work, **{field: size})
    if field == "context" and size > work.row_tokens:
        changed = dataclasses.replace(changed, row_tokens=size)
    return changed


def flags_between(
    before: memory.Workload,
    after: memory.Workload,
    *,
    experiment: config.RunConfig | None,
    num_devices: int,
    num_local: int,
) -> list[str]:
    """Returns the flags that turn one run into another.

    Args:
      before: a run.
      after: the other.
      experiment: in the terms of its fields; None for the flags of `launch.plan`.
      num_devices: of the run.
      num_local: of a host.
    """
    shards = num_devices // after.mesh.model
    local_shards = max(num_local // after.mesh.model, 1)
    flags = []
    for field in dataclasses.fields(memory.Workload):
        if getattr(before, field.name) == getattr(after, field.name):
            continue
        if experiment:
            paths = _paths(field.name, after, shards, local_shards, experiment)
            flags += [f"--set={path}" for path in paths]
        else:
            flags.append(_flag(field.name, after))
    return flags


def _flag(field: str, work: memory.Workload) -> str:
    """Returns the flag of `launch.plan` that gives a field its value."""
    special = {
        "mesh": f"--fsdp={work.mesh.fsdp} --tensor={work.mesh.model}",
        "remat": "--remat",
        "model": "--set=model.precision.moments=bfloat16",
    }
    if field == "lora" and work.lora:
        return f"--lora_rank={work.lora.rank}" + " --int8_base" * work.lora.int8_base
    return special.get(field, f"--{field}={getattr(work, field)}")


def _paths(
    field: str,
    work: memory.Workload,
    shards: int,
    local_shards: int,
    experiment: config.RunConfig,
) -> Sequence[str]:
    """Returns the overrides of an experiment that give a field its value."""
    if field == "lora" and work.lora:
        int8 = ["lora.int8_base=True"] * work.lora.int8_base
        return [f"lora.rank={work.lora.rank}", *int8]

    def of_rollouts(change: str) -> list[str]:
        own = (f"evaluation.rollouts.{env}" for env in experiment.evaluation.rollouts)
        places = ("stages.*.rollout", "evaluation.rollout", *own)
        return [f"{place}.{change}" for place in places]

    return {
        "mesh": [f"mesh.fsdp={work.mesh.fsdp}", f"mesh.model={work.mesh.model}"],
        "remat": ["learner.remat=full"],
        "rows_per_device": [
            f"learner.rows_per_microbatch={work.rows_per_device * shards}"
        ],
        "logprob_chunk": [f"learner.logprob_chunk={work.logprob_chunk}"],
        "slots_per_device": of_rollouts(
            f"num_slots={work.slots_per_device * local_shards}"
        ),
        "append": of_rollouts(f"append_buckets=({work.append},)"),
        "model": ["model.precision.moments=bfloat16"],
        "context": [
            *of_rollouts(f"max_tokens={work.context}"),
            *of_rollouts(f"cache_buckets=({work.context},)"),
        ],
        "row_tokens": [f"learner.row_tokens={work.row_tokens}"],
    }[field]
