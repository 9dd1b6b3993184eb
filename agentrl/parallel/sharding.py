"""Meshes and placements: the only module that names mesh axes.

The learner runs on one global mesh. Rollouts run on each host's own devices, because slots
refill and loops end at different times on different hosts: `rollout_params` brings the
parameters into a layout that every host can read without the others.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from agentrl import config, errors, types

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")  # rows are spread over both
Rules = Sequence[tuple[str, PartitionSpec]]

_P = PartitionSpec
# The first pattern found in a parameter's path wins. Optimizer moments carry the path of
# their parameter inside their own and so follow it.
TRANSFORMER_RULES: Rules = (
    (r"(query|key|value)_bias$|(query|key|value|gate|up)(/base)?/scales$", _P("model")),
    (r"(query|key|value|gate|up)/a$", _P("fsdp")),
    (r"(query|key|value|gate|up)/b$", _P(None, "model")),
    (r"(out|down)/a$", _P("model")),
    (r"(out|down)/b$", _P(None, "fsdp")),
    (r"attention/(query|key|value)(/base)?(/values)?$", _P("fsdp", "model")),
    (r"attention/out(/base)?(/values)?$", _P("model", None, "fsdp")),
    (r"mlp/(gate|up)(/base)?(/values)?$", _P("fsdp", "model")),
    (r"mlp/down(/base)?(/values)?$", _P("model", "fsdp")),
    (r"embedding$", _P("model", "fsdp")),
    (r"head$", _P("fsdp", "model")),
    (r".*", _P()),
)


def make_mesh(mesh: config.MeshConfig) -> Mesh:
    """The global (data, fsdp, model) mesh, axes free for the compiler to use.

    Left to its default, `jax.make_mesh` gives explicit axes (JAX 0.10), with which a
    lookup in a sharded table needs an `out_sharding`. Placements are stated at `jit`
    borders only.
    """
    return make_mesh_of(mesh, jax.devices())


def make_rollout_mesh(mesh: config.MeshConfig) -> Mesh:
    """A mesh of this host's devices only: rows over data, wide models over model."""
    local = config.MeshConfig(data=-1, fsdp=1, model=mesh.model)
    return make_mesh_of(local, jax.local_devices())


def make_mesh_of(mesh: config.MeshConfig, devices: Sequence[Any]) -> Mesh:
    """A mesh of the given devices.

    Raises:
      ConfigError: if its axes do not cover them.
    """
    data = mesh.data
    if data == -1:
        data = len(devices) // (mesh.fsdp * mesh.model)
    shape = (data, mesh.fsdp, mesh.model)
    if np.prod(shape) != len(devices):
        raise errors.ConfigError(
            f"mesh data x fsdp x model = {shape} covers {np.prod(shape)} devices, but "
            f"{len(devices)} are present; set mesh.data = -1 to take all that are left."
        )
    axis_types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(shape, AXES, axis_types=axis_types, devices=devices)


def shardings_for(tree: types.PyTree, mesh: Mesh, rules: Rules) -> types.PyTree:
    """Chooses a sharding for every leaf, and refuses to guess.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s from `jax.eval_shape`.
      mesh: the device mesh that the specs' axis names refer to.
      rules: (regular expression, spec) pairs, most specific first.

    Returns:
      A tree like `tree` with a `NamedSharding` at each leaf. Axes that a dimension cannot
      be divided over are left out.

    Raises:
      ValueError: if any leaf matches no rule; all of them are listed.
    """
    paths, treedef = jax.tree.flatten_with_path(tree)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths
    ]
    specs = [next((s for pat, s in rules if re.search(pat, n)), None) for n in names]
    if unmatched := [n for n, spec in zip(names, specs, strict=True) if spec is None]:
        raise ValueError(
            f"{len(unmatched)} parameters match no sharding rule: {unmatched}. "
            "Add a rule, or end the rules with ('.*', PartitionSpec()) to replicate."
        )
    leaves = [
        NamedSharding(mesh, _fit(spec, leaf.shape, mesh))
        for spec, (_, leaf) in zip(specs, paths, strict=True)
        if spec is not None
    ]
    return jax.tree.unflatten(treedef, leaves)


