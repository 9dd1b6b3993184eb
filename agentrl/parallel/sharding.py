"""Meshes and shardings: the only module that names mesh axes.

The learner runs on one global mesh. Rollouts run on each process's own devices, because
slots refill and loops end at different times in different processes:
`make_rollout_params` gathers the parameters so that every process holds all that it reads.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from agentrl import config, errors, types

AXES = ("data", "fsdp", "model")
BATCH_AXES = ("data", "fsdp")  # rows are sharded over both
Rules = Sequence[tuple[str, PartitionSpec]]

_P = PartitionSpec
# The first pattern found in a parameter's path wins. The path of an optimizer moment
# contains that of its parameter, so both match the same rule.
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
# Of stacked blocks: the layers are a first axis, which no rule counts and nothing shards.
_STACKED = re.compile(r"(^|/)blocks/(?!\d)")


def make_mesh(mesh: config.MeshConfig) -> Mesh:
    """Makes the global (data, fsdp, model) mesh with axes of type `Auto`.

    The default of `jax.make_mesh` is explicit axes (JAX 0.10), with which a lookup in a
    sharded table needs an `out_sharding`. Here shardings are stated at `jit` boundaries.
    """
    return make_mesh_of(mesh, jax.devices())


def make_rollout_mesh(
    mesh: config.MeshConfig, devices: Sequence[Any] | None = None
) -> Mesh:
    """Makes a mesh of one process's devices: all over data but for tensor parallelism.

    Args:
      mesh: the learner's.
      devices: of the process; None takes those of this one.
    """
    local = config.MeshConfig(data=-1, fsdp=1, model=mesh.model)
    return make_mesh_of(local, jax.local_devices() if devices is None else devices)


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
            f"{len(devices)} are present; set mesh.data = -1 to use all remaining devices."
        )
    # Not `jax.make_mesh`: on most TPUs that refuses to split an axis of their torus.
    arranged = mesh_utils.create_device_mesh(
        shape, devices, allow_split_physical_axes=True
    )
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def shardings_for(
    tree: types.PyTree, mesh: Mesh, rules: Rules, *, warn: bool = True
) -> types.PyTree:
    """Chooses a sharding for every leaf, by the first rule that matches its path.

    A dimension that its mesh axis does not divide is replicated over that axis, with a
    warning, once for each parameter.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s from `jax.eval_shape`.
      mesh: the device mesh that the specs' axis names refer to.
      rules: (regular expression, spec) pairs, most specific first.
      warn: whether to warn of dimensions that are replicated.

    Returns:
      A tree like `tree` with a `NamedSharding` at each leaf.

    Raises:
      ValueError: if any leaf matches no rule; lists all of them.
    """
    paths, treedef = jax.tree.flatten_with_path(tree)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths
    ]
    specs = [_find_spec(name, rules) for name in names]
    if unmatched := [n for n, spec in zip(names, specs, strict=True) if spec is None]:
        raise ValueError(
            f"{len(unmatched)} parameters match no sharding rule: {unmatched}. "
            "Add a rule, or end the rules with ('.*', PartitionSpec()) to replicate."
        )
    leaves = [
        NamedSharding(mesh, _fit(spec, leaf.shape, mesh, name if warn else None))
        for name, spec, (_, leaf) in zip(names, specs, paths, strict=True)
        if spec is not None
    ]
    return jax.tree.unflatten(treedef, leaves)


def _find_spec(name: str, rules: Rules) -> PartitionSpec | None:
    spec = next((s for pattern, s in rules if re.search(pattern, name)), None)
    return spec if spec is None or not _STACKED.search(name) else _P(None, *spec)


def with_shardings(shapes: types.PyTree, mesh: Mesh) -> types.PyTree:
    """Adds shardings by `TRANSFORMER_RULES` to the shapes of a transformer's parameters."""
    shardings = shardings_for(shapes, mesh, TRANSFORMER_RULES)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _fit(
    spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh, name: str | None
) -> PartitionSpec:
    """Replicates dimensions over the axes that do not divide them.

    Warns of them under `name`, unless it is None. Scalars, such as the step counts of
    optimizers, have no dimension to shard.
    """
    fitted = []
    for dimension, (axis, size) in enumerate(zip(spec, shape, strict=False)):
        if isinstance(axis, str) and size % mesh.shape[axis] != 0:
            if name is not None:
                _warn_replicated(
                    _kind_of(name), tuple(shape), dimension, axis, mesh.shape[axis]
                )
            axis = None
        fitted.append(axis)
    return PartitionSpec(*fitted)


