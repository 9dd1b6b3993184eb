"""Files of JSON lines that grow, and now and then are cut back, while they are read."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from agentrl import errors


@dataclasses.dataclass(frozen=True)
class Line:
    """A record, and the bytes it stands in."""

    record: dict[str, Any]
    offset: int  # of its first byte
    length: int  # bytes, without the line end


class FileWasCut(Exception):
    """What has been read is not in the file any more: a resumed run cut it back."""


class FollowedFile:
    """A file of JSON lines; each call of `read` yields what was added since the last."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._end = 0  # of the last whole line that was read
        self._last = b""  # that line
        self._inode = 0
        self._seen = (0, 0)  # size and time of change at which all had been read
        self.at_end = False  # whether the last call reached the end of the file

    def read(self, max_bytes: int) -> Iterator[Line]:
        """Yields whole lines up to the end, or up to about `max_bytes`.

        Raises:
          FileWasCut: if lines that were read before are gone or differ.
          DamagedFileError: if a line is not a JSON object.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            if self._end:
                raise FileWasCut from None
            self.at_end = True
            return
        seen = (status.st_size, status.st_mtime_ns)
        if seen == self._seen and status.st_ino == self._inode:
            self.at_end = True
            return
        with self.path.open("rb") as file:
            self._check(file, status.st_size, status.st_ino)
            file.seek(self._end)
            stop = self._end + max_bytes
            while self._end < stop:
                line = file.readline()
                if not line.endswith(b"\n"):
                    self.at_end, self._seen = True, seen
                    return
                record, offset = _parse(line, self.path), self._end
                self._end, self._last = offset + len(line), line
                yield Line(record, offset, len(line) - 1)
        self.at_end = False

    def _check(self, file: Any, size: int, inode: int) -> None:
        """Raises `FileWasCut` unless the last line read still stands where it did."""
        if self._end:
            file.seek(self._end - len(self._last))
            same = file.read(len(self._last)) == self._last
            if size < self._end or inode != self._inode or not same:
                raise FileWasCut
        self._inode = inode


def _parse(line: bytes, path: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("it is not a JSON object")
        return record
    except ValueError as error:
        number = _number_of(line, path)
        raise errors.DamagedFileError(
            f"{path}:{number} is not JSON ({error}); restore the file, or remove it to "
            "do without it."
        ) from error


def _number_of(line: bytes, path: pathlib.Path) -> int:
    with path.open("rb") as file:
        return next((n for n, one in enumerate(file, start=1) if one == line), 0)