def place(shapes: types.PyTree, mesh: Mesh) -> types.PyTree:
    """Shapes of a transformer's parameters, with their placements on the mesh added."""
    placements = shardings_for(shapes, mesh, TRANSFORMER_RULES)
    return jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
        shapes,
        placements,
    )


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Drops the axes of `spec` that do not divide their dimension (of scalars: all)."""
    fitted = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(spec, shape, strict=False)
    ]
    return PartitionSpec(*fitted)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Placement of `TrainBatch` fields [M, R, T]: rows spread over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def place_rows(x: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Keeps the rows of float[R, T, M] spread over the batch axes.

    Without this, parameters sharded over `fsdp` pull the hidden states along: devices
    compute partial products of all rows and add them up, where they should gather the
    weights of one layer and compute their own rows.
    """
    spread = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    return jax.lax.with_sharding_constraint(x, spread)


def gather_vocabulary(params: types.PyTree, mesh: Mesh) -> types.PyTree:
    """Asks for the embedding and the head whole, but for shards over `model`.

    They are gathered once, not per chunk; logits stay sharded over the vocabulary.
    """
    wanted = {"embedding": PartitionSpec("model"), "head": PartitionSpec(None, "model")}
    return params | {
        name: jax.lax.with_sharding_constraint(
            params[name], NamedSharding(mesh, _fit(spec, params[name].shape, mesh))
        )
        for name, spec in wanted.items()
        if name in params
    }


def heads_axis(mesh: Mesh | AbstractMesh, num_kv_heads: int) -> str | None:
    """The mesh axis that rollouts spread key-value heads over, or None.

    Where the heads cannot be divided over `model`, every device holds and computes all.
    """
    size = mesh.shape["model"]
    return "model" if size > 1 and num_kv_heads % size == 0 else None


def spread_rows(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    in_specs: types.PyTree,
    out_specs: types.PyTree,
    manual_model: bool = False,
) -> Callable[..., Any]:
    """Runs a function on each batch shard's own rows.

    `model` is left to the compiler unless `manual_model`, with which the function sees
    one device's part along all axes.
    """
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=set(AXES if manual_model else BATCH_AXES),
        check_vma=False,
    )


def make_whole(x: jax.Array) -> jax.Array:
    """Keeps an array undivided over `model`, inside a function of `spread_rows`."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(None,) * x.ndim))


def split_heads(
    attend: Callable[..., Any], heads: str | None, cached: PartitionSpec
) -> Callable[..., Any]:
    """Runs attention over a cache on each device's own heads, without collectives.

    To be called inside a function of `spread_rows`.

    Args:
      attend: a `transformer.AttendCacheFn`.
      heads: from `heads_axis`; with None, every device computes all heads.
      cached: partition of a layer's cached keys, and of its values.
    """
    projected, whole = PartitionSpec(None, None, heads), PartitionSpec()
    return jax.shard_map(
        attend,
        in_specs=(*(projected,) * 3, cached, cached, whole, whole),
        out_specs=(projected, cached, cached),
        axis_names={"model"},
        check_vma=False,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Placement of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def to_global(batch: types.PyTree, mesh: Mesh) -> types.PyTree:
    """Makes global arrays of NumPy arrays [M, R, T], which all hosts hold whole."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), batch
    )


def make_rollout_params(
    mesh: Mesh,
    local_mesh: Mesh,
    view: Callable[..., types.PyTree],
    *abstract: types.PyTree,
) -> Callable[..., types.PyTree]:
    """Returns the function that hands parameters from the learner to the rollouts.

    One jitted call gathers them over the batch axes; what is sharded over `model` stays
    so. Then each host keeps the shards on its own devices. `view` makes what rollouts
    read of the learner's trees, whose shapes are `abstract`.
    """

    def keep_model(sharding: NamedSharding) -> PartitionSpec:
        return PartitionSpec(*(a if a == "model" else None for a in sharding.spec))

    shapes = jax.eval_shape(view, *abstract)
    shardings = shardings_for(shapes, mesh, TRANSFORMER_RULES)
    specs = jax.tree.map(keep_model, shardings)
    gathered = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    # A copy even on one device: the learner donates its own buffers to the next update.
    gather = jax.jit(
        lambda *args: jax.tree.map(lambda x: x.copy(), view(*args)),
        out_shardings=gathered,
    )

    def localize(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        by_device = {shard.device: shard.data for shard in leaf.addressable_shards}
        buffers = [by_device[device] for device in local_mesh.devices.flat]
        return jax.make_array_from_single_device_arrays(
            leaf.shape, NamedSharding(local_mesh, spec), buffers
        )

    def rollout_params(*args: types.PyTree) -> types.PyTree:
        return jax.tree.map(localize, gather(*args), specs)

    return rollout_params
