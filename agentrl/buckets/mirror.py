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
from agentrl.buckets import copies, lease, manifest, mounts, objects

_STATE = ".bucket.json"  # of the local copy: the manifest that it goes on from
_MAX_PARTS = 32  # of a file, before it is written anew in one
_TRIES = 3  # to upload a file that changes meanwhile
_LARGE = 64 << 20  # bytes that are not read into memory to upload them


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
        self._files: dict[
            str, list[manifest.Part]
        ] = {}  # as the store's manifest has them
        self._known: dict[str, tuple[manifest.Stamp, list[manifest.Part]]] = {}

    def pull(self) -> None:
        """Makes the local copy what the store holds, unless it is newer.

        Raises:
          DamagedFileError: if the store does not hold what its manifest says.
          OSError: if it cannot be read, or the local disk cannot be written.
        """
        content = self._store.read(manifest.NAME)
        self._files = manifest.read(content, self._store.url)
        state = self.local / _STATE
        if content is None or (
            state.is_file()
            and storage.read_json(state, advice="remove it.").get("manifest")
            == _digest(content)
        ):
            return
        for name, path in self._local_files():
            if name not in self._files:
                path.unlink()
        copies.remove_leftovers(self.local)
        state.unlink(missing_ok=True)  # a copy that is half made is no copy
        for name, parts in self._files.items():
            copies.download(self._store, name, parts, self.local / name)
        self._remember(content)

    def publish(self) -> None:
        """Writes what has changed in the local copy, then the manifest.

        Raises:
          OSError: if the store cannot be written. It then holds what it held before.
        """
        # Checkpoints come first: what grows may be newer than they are, as a run that
        # goes on from them cuts it back, but never older.
        found = self._upload_checkpoints()
        for name, path in self._local_files():
            if not manifest.step_of(name):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if parts := self._upload(name, path):
                        found[name] = parts
        content = json.dumps({"version": 1, "files": found}, indent=1).encode()
        self._store.write(manifest.NAME, content)
        self._remember(content)
        self._files = found
        kept = {
            manifest.object_name(name, part) for name in found for part in found[name]
        }
        names = self._store.names()
        nested = tuple(_nested(names))
        self._store.remove(
            name
            for name in names
            # What this run cannot have written is not its own to remove.
            if name not in kept
            and manifest.PART.fullmatch(name)
            and not name.startswith(nested)
        )

    def _upload_checkpoints(self) -> dict[str, list[manifest.Part]]:
        """Uploads the checkpoints, each of them whole or not at all.

        Returns:
          The parts of their files. If checkpoints come and go faster than they are
          uploaded, those that the store has already.
        """
        for _ in range(_TRIES):
            listed = {n: p for n, p in self._local_files() if manifest.step_of(n)}
            found = {}
            with contextlib.suppress(FileNotFoundError):  # removed, for a newer one
                for name, path in listed.items():
                    if parts := self._upload(name, path):
                        found[name] = parts
            if len(found) == len(listed):
                return found
        return {n: parts for n, parts in self._files.items() if manifest.step_of(n)}

    def _local_files(self) -> list[tuple[str, pathlib.Path]]:
        """The files of the local copy, by their names in the store."""
        paths = manifest.files_of(self.local)
        return [(path.relative_to(self.local).as_posix(), path) for path in paths]

    def _remember(self, content: bytes) -> None:
        storage.write_json(self.local / _STATE, {"manifest": _digest(content)})

    def _upload(self, name: str, path: pathlib.Path) -> list[manifest.Part]:
        """Writes the parts of a file that the store does not have.

        Returns:
          The parts of the file. Of one that never rests those of its last version in the
          store, if there is one.
        """
        for _ in range(_TRIES):
            stamp = manifest.stamp_of(path)
            if name in self._known and self._known[name][0] == stamp:
                return self._known[name][1]
            parts = self._upload_parts(name, path)
            if manifest.stamp_of(path) == stamp or manifest.has_grown(
                path, stamp, parts
            ):
                self._known[name] = stamp, parts
                return parts
        return self._files.get(name, [])

    def _upload_parts(self, name: str, path: pathlib.Path) -> list[manifest.Part]:
        size, stored = path.stat().st_size, self._files.get(name, [])
        kept = manifest.unchanged(path, stored) if len(stored) < _MAX_PARTS else []
        start = kept[-1][0] + kept[-1][1] if kept else 0
        if size > start or not kept:
            kept = [*kept, self._upload_part(name, path, start, size - start)]
        return kept

    def _upload_part(
        self, name: str, path: pathlib.Path, start: int, length: int
    ) -> manifest.Part:
        if start == 0 and length > _LARGE:
            part = start, length, manifest.digest_of(path, start, length)
            if part not in self._files.get(name, []):
                try:
                    self._store.upload(manifest.object_name(name, part), path)
                except OSError:
                    path.stat()  # the store is not to blame if the file is gone
                    raise
            return part
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(length)
        # Of the very bytes that are written: times do not tell of every change.
        part = start, len(content), manifest.digest(content)
        if part not in self._files.get(name, []):
            self._store.write(manifest.object_name(name, part), content)
        return part


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
      ConfigError: as `training` does, if it lies in a store and there are many hosts, or
        if the file system of the local directory cannot hold a run.
    """
    if not is_remote(workdir):
        local = pathlib.Path(workdir)
        if workdir:  # else nothing is to be written
            mounts.refuse_unfit(local)
        yield local, lambda: None
        return
    # Counting processes starts the devices, which a run has yet to divide.
    if jax.distributed.is_initialized() and (hosts := jax.process_count()) > 1:
        raise errors.ConfigError(
            f"{workdir}: a run of {hosts} hosts needs a working directory that "
            f"all of them share: mount {mounts.FIT} on every host, and give its path."
        )
    mounts.refuse_unfit(local_copy(workdir))
    with training(workdir) as publisher:
        print(f"{workdir} is worked on in {publisher.workdir}.", flush=True)
        yield publisher.workdir, publisher.publish


def readable(path: str) -> pathlib.Path:
    """Returns a local path to what a person named, fetched if it lies in a store.

    Args:
      path: a local path; or the address of a working directory, or of one of its
        checkpoints/STEP. Of other checkpoints than that, or the newest, nothing is
        fetched. While this process lives no other removes it.

    Raises:
      ConfigError: if there is no run.
      CheckpointError: if it has no such checkpoint.
      DamagedFileError: if the store does not hold what its manifest says.
      OSError: if the store cannot be read.
    """
    if not is_remote(path):
        return pathlib.Path(path)
    url, step = _split(path.rstrip("/"))
    local = local_copy(url)
    # Not the copy of a process that trains, which may go on.
    folder = local.with_name(f"{local.name}-read")
    copies.fetch_run(objects.Store(url), folder, step)
    return folder / "checkpoints" / step if step else folder


def _split(url: str) -> tuple[str, str]:
    """The address of a run, and the step if it is one of its checkpoints."""
    found = re.fullmatch(r"(.+?://.+?)/checkpoints(?:/(\d+))?", url)
    # Runs may have such addresses, too.
    if found is None or objects.Store(url).read(manifest.NAME) is not None:
        return url, ""
    return found[1], found[2] or ""


def _refuse_foreign(store: objects.Store) -> None:
    """Raises `ConfigError` if a new run would begin among what is not its own.

    Parts without a manifest are what a run has left that was killed before it published.
    """
    names = store.names()
    if manifest.NAME in names:
        return
    foreign = _nested(names)
    foreign += [n for n in names if n != lease.NAME and not manifest.PART.fullmatch(n)]
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
            if objects.Store(url).read(manifest.NAME) is not None:
                return url
        except OSError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise  # what may not be read is somebody else's
    return None


def _nested(names: Sequence[str]) -> list[str]:
    """Folders, with a slash at the end, that other runs have below this one."""
    marks = (f"/{manifest.NAME}", f"/{lease.NAME}")
    return [f"{n.rpartition('/')[0]}/" for n in names if n.endswith(marks)]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
