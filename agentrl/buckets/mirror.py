"""A working directory in an object store, and the local copy that a run works in.

The store holds parts of files, named `FILE/OFFSET-DIGEST`, and one manifest, which lists
the parts of every file. Parts are never overwritten: what a file gains goes into a new one,
what changes gets other names. The manifest is written last, as a whole. So whatever is
killed whenever, the store holds one complete state of the run, the last one published.

The local copy remembers which manifest it was made from. If that is still the store's, the
copy is as new or newer, and is gone on with as it is; otherwise it is made anew.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import jax

from agentrl import errors, storage
from agentrl.buckets import lease, objects

MANIFEST = "manifest.json"
_STATE = ".bucket.json"  # of the local copy: the manifest that it goes on from
# In the names of checkpoints that are being saved, or removed.
_UNFINISHED = (".orbax-checkpoint-tmp", "removed-")
_MAX_PARTS = 32  # of a file, before it is written anew in one
_TRIES = 3  # to upload a file that changes meanwhile
_LARGE = 64 << 20  # bytes that are not read into memory to upload them
_BLOCK = 1 << 20
_PART = re.compile(r".+/\d{12,}-[0-9a-f]{16}")  # the name of an object, see `_object`
Part = tuple[int, int, str]  # offset, bytes, digest
Stamp = tuple[int, int, int]  # by which a file that has changed is known


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address in an object store."""
    return "://" in str(path)


def local_copy(url: str) -> pathlib.Path:
    """The local folder of an address: in `$AGENTRL_SCRATCH`, or the user's cache."""
    given = os.environ.get("AGENTRL_SCRATCH")
    root = pathlib.Path(given or "~/.cache/agentrl/buckets").expanduser()
    name = url.rstrip("/").rpartition("/")[2]
    return root / f"{name}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}"