def _kind_of(name: str) -> str:
    """Returns a parameter's name without its layer, and without an optimizer's prefix.

    `opt_state/0/mu/blocks/3/mlp/up` becomes `blocks/*/mlp/up`.
    """
    within_model = re.search(r"blocks/.*|[^/]*$", name)
    assert within_model is not None
    return re.sub(r"/\d+/", "/*/", within_model[0])


@functools.cache
def _warn_replicated(
    kind: str, shape: tuple[int, ...], dimension: int, axis: str, axis_size: int
) -> None:
    """Warns, once for the same arguments, that a dimension is not sharded."""
    logging.warning(
        "%s %s: dimension %d of size %d is not divisible by the %d devices of mesh.%s; "
        "every one of them holds it in full.",
        kind,
        shape,
        dimension,
        shape[dimension],
        axis_size,
        axis,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of `TrainBatch` fields [M, R, T]: rows over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays with an entry for each row: over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def constrain_rows(x: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Constrains float[R, T, D] to be sharded by rows over the batch axes.

    Without this, XLA propagates the sharding of parameters over `fsdp` to the hidden
    states: devices compute partial products of all rows and reduce them, where they should
    all-gather the weights of one layer and compute their own rows.
    """
    return jax.lax.with_sharding_constraint(x, row_sharding(mesh))


def gather_layer(params: types.PyTree, *, mesh: Mesh, dtype: str) -> types.PyTree:
    """All-gathers the parameters of a block over `fsdp`, in the type of the products.

    Left to itself the compiler passes parts of a matrix round and adds up products with
    them: each step reads and writes all activations.

    Args:
      params: of one block, without an axis of layers.
      mesh: the learner's.
      dtype: that the block casts floats to.
    """
    if mesh.shape["fsdp"] == 1:
        return params

    def gather(leaf: jax.Array, stored: NamedSharding) -> jax.Array:
        leaf = jax.lax.with_sharding_constraint(leaf, stored)
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            leaf = leaf.astype(dtype)
        return _constrain(leaf, _keep_model(stored), mesh)

    return jax.tree.map(
        gather, params, shardings_for(params, mesh, TRANSFORMER_RULES, warn=False)
    )


def _keep_model(sharding: NamedSharding) -> PartitionSpec:
    return PartitionSpec(*(a if a == "model" else None for a in sharding.spec))


def split_vocabulary(matrix: jax.Array, mesh: Mesh) -> jax.Array:
    """Constrains an output matrix float[D, V] to be sharded over the vocabulary.

    Over `model` and, where both divide it, over `fsdp`: no device holds it in full. The
    rows of a chunk of logits are gathered in its place (`gather_rows`).
    """
    axes = vocabulary_axes(matrix.shape[1], mesh)
    matrix = _constrain(matrix, _P("fsdp", "model"), mesh)  # and its gradient
    return _constrain(matrix, _P(None, axes), mesh)


def gather_rows(x: jax.Array, *, mesh: Mesh, vocab_size: int) -> jax.Array:
    """All-gathers the rows of a chunk over the devices that share a vocabulary."""
    if "fsdp" not in vocabulary_axes(vocab_size, mesh):
        return x
    return _constrain(x, _P("data"), mesh)


def vocabulary_axes(vocab_size: int, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Returns the mesh axes that logits are sharded over."""
    axes = ()
    for axis in ("model", "fsdp"):
        size = math.prod(mesh.shape[a] for a in (*axes, axis))
        if mesh.shape[axis] > 1 and vocab_size % size == 0:
            axes = (*axes, axis)
    return axes


def look_up(table: jax.Array, tokens: jax.Array, *, mesh: Mesh) -> jax.Array:
    """Looks tokens int32[R, T] up in an embedding float[V, D].

    Each device reads its own part of the columns for all rows; the parts are exchanged
    when `constrain_rows` follows. Without this the table, and the gradient of all of it,
    would be in every device's memory.
    """
    if mesh.shape["fsdp"] == 1:
        return table[tokens]
    table = _constrain(table, _P("model", "fsdp"), mesh)  # and its gradient
    return _constrain(table[tokens], _P("data", None, "fsdp"), mesh)


def _constrain(x: jax.Array, spec: PartitionSpec, mesh: Mesh) -> jax.Array:
    fitted = _fit(spec, x.shape, mesh, None)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, fitted))


