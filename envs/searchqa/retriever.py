r"""Search by a server that speaks Search-R1's protocol.

  POST <address>/retrieve {"queries": [text], "topk": n, "return_scores": true}
  -> {"result": [[{"document": {"contents": "title\ntext"}, "score": ...}, ...]]}

Replies are kept on disk, so that a query is asked once however often, and by however
many processes, it is searched for; delete the file to ask anew.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from agentrl.envs import base, filecache, http_calls
from agentrl.envs.searchqa import passage_files

TIMEOUT_S = 10.0
RETRIES = 2  # after a first try
MAX_QUERY_CHARS = 1000  # of a longer query, the rest is not looked at

_CACHED_QUERIES = 4096
_PAUSE_S = 0.2  # before a second try; doubled for each further one


class RetrieverError(RuntimeError):
    """A retriever does not answer, or not in the form of the protocol."""


class Retriever:
    """Answers queries by asking a server, or from what it said before."""

    def __init__(
        self, address: str, *, timeout_s: float = TIMEOUT_S, retries: int = RETRIES
    ):
        self._url = address.rstrip("/")
        if not self._url.endswith("/retrieve"):
            self._url += "/retrieve"
        self._timeout_s = timeout_s
        self._retries = retries
        key = hashlib.sha256(self._url.encode()).hexdigest()[:12]
        self._path = filecache.get_folder() / f"searchqa-retrieved-{key}.sqlite"
        self.search = functools.lru_cache(_CACHED_QUERIES)(self._search)

    def _search(self, query: str, count: int) -> tuple[passage_files.Passage, ...]:
        """The first `count` passages that the server names, best first.

        Raises:
          RetrieverError: if the server does not answer in time, however often it is
            asked, or answers something else.
        """
        query = query[:MAX_QUERY_CHARS]
        text = _recall(self._path, query, count)
        if text is None:
            text = self._ask(query, count)
            found = self._parse(text, count)
            _remember(self._path, query, count, text)
            return found
        return self._parse(text, count)

    def _ask(self, query: str, count: int) -> str:
        body = json.dumps({"queries": [query], "topk": count, "return_scores": True})
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            try:
                status, text = http_calls.exchange(
                    "POST", self._url, body, timeout_s=self._timeout_s
                )
            except http_calls.CallError as error:
                problem = str(error)
                continue
            if status == 200:
                return text
            problem = f"status {status}, {text[:200]!r}"
            if status < 500 and status != 429:  # it will say the same again
                break
        raise RetrieverError(
            f"retriever {self._url} does not answer ({attempt + 1} tries): {problem}. "
            "Is the server running? See options retriever, retriever_timeout_s and "
            "retriever_retries of environment 'searchqa'."
        )

    def _parse(self, text: str, count: int) -> tuple[passage_files.Passage, ...]:
        try:
            (hits,) = json.loads(text)["result"]
            documents = [_to_document(hit, rank) for rank, hit in enumerate(hits)]
            return tuple(
                passage_files.parse_passage(document, self._url)
                for document in documents[:count]
            )
        except (
            *(AttributeError, KeyError, TypeError, ValueError),
            base.MissingDataError,
        ) as error:
            raise RetrieverError(
                f"retriever {self._url} does not answer in the form of Search-R1's "
                f"/retrieve: {type(error).__name__}: {error} in {text[:200]!r}."
            ) from error


def _to_document(hit: Any, rank: int) -> dict[str, Any]:
    """The document of a hit, with or without a score; ids are optional."""
    document = hit.get("document", hit)
    return {"id": f"rank {rank + 1}", **document}


@contextlib.contextmanager
def _open_replies(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    """Opens the file of replies, which other processes may read and write as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as store, store:
            store.execute(
                "CREATE TABLE IF NOT EXISTS replies "
                "(query TEXT, count INTEGER, reply TEXT, PRIMARY KEY (query, count))"
            )
            yield store
    except sqlite3.Error as error:
        raise RetrieverError(
            f"cannot use {path}, which keeps the replies of the retriever: {error}; "
            "delete the file, the server is asked anew."
        ) from error


def _recall(path: pathlib.Path, query: str, count: int) -> str | None:
    with _open_replies(path) as store:
        found = store.execute(
            "SELECT reply FROM replies WHERE query = ? AND count = ?", (query, count)
        ).fetchone()
    return found[0] if found else None


def _remember(path: pathlib.Path, query: str, count: int, reply: str) -> None:
    with _open_replies(path) as store:
        store.execute(
            "INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (query, count, reply)
        )
