"""Local copies of what a store holds: single files, and runs for those who only read.

All commands of a machine that read one address share a folder, one at a time while they
fetch. A checkpoint there is held by every process that asked for it, as long as that lives,
and is not removed before, although its run has replaced it.
"""

import contextlib
import fcntl
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Sequence
from typing import IO

import filelock

from agentrl import errors
from agentrl.buckets import manifest, objects

_TRIES = 5  # to read a run that is published anew meanwhile
_BLOCK = 1 << 20
_held: list[IO[str]] = []  # open and locked until the process ends


def download(
    store: objects.Store, name: str, parts: Sequence[manifest.Part], path: pathlib.Path
) -> None:
    """Fetches a file from its parts, unless it is there already.

    Args:
      store: where they are.
      name: of the file in the store.
      parts: as the manifest lists them.
      path: of the file here; what was there before is replaced when all is fetched.

    Raises:
      DamagedFileError: if a part is not what was written.
      OSError: if the store cannot be read, or the local disk cannot be written.
    """
    size = sum(length for _, length, _ in parts)
    same_size = path.is_file() and path.stat().st_size == size
    if same_size and manifest.unchanged(path, parts) == parts:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each process, as in `storage.write`.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    fetched = partial.with_name(f"{partial.stem}.part.partial")
    try:
        with partial.open("wb") as whole:
            for part in parts:
                _download_part(store, name, part, fetched)
                with fetched.open("rb") as source:
                    shutil.copyfileobj(source, whole, _BLOCK)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
        fetched.unlink(missing_ok=True)


def _download_part(
    store: objects.Store, name: str, part: manifest.Part, path: pathlib.Path
) -> None:
    _, length, digest = part
    store.download(manifest.object_name(name, part), path)
    if path.stat().st_size > length:
        # The file has grown while it was uploaded; what it gained then is in the next
        # part.
        os.truncate(path, length)
    if manifest.digest_of(path, 0, length) != digest:
        raise errors.DamagedFileError(
            f"{store.url}/{manifest.object_name(name, part)} is not what was written "
            "there. Restore it, or start the run anew in another --workdir."
        )


def fetch_run(store: objects.Store, folder: pathlib.Path, step: str) -> None:
    """Makes a folder hold a run as it was published last, but for most checkpoints.

    Args:
      store: where the run is.
      folder: made if it is not there; shared by all who read this run.
      step: of the one checkpoint that is fetched; "" stands for the newest.

    Raises:
      ConfigError: if there is no run.
      CheckpointError: if the run has no such checkpoint.
      DamagedFileError: if the store does not hold what its manifest says.
      OSError: if the store cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failed: OSError | None = None
    with filelock.FileLock(folder / ".lock"):
        for _ in range(_TRIES):
            content = store.read(manifest.NAME)
            try:
                return _fetch(store, folder, manifest.read(content, store.url), step)
            except OSError as error:
                # What was published since may have replaced what was to be fetched.
                if store.read(manifest.NAME) == content:
                    raise
                failed = error
    raise OSError(
        f"{store.url} changed {_TRIES} times before its newest checkpoint was fetched; "
        f"repeat the command, or read one that ended a stage ({failed})"
    ) from failed


def _fetch(
    store: objects.Store,
    folder: pathlib.Path,
    files: dict[str, list[manifest.Part]],
    step: str,
) -> None:
    """One try of `fetch_run`."""
    if "run.json" not in files:
        raise errors.ConfigError(
            f"{store.url} holds no run; give the address that launch.train had as "
            "--workdir."
        )
    steps = sorted({int(s) for s in map(manifest.step_of, files) if s.isdecimal()})
    if step and int(step) not in steps:
        raise errors.CheckpointError(
            f"{store.url} holds no checkpoint {step}, or none any more: a newer one may "
            f"have replaced it. It holds {steps}."
        )
    step = step or str(max(steps, default=""))
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(_lock_of(folder, step).open("a"))
        fcntl.flock(held, fcntl.LOCK_SH)  # until the process ends, if all goes well
        _clear(folder, files, max(steps, default=-1))
        for name, parts in files.items():
            if manifest.step_of(name) in ("", step):
                download(store, name, parts, folder / name)
        stack.pop_all()
        _held.append(held)


def _clear(folder: pathlib.Path, files: Iterable[str], newest: int) -> None:
    """Removes what the store does not hold, and nobody here does either.

    A checkpoint newer than the newest goes in any case: the run was begun anew or from an
    older one, and no reader may take it for its newest.
    """
    for path in list(manifest.files_of(folder)):
        name = path.relative_to(folder).as_posix()
        if not manifest.step_of(name) and name not in files:
            path.unlink()
    stored = set(map(manifest.step_of, files))
    for path in (folder / "checkpoints").glob("*"):
        if path.name in stored:
            continue
        if (path.name.isdecimal() and int(path.name) > newest) or not _is_held(path):
            removed = path.with_name(f"removed-{path.name}-{secrets.token_hex(4)}")
            path.rename(removed)
            shutil.rmtree(removed)
            _lock_of(folder, path.name).unlink(missing_ok=True)


def _is_held(path: pathlib.Path) -> bool:
    with _lock_of(path.parents[1], path.name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock_of(folder: pathlib.Path, step: str) -> pathlib.Path:
    return folder / f".checkpoint-{step}.lock"


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what killed processes left of files, and folders that hold nothing.

    An empty folder would count as a checkpoint. Nobody else may be at work in `folder`.
    """
    for path in folder.rglob(".*.partial"):
        path.unlink()
    for root, _, _ in os.walk(folder, topdown=False):
        if root != str(folder):
            with contextlib.suppress(OSError):  # it holds something
                os.rmdir(root)
