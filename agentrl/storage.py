"""Small files that are written whole or not at all, and JSON that may be damaged.

A process that is killed, or a disk that is full, leaves either the file that was there
before or the new one, never a part of it.
"""

import contextlib
import json
import os
import pathlib
import secrets
from typing import Any

from agentrl import errors

_PARTIAL = ".partial"  # ends the name of a file while it is written; hidden by a dot


def write(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file under another name, then renames it.

    Folders are made as needed. Of two processes that write the same file, the last one
    wins.

    Args:
      path: the file; replaced if it exists.
      content: text, stored as UTF-8, or bytes.

    Raises:
      OSError: naming the file and what to do; what was there before stays.
    """
    data = content.encode() if isinstance(content, str) else content
    # A name of its own for each writer, so that none renames another's file away.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise explain(error, path) from error


def write_json(path: pathlib.Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes a JSON file with `write`."""
    write(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: pathlib.Path, *, advice: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
      path: the file.
      advice: the next step if it holds anything else; ends the message.

    Raises:
      DamagedFileError: if it is empty, cut off, or holds something else.
      OSError: if it cannot be read.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        size = path.stat().st_size
        raise errors.DamagedFileError(
            f"{path} is damaged ({size} bytes; {error}); {advice}"
        ) from error
    if not isinstance(value, dict):
        raise errors.DamagedFileError(
            f"{path} holds a {type(value).__name__} in place of a JSON object; {advice}"
        )
    return value


def is_leftover(path: pathlib.Path) -> bool:
    """Whether a process that was killed while it wrote a file has left this one."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def explain(error: OSError, path: pathlib.Path) -> OSError:
    """An error like `error` that names the file and the next step."""
    return OSError(
        error.errno,
        f"{error.strerror or error}; make room or mend the permissions, then repeat the "
        "command",
        str(path),
    )
