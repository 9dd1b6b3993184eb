"""A folder of built files that many processes may ask for at the same time."""

import fcntl
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable


def get_folder() -> pathlib.Path:
    """Where built files are kept: `$AGENTRL_CACHE`, or `~/.cache/agentrl`."""
    folder = os.environ.get("AGENTRL_CACHE") or "~/.cache/agentrl"
    return pathlib.Path(folder).expanduser()


def digest_file(path: pathlib.Path) -> str:
    """SHA-256 of a file, read once for each place, size and time of change it has.

    Corpora of many gigabytes take a while to read, and every process asks for this.

    Raises:
      OSError: if the file cannot be read.
    """
    stat = path.stat()
    state = f"{path.resolve()} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
    name = hashlib.sha256(state.encode()).hexdigest()[:16]
    known = get_folder() / "digests" / name
    if known.is_file() and len(found := known.read_text()) == 64:
        return found
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    known.parent.mkdir(parents=True, exist_ok=True)
    partial = known.with_name(f"{name}.{os.getpid()}.partial")
    partial.write_text(digest)
    partial.rename(known)
    return digest


def ensure_built(name: str, build: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Returns the folder `name` of the cache, built first if it is absent.

    One process builds, into a folder that gets its name only when it is complete; the
    others wait. What a killed process left behind is built anew.

    Args:
      name: of the folder; it must change whenever its contents would.
      build: fills the empty folder it is given.
    """
    folder = get_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{name}.lock", "w") as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # released when the file is closed, or by death
        if not folder.is_dir():
            partial = folder.parent / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build(partial)
            partial.rename(folder)
    return folder
