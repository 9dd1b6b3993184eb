"""The plan of a run on a slice: compiled, compared with arithmetic, with advice."""

import dataclasses
from collections.abc import Iterator, Sequence

from agentrl import config
from agentrl.hardware import devices, topology
from agentrl.planning import compiled, memory, search, workloads
from agentrl.programs import lowering, throughput

_SIZES = {  # fields that `largest` searches -> what they are
    "slots_per_device": "slots per device",
    "rows_per_device": "rows per device",
    "context": "tokens of context (rows of the learner as long)",
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What to plan."""

    work: memory.Workload  # its mesh is chosen out of `meshes`
    run: config.RunConfig | None  # an experiment's; None takes what `work` says
    target: topology.Slice
    meshes: Sequence[config.MeshConfig]
    headroom: float  # share of the memory that stays unplanned
    demand: throughput.Demand
    find_largest: bool = False

    @property
    def device(self) -> devices.Device:
        """The kind of device."""
        assert self.target.device is not None
        return self.target.device

    @property
    def budget(self) -> float:
        """Bytes of a device that may be planned for."""
        return self.device.hbm_bytes * (1 - self.headroom)

    def settings(self, work: memory.Workload) -> config.RunConfig:
        """Returns the run that has the sizes of a workload."""
        return workloads.to_run(
            self.run,
            work,
            num_devices=len(self.target.devices),
            num_local=len(self.target.local_devices),
            max_action_tokens=self.demand.action,
        )

    def flags(self, before: memory.Workload, after: memory.Workload) -> str:
        """Returns the flags that turn one workload into another."""
        found = search.flags_between(
            before,
            after,
            experiment=self.run,
            num_devices=len(self.target.devices),
            num_local=len(self.target.local_devices),
        )
        return " ".join(found)


class Advisor:
    """Compiles a request and says what it takes; `fits` is known when `lines` end."""

    def __init__(self, request: Request):
        self.fits = False
        self._request = request

    def lines(self) -> Iterator[str]:
        """Yields the lines of the plan as they are found."""
        request = self._request
        target, device = request.target, request.device
        yield (
            f"{target.name}: {len(target.devices)} devices on {target.num_hosts} hosts, "
            f"{device.hbm_bytes / devices.GIB:.1f} GiB each, of which "
            f"{request.budget / devices.GIB:.1f} GiB are planned for"
        )
        nominal = search.Calibration()
        work = search.best_mesh(request.work, request.meshes, request.budget, nominal)
        yield _mesh_line(work.mesh)
        estimate = memory.estimate(work)
        if estimate.peak > 2 * request.budget:  # hopeless: not worth compiling
            yield (
                f"does not fit: {_gib(estimate.peak)} per device by arithmetic, the "
                f"largest part {estimate.largest}"
            )
            yield from self._relax(work, nominal)
            return
        try:
            plan = compiled.compile_run(request.settings(work), target)
        except lowering.OutOfMemoryError as error:
            yield f"does not fit: {error}"
            short = estimate.peak < request.budget  # of what the compiler found
            factor = search.Calibration(2.0, 2.0) if short else nominal
            yield from self._relax(work, factor)
            return
        yield from compiled.describe(plan, estimate, budget=request.budget)
        calibration = search.Calibration.of(plan, estimate)
        self.fits = plan.peak <= request.budget
        if not self.fits:
            yield "does not fit"
            yield from self._relax(work, calibration)
            return
        yield from _time_lines(plan, request)
        if request.find_largest:
            yield from self._largest(work, calibration)

    def _relax(
        self, work: memory.Workload, calibration: search.Calibration
    ) -> Iterator[str]:
        """Yields changes that make the run fit, compiled; corrects itself once."""
        request, budget = self._request, self._request.budget
        for _ in range(3):
            found = search.relax(work, request.meshes, budget, calibration)
            if found is None:
                yield "nothing that could be changed makes it fit; use more devices"
                return
            try:
                plan = compiled.compile_run(request.settings(found), request.target)
            except lowering.OutOfMemoryError:
                calibration = dataclasses.replace(
                    calibration,
                    update=1.5 * calibration.update,
                    sampling=1.5 * calibration.sampling,
                )
                continue
            if plan.peak <= budget:
                yield (
                    f"it fits with {request.flags(request.work, found)} "
                    f"({_gib(plan.peak)} of {_gib(budget)}, compiled; "
                    f"{_mesh_line(found.mesh)})"
                )
                return
            calibration = search.Calibration.of(plan, memory.estimate(found))
        yield "no change that arithmetic proposed fits when compiled; use more devices"

    def _largest(
        self, work: memory.Workload, calibration: search.Calibration
    ) -> Iterator[str]:
        request = self._request
        for field, name in _SIZES.items():
            size = search.largest(work, field, request.budget, calibration)
            while size > getattr(work, field):
                found = search.resized(work, field, size)
                try:
                    plan = compiled.compile_run(request.settings(found), request.target)
                except lowering.OutOfMemoryError:
                    size -= max((size - getattr(work, field)) // 4, 1)
                    continue
                if plan.peak <= request.budget:
                    yield (
                        f"largest that fits, all else equal: {size} {name} "
                        f"({_gib(plan.peak)} of {_gib(request.budget)}, compiled)"
                    )
                    break
                size -= max((size - getattr(work, field)) // 8, 1)
            else:
                yield f"largest that fits, all else equal: {size} {name}, as it is"


def _mesh_line(mesh: config.MeshConfig) -> str:
    return f"mesh: data {mesh.data}, fsdp {mesh.fsdp}, model {mesh.model}"


def _time_lines(plan: compiled.CompiledPlan, request: Request) -> Iterator[str]:
    demand = request.demand
    yield (
        f"an iteration of {demand.tasks} tasks x {demand.group} episodes x "
        f"{demand.turns} turns of {demand.observation} + {demand.action} tokens, on "
        f"{plan.slots} slots, at the peak rates of the device:"
    )
    yield from throughput.describe(plan.phases(demand), request.device, demand)


def _gib(size: float) -> str:
    return f"{size / devices.GIB:.2f} GiB"
