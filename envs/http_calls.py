"""One request to a server over HTTP, bounded in time and size."""

import contextlib
import http.client
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping

MAX_REPLY_BYTES = 16 << 20
_CHUNK = 1 << 16
_KINDS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}


class CallError(RuntimeError):
    """A server does not answer, or not within the bounds."""


def is_address(url: str) -> bool:
    """Whether `url` looks like http://host or https://host, with or without a path."""
    try:
        address = urllib.parse.urlsplit(url)
        _ = address.port  # raises if it is no number
    except ValueError:
        return False
    return address.scheme in _KINDS and bool(address.netloc)


def exchange(
    method: str,
    url: str,
    body: str,
    *,
    timeout_s: float,
    max_bytes: int = MAX_REPLY_BYTES,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Sends JSON on a new connection and returns (status, text of the reply).

    Args:
      method: "GET" or "POST".
      url: the address, with path and query; see `is_address`.
      body: JSON text.
      timeout_s: for the whole call, in seconds, however slowly the reply drips in.
      max_bytes: of the reply.
      headers: further ones, such as a key; they appear in no message.

    Raises:
      CallError: if the server cannot be reached, or does not complete its reply within
        the bounds; the message says which.
    """
    deadline = time.monotonic() + timeout_s
    address = urllib.parse.urlsplit(url)
    path = address.path + (f"?{address.query}" if address.query else "")
    link = _KINDS[address.scheme](address.netloc, timeout=timeout_s)
    late = threading.Event()
    watch = None
    try:
        link.connect()
        left = max(deadline - time.monotonic(), 0.001)
        watch = threading.Timer(left, _cut, (link.sock, late))
        watch.daemon = True
        watch.start()
        sent = {"Content-Type": "application/json", **(headers or {})}
        link.request(method, path, body.encode(), sent)
        response = link.getresponse()
        content = _read(response, max_bytes)
        if late.is_set():  # cut off, which looks like the end of the reply
            raise TimeoutError
        return response.status, content.decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise CallError(f"no complete reply within {timeout_s:g} s") from error
        raise CallError(f"{type(error).__name__}: {error}") from error
    finally:
        if watch is not None:
            watch.cancel()
        link.close()


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """Reads a reply; raises on one that was cut short, by the watch or the server."""
    expected = response.length  # None where the server does not say
    chunks, size = [], 0
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > max_bytes:
            raise CallError(
                f"the reply has more than {max_bytes} bytes (the bound on a reply)"
            )
        chunks.append(chunk)
    if expected is not None and size < expected:
        raise http.client.IncompleteRead(b"", expected - size)
    return b"".join(chunks)


def _cut(link: socket.socket, late: threading.Event) -> None:
    """Ends a call that takes too long: whoever reads from the socket wakes up."""
    late.set()
    with contextlib.suppress(OSError):  # closed already
        link.shutdown(socket.SHUT_RDWR)
