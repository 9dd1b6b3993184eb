r"""What the learner step and a turn need on TPUs, by the TPU compiler, without any TPU.

  pip install --no-deps libtpu==0.0.42.1   # what jax[tpu] of the installed version names
  python -m benchmarks.bench_compile --topologies=v5e:4x4 --models=qwen2.5-3b
  python -m benchmarks.bench_compile --layers=2 --variants=plain,kernels

Compiles for the devices of a slice and prints, per device, what the compiler would
allocate beside arguments and results, the size of the program, and CPU-seconds of
compiling. `cost_analysis` says which bytes and operations a call accesses; it counts the
body of a loop once, so that only programs of unrolled blocks tell the whole.

Variants: `plain` is XLA's attention in unrolled blocks, `kernels` the Pallas kernels in
unrolled blocks, `scanned` the kernels in one scanned block, as runs on TPUs do it.

One process at a time may compile for TPUs on a machine.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich import console as rich_console
from rich import table

from agentrl import config, types
from agentrl.engine import engine, turns
from agentrl.experiment import precision
from agentrl.hardware import topology
from agentrl.learner import algorithms, optimizer, update
from agentrl.models import kv_cache, lora, model_config, transformer
from agentrl.parallel import sharding
from agentrl.pretrained import presets
from agentrl.run import stages

VARIANTS = {
    "plain": {"attention": "xla", "scan_blocks": "never"},
    "kernels": {"attention": "pallas", "scan_blocks": "never"},
    "scanned": {"attention": "pallas", "scan_blocks": "always"},
}
_TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e:4x4"], "Slices to compile for.")
_MODELS = flags.DEFINE_list("models", ["qwen2.5-3b"], "Presets.")
_VARIANTS = flags.DEFINE_list("variants", list(VARIANTS), "Of attention and blocks.")
_LAYERS = flags.DEFINE_list("layers", ["2", "all"], "Depths.")
_PROGRAMS = flags.DEFINE_list("programs", ["learner", "turn"], "What to compile.")
_COLUMNS = flags.DEFINE_integer("columns", 8192, "Tokens of a row, and of a slot.")
_SLOTS = flags.DEFINE_integer("slots", 16, "Slots of a batch shard.")
_APPEND = flags.DEFINE_integer("append", 256, "Tokens that a turn prefills.")
_MODEL_AXIS = flags.DEFINE_integer("model_axis", 1, "mesh.model, of either mesh.")
_KERNELS = flags.DEFINE_enum(
    "rollout_kernels", "compute", ["compute", "int8"], "As turns read those of blocks."
)
_HLO = flags.DEFINE_string("hlo", "", "Folder to write compiled programs to.")


def lower_learner(model: transformer.Model, mesh: Mesh) -> Any:
    """Lowers one update of all parameters: a packed row of each batch shard."""
    optimize = optimizer.make_optimizer(
        config.OptimizerConfig(),
        total_steps=1,
        moments=model.config.dtypes.moments,
    )
    stage = config.StageConfig(
        name="bench",
        mixture=config.MixtureConfig(environments=(("textcraft", 1.0),)),
        num_iterations=1,
    )
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    step = functools.partial(
        update.train_step,
        forward=stages.place_forward(
            model,
            mesh,
            remat=True,
            chunk=config.LearnerConfig().logprob_chunk,
            temperature=1.0,
        ),
        objective=algorithms.resolve(stage).objective,
        optimizer=optimize,
    )

    def init(key: jax.Array) -> types.TrainState:
        params = model.init(key)
        return types.TrainState(jnp.int32(0), params, optimize.init(params))

    state = sharding.with_shardings(jax.eval_shape(init, jax.random.key(0)), mesh)
    placements = jax.tree.map(lambda s: s.sharding, state)

    def column(dtype: Any) -> Any:
        shape = (1, rows, _COLUMNS.value)
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=sharding.batch_sharding(mesh)
        )

    integers, floats = column(jnp.int32), column(jnp.float32)
    batch = types.TrainBatch(
        tokens=integers,
        segment_ids=integers,
        positions=integers,
        behavior_logprobs=floats,
        advantages=floats,
        rl_weights=floats,
    )
    return jax.jit(
        lambda state, batch: step(state, {}, batch, None),
        donate_argnums=0,
        out_shardings=(placements, sharding.replicated(mesh)),
    ).lower(state, batch)


def lower_turn(model: transformer.Model, mesh: Mesh) -> Any:
    """Lowers one turn: a chunk of new tokens, then an action."""
    shape, rows = model.config, _SLOTS.value * mesh.shape["data"]
    specs = kv_cache.specs(
        shape,
        batch_axes=sharding.BATCH_AXES,
        heads_axis=sharding.heads_axis(mesh, shape.num_kv_heads),
    )
    cache = jax.eval_shape(lambda: kv_cache.empty(shape, rows, _COLUMNS.value))
    cache = _place(cache, jax.tree.map(lambda s: NamedSharding(mesh, s), specs))
    params = jax.eval_shape(
        lambda key: lora.for_rollouts(model.init(key), None, shape), jax.random.key(0)
    )
    params = sharding.with_shardings(params, mesh)
    batch = NamedSharding(mesh, PartitionSpec(sharding.BATCH_AXES))

    def integers(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *sizes), jnp.int32, sharding=batch)

    one = integers()
    inputs = turns.BatchInputs(integers(_APPEND.value), one, one, one, integers(2))
    key = jax.ShapeDtypeStruct(
        (), jax.random.key(0).dtype, sharding=sharding.replicated(mesh)
    )
    turn = functools.partial(
        turns.take_turn,
        model,
        engine._make_append(model, mesh),
        rollout=config.RolloutConfig(max_action_tokens=256),
        stop_tokens=(1,),
        num_valid_tokens=shape.vocab_size,
    )
    rows_spec, whole = PartitionSpec(sharding.BATCH_AXES), PartitionSpec()
    cache_spec = kv_cache.specs(shape, batch_axes=sharding.BATCH_AXES)
    return jax.jit(
        sharding.shard_map_rows(
            turn,
            mesh,
            in_specs=(whole, cache_spec, whole, rows_spec),
            out_specs=(rows_spec, cache_spec),
        ),
        donate_argnums=1,
        out_shardings=(batch, jax.tree.map(lambda s: s.sharding, cache)),
    ).lower(params, cache, key, inputs)


def _place(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda s, placed: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=placed),
        tree,
        shardings,
    )


def make_meshes(name: str) -> dict[str, Mesh]:
    """The learner's mesh over a slice, and that of the rollouts of one host."""
    found, size = topology.open_slice(name), _MODEL_AXIS.value
    learner = config.MeshConfig(data=1, fsdp=len(found.devices) // size, model=size)
    num_rows = len(found.local_devices) // size
    rollout = config.MeshConfig(data=num_rows, fsdp=1, model=size)
    return {
        "learner": sharding.make_mesh_of(learner, found.devices),
        "turn": sharding.make_mesh_of(rollout, found.local_devices),
    }


def measure(program: str, shape: model_config.ModelConfig, mesh: Mesh) -> list[str]:
    """Compiles one program, and returns the cells of its line."""
    lower = {"learner": lower_learner, "turn": lower_turn}[program]
    started = time.process_time()
    try:
        compiled = lower(transformer.Model(shape), mesh).compile()
    except jax.errors.JaxRuntimeError as error:
        return [str(error).split("\n")[0][:120]]
    seconds = time.process_time() - started
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
    if _HLO.value:
        name = f"{program}-{shape.num_layers}-{shape.attention}-{shape.scan_blocks}.txt"
        with open(os.path.join(_HLO.value, name), "w") as file:
            file.write(compiled.as_text())
    return [
        f"{memory.temp_size_in_bytes / 2**30:.2f}",
        f"{memory.argument_size_in_bytes / 2**30:.2f}",
        f"{costs['bytes accessed'] / 1e9:.1f}",
        f"{costs['flops'] / 1e12:.2f}",
        f"{memory.generated_code_size_in_bytes / 2**20:.0f}",
        f"{seconds:.0f}",
    ]


def main(_: Sequence[str]) -> None:
    """Prints a table."""
    console = rich_console.Console(width=140)
    lines = table.Table(
        "slice", "model", "program", "variant", "layers", "temporary, GiB",
        "arguments, GiB", "bytes, GB", "TFLOP", "code, MiB", "compiling, CPU-s",
    )  # fmt: skip
    for slice_name in _TOPOLOGIES.value:
        meshes = make_meshes(slice_name)
        for name in _MODELS.value:
            types_of_run = dataclasses.replace(
                precision.PLATFORMS["tpu"], rollout_kernels=_KERNELS.value
            )
            published = dataclasses.replace(presets.get(name), precision=types_of_run)
            for program in _PROGRAMS.value:
                for variant in _VARIANTS.value:
                    for depth in _LAYERS.value:
                        layers = published.num_layers if depth == "all" else int(depth)
                        shape = dataclasses.replace(
                            published, num_layers=layers, **VARIANTS[variant]
                        )
                        cells = measure(program, shape, meshes[program])
                        line = [slice_name, name, program, variant, str(layers), *cells]
                        console.print(*line)
                        lines.add_row(*line)
    console.print(lines)


if __name__ == "__main__":
    app.run(main)
