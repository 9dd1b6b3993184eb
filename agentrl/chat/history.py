"""Conversations that go on, with or without the reasoning of past answers.

Models that think before they act were trained on contexts in which the reasoning of
earlier turns is gone: their templates drop what stands before `</think>` in every past
answer. A context is then no longer what was sampled with something appended. `History`
says how it goes on all the same: some tokens at its end are taken back, others follow.
What is before them stays as it was read, so a cache is cut and goes on from there.
"""

import dataclasses
from collections.abc import Sequence

from agentrl.chat import renderer


@dataclasses.dataclass(frozen=True)
class Extension:
    """How a context goes on: tokens that follow, after others are taken back."""

    tokens: list[int]
    num_cut: int = 0  # tokens at the end of the context


class History:
    """One conversation. Contexts equal the chat template's renderings of it.

    An answer without reasoning keeps the tokens that were sampled; one whose reasoning is
    dropped is rendered again, as the template renders past answers.
    """

    def __init__(self, chat: renderer.Chat, opening: Sequence[renderer.Message]):
        """Begins with the messages before the first answer."""
        self._chat = chat
        self._messages, self._after = list(opening), ""
        self._tokens = chat.context(opening)  # since the last settled answer

    @property
    def opening(self) -> list[int]:
        """Tokens from the start of the conversation to where the first answer begins."""
        return self._tokens

    def extend(
        self,
        sampled: Sequence[int],
        answer: str,
        following: Sequence[renderer.Message],
    ) -> Extension:
        """Goes on after an answer.

        Args:
          sampled: tokens of the answer, stop token included.
          answer: its text.
          following: messages up to where the next answer begins.
        """
        chat, answered = self._chat, chat_answer(self._chat, answer)
        appended = chat.context(following, "assistant")
        if answered is None:
            extension = Extension(appended)
        else:
            messages = [*self._messages, renderer.Message("assistant", answered)]
            wanted = chat.context([*messages, *following], self._after)
            read = [*self._tokens, *sampled]
            same = _common_prefix(read, wanted)
            extension = Extension(wanted[same:], num_cut=len(read) - same)
        self._messages, self._after = list(following), "assistant"
        self._tokens = appended
        return extension


def turns(
    chat: renderer.Chat, messages: Sequence[renderer.Message]
) -> list[tuple[Extension, str, str]]:
    """Takes a conversation apart that has answers to learn from.

    Returns:
      For each trained answer: how the context goes on before it, the text that it answers
      to, and its own.
    """
    found: list[tuple[Extension, str, str]] = []
    history, pending = None, []
    for message in messages:
        if not message.trained:
            pending.append(_settled(chat, message))
            continue
        if history is None:
            history = History(chat, pending)
            extension = Extension(history.opening)
        else:
            answer = found[-1][2]
            sampled = [*chat.tokenizer.encode(answer), chat.tokenizer.stop_id]
            extension = history.extend(sampled, answer, pending)
        found.append((extension, pending[-1].text, message.text))
        pending = []
    return found


def _settled(chat: renderer.Chat, message: renderer.Message) -> renderer.Message:
    """Returns a message of the past, without reasoning that the chat drops."""
    if message.role != "assistant":
        return message
    answered = chat_answer(chat, message.text)
    return dataclasses.replace(
        message, text=message.text if answered is None else answered
    )


def chat_answer(chat: renderer.Chat, answer: str) -> str | None:
    """Returns what stands for a past answer; None if its own tokens do."""
    if chat.past_reasoning == "keep":
        return None
    kept = without_reasoning(answer, chat.delimiters.stripped_after_reasoning)
    return None if kept == answer and chat.same_headers else kept


def without_reasoning(answer: str, stripped: str) -> str:
    """Drops what stands before the last `</think>` of an answer.

    Args:
      answer: as it was written; one that never ended its thought is kept whole, as
        templates keep it.
      stripped: characters that the template strips off the beginning of the rest.
    """
    _, ended, rest = answer.rpartition(renderer.THOUGHT_END)
    return rest.lstrip(stripped) if ended else answer


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