class Mirror:
    """Keeps a local copy and a folder of a store the same."""

    def __init__(self, store: objects.Store, local: pathlib.Path):
        self.local = local
        self._store = store
        self._files: dict[str, list[Part]] = {}  # as the store's manifest has them
        self._known: dict[str, tuple[Stamp, list[Part]]] = {}

    def pull(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Makes the local copy what the store holds, unless it is newer.

        Args:
          wanted: which files, by their path in the working directory.

        Raises:
          DamagedFileError: if the store does not hold what its manifest says.
          OSError: if it cannot be read, or the local disk cannot be written.
        """
        content = self._store.read(MANIFEST)
        self._files = _read_manifest(content, self._store.url)
        state = self.local / _STATE
        if content is None or (
            state.is_file()
            and storage.read_json(state, advice="remove it.").get("manifest")
            == _digest(content)
        ):
            return
        for path in list(_files_of(self.local)):
            if path.relative_to(self.local).as_posix() not in self._files:
                path.unlink()
        state.unlink(missing_ok=True)  # a copy that is half made is no copy
        for name in filter(wanted, self._files):
            self._download(name)
        if all(map(wanted, self._files)):
            self._remember(content)

    def checkpoints(self) -> set[str]:
        """Steps of the checkpoints that the store holds."""
        names = (name.split("/") for name in self._files)
        found = {parts[1] for parts in names if parts[0] == "checkpoints"}
        return {step for step in found if step.isdecimal()}

    def publish(self) -> None:
        """Writes what has changed in the local copy, then the manifest.

        Raises:
          OSError: if the store cannot be written. It then holds what it held before.
        """
        found = {}
        for path in _files_of(self.local):
            name = path.relative_to(self.local).as_posix()
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if parts := self._upload(name, path):
                    found[name] = parts
        content = json.dumps({"version": 1, "files": found}, indent=1).encode()
        self._store.write(MANIFEST, content)
        self._remember(content)
        self._files = found
        kept = {_object(name, part) for name in found for part in found[name]}
        names = self._store.names()
        nested = tuple(_nested(names))
        self._store.remove(
            name
            for name in names
            # What this run cannot have written is not its own to remove.
            if name not in kept
            and _PART.fullmatch(name)
            and not name.startswith(nested)
        )

    def _remember(self, content: bytes) -> None:
        storage.write_json(self.local / _STATE, {"manifest": _digest(content)})

    def _upload(self, name: str, path: pathlib.Path) -> list[Part]:
        """Writes the parts of a file that the store does not have.

        Returns:
          The parts of the file. Of one that never rests those of its last version in the
          store, if there is one.
        """
        for _ in range(_TRIES):
            stamp = _stamp(path)
            if name in self._known and self._known[name][0] == stamp:
                return self._known[name][1]
            parts = self._upload_parts(name, path)
            if _stamp(path) == stamp or _has_grown(path, stamp, parts):
                self._known[name] = stamp, parts
                return parts
        return self._files.get(name, [])

    def _upload_parts(self, name: str, path: pathlib.Path) -> list[Part]:
        size, stored = path.stat().st_size, self._files.get(name, [])
        kept = _unchanged(path, stored) if len(stored) < _MAX_PARTS else []
        start = kept[-1][0] + kept[-1][1] if kept else 0
        if size > start or not kept:
            kept = [*kept, self._upload_part(name, path, start, size - start)]
        return kept

    def _upload_part(
        self, name: str, path: pathlib.Path, start: int, length: int
    ) -> Part:
        if start == 0 and length > _LARGE:
            part = start, length, _digest_of(path, start, length)
            if part not in self._files.get(name, []):
                try:
                    self._store.upload(_object(name, part), path)
                except OSError:
                    path.stat()  # the store is not to blame if the file is gone
                    raise
            return part
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(length)
        # Of the very bytes that are written: times do not tell of every change.
        part = start, len(content), _part_digest(content)
        if part not in self._files.get(name, []):
            self._store.write(_object(name, part), content)
        return part

    def _download(self, name: str) -> None:
        path, parts = self.local / name, self._files[name]
        if path.is_file() and _unchanged(path, parts) == parts:
            size = sum(length for _, length, _ in parts)
            if path.stat().st_size == size:
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as whole:
            for part in parts:
                fetched = partial.with_name(partial.name + ".part")
                self._store.download(_object(name, part), fetched)
                if fetched.stat().st_size > part[1]:
                    # The file has grown while it was uploaded; what it gained then is
                    # in the next part.
                    os.truncate(fetched, part[1])
                if _digest_of(fetched, 0, part[1]) != part[2]:
                    raise errors.DamagedFileError(
                        f"{self._store.url}/{_object(name, part)} is not what was written "
                        "there. Restore it, or start the run anew in another --workdir."
                    )
                with fetched.open("rb") as source:
                    while block := source.read(_BLOCK):
                        whole.write(block)
                fetched.unlink()
        partial.replace(path)


class Publisher:
    """Publishes in a thread, so that training goes on; one state after the other."""

    def __init__(self, mirror: Mirror, held: lease.Lease):
        self._mirror, self._lease = mirror, held
        self._thread = futures.ThreadPoolExecutor(1)
        self._pending: futures.Future[None] | None = None

    @property
    def workdir(self) -> pathlib.Path:
        """The local copy."""
        return self._mirror.local

    def publish(self) -> None:
        """Begins to publish the local copy; waits for what was begun before.

        Files may go on growing meanwhile: what counts is in the newest checkpoint.

        Raises:
          OSError: if what was begun before has failed.
        """
        self.wait()
        self._pending = self._thread.submit(self._publish)

    def wait(self) -> None:
        """Waits until everything begun is published, and raises if it cannot be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def finish(self) -> None:
        """Publishes the local copy once more, also if what was begun before has failed.

        Raises:
          OSError: if the store lacks what the local copy holds.
        """
        with contextlib.suppress(OSError):  # all of it is published again
            self.wait()
        self.publish()
        self.wait()

    def _publish(self) -> None:
        try:
            self._lease.check()
            self._mirror.publish()
        except OSError as error:
            raise OSError(
                f"{error}. Nothing is lost: {self.workdir} holds the run. Mend the cause, "
                "then repeat the command on this machine"
            ) from error


@contextlib.contextmanager
def training(url: str) -> Iterator[Publisher]:
    """Holds a working directory in a store, for one process to train in.

    Args:
      url: its address.

    Yields:
      What publishes the local copy. It is published once more at the end.

    Raises:
      ConfigError: if another process has it, or a new run would lie among objects that
        are not its own.
      OSError: if the store fails; nothing that the local copy holds is lost then.
    """
    store = objects.Store(url)
    _refuse_foreign(store)
    with lease.Lease(store) as held:
        mirror = Mirror(store, local_copy(url))
        mirror.local.mkdir(parents=True, exist_ok=True)
        mirror.pull()
        publisher = Publisher(mirror, held)
        try:
            yield publisher
        except BaseException as error:  # which says why the run ends
            try:
                publisher.finish()
            except OSError as failed:
                if str(failed) != str(error):  # else it is told already
                    print(f"{url} lacks what was saved last: {failed}", file=sys.stderr)
            raise
        publisher.finish()


@contextlib.contextmanager
def opened(workdir: str) -> Iterator[tuple[pathlib.Path, Callable[[], None]]]:
    """Opens what a person gave as a working directory, to train in.

    Yields:
      The local directory, and what publishes it, to be called when a checkpoint is
      complete.

    Raises:
      ConfigError: as `training` does, or if it lies in a store and there are many hosts.
    """
    if not is_remote(workdir):
        yield pathlib.Path(workdir), lambda: None
        return
    # Counting processes starts the devices, which a run has yet to divide.
    if jax.distributed.is_initialized() and (hosts := jax.process_count()) > 1:
        raise errors.ConfigError(
            f"{workdir}: a run of {hosts} hosts needs a working directory that "
            "all of them share; mount the bucket (gcsfuse, s3fs) or a network disk on "
            "every host and give its path."
        )
    with training(workdir) as publisher:
        print(f"{workdir} is worked on in {publisher.workdir}.", flush=True)
        yield publisher.workdir, publisher.publish


def readable(path: str) -> pathlib.Path:
    """Returns a local path to what a person named, fetched if it lies in a store.

    Args:
      path: a local path; or the address of a working directory, or of one of its
        checkpoints/STEP. Of other checkpoints than that, or the newest, nothing is
        fetched.

    Raises:
      ConfigError: if there is no run.
      OSError: if the store cannot be read.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    url, step = _split(path.rstrip("/"))
    local = local_copy(url)
    # Not the copy of a process that trains, which may go on.
    mirror = Mirror(objects.Store(url), local.with_name(f"{local.name}-read"))
    mirror.local.mkdir(parents=True, exist_ok=True)
    mirror.pull(lambda name: not name.startswith("checkpoints/"))
    if not (mirror.local / "run.json").exists():
        raise errors.ConfigError(
            f"{url} holds no run; give the address that launch.train had as --workdir."
        )
    steps = mirror.checkpoints()
    wanted = step or str(max(map(int, steps), default=""))
    prefix = f"checkpoints/{wanted}/"
    mirror.pull(
        lambda name: not name.startswith("checkpoints/") or name.startswith(prefix)
    )
    return mirror.local / "checkpoints" / wanted if step else mirror.local


def _split(url: str) -> tuple[str, str]:
    """The address of a run, and the step if it is one of its checkpoints."""
    found = re.fullmatch(r"(.+?://.+?)/checkpoints(?:/(\d+))?", url)
    # Runs may have such addresses, too.
    if found is None or objects.Store(url).read(MANIFEST) is not None:
        return url, ""
    return found[1], found[2] or ""


def _refuse_foreign(store: objects.Store) -> None:
    """Raises `ConfigError` if a new run would begin among what is not its own.

    Parts without a manifest are what a run has left that was killed before it published.
    """
    names = store.names()
    if MANIFEST in names:
        return
    foreign = _nested(names)
    foreign += [n for n in names if n != lease.NAME and not _PART.fullmatch(n)]
    if foreign:
        raise errors.ConfigError(
            f"{store.url} holds no run, but other things, such as {min(foreign)}; give "
            "each run an address of its own as --workdir."
        )
    # Or they are another run's: its checkpoints, if this is WORKDIR/checkpoints.
    if set(names) - {lease.NAME} and (outer := _outer_run(store.url)):
        raise errors.ConfigError(
            f"{store.url} holds files of the run at {outer}; give that as --workdir to "
            "go on with it, or another address."
        )


def _outer_run(url: str) -> str | None:
    """The address of a run in whose folder an address lies."""
    while not (url := url.rpartition("/")[0]).endswith("/"):  # to the bucket
        try:
            if objects.Store(url).read(MANIFEST) is not None:
                return url
        except OSError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise  # what may not be read is somebody else's
    return None


def _nested(names: Sequence[str]) -> list[str]:
    """Folders, with a slash at the end, that other runs have below this one."""
    marks = (f"/{MANIFEST}", f"/{lease.NAME}")
    return [f"{n.rpartition('/')[0]}/" for n in names if n.endswith(marks)]


def _read_manifest(content: bytes | None, url: str) -> dict[str, list[Part]]:
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
            f"{url}/{MANIFEST} is damaged ({error}); restore the object, or use another "
            "--workdir."
        ) from error


def _files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
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


def _object(name: str, part: Part) -> str:
    start, _, digest = part
    return f"{name}/{start:012d}-{digest}"


def _stamp(path: pathlib.Path) -> Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _has_grown(path: pathlib.Path, before: Stamp, parts: list[Part]) -> bool:
    """Whether a file has only gained something since its parts were read.

    One that was replaced, or written anew in place, may be half old in them.
    """
    inode, size, _ = before
    return (
        path.stat().st_ino == inode
        and parts[-1][0] + parts[-1][1] >= size
        and _unchanged(path, parts) == parts
    )


def _unchanged(path: pathlib.Path, parts: Sequence[Part]) -> list[Part]:
    """The first parts of a file that it still begins with."""
    size, kept = path.stat().st_size, []
    for part in parts:
        start, length, digest = part
        if start + length > size or _digest_of(path, start, length) != digest:
            break
        kept.append(part)
    return kept


def _digest_of(path: pathlib.Path, start: int, length: int) -> str:
    found = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        file.seek(start)
        while length and (block := file.read(min(_BLOCK, length))):
            found.update(block)
            length -= len(block)
    return found.hexdigest()


def _part_digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
