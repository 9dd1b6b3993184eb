"""The programs of a run, compiled without running them: memory, code and cost of each.

They are lowered from the functions that a run calls itself, for shapes and placements in
place of arrays. The devices may be those of a slice that is not there
(`hardware.topology`).
"""

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from agentrl import config, types
from agentrl.engine import turns
from agentrl.learner import algorithms
from agentrl.parallel import sharding
from agentrl.programs import hlo
from agentrl.run import assemble, stages


class OutOfMemoryError(Exception):
    """The compiler finds no room for a program; says how much it takes."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiler says of a program; bytes on each device."""

    name: str
    arguments: int
    outputs: int  # that do not take the place of arguments
    temporary: int
    code: int
    cost: hlo.ProgramCost
    flops_once: float  # by `cost_analysis`, each loop's body once
    bytes_once: float
    seconds: float  # that compiling took

    @property
    def peak(self) -> int:
        """Bytes while it runs, its code included."""
        return self.arguments + self.outputs + self.temporary + self.code


def lower_update(
    layout: assemble.Layout, settings: config.StageConfig
) -> jax.stages.Lowered:
    """Lowers the learner step of a stage."""
    algorithm = algorithms.resolve(settings)
    optimize = stages.make_optimizer(layout, settings)
    step, _ = stages.jit_learner(layout, settings, algorithm, optimize)
    state = stages.abstract_state(layout, settings, optimize).learner
    in_loss = algorithm.objective.divergence is not None
    return step.lower(
        state,
        layout.parameters.abstract_frozen,
        _abstract_batch(layout, algorithm),
        layout.parameters.abstract if in_loss else None,
    )


def _abstract_batch(
    layout: assemble.Layout, algorithm: algorithms.Algorithm
) -> types.TrainBatch:
    learner = layout.config.learner
    shape = (learner.max_microbatches, learner.rows_per_microbatch, learner.row_tokens)
    placement = sharding.batch_sharding(layout.mesh)

    def stream(dtype: str) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placement)

    return types.TrainBatch(
        **{name: stream("int32") for name in ("tokens", "segment_ids", "positions")},
        **{
            name: stream("float32")
            for name in (
                *("behavior_logprobs", "advantages", "rl_weights"),
                *algorithm.streams,
            )
        },
    )


def lower_turn(
    layout: assemble.Layout,
    rollout: config.RolloutConfig,
    *,
    chunk: int,
    length: int,
) -> jax.stages.Lowered:
    """Lowers one turn of a cohort: prefill of a chunk, decoding of an action.

    Args:
      layout: model and devices.
      rollout: settings of the rollout.
      chunk: width of the prefill chunk.
      length: of the cache.
    """
    policy_engine = layout.make_engine(rollout)
    rows = policy_engine.slots_per_cohort
    placement = sharding.row_sharding(layout.rollout_mesh)

    def entries(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), jnp.int32, sharding=placement)

    inputs = turns.BatchInputs(
        tokens=entries(chunk),
        counts=entries(),
        lengths=entries(),
        budgets=entries(),
        streams=entries(2),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    placed_key = jax.ShapeDtypeStruct(
        key.shape, key.dtype, sharding=sharding.replicated(layout.rollout_mesh)
    )
    return policy_engine.turn.lower(
        layout.parameters.abstract_view(layout.rollout_mesh),
        policy_engine.empty.lower(length).out_info,
        placed_key,
        inputs,
    )


def compile_program(name: str, lowered: jax.stages.Lowered) -> Program:
    """Compiles a program and reads what it takes.

    Raises:
      OutOfMemoryError: if the compiler finds that it does not fit into a device.
    """
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error):
            raise
        raise OutOfMemoryError(_describe_exhaustion(name, str(error))) from error
    memory: Any = compiled.memory_analysis()
    costs: Any = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, Sequence) else costs
    return Program(
        name=name,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        cost=hlo.analyze(compiled.as_text() or ""),
        flops_once=costs.get("flops", 0.0),
        bytes_once=costs.get("bytes accessed", 0.0),
        seconds=time.perf_counter() - started,
    )


def _describe_exhaustion(name: str, message: str) -> str:
    found = re.search(r"[Uu]sed (\S+) of (\S+) hbm", message)
    taken = f"takes {found[1]} of the {found[2]}" if found else "takes more than"
    return f"the {name} alone {taken} that a device has"
