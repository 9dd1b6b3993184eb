"""Folders that `launch.convert` makes: config.json, tokenizer files, weights in orbax."""

import functools
import pathlib

import jax
import orbax.checkpoint as ocp

from agentrl import errors, types
from agentrl.models import layers
from agentrl.pretrained import weights

PARAMS = "params"


def holds_params(folder: pathlib.Path) -> bool:
    """Returns whether the weights of a folder are in orbax."""
    return (folder / PARAMS).is_dir()


def save(params: types.PyTree, folder: pathlib.Path) -> None:
    """Writes parameters, each in its own dtype."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve() / PARAMS, params)


def stored_dtypes(folder: pathlib.Path) -> dict[str, str]:
    """Returns the dtype of each parameter, by its path."""
    with ocp.StandardCheckpointer() as checkpointer:
        stored = _metadata(checkpointer, folder.resolve() / PARAMS)
    return {
        weights.path_of(path): str(leaf.dtype)
        for path, leaf in jax.tree.leaves_with_path(stored)
    }


def load(folder: pathlib.Path, like: types.PyTree) -> types.PyTree:
    """Reads parameters onto the placements and into the dtypes of `like`.

    The folder has blocks of single layers; `like` may have stacked ones.

    Raises:
      CheckpointError: listing parameters that are missing, left over or of other shapes;
        or if files are damaged.
    """
    return layers.load_as(like, functools.partial(_load, folder), stacked=False)


def _load(folder: pathlib.Path, like: types.PyTree) -> types.PyTree:
    path = folder.resolve() / PARAMS
    with ocp.StandardCheckpointer() as checkpointer:
        there, here = _shapes(_metadata(checkpointer, path)), _shapes(like)
        problems = [
            f"{name} is {there.get(name, 'absent')}, expected {here.get(name, 'none')}"
            for name in {**here, **there}
            if there.get(name) != here.get(name)
        ]
        if problems:
            raise errors.CheckpointError(
                f"{path} does not hold the model that its configuration describes:\n  "
                + "\n  ".join(problems)
                + "\nRepeat launch.convert."
            )
        try:
            return checkpointer.restore(path, like)
        except (ValueError, OSError) as error:  # ValueError: how TensorStore reports
            raise errors.CheckpointError(
                f"{path} is damaged ({error}); repeat launch.convert."
            ) from error


def _metadata(
    checkpointer: ocp.StandardCheckpointer, path: pathlib.Path
) -> types.PyTree:
    try:
        stored = checkpointer.metadata(path).item_metadata
        if stored is None:
            raise ValueError("it has no metadata")
        return stored.tree
    except (ValueError, OSError, KeyError) as error:
        raise errors.CheckpointError(
            f"{path} cannot be read ({error}); repeat launch.convert."
        ) from error


def _shapes(tree: types.PyTree) -> dict[str, tuple[int, ...]]:
    return {
        weights.path_of(path): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
