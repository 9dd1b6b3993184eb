"""Whether a file system can hold a run, tried before anything is trained.

Buckets that are mounted look like disks, but some can neither append to a file nor rename a
folder, and a checkpoint appears by the renaming of a folder that holds others.
"""

import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

from agentrl import errors, storage

FIT = "NFS (Filestore, EFS), Lustre, or gcsfuse on a bucket with hierarchical namespace"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def refuse_unfit(workdir: pathlib.Path) -> None:
    """Tries what a run does with its files, and leaves nothing behind.

    Args:
      workdir: of the run; if it is not there, the nearest folder above it is tried.

    Raises:
      ConfigError: naming all that the file system cannot do.
      OSError: if it is full.
    """
    folder = next(path for path in (workdir, *workdir.parents) if path.is_dir())
    lacking = []
    try:
        probe = pathlib.Path(tempfile.mkdtemp(".partial", ".probe-", folder))
    except OSError as error:
        if error.errno in (*_FULL, *_FORBIDDEN):
            return  # that is told, with its remedy, by whoever writes first
        lacking.append(f"make folders ({error.strerror or error})")
    else:
        try:
            lacking += [
                f"{what} ({reason})"
                for what, attempt in _NEEDED.items()
                if (reason := _why_not(attempt, probe))
            ]
        finally:
            shutil.rmtree(probe, ignore_errors=True)
    if lacking:
        raise errors.ConfigError(
            f"{workdir}: the file system there cannot {' or '.join(lacking)}, as a run "
            f"needs. Use a local disk, {FIT}; or, for a run of one host, give the "
            "bucket's address, such as gs://BUCKET/PATH."
        )


def _why_not(attempt: Callable[[pathlib.Path], bool], folder: pathlib.Path) -> str:
    """Why something cannot be done in a folder; empty if it can."""
    try:
        return "" if attempt(folder) else "it seems to, but nothing has changed"
    except OSError as error:
        if error.errno in _FULL:
            raise storage.explain(error, folder.parent) from error
        return error.strerror or str(error)


def _appends(folder: pathlib.Path) -> bool:
    file = folder / "grows"
    file.write_text("a")
    with file.open("a") as opened:
        opened.write("b")
    return file.read_text() == "ab"


def _cuts(folder: pathlib.Path) -> bool:
    file = folder / "shrinks"
    file.write_text("ab")
    os.truncate(file, 1)
    return file.read_text() == "a"


def _replaces(folder: pathlib.Path) -> bool:
    old, new = folder / "old", folder / "new"
    old.write_text("a")
    new.write_text("b")
    new.replace(old)
    return old.read_text() == "b"


def _renames(folder: pathlib.Path) -> bool:
    outer, renamed = folder / "outer", folder / "renamed"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("a")
    outer.rename(renamed)
    return (renamed / "inner/file").read_text() == "a" and not outer.exists()


_NEEDED = {
    "append to a file": _appends,
    "cut a file": _cuts,
    "replace a file by another": _replaces,
    "rename a folder that holds a folder": _renames,
}
