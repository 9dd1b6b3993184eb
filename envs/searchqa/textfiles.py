"""Text files of data sets: compressed or not, with or without a byte order mark."""

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from agentrl.envs import base


def read_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields (number, line) of the lines that are not blank.

    Raises:
      MissingDataError: if the file cannot be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def parse_json(text: str, where: str) -> Any:
    """Decodes JSON.

    Raises:
      MissingDataError: naming `where` the text comes from, if it is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise base.MissingDataError(
            f"environment 'searchqa': {where} is not JSON: {error}; the file may have "
            "been cut short, fetch it again."
        ) from error


def unreadable(path: pathlib.Path, error: Exception) -> base.MissingDataError:
    """The error that says that a file given as an option cannot be read."""
    return base.MissingDataError(
        f"environment 'searchqa': cannot read {path}: {error}; check options corpus "
        "and questions."
    )
