"""The server behind `agentrl watch`: static files, and JSON for whoever has the token.

It listens on the loopback interface, so nobody else on the network can ask. A token in the
address keeps other users of the machine out, and requests under a foreign name of the
host are refused: a web page elsewhere that lets its own name point to this machine (DNS
rebinding) learns nothing. It only reads.
"""

import gzip
import hmac
import http.server
import re
import secrets
import socket
import urllib.parse
from typing import Any

from agentrl.live import watched
from agentrl.webpage import assets

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html"}
_MAX_COUNT = 50_000  # episodes of one answer about the index
_MAX_EPISODES = 1_000  # and of one with their texts
_COMPRESS_ABOVE = 2_000  # bytes
# Nothing but what this server sends; no frames, no forms, no other origins.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(http.server.ThreadingHTTPServer):
    """Serves the page about some runs until it is shut down."""

    daemon_threads = True

    def __init__(
        self, runs: watched.Watched, *, host: str = "127.0.0.1", port: int = 0
    ):
        """Binds the port.

        Args:
          runs: what is shown.
          host: interface to listen on.
          port: 0 takes a free one.

        Raises:
          OSError: if the port is taken.
        """
        self.runs = runs
        self.token = secrets.token_urlsafe(18)
        self.only_loopback = host in LOOPBACK
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is, with its token."""
        host, port = self.server_address[:2]
        name = f"[{host}]" if ":" in str(host) else host
        return f"http://{name}:{port}/?token={self.token}"

    def handle_error(self, *_: Any) -> None:
        """A browser that has gone is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds for a request to arrive

    def log_message(self, *_: Any) -> None:
        """Nothing: a page asks every two seconds."""

    def do_GET(self) -> None:
        """Answers a request."""
        if self.server.only_loopback and not self._is_for_loopback():
            self._refuse(403, "this server answers under 127.0.0.1 and localhost only")
            return
        address = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(address.query))
        if address.path == "/":
            page = assets.linked_page("agentrl watch")
            self._send(page.encode(), "text/html; charset=utf-8")
        elif address.path.startswith("/static/"):
            self._send_asset(address.path.removeprefix("/static/"))
        elif address.path.startswith("/api/"):
            self._answer(address.path.removeprefix("/api/"), query)
        else:
            self._refuse(404, "there is no such page")

    def _is_for_loopback(self) -> bool:
        """Whether the request names this machine, by whatever port it was forwarded."""
        host = self.headers.get("Host", "").lower()
        return (
            re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", host) is not None
        )

    def _is_allowed(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        # Bytes: text with other letters than ASCII cannot be compared so.
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _send_asset(self, name: str) -> None:
        if name not in (*assets.STYLES, *assets.SCRIPTS):
            self._refuse(404, "there is no such file")
            return
        kind = _TYPES["." + name.rpartition(".")[2]]
        self._send(assets.read(name).encode(), f"{kind}; charset=utf-8")

    def _answer(self, name: str, query: dict[str, str]) -> None:
        if not self._is_allowed():
            self._refuse(401, "the token of the address that was printed is missing")
            return
        try:
            self._send(self._ask(name, query), "application/json")
        except LookupError as error:
            self._refuse(409, str(error))
        except ValueError:
            self._refuse(400, "a number of the question is none")
        except OSError as error:
            self._refuse(500, f"an episode cannot be read: {error.strerror}")

    def _ask(self, name: str, query: dict[str, str]) -> bytes:
        runs = self.server.runs
        if name == "state":
            return runs.state(query.get("have", "")).encode()

        def number(field: str, most: int) -> int:
            return max(0, min(int(query.get(field, "0")), most))

        run = number("run", 1 << 30)
        if run >= runs.num_runs:
            raise LookupError(f"there is no run {run}")
        first, generation = number("first", 1 << 60), number("generation", 1 << 60)
        if name == "index":
            return runs.index(
                run,
                first,
                number("count", _MAX_COUNT),
                generation,
                number("items", 1 << 60),
            ).encode()
        if name == "episodes":
            return runs.episodes(run, first, number("count", _MAX_EPISODES), generation)
        raise LookupError("there is no such question")

    def _send(self, content: bytes, kind: str, status: int = 200) -> None:
        accepted = self.headers.get("Accept-Encoding", "")
        packed = len(content) > _COMPRESS_ABOVE and "gzip" in accepted
        if packed:
            content = gzip.compress(content, compresslevel=1)
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, message: str) -> None:
        self._send(message.encode(), "text/plain; charset=utf-8", status)
