"""A plan by the compiler: the learner step and the longest turn of a run, compiled.

Parameters, moments and cache are what their shardings put on a device; temporary memory,
code and the padding of arrays are what the compiler says.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax

from agentrl import config, types
from agentrl.hardware import devices, topology
from agentrl.planning import memory, workloads
from agentrl.programs import lowering, throughput
from agentrl.run import assemble, stages


@dataclasses.dataclass(frozen=True)
class CompiledPlan:
    """What a run takes of each device, by the compiler."""

    sizes: Mapping[str, memory.Bytes]  # phase -> component -> bytes
    overlap: bool  # whether both phases run at a time
    update: lowering.Program
    turn: lowering.Program | None  # of a run that plays
    num_turn_programs: int
    learner: config.LearnerConfig
    slots: int  # over all devices
    chunk: int  # tokens of the widest prefill chunk

    @property
    def peak(self) -> int:
        """Bytes that a device needs."""
        total = {name: sum(sizes.values()) for name, sizes in self.sizes.items()}
        phases = (total["update"], total["rollout"])
        always = total["state"] + total["code"]
        return always + (sum(phases) if self.overlap else max(phases))

    def phases(self, demand: throughput.Demand) -> list[throughput.Phase]:
        """Returns what an iteration costs."""
        assert self.turn is not None
        return throughput.phases(
            demand,
            update=self.update.cost,
            turn=self.turn.cost,
            chunk=self.chunk,
            slots=self.slots,
            row_tokens=self.learner.row_tokens,
            rows=self.learner.rows_per_microbatch,
        )


def compile_run(settings: config.RunConfig, target: topology.Slice) -> CompiledPlan:
    """Compiles what a run takes most memory for: its learner step and longest turn.

    Args:
      settings: the run, its mesh included.
      target: the devices.

    Raises:
      OutOfMemoryError: if the compiler finds no room for one of them.
    """
    layout = assemble.make_layout(settings, target.devices, target.local_devices)
    stage = max(settings.stages, key=_weight)
    update = _compile(
        f"learner step of stage '{stage.name}'", lowering.lower_update(layout, stage)
    )
    rollout = max(
        workloads.rollouts_of(settings),
        key=lambda r: r.num_slots // r.num_cohorts * r.cache_buckets[-1],
    )
    turn = _compile(
        "turn",
        lowering.lower_turn(
            layout,
            rollout,
            chunk=rollout.append_buckets[-1],
            length=rollout.cache_buckets[-1],
        ),
    )
    num_turns = count_turns(layout)
    return CompiledPlan(
        sizes=_sizes(layout, stage, rollout, update, turn, num_turns),
        overlap=any(s.overlap for s in settings.stages),
        update=update,
        turn=turn,
        num_turn_programs=num_turns,
        learner=settings.learner,
        slots=rollout.num_slots * target.num_hosts,
        chunk=rollout.append_buckets[-1],
    )


def _weight(stage: config.StageConfig) -> tuple[int, bool]:
    """Orders stages by what their learner step takes."""
    return workloads.num_references(stage), not stage.supervised


def count_turns(layout: assemble.Layout) -> int:
    """Returns how many programs of a turn a run compiles, in all stages together."""
    engines = {
        dataclasses.replace(rollout, tasks_per_iteration=1, group_size=1)
        for rollout in workloads.rollouts_of(layout.config)
    }
    return sum(layout.make_engine(rollout).num_turns for rollout in engines)


def _compile(name: str, lowered: jax.stages.Lowered) -> lowering.Program:
    print(f"compiling the {name} ...", end="", file=sys.stderr, flush=True)
    started = time.perf_counter()
    try:
        return lowering.compile_program(name, lowered)
    finally:
        print(f" {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def _sizes(
    layout: assemble.Layout,
    stage: config.StageConfig,
    rollout: config.RolloutConfig,
    update: lowering.Program,
    turn: lowering.Program,
    num_turns: int,
) -> dict[str, memory.Bytes]:
    parameters = layout.parameters
    trained = bytes_of(parameters.abstract)
    optimize = stages.make_optimizer(layout, stage)
    state = stages.abstract_state(layout, stage, optimize).learner
    always = {
        "trained parameters": trained,
        "frozen parameters": bytes_of(parameters.abstract_frozen),
        "optimizer": bytes_of(state.opt_state),
    }
    num_references = max(map(workloads.num_references, layout.config.stages))
    if num_references:
        always["references"] = num_references * trained
    played = bytes_of(parameters.abstract_view(layout.rollout_mesh))
    policy_engine = layout.make_engine(rollout)
    cache = bytes_of(policy_engine.empty.lower(rollout.cache_buckets[-1]).out_info)
    rows = rollout.num_slots // rollout.num_cohorts
    local_shards = layout.rollout_mesh.size // layout.rollout_mesh.shape["model"]
    per_row = cache // max(rows // local_shards, 1)
    always["shared prefixes"] = memory.PREFIXES * per_row
    in_loss = update.arguments - sum(
        always[name]
        for name in ("trained parameters", "frozen parameters", "optimizer")
    )
    held_twice = trained if _has_divergence(stage) else 0
    return {
        "state": always,
        "update": {
            "batch and padding": max(in_loss - held_twice, 0) + update.outputs,
            "temporary": update.temporary,
        },
        "rollout": {
            "rollout parameters": played,
            "cache": cache * rollout.num_cohorts,
            "inputs and padding": max(turn.arguments - played - cache, 0)
            + turn.outputs,
            "temporary": turn.temporary,
        },
        "code": {
            "learner step": update.code,
            f"{num_turns} turns": num_turns * turn.code,
        },
    }


def _has_divergence(stage: config.StageConfig) -> bool:
    kl = getattr(stage.algorithm, "kl", None)
    return kl is not None and kl.placement == "loss"


def bytes_of(tree: types.PyTree) -> int:
    """Returns the bytes that abstract arrays put on each device, padding aside."""

    def size(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape) if leaf.sharding else leaf.shape
        return math.prod(shape) * jax.numpy.dtype(leaf.dtype).itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def describe(
    plan: CompiledPlan,
    estimate: memory.Estimate,
    *,
    budget: float | None,
) -> list[str]:
    """Returns the lines of a table: each component, compiled and by arithmetic."""
    lines = [f"  {'':29} {'compiled':>13} {'arithmetic':>13}"]
    counted: Mapping[str, memory.Bytes] = {
        "state": estimate.state,
        "update": estimate.update,
        "rollout": estimate.rollout,
    }
    for phase, sizes in plan.sizes.items():
        known = counted.get(phase, {})
        for name, size in sizes.items():
            other = _format(known[name]) if name in known else ""
            lines.append(f"  {phase:8} {name:20} {_format(size):>13} {other:>13}")
        rest = {n: b for n, b in known.items() if n not in sizes}
        if rest:
            named = ", ".join(f"{n} {_format(b)}" for n, b in rest.items())
            lines.append(f"  {'':8} by arithmetic: {named}")
        if known:
            lines.append(
                f"  {phase:8} {'in all':20} {_format(sum(sizes.values())):>13} "
                f"{_format(sum(known.values())):>13}"
            )
    of = f" of {_format(budget)}" if budget else ""
    lines.append(
        f"peak {_format(plan.peak)}{of} per device; by arithmetic "
        f"{_format(estimate.peak)} without code ({estimate.peak / plan.peak - 1:+.0%})"
    )
    return lines


def _format(size: float) -> str:
    if size >= devices.GIB:
        return f"{size / devices.GIB:.2f} GiB"
    return f"{size / 2**20:.2f} MiB"
