"""A model as judge of failed episodes, behind any OpenAI-compatible server."""

import dataclasses
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

from agentrl import errors
from agentrl.envs import http_calls
from agentrl.judging import judge_prompt

TIMEOUT_S = 120.0  # of one request
MAX_TOKENS = 2000  # of an answer, thoughts included
KEY_VARIABLE = "OPENAI_API_KEY"

_PATH = "/chat/completions"
_MAX_REPLY_BYTES = 1 << 20
_NOT_JSON = (ValueError, RecursionError)
_TRIES = 3
_PAUSE_S = 1.0  # before a second try; doubled for the third
# What a server says of one question, such as that it is too long; others may do better.
_ABOUT_THE_QUESTION = (400, 413, 422)


class JudgeError(RuntimeError):
    """A judge does not answer, or never as it is asked to; the message names the flag."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge says of one episode."""

    tags: tuple[str, ...]  # the main one first; empty if it gave no answer of use
    why: str = ""
    problem: str = ""  # with what it answered instead


class Judge:
    """Asks one model of one server; may be called by several threads at once."""

    def __init__(
        self,
        server: str,
        model: str,
        *,
        key: str = "",
        timeout_s: float = TIMEOUT_S,
        max_tokens: int = MAX_TOKENS,
    ):
        """Checks the address and the key; asks nothing yet.

        Args:
          server: such as http://127.0.0.1:8000/v1.
          model: its name on that server.
          key: sent as bearer token if not empty; in no message, file or `identity`.
          timeout_s: of one request, in seconds.
          max_tokens: of an answer.

        Raises:
          ConfigError: if the address or the key cannot be used.
        """
        self._server = _check_address(server)
        self._model, self._max_tokens = model, max_tokens
        self._timeout_s = timeout_s
        self._key = key.strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise errors.ConfigError(
                f"{KEY_VARIABLE} holds characters that no header can carry; set it to the "
                "key alone."
            )
        self._stopped = threading.Event()

    @property
    def identity(self) -> dict[str, str]:
        """What judgements have to share to be compared."""
        asked = judge_prompt.digest(self._max_tokens)
        return {"model": self._model, "server": self._server, "instructions": asked}

    def stop(self) -> None:
        """Makes calls that wait for another try give up."""
        self._stopped.set()

    def ask(self, question: str) -> Verdict:
        """Returns the verdict on one transcript; an answer of no use gets a second try.

        Args:
          question: from `judge_prompt.write_question`.

        Raises:
          JudgeError: if the server cannot be reached or does not take the request.
        """
        messages = [
            {"role": "system", "content": judge_prompt.INSTRUCTIONS},
            {"role": "user", "content": question},
        ]
        problem = answer = ""
        for _ in range(2):
            try:
                answer = self._complete(messages)
                tags, why = judge_prompt.read_answer(answer)
            except judge_prompt.AnswerError as error:
                problem = str(error)
                messages += [
                    {"role": "assistant", "content": answer or "(no text)"},
                    {"role": "user", "content": judge_prompt.complain(problem)},
                ]
            except _QuestionRefusedError as error:
                return Verdict((), problem=str(error))
            else:
                return Verdict(tags, self._hide_key(why))
        said = self._hide_key(answer)[:200]
        return Verdict((), problem=f"{problem}: {said!r}")

    def _complete(self, messages: list[dict[str, str]]) -> str:
        """Returns the text of a completion; empty if the server gives none."""
        reply = self._post(
            {
                "model": self._model,
                "messages": messages,
                "temperature": 0,
                "max_tokens": self._max_tokens,
            }
        )
        try:
            content = json.loads(reply)["choices"][0]["message"].get("content")
        except (AttributeError, LookupError, TypeError, *_NOT_JSON) as error:
            raise JudgeError(
                f"{self._server}{_PATH} does not answer as an OpenAI-compatible server "
                f"does ({type(error).__name__} in {self._hide_key(reply)[:200]!r}); see "
                "--server."
            ) from error
        return content if isinstance(content, str) else ""

    def _post(self, body: Mapping[str, Any]) -> str:
        url, problem = self._server + _PATH, ""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        for attempt in range(_TRIES):
            if attempt and self._stopped.wait(_PAUSE_S * 2 ** (attempt - 1)):
                break
            try:
                status, text = http_calls.exchange(
                    "POST",
                    url,
                    json.dumps(body),
                    timeout_s=self._timeout_s,
                    max_bytes=_MAX_REPLY_BYTES,
                    headers=headers,
                )
            except http_calls.CallError as error:
                problem = str(error)
                continue
            if status == 200:
                return text
            problem = f"status {status}, {self._hide_key(text)[:200]!r}"
            if status in _ABOUT_THE_QUESTION:
                raise _QuestionRefusedError(problem)
            if status < 500 and status != 429:
                raise JudgeError(f"{url}: {problem}. {self._advise(status)}")
        raise JudgeError(
            f"{url} does not answer ({attempt + 1} tries): {problem}. Is the server "
            "running? See --server and --timeout_s; the same command goes on."
        )

    def _advise(self, status: int) -> str:
        if status in (401, 403):
            return f"Set {KEY_VARIABLE} to a key that this server takes."
        if status == 404:
            return (
                f"Is --model={self._model} one of those that GET {self._server}/models "
                "lists, and does --server end with its version, such as /v1?"
            )
        return "See --server."

    def _hide_key(self, text: str) -> str:
        """Takes the key out of what a server says, which may repeat its headers."""
        return text.replace(self._key, "[key]") if self._key else text


class _QuestionRefusedError(Exception):
    """A server does not take this one question."""


def _check_address(server: str) -> str:
    """Returns an address without a slash at its end; refuses what would hold a secret."""
    address = server.rstrip("/").removesuffix(_PATH)
    if not http_calls.is_address(address):
        raise errors.ConfigError(
            f"--server={server!r} is no address; give one such as http://127.0.0.1:8000/v1."
        )
    parts = urllib.parse.urlsplit(address)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise errors.ConfigError(
            "--server has a user, a query or a fragment in it, and would be stored with "
            f"every judgement; give the address alone, and a key in {KEY_VARIABLE}."
        )
    return address


def ask_all(
    judge: Judge, questions: Mapping[str, str], *, concurrency: int
) -> Iterator[tuple[str, Verdict]]:
    """Asks a judge all questions, several at a time.

    Args:
      judge: whom to ask.
      questions: by id.
      concurrency: requests in flight.

    Yields:
      Id and verdict, as they come; after a failure, those that were in flight.

    Raises:
      JudgeError: the first failure of a request; the others are not sent any more.
    """
    failure: BaseException | None = None
    with futures.ThreadPoolExecutor(concurrency) as pool:
        asked = {pool.submit(judge.ask, text): id_ for id_, text in questions.items()}
        try:
            for done in futures.as_completed(asked):
                if done.cancelled():
                    continue
                error = done.exception()
                if error is None:
                    yield asked[done], done.result()
                    continue
                failure = failure or error
                _end(judge, asked)
        finally:
            _end(judge, asked)
    if failure is not None:
        raise failure


def _end(judge: Judge, asked: Mapping[futures.Future[Verdict], str]) -> None:
    judge.stop()
    for waiting in asked:
        waiting.cancel()
