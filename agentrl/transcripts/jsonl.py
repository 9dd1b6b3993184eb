"""Append-only files of JSON lines that a resumed run can cut back."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from agentrl import errors, storage

Record = Mapping[str, Any]


def append(path: pathlib.Path, records: Iterable[Record]) -> None:
    """Writes records as one line each, and hands them to the operating system.

    Without records nothing happens, and no file appears.

    Raises:
      OSError: if they cannot be written; a half-written line is cut by `cut`.
    """
    lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    if not lines:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(lines)
    except OSError as error:
        raise storage.explain(error, path) from error


def read(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a file; an unfinished last line is left out.

    Raises:
      DamagedFileError: if a line is not a JSON object, naming file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield _parse(line, path, number)


def cut(path: pathlib.Path, keep: Callable[[Record], bool]) -> None:
    """Truncates a file before its first record that `keep` refuses.

    Later records go too, and so does an unfinished last line, which a killed process
    may have left. A file that does not exist is left so.

    Raises:
      DamagedFileError: if a line before that is not a JSON object.
    """
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or not keep(_parse(line, path, number)):
                break
            end += len(line)
    os.truncate(path, end)


def _parse(line: bytes, path: pathlib.Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise errors.DamagedFileError(
            f"{path}:{number} is not JSON ({error}); restore the file, or remove it to "
            "do without it."
        ) from error
    if not isinstance(record, dict):
        raise errors.DamagedFileError(
            f"{path}:{number} is not a JSON object; restore the file, or remove it."
        )
    return record