def heads_axis(mesh: Mesh | AbstractMesh, num_kv_heads: int) -> str | None:
    """Returns the mesh axis that rollouts shard key-value heads over, or None.

    Where `model` does not divide the heads, every device holds and computes all of them.
    """
    size = mesh.shape["model"]
    return "model" if size > 1 and num_kv_heads % size == 0 else None


def shard_map_rows(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    in_specs: types.PyTree,
    out_specs: types.PyTree,
    manual_model: bool = False,
) -> Callable[..., Any]:
    """Maps a function over batch shards, each with its own rows.

    Args:
      function: sees the rows of one batch shard.
      mesh: the device mesh.
      in_specs: as of `jax.shard_map`.
      out_specs: as of `jax.shard_map`.
      manual_model: maps over `model` as well, which else is left to the compiler.
    """
    # The compiler partitions no Pallas kernel, not even over an axis of one device.
    manual_model = manual_model or mesh.shape["model"] == 1
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=set(AXES if manual_model else BATCH_AXES),
        check_vma=False,
    )


def replicate_over_model(x: jax.Array) -> jax.Array:
    """Constrains an array to be replicated over `model`, inside of `shard_map_rows`."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(None,) * x.ndim))


def split_heads(
    attend: Callable[..., Any], heads: str | None, cache_spec: PartitionSpec
) -> Callable[..., Any]:
    """Maps attention over a cache to each device's own heads, without collectives.

    To be called inside of `shard_map_rows`.

    Args:
      attend: a `transformer.AttendCacheFn`.
      heads: from `heads_axis`; with None, every device computes all heads.
      cache_spec: of the cached keys and values that it is given.
    """
    projected, replicated = PartitionSpec(None, None, heads), PartitionSpec()
    return jax.shard_map(
        attend,
        in_specs=(*(projected,) * 3, *(cache_spec,) * 2, *(replicated,) * 3),
        out_specs=(projected, cache_spec, cache_spec),
        axis_names={"model"},
        check_vma=False,
    )


def split_rows(attend: Callable[..., Any], *, mesh: Mesh) -> Callable[..., Any]:
    """Maps attention over packed rows to each device's own rows and heads.

    Where `model` does not divide the key-value heads but the query heads, each device gets
    copies of those that its query heads read; where it divides neither, every device
    computes all heads of its rows.

    Args:
      attend: a `transformer.AttendSegmentsFn`.
      mesh: the learner's.
    """
    size = mesh.shape["model"]

    def attend_shards(
        queries: jax.Array, keys: jax.Array, values: jax.Array, segment_ids: jax.Array
    ) -> jax.Array:
        num_heads, kv_heads = queries.shape[2], keys.shape[2]
        heads = "model" if num_heads % size == 0 else None
        if heads and kv_heads % size:
            copies = math.lcm(kv_heads, size) // kv_heads
            if num_heads % (kv_heads * copies):
                heads = None
            else:
                keys, values = (x.repeat(copies, axis=2) for x in (keys, values))
        rows, by_heads = (
            PartitionSpec(BATCH_AXES),
            PartitionSpec(BATCH_AXES, None, heads),
        )
        return jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(by_heads, by_heads, by_heads, rows),
            out_specs=by_heads,
            check_vma=False,
        )(queries, keys, values, segment_ids)

    return attend_shards


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a value that is replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh: Mesh, num_rows: int) -> frozenset[int]:
    """Returns which of the R rows of `TrainBatch` fields this process's devices hold."""
    held = row_sharding(mesh).addressable_devices_indices_map((num_rows,))
    every = np.arange(num_rows)
    return frozenset(int(row) for index in held.values() for row in every[index])


def to_global(batch: types.PyTree, mesh: Mesh) -> types.PyTree:
    """Makes global arrays of NumPy arrays [M, R, T], of which it reads the local rows."""
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
    """Returns the function that copies parameters from the learner to the rollouts.

    One jitted call all-gathers them over the batch axes; sharding over `model` is kept.
    Then each process keeps the shards on its own devices.

    Args:
      mesh: the learner's.
      local_mesh: from `make_rollout_mesh`.
      view: function from the learner's trees to the parameters that rollouts read.
      *abstract: shapes of the arguments of `view`.
    """
    shapes = jax.eval_shape(view, *abstract)
    shardings = shardings_for(shapes, mesh, TRANSFORMER_RULES)
    specs = jax.tree.map(_keep_model, shardings)
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
