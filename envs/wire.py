"""Messages between the pool and a worker, which share one socket.

A message is a header and a body. The header holds the worker's token, a random number that
environments do not know, and the message's number. What an environment itself writes to
the socket is therefore told from an answer, and so is an answer that is given twice.
"""

import socket
import struct
from typing import BinaryIO

MAX_BODY_BYTES = 1 << 30
_HEADER = struct.Struct("=QQI")  # token, number, length of the body
_READ_BYTES = 1 << 16


class WireError(RuntimeError):
    """The stream holds something that is not the next message."""


def frame(token: int, number: int, body: bytes) -> bytes:
    """Returns the message as it is sent."""
    return _HEADER.pack(token, number, len(body)) + body


def read(stream: BinaryIO, token: int, number: int) -> bytes:
    """Waits for message `number` and returns its body.

    Raises:
      EOFError: if the other side has closed its end.
      WireError: if another message, or none, comes.
    """
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise EOFError
    length = _check(header, 0, token, number)
    body = stream.read(length)
    if len(body) < length:
        raise EOFError
    return body


class Receiver:
    """Takes messages off a socket without ever waiting for one."""

    def __init__(self, link: socket.socket, token: int):
        self._link, self._token = link, token
        self._number = 0  # of the next message
        self._rest = b""  # the beginning of a message that has not arrived whole
        self.error = ""  # what came instead of the next message; nothing is read then

    def receive(self) -> list[bytes]:
        """Returns the bodies of messages that have arrived, maybe none.

        Raises:
          EOFError: if the other side has closed its end or is gone, or after an `error`.
        """
        if self.error:
            raise EOFError
        try:
            data = self._link.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        if self._rest:
            data = self._rest + data
        bodies, start = [], 0
        try:
            while start + _HEADER.size <= len(data):
                length = _check(data, start, self._token, self._number)
                end = start + _HEADER.size + length
                if end > len(data):
                    break
                bodies.append(data[start + _HEADER.size : end])
                self._number += 1
                start = end
        except WireError as error:
            self.error = str(error)
        self._rest = data[start:]
        return bodies


def _check(data: bytes, start: int, token: int, number: int) -> int:
    """Returns the length of the body whose header is at `start`."""
    found_token, found_number, length = _HEADER.unpack_from(data, start)
    if (found_token, found_number) != (token, number) or length > MAX_BODY_BYTES:
        raise WireError(
            f"message {number} was due, and something else came: "
            f"{data[start : start + 40]!r}"
        )
    return length
