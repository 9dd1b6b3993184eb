"""`report.html`: the page about a run, or about several, frozen.

It opens from a folder, without a server or network. Episodes are compressed chunks: few
of them stand in the page itself, more of them in `report_data/` beside it, from where the
page loads what is looked at.
"""

import base64
import gzip
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from agentrl import storage
from agentrl.webpage import assets, run_data, together

FILE = "report.html"
FOLDER = "report_data"  # beside the page
CHUNK = 500  # episodes
EMBEDDED_BYTES = 3 << 20  # of compressed episodes; more go into the folder


def write(workdirs: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path:
    """Writes the page; returns its path.

    Args:
      workdirs: of the runs, at least one.
      path: of the page; the folder of episodes is made beside it.

    Raises:
      ConfigError: if a run has no finished iteration.
      DamagedFileError: if a file of a run is damaged.
      OSError: if the page cannot be written.
    """
    runs = [run_data.RunData(workdir) for workdir in workdirs]
    for run in runs:
        run.refresh(complete=True)
        run.check_begun()
    folder = path.with_name(f"{path.stem}_data")
    chunks = _Chunks(runs, folder)
    state = {
        "mode": "frozen",
        "runs": [
            {name: _Json(run.section(name)) for name in run_data.SECTIONS}
            | {"chunks": chunks.describe(number)}
            for number, run in enumerate(runs)
        ],
        "together": together.describe(runs),
        "folder": folder.name,
        "chunk": CHUNK,
    }
    blocks = [("state", _to_json(state))]
    blocks += [
        (f"index-{number}", _pack(run_data.to_json(run.index.to_json()).encode()))
        for number, run in enumerate(runs)
    ]
    blocks += chunks.embedded()
    title = " and ".join(dict.fromkeys(run.settings.name for run in runs))
    page = assets.whole_page(f"{title} \N{MIDDLE DOT} agentrl", blocks)
    # A lone surrogate in an answer must not cost the whole page.
    storage.write(path, page.encode(errors="replace"))
    return path


class _Chunks:
    """The episodes of runs, compressed; in memory while few, in files when many."""

    def __init__(self, runs: Sequence[run_data.RunData], folder: pathlib.Path):
        self._counts = [0] * len(runs)
        self._kept: dict[str, bytes] | None = {}
        self._size = 0  # of those, compressed
        self._folder = folder
        written: set[str] = set()
        for number, run in enumerate(runs):
            for place, content in enumerate(_contents(run)):
                self._counts[number] += 1
                written.add(self._add(f"episodes_{number}_{place:04}", content))
        if folder.is_dir():  # what an earlier page left
            for path in folder.glob("episodes_*.js"):
                if self._kept is not None or path.name not in written:
                    path.unlink()
            if not any(folder.iterdir()):
                folder.rmdir()

    def _add(self, name: str, content: bytes) -> str:
        """Keeps a chunk, or writes it; returns the name of its file."""
        if self._kept is None:
            self._write(name, content)
        else:
            self._kept[name] = content
            self._size += len(_pack(content))
            if self._size > EMBEDDED_BYTES:
                kept, self._kept = self._kept, None
                for kept_name, kept_content in kept.items():
                    self._write(kept_name, kept_content)
        return f"{name}.js"

    def _write(self, name: str, content: bytes) -> None:
        """Writes a chunk, unless an earlier report of the run has: files only grow."""
        path = self._folder / f"{name}.js"
        mark = f" // {zlib.crc32(content):08x}\n".encode()
        try:
            with path.open("rb") as file:
                file.seek(-len(mark), os.SEEK_END)
                if file.read() == mark:
                    return
        except OSError:
            pass  # it is not there, or too short to be one
        script = f'agentrl.receiveChunk("{name}", "{_pack(content)}");'
        storage.write(path, script.encode() + mark)

    def describe(self, number: int) -> dict[str, Any]:
        """Where the chunks of a run are, and how many."""
        return {
            "count": self._counts[number],
            "embedded": self._kept is not None,
        }

    def embedded(self) -> list[tuple[str, str]]:
        """The blocks that stand in the page."""
        return [(name, _pack(content)) for name, content in (self._kept or {}).items()]


def _contents(run: run_data.RunData) -> Iterator[bytes]:
    for first in range(0, len(run.index), CHUNK):
        yield b"[" + b",".join(run.index.read_lines(first, CHUNK)) + b"]"


def _pack(content: bytes) -> str:
    """Compressed, as text; without the time, so that equal content is equal text."""
    return base64.b64encode(gzip.compress(content, compresslevel=4, mtime=0)).decode()


class _Json(str):
    """Text that is JSON already."""


def _to_json(value: Any) -> str:
    if isinstance(value, _Json):
        return value
    if isinstance(value, dict):
        items = (f"{run_data.to_json(str(k))}:{_to_json(v)}" for k, v in value.items())
        return f"{{{','.join(items)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_to_json, value))}]"
    return run_data.to_json(value)
