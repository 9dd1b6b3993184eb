"""Conversation frames: the tokens around observations and actions.

Frames are append-only, unless past reasoning is dropped (`agentrl.chat.history`). An
episode is opened once, every later observation only adds tokens, and sampled tokens are
kept as they are: nothing is rendered or tokenized twice, so the learner scores exactly the
context that the sampler saw. A frame says which messages a conversation begins with; the
tokenizer says what stands between messages.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from agentrl.chat.tokenizer import Delimiters, Tokenizer
from agentrl.envs import prompts

FrameName = Literal["bare", "plain", "agentgym"]
VERSION = 1  # raise when the tokens of any frame change: old policies saw other ones
ACKNOWLEDGEMENT = prompts.ACKNOWLEDGEMENT  # where an environment has no other
Example = tuple[str, Sequence[tuple[str, str]]]  # item id, (observation, answer) pairs
NEW_TASK = "A new task begins.\n\n"  # where examples come before it
THOUGHT_START, THOUGHT_END = "<think>", "</think>"


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation; "prompt" is the header of the answer to come."""

    role: Literal["system", "user", "assistant", "prompt"]
    text: str
    trained: bool = False  # an answer to learn from, not only context


@dataclasses.dataclass(frozen=True)
class Chat:
    """Renders one frame with one tokenizer.

    Frames:
      bare: the observation and the marker that opens the policy's turn. For models
        trained from scratch, which gain nothing from instructions.
      plain: the environment's instruction as system message, observations as user turns.
      agentgym: instruction as user turn, the environment's acknowledgement of it by the
        assistant, then observations as user turns, as AgentGym's clients converse.
    """

    tokenizer: Tokenizer
    frame: FrameName
    few_shot: int = 0  # examples before each task
    examples: Mapping[str, Sequence[Example]] = dataclasses.field(default_factory=dict)
    acknowledgements: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Instructions by environment that a user has put in the place of its own. They come
    # with each episode; here they are for the digest alone.
    given_instructions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # Whether contexts keep what past answers thought; see `agentrl.chat.history`.
    past_reasoning: Literal["keep", "drop"] = "keep"

    @property
    def opens_thought(self) -> bool:
        """Whether the header of an answer begins a thought that the answer ends."""
        header = self.delimiters.pieces["user", "prompt"]
        text = "".join(piece for piece in header if isinstance(piece, str))
        return text.rfind(THOUGHT_START) > text.rfind(THOUGHT_END)

    @property
    def same_headers(self) -> bool:
        """Whether past answers have the header of the answer to come."""
        pieces = self.delimiters.pieces
        return pieces["user", "prompt"] == pieces["user", "assistant"]

    @property
    def exceptions(self) -> dict[str, str]:
        """Where contexts differ from the chat template's renderings: name to sentence."""
        found = dict(self.delimiters.exceptions)
        if self.past_reasoning == "keep":
            found.pop("dropped", None)
            return found
        found.pop("prompt", None)
        if found.pop("thinking", None) is None:
            found["dropped"] = (
                "it keeps the reasoning of past answers; contexts do not."
            )
        return found

    @property
    def delimiters(self) -> Delimiters:
        """Separators of messages in this frame."""
        if self.frame != "bare":
            return self.tokenizer.delimiters
        opened = (self.tokenizer.start_id,)
        return Delimiters(
            {
                ("", "user"): (),
                ("user", "assistant"): opened,
                ("user", "prompt"): opened,
                ("assistant", "user"): (),
            }
        )

    def of_environments(self, names: Collection[str]) -> "Chat":
        """The conversations of some environments alone."""

        def keep(mapping: Mapping[str, Any]) -> dict[str, Any]:
            return {env: value for env, value in mapping.items() if env in names}

        return dataclasses.replace(
            self,
            examples=keep(self.examples),
            acknowledgements=keep(self.acknowledgements),
            given_instructions=keep(self.given_instructions),
        )

    def describe(self) -> dict[str, Any]:
        """Describes all that decides on the tokens around a text, for `chat.json`.

        The digest is over token ids of one opening for each environment, so it changes with
        frame, chat template, examples, vocabulary, acknowledgements and instructions that
        replace the environments' own. Where nothing is replaced it is that of runs that
        knew no replacements.
        """
        acknowledged, given = self._replaced()
        shown = [
            self.open(NEW_TASK, NEW_TASK, f"{env}_") for env in self.examples or [""]
        ]
        content = [VERSION, self.frame, shown, self.extend(NEW_TASK)]
        if self.past_reasoning != "keep":
            content.append(self.past_reasoning)
        for env in sorted({*acknowledged, *given}):
            opened = self.open(given.get(env, NEW_TASK), NEW_TASK, f"{env}_")
            content.append((env, opened))
        return {
            "frame": self.frame,
            "version": VERSION,
            "few_shot": {
                env: [item_id for item_id, _ in examples]
                for env, examples in self.examples.items()
            },
            "acknowledgements": acknowledged,
            "given_instructions": given,
            "digest": hashlib.sha256(repr(tuple(content)).encode()).hexdigest()[:12],
            "past_reasoning": self.past_reasoning,
            "template_exceptions": self.exceptions,
        }

    def _replaced(self) -> tuple[dict[str, str], dict[str, str]]:
        """Acknowledgements and instructions that the frame shows and that are replaced."""
        acknowledged, given = {}, {}
        if self.frame == "agentgym":
            acknowledged = {
                env: text
                for env, text in self.acknowledgements.items()
                if text != ACKNOWLEDGEMENT
            }
        if self.frame != "bare":
            given = dict(self.given_instructions)
        return acknowledged, given

    def episode(
        self, instruction: str, exchanges: Sequence[tuple[str, str]], item_id: str
    ) -> list[Message]:
        """Messages of an episode whose answers are to be learned from.

        The task's `item_id` names the environment of the acknowledgement and of the
        examples; it is never an example itself.
        """
        env = item_id.rpartition("_")[0]
        messages = {
            "bare": [],
            "plain": [Message("system", instruction)],
            "agentgym": [
                Message("user", instruction),
                Message("assistant", self.acknowledgements.get(env, ACKNOWLEDGEMENT)),
            ],
        }[self.frame]
        known = self.examples.get(env, ())
        shown = [example for known_id, example in known if known_id != item_id]
        shown = shown[: self.few_shot]
        for played in (*shown, exchanges):
            for turn, (observed, answer) in enumerate(played):
                text = NEW_TASK + observed if shown and not turn else observed
                messages.append(Message("user", text))
                messages.append(Message("assistant", answer, played is exchanges))
        return messages

    def open(self, instruction: str, observation: str, item_id: str = "") -> list[int]:
        """Tokens from the start of an episode to where its first action begins."""
        messages = self.episode(instruction, [(observation, "")], item_id)
        return self.context(messages[:-1])

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
            pieces = delimiters.between(after, message.role)
            for piece in (*stop, *pieces, message.text):
                if isinstance(piece, str):
                    text += piece
                else:
                    ids += [*self.tokenizer.encode(text), piece]
                    text = ""
            after = message.role
            stop = (self.tokenizer.stop_id,) if after == "assistant" else ()
        return ids + self.tokenizer.encode(text)
