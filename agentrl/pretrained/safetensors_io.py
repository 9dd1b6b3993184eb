"""Safetensors folders: one file or shards with an index, read lazily, written whole."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import safetensors
import safetensors.numpy

from agentrl import errors, storage
from agentrl.pretrained import weights

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class SafetensorsSource:
    """The tensors of a folder; files are memory-mapped and read in slices."""

    def __init__(self, folder: pathlib.Path):
        """Opens all files and reads their headers.

        Raises:
          CheckpointError: if a file is missing, cut short or damaged, or the index and
            the files disagree.
        """
        self.path = folder
        self._files = {}  # by tensor
        self.entries: dict[str, weights.Entry] = {}
        listed = _read_index(folder)
        for file in sorted(set(listed.values())) if listed else [SINGLE]:
            opened = _open(folder / file)
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                piece = opened.get_slice(name)
                self._files[name] = opened
                self.entries[name] = weights.Entry(
                    tuple(piece.get_shape()), piece.get_dtype(), file
                )
        if absent := sorted(set(listed) - set(self.entries)):
            raise errors.CheckpointError(
                f"{folder / INDEX} lists {absent[0]} in {listed[absent[0]]}, which does "
                f"not hold it ({len(absent)} such tensors); fetch the shard again."
            )

    def read(self, name: str, region: Sequence[slice]) -> np.ndarray:
        """Reads a slice of a tensor; see `weights.Source`."""
        return self._files[name].get_slice(name)[tuple(region)]


def _read_index(folder: pathlib.Path) -> Mapping[str, str]:
    """Returns the file of each tensor, by the index; empty if there is one file."""
    path = folder / INDEX
    if not path.is_file():
        if not (folder / SINGLE).is_file():
            held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            raise errors.CheckpointError(
                f"{folder} holds neither {SINGLE} nor {INDEX}, only {held}; give a "
                "Hugging Face folder with safetensors weights."
            )
        return {}
    try:
        listed = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); fetch it again."
        ) from error
    files = sorted(set(listed.values()))
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise errors.CheckpointError(
            f"{folder} lacks {len(missing)} of the {len(files)} shards that {INDEX} "
            f"lists: {', '.join(missing)}; fetch them again."
        )
    return listed


def _open(path: pathlib.Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise errors.CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or damaged "
            f"({error}); fetch it again."
        ) from error


def write(export: weights.Export, folder: pathlib.Path, *, shard_bytes: int) -> None:
    """Writes the parameters as `transformers` does: a single file, or shards with an index.

    Args:
      export: parameters in the Hugging Face layout.
      folder: exists; receives the files.
      shard_bytes: largest size of a file, in host memory while it is written. A tensor
        larger than this gets a file of its own.
    """
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for path in export.tensors:
        if shards[-1] and export.num_bytes(path) > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(path)
        room -= export.num_bytes(path)
    files = {}
    for number, paths in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = SINGLE if len(shards) == 1 else file
        tensors = {export.tensors[path].name: export.fetch(path) for path in paths}
        # The metadata that transformers asks for.
        safetensors.numpy.save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(_ordinary_mode())  # that of a temporary file is 0600
        files |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        total = sum(map(export.num_bytes, export.tensors))
        index = {"metadata": {"total_size": total}, "weight_map": files}
        storage.write_json(folder / INDEX, index)


def _ordinary_mode() -> int:
    """What a file that is opened for writing gets."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
