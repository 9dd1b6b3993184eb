"""Conversation frames: the tokens around observations and actions.

Frames are append-only. An episode is opened once, every later observation only adds
tokens, and sampled tokens are kept as they are: nothing is rendered or tokenized twice,
so the learner scores exactly the context that the sampler saw. A frame says which messages
a conversation begins with; the tokenizer says what stands between messages.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentrl.text import tokenizer as tokenizers

FrameName = Literal["bare", "plain", "agentgym"]
VERSION = 1  # raise when the tokens of any frame change: old policies saw other ones
ACKNOWLEDGEMENT = "OK. I'll follow your instructions and try my best to solve the task."
NEW_TASK = (
    "A new task begins.\n\n"  # before the first observation that follows an example
)


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "prompt"]
    text: str
    trained: bool = False  # an answer to learn from, not only context


@dataclasses.dataclass(frozen=True)
class Example:
    """A solved task, shown before another one."""

    item_id: str
    exchanges: Sequence[tuple[str, str]]  # (observation, answer)


@dataclasses.dataclass(frozen=True)
class Chat:
    """Renders one frame with one tokenizer.

    Frames:
      bare: the observation and the marker that opens the policy's turn. For models
        trained from scratch, which gain nothing from instructions.
      plain: the environment's instruction as system message, observations as user turns.
      agentgym: instruction as user turn, a fixed acknowledgement by the assistant, then
        observations as user turns, as AgentGym's clients converse.
    """

    tokenizer: tokenizers.Tokenizer
    frame: FrameName
    few_shot: int = 0  # examples before each task
    examples: Mapping[str, Sequence[Example]] = dataclasses.field(default_factory=dict)

    @property
    def delimiters(self) -> tokenizers.Delimiters:
        """What separates messages in this frame."""
        if self.frame != "bare":
            return self.tokenizer.delimiters
        opened = (self.tokenizer.start_id,)
        return tokenizers.Delimiters(
            {
                ("", "user"): (),
                ("user", "assistant"): opened,
                ("user", "prompt"): opened,
                ("assistant", "user"): (),
            }
        )

    def describe(self) -> dict[str, Any]:
        """Everything that decides which tokens surround a text, and its digest."""
        contents: dict[str, Any] = {
            "frame": self.frame,
            "version": VERSION,
            "few_shot": self.few_shot,
            "opening": self.open(
                NEW_TASK, NEW_TASK
            ),  # its ids depend on the vocabulary
            "stop_id": self.tokenizer.stop_id,
            "delimiters": {" > ".join(k): v for k, v in self.delimiters.pieces.items()},
            "examples": {
                env: [dataclasses.astuple(example) for example in examples]
                for env, examples in self.examples.items()
            },
        }
        # Through JSON and back, so that what was stored equals what is compared with it.
        contents = json.loads(json.dumps(contents))
        digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode())
        return {"digest": digest.hexdigest()[:12], **contents}

    def open(self, instruction: str, observation: str, item_id: str = "") -> list[int]:
        """Tokens from the start of an episode to where its first action begins.

        Args:
          instruction: the environment's rules.
          observation: the task's first observation.
          item_id: the task, which names the environment of the examples and is never
            among them.
        """
        messages = []
        if self.frame == "plain":
            messages = [Message("system", instruction)]
        elif self.frame == "agentgym":
            messages = [Message("user", instruction)]
            messages += [Message("assistant", ACKNOWLEDGEMENT)]
        known = self.examples.get(item_id.rpartition("_")[0], ())
        shown = [e for e in known if e.item_id != item_id][: self.few_shot]
        for episode, example in enumerate(shown):
            for turn, (observed, answer) in enumerate(example.exchanges):
                before = NEW_TASK if episode and not turn else ""
                messages.append(Message("user", before + observed))
                messages.append(Message("assistant", answer))
        messages.append(Message("user", (NEW_TASK if shown else "") + observation))
        return self.context(messages)

    def extend(self, observation: str) -> list[int]:
        """Tokens between a finished action (stop token included) and the next one."""
        return self.context([Message("user", observation)], after="assistant")

    def context(self, messages: Sequence[Message], after: str = "") -> list[int]:
        """Tokens of `messages` that follow one by `after`, up to where an answer begins.

        Neighbouring texts are tokenized as one, as in a rendering of the conversation.

        Raises:
          ConfigError: if one role cannot follow another in this frame.
        """
        delimiters = self.delimiters
        ids: list[int] = []
        text = ""  # not yet tokenized
        stop: tuple[int, ...] = ()  # a sampled answer has its stop token already
        for message in (*messages, Message("prompt", "")):
            for piece in (
                *stop,
                *delimiters.between(after, message.role),
                message.text,
            ):
                if isinstance(piece, str):
                    text += piece
                else:
                    ids += [*self.tokenizer.encode(text), piece]
                    text = ""
            after = message.role
            stop = (self.tokenizer.stop_id,) if after == "assistant" else ()
        return ids + self.tokenizer.encode(text)

    def turns(self, messages: Sequence[Message]) -> list[tuple[list[int], list[int]]]:
        """(context, action) tokens of every trained answer; the rest is context."""
        found = []
        start, after = 0, ""
        for index, message in enumerate(messages):
            if message.trained:
                action = [*self.tokenizer.encode(message.text), self.tokenizer.stop_id]
                found.append((self.context(messages[start:index], after), action))
                start, after = index + 1, "assistant"
        return found
