"""Objects of one folder in a store: whole reads and whole writes, nothing else.

Object stores cannot append, rename or lock. What is used here is what all of them give: an
object is written whole or not at all, and whoever reads it afterwards sees it whole.
"""

import pathlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import fsspec
from fsspec.implementations import local

from agentrl import errors, storage

_ATTEMPTS = 4
_FIRST_WAIT_S = 0.5  # doubled after each attempt
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}
_Result = TypeVar("_Result")


class _Folder(local.LocalFileSystem):
    """Local files that appear whole, as objects do, in folders made as needed."""

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        storage.write(pathlib.Path(path), value)

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        path = pathlib.Path(rpath)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(lpath, partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def find(self, path: str, **options: Any) -> list[str]:
        found = super().find(path, **options)
        return [name for name in found if not storage.is_leftover(pathlib.Path(name))]


class Store:
    """The objects below one address, such as `gs://bucket/runs/demo`."""

    def __init__(self, url: str):
        """Opens nothing yet.

        Raises:
          ConfigError: if the scheme is unknown, or needs a package that is missing.
        """
        self.url = url.rstrip("/")
        scheme = url.partition("://")[0]
        self._system: Any
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            advice = f" (pip install 'agentrl-jax[{extra}]')" if extra else ""
            raise errors.ConfigError(f"{url}: {error}{advice}.") from error
        except ValueError as error:
            raise errors.ConfigError(
                f"{url}: {error}; give a local path, gs://BUCKET/PATH or s3://BUCKET/PATH."
            ) from error

        if type(self._system) is local.LocalFileSystem:
            self._system = _Folder()

    def read(self, name: str) -> bytes | None:
        """Returns an object; None if there is none."""

        def read() -> bytes | None:
            try:
                self._system.invalidate_cache()
                return self._system.cat_file(self._path(name))
            except FileNotFoundError:
                return None

        return self._retried("reading", name, read)

    def write(self, name: str, content: bytes) -> None:
        """Writes an object; one of this name is replaced."""
        self._retried(
            "writing", name, lambda: self._system.pipe_file(self._path(name), content)
        )

    def upload(self, name: str, path: pathlib.Path) -> None:
        """Writes a whole file as an object, without reading it into memory at once."""

        def upload() -> None:
            self._system.put_file(str(path), self._path(name))

        self._retried("writing", name, upload)

    def download(self, name: str, path: pathlib.Path) -> None:
        """Reads an object into a file."""

        def download() -> None:
            self._system.get_file(self._path(name), str(path))

        self._retried("reading", name, download)

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; missing ones do not matter."""
        for name in names:

            def remove(name: str = name) -> None:
                try:
                    self._system.rm_file(self._path(name))
                except FileNotFoundError:
                    return

            self._retried("removing", name, remove)

    def names(self) -> list[str]:
        """Names of all objects; the empty ones that stand for folders are none."""

        def find() -> list[str]:
            self._system.invalidate_cache()
            try:
                return self._system.find(self._root)
            except FileNotFoundError:
                return []

        prefix = self._system._strip_protocol(self._root).rstrip("/") + "/"
        return [
            path.removeprefix(prefix)
            for path in self._retried("listing", "", find)
            if path.startswith(prefix) and not path.endswith("/")
        ]

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _retried(
        self, action: str, name: str, attempt: Callable[[], _Result]
    ) -> _Result:
        """Tries again where a store may only be busy.

        Raises:
          OSError: naming the object, after the last attempt.
        """
        wait = _FIRST_WAIT_S
        for number in range(_ATTEMPTS):
            try:
                return attempt()
            except (PermissionError, FileNotFoundError) as error:
                raise self._explained(action, name, error) from error
            # Each package has errors of its own, not all of them OSErrors.
            except Exception as error:
                if number + 1 == _ATTEMPTS:
                    raise self._explained(action, name, error) from error
            time.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")

    def _explained(self, action: str, name: str, error: Any) -> OSError:
        told = " ".join(str(error).split()) or type(error).__name__
        return OSError(f"{action} {self.url}/{name} failed: {told}".replace("/ ", " "))
