"""A folder of built files that many processes may ask for at the same time."""

import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable


def get_folder() -> pathlib.Path:
    """Where built files are kept: `$AGENTRL_CACHE`, or `~/.cache/agentrl`."""
    folder = os.environ.get("AGENTRL_CACHE") or "~/.cache/agentrl"
    return pathlib.Path(folder).expanduser()


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
