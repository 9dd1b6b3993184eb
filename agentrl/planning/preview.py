"""What a run will do, told before it starts: configuration, tasks, parameters, memory."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from agentrl import config, errors, types
from agentrl.envs import base, tasks
from agentrl.hardware import devices, topology
from agentrl.models import lora, transformer
from agentrl.planning import compiled, memory, workloads
from agentrl.programs import lowering, throughput


def describe(
    settings: config.RunConfig, *, num_devices: int, num_local: int | None = None
) -> str:
    """Returns the preview of a run.

    Args:
      settings: the run; it has been validated.
      num_devices: that it will train on.
      num_local: of these, those of one host; None takes all.

    Raises:
      ConfigError: if a stage or the evaluation selects tasks that do not exist.
    """
    lines = ["Configuration (each line as --set takes it):"]
    lines += [f"  {path}={value!r}" for path, value in flatten(settings)]
    lines += ["", "Tasks:", *_panels(settings)]
    lines += ["", *_parameters(settings)]
    lines += ["", *_memory(settings, num_devices, num_local)]
    return "\n".join(lines)


def describe_compiled(
    settings: config.RunConfig, target: topology.Slice
) -> Iterator[str]:
    """Yields what the compiler says of the run's largest programs, on its own devices."""
    work = _workload(settings, len(target.devices), len(target.local_devices))
    budget = target.device.hbm_bytes if target.device else None
    try:
        plan = compiled.compile_run(settings, target)
    except lowering.OutOfMemoryError as error:
        yield f"does not fit: {error}"
        return
    yield f"Compiled for {target.name}:"
    yield from compiled.describe(plan, memory.estimate(work), budget=budget)
    if target.device and plan.turn:
        yield f"An iteration of stage '{settings.stages[-1].name}' at peak rates:"
        demand = throughput.of_stage(settings.stages[-1])
        yield from throughput.describe(plan.phases(demand), target.device, demand)


def flatten(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields below a dataclass by dotted path, as overrides name them."""
    if dataclasses.is_dataclass(node):
        children = [(f.name, getattr(node, f.name)) for f in dataclasses.fields(node)]
    elif isinstance(node, Mapping) and node:
        children = list(node.items())
    elif isinstance(node, tuple) and any(map(dataclasses.is_dataclass, node)):
        children = [
            (getattr(child, "name", str(index)), child)
            for index, child in enumerate(node)
        ]
    else:
        yield path, node
        return
    for name, child in children:
        yield from flatten(child, f"{path}.{name}" if path else name)


def _panels(settings: config.RunConfig) -> Iterator[str]:
    for stage in settings.stages:
        mixture = stage.mixture
        for env, _ in mixture.environments:
            panel = _select(settings, f"stage '{stage.name}'", env, mixture)
            yield _panel_line(f"stage '{stage.name}'", panel)
    wanted = settings.evaluation
    for env in wanted.environments or settings.environments:
        panel = _select(settings, "evaluation", env, wanted)
        yield _panel_line(f"evaluation, {wanted.samples} samples each", panel)


def _select(
    settings: config.RunConfig,
    where: str,
    env: str,
    wanted: config.MixtureConfig | config.EvaluationConfig,
) -> base.TaskPanel:
    try:
        return tasks.select_tasks(
            env, config=settings.environments[env], **wanted.selection
        )
    except (tasks.TaskSelectionError, base.MissingDataError) as error:
        raise errors.ConfigError(f"{where}: {error}") from error


def _panel_line(where: str, panel: base.TaskPanel) -> str:
    return (
        f"  {where}: {len(panel.item_ids)} tasks of {panel.env} {panel.split} "
        f"({panel.version}, digest {panel.digest})"
    )


def _parameters(settings: config.RunConfig) -> Iterator[str]:
    model = transformer.Model(settings.model)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def split(params: types.PyTree) -> tuple[types.PyTree, types.PyTree]:
        return lora.split(
            params,
            jax.random.key(0),
            lora=settings.lora,
            trainable=settings.trainable,
            config=settings.model,
        )

    trained = jax.eval_shape(split, shapes)[0]
    yield (
        f"Parameters: {_count(shapes):,} in the model, {_count(trained):,} trained; "
        f"start: {settings.weights or 'random'}"
    )


def _workload(
    settings: config.RunConfig, num_devices: int, num_local: int | None
) -> memory.Workload:
    sharded = settings.mesh.fsdp * settings.mesh.model
    mesh = dataclasses.replace(settings.mesh, data=num_devices // sharded)
    work = workloads.of_run(
        settings,
        platform=jax.default_backend(),
        num_devices=num_devices,
        num_local=num_local,
        tensor=mesh.model,
    )
    return dataclasses.replace(work, mesh=mesh)


def _memory(
    settings: config.RunConfig, num_devices: int, num_local: int | None
) -> Iterator[str]:
    work = _workload(settings, num_devices, num_local)
    mesh, estimate = work.mesh, memory.estimate(work)
    yield (
        f"Memory of each of {num_devices} devices, by arithmetic (mesh: data {mesh.data}, "
        f"fsdp {mesh.fsdp}, model {mesh.model}):"
    )
    for phase in ("state", "update", "rollout"):
        for name, size in getattr(estimate, phase).items():
            yield f"  {phase:8} {name:20} {_format_bytes(size):>12}"
    yield f"  peak {_format_bytes(estimate.peak)}; largest: {estimate.largest}"


def _count(tree: types.PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _format_bytes(size: int) -> str:
    if size >= devices.GIB:
        return f"{size / devices.GIB:.2f} GiB"
    return f"{size / 2**20:.2f} MiB"
