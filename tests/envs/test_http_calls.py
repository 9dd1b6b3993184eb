"""Calls to servers end in time and take no more than their bound."""

import contextlib
import socket
import threading
import time

import pytest

from agentrl.envs import http_calls

BODY = "{}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextlib.contextmanager
def serve(answer):
    """A server that lets `answer(connection)` talk, once per connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        # A socket closed with anything unread resets its connection.
                        piece = connection.recv(65536)
                        while piece and not piece.endswith(BODY.encode()):
                            piece = connection.recv(65536)
                        answer(connection)

        threading.Thread(target=run, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/path"


def drip(head, piece):
    """Sends a byte or so every 10 ms, for ever."""

    def answer(connection):
        connection.sendall(head)
        while True:
            connection.sendall(piece)
            time.sleep(0.01)

    return answer


def call(url, **bounds):
    return http_calls.exchange("POST", url, BODY, **{"timeout_s": 5.0, **bounds})


def test_a_reply_is_returned():
    with serve(lambda connection: connection.sendall(OK)) as url:
        assert call(url) == (200, "{}")


@pytest.mark.parametrize(
    "head, piece",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: 1\r\n"),
        (b"", b""),
    ],
    ids=["length", "unknown length", "chunked", "headers", "silence"],
)
def test_a_call_ends_in_time_however_slowly_the_reply_drips(head, piece):
    with serve(drip(head, piece)) as url:
        start = time.monotonic()
        with pytest.raises(http_calls.CallError, match=r"within 0\.1 s"):
            call(url, timeout_s=0.1)
        assert time.monotonic() - start < 4.0


@pytest.mark.parametrize(
    "head", [b"", b"Content-Length: 99000000\r\n"], ids=["unknown length", "length"]
)
def test_a_long_reply_is_not_read_to_its_end(head):
    sent = []

    def answer(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        for _ in range(1_000):
            connection.sendall(b"x" * 99_000)
            sent.append(99_000)

    with serve(answer) as url:
        with pytest.raises(http_calls.CallError, match="more than 1000000 bytes"):
            call(url, max_bytes=1_000_000)
        assert sum(sent) < 50_000_000


def test_a_reply_that_is_cut_short_is_no_reply():
    short = serve(lambda connection: connection.sendall(OK[:-1]))
    with short as url, pytest.raises(http_calls.CallError, match="IncompleteRead"):
        call(url)


def test_nobody_at_home():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(http_calls.CallError, match="refused"):
        call(url)
