"""Blocks of a model in two forms: a tree for each layer, or one tree of stacked arrays.

Unrolled, `params["blocks"]` is {0: block, 1: block, ...}. Stacked, it is one block whose
arrays have the layers as their first axis, so that `jax.lax.scan` compiles a single block.
Moments and gradients have the form of the parameters. Converting is lossless: published
files have names for single layers, and a checkpoint of either form can be restored.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from agentrl import errors, types

BLOCKS = "blocks"

# (a leaf of each layer) -> the stacked leaf, and back
_Join = Callable[[Sequence[Any]], Any]
_Cut = Callable[[Any], Sequence[Any]]


def is_stacked(tree: types.PyTree) -> bool:
    """Returns whether blocks in a tree, if it holds any, are stacked."""
    nodes = jax.tree.leaves(tree, is_leaf=_has_blocks)
    return any(_has_blocks(n) and not _is_unrolled(n[BLOCKS]) for n in nodes)


def stack(tree: types.PyTree, join: _Join = jnp.stack) -> types.PyTree:
    """Stacks the blocks of parameters, or of any tree that contains some.

    Args:
      tree: what is stacked already stays as it is.
      join: makes one leaf of those of all layers.

    Raises:
      ConfigError: if layers hold different parameters, as those of a run do that trains
        some of them.
    """

    def stack_blocks(blocks: dict[Any, types.PyTree]) -> types.PyTree:
        if not _is_unrolled(blocks):
            return blocks
        structures = {jax.tree.structure(block) for block in blocks.values()}
        if len(structures) > 1 or sorted(blocks) != [*range(len(blocks))]:
            raise errors.ConfigError(
                "scanned blocks need layers that are trained alike, but `trainable` or "
                "`lora.targets` treats some otherwise; set --set=model.scan_blocks=never."
            )
        ordered = [blocks[layer] for layer in range(len(blocks))]
        return jax.tree.map(lambda *leaves: join(leaves), *ordered)

    return _convert(tree, stack_blocks)


def unstack(tree: types.PyTree, cut: _Cut = tuple) -> types.PyTree:
    """Takes stacked blocks apart: the inverse of `stack`, with the inverse of `join`."""

    def unstack_block(block: types.PyTree) -> dict[Any, types.PyTree]:
        if _is_unrolled(block):
            return block
        leaves, structure = jax.tree.flatten(block)
        by_layer = zip(*map(cut, leaves), strict=True)
        return {n: structure.unflatten(parts) for n, parts in enumerate(by_layer)}

    return _convert(tree, unstack_block)


def are_alike(patterns: Sequence[str], num_layers: int, kinds: Iterable[str]) -> bool:
    """Returns whether patterns match the same kinds of parameters in every layer.

    Args:
      patterns: regular expressions, searched in paths such as `blocks/0/mlp/up`.
      num_layers: of the model.
      kinds: paths of a block's parameters, such as `mlp/up`.
    """
    for kind in kinds:
        paths = (f"{BLOCKS}/{layer}/{kind}" for layer in range(num_layers))
        matched = (any(re.search(p, path) for p in patterns) for path in paths)
        if len(set(matched)) > 1:
            return False
    return True


def load_as(
    like: types.PyTree, load: Callable[[types.PyTree], types.PyTree], *, stacked: bool
) -> types.PyTree:
    """Loads a tree that may be stored in the other form.

    Arrays are converted one kind of parameter after the other, so that no device holds
    all of them twice.

    Args:
      like: `jax.ShapeDtypeStruct`s with shardings, in the form that is wanted.
      load: function from such structs, in the stored form, to arrays.
      stacked: the stored form.
    """
    if is_stacked(like) == stacked:
        return load(like)
    if stacked:
        return unstack(load(stack(like, _join_structs)), _cut_array)
    return stack(load(unstack(like, _cut_struct)), _join_arrays)


def name_stacked(paths: Iterable[str]) -> bool:
    """Returns whether paths as `jax.tree_util.keystr` writes them name stacked leaves."""
    return any(re.search(r"\['blocks'\]\['", path) for path in paths)


def path_in_layer(path: str, layer: int) -> str:
    """Returns the path of one layer's part of a stacked leaf: `blocks/3/mlp/up`."""
    return f"{BLOCKS}/{layer}/{path.removeprefix(BLOCKS + '/')}"


def find(leaves: Mapping[str, jax.Array], path: str) -> tuple[jax.Array, int | None]:
    """Returns the leaf that holds a parameter of one layer, and its index if stacked.

    Args:
      leaves: by path, blocks unrolled or stacked.
      path: such as `blocks/3/mlp/up`.
    """
    if path in leaves:
        return leaves[path], None
    _, layer, rest = path.split("/", 2)
    return leaves[f"{BLOCKS}/{rest}"], int(layer)


def _has_blocks(node: Any) -> bool:
    return isinstance(node, dict) and bool(node.get(BLOCKS))


def _is_unrolled(blocks: dict[Any, Any]) -> bool:
    return all(isinstance(layer, int) for layer in blocks)


def _convert(
    tree: types.PyTree, change: Callable[[types.PyTree], types.PyTree]
) -> types.PyTree:
    def change_node(node: types.PyTree) -> types.PyTree:
        return node | {BLOCKS: change(node[BLOCKS])} if _has_blocks(node) else node

    return jax.tree.map(change_node, tree, is_leaf=_has_blocks)


def _with_layers(sharding: Any) -> Any:
    """Returns the placement of the stacked leaf of leaves that are placed so."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def _without_layers(sharding: Any) -> Any:
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


def _join_structs(leaves: Sequence[jax.ShapeDtypeStruct]) -> jax.ShapeDtypeStruct:
    first = leaves[0]
    return jax.ShapeDtypeStruct(
        (len(leaves), *first.shape), first.dtype, sharding=_with_layers(first.sharding)
    )


def _cut_struct(leaf: jax.ShapeDtypeStruct) -> Sequence[jax.ShapeDtypeStruct]:
    placed = _without_layers(leaf.sharding)
    one = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=placed)
    return (one,) * leaf.shape[0]


def _join_arrays(leaves: Sequence[jax.Array]) -> jax.Array:
    placed = _with_layers(leaves[0].sharding)
    joined = jax.jit(jnp.stack, out_shardings=placed)(tuple(leaves))
    for leaf in jax.block_until_ready((leaves, joined))[0]:
        leaf.delete()
    return joined


def _cut_array(leaf: jax.Array) -> Sequence[jax.Array]:
    placed = _without_layers(leaf.sharding)
    parts = jax.jit(tuple, out_shardings=placed)(leaf)
    jax.block_until_ready(parts)
    leaf.delete()
    return parts
