"""The files of a run as a store keeps them: each in parts, which one manifest lists.

The part of a file is an object `FILE/OFFSET-DIGEST`. It is never overwritten: other bytes
have another name.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from agentrl import errors

NAME = "manifest.json"
PART = re.compile(r".+/\d{12,}-[0-9a-f]{16}")  # of an object, see `object_name`
# In the names of checkpoints that are being saved, or removed.
_UNFINISHED = (".orbax-checkpoint-tmp", "removed-")
_BLOCK = 1 << 20
Part = tuple[int, int, str]  # offset, bytes, digest
Stamp = tuple[int, int, int]  # by which a file that has changed is known


def read(content: bytes | None, url: str) -> dict[str, list[Part]]:
    """The parts of every file, by its path in the working directory.

    Args:
      content: of the object `NAME`; None, if there is none, lists nothing.
      url: where it lies, for the message.

    Raises:
      DamagedFileError: if it is no manifest.
    """
    if content is None:
        return {}
    try:
        files = json.loads(content)["files"]
        return {
            name: [
                (int(start), int(length), str(digest))
                for start, length, digest in parts
            ]
            for name, parts in files.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.DamagedFileError(
            f"{url}/{NAME} is damaged ({error}); restore the object, or use another "
            "--workdir."
        ) from error


def files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files of a run, but for those that begin with a dot or belong to a save.

    Raises:
      OSError: if the folder is gone, or one below cannot be read.
    """

    def failed(error: OSError) -> None:
        gone = isinstance(error, FileNotFoundError)
        if not gone or error.filename == str(folder):
            raise error  # a checkpoint may be removed meanwhile, and nothing else

    for root, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(names):
            path = pathlib.Path(root, name)
            if not _is_hidden(name) and path.is_file():
                yield path


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or any(mark in name for mark in _UNFINISHED)


def object_name(name: str, part: Part) -> str:
    """The name of the object that holds a part of a file."""
    start, _, digest = part
    return f"{name}/{start:012d}-{digest}"


def step_of(name: str) -> str:
    """The folder below `checkpoints/` in which a file lies; "" if it lies elsewhere."""
    top, _, below = name.partition("/")
    return below.partition("/")[0] if top == "checkpoints" else ""


def stamp_of(path: pathlib.Path) -> Stamp:
    """What differs once a file was written to; raises `OSError` if it is gone."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def has_grown(path: pathlib.Path, before: Stamp, parts: list[Part]) -> bool:
    """Whether a file has only gained something since its parts were read.

    One that was replaced, or written anew in place, may be half old in them.
    """
    inode, size, _ = before
    return (
        path.stat().st_ino == inode
        and parts[-1][0] + parts[-1][1] >= size
        and unchanged(path, parts) == parts
    )


def unchanged(path: pathlib.Path, parts: Sequence[Part]) -> list[Part]:
    """The first parts of a file that it still begins with."""
    size, kept = path.stat().st_size, []
    for part in parts:
        start, length, digest = part
        if start + length > size or digest_of(path, start, length) != digest:
            break
        kept.append(part)
    return kept


def digest_of(path: pathlib.Path, start: int, length: int) -> str:
    """The digest of some bytes of a file."""
    found = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        file.seek(start)
        while length and (block := file.read(min(_BLOCK, length))):
            found.update(block)
            length -= len(block)
    return found.hexdigest()


def digest(content: bytes) -> str:
    """The digest of a part, as `digest_of` finds it in a file."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()
