"""Conversation frames: the tokens around observations and actions.

Frames are append-only. An episode is opened once, every later observation only adds
tokens, and sampled tokens are kept as they are: nothing is rendered or tokenized twice,
so the learner scores exactly the context that the sampler saw.
"""

import dataclasses
import hashlib
from typing import Literal

from agentrl.text import tokenizer as tokenizers

FrameName = Literal["bare", "plain", "agentgym"]
VERSION = 1  # raise when the tokens of any frame change: old policies saw other ones
ACKNOWLEDGEMENT = "OK. I'll follow your instructions and try my best to solve the task."


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
    system: str = ""  # agentgym only: the model family's default system message

    @property
    def digest(self) -> str:
        """Identifies frame, version and fixed texts in a run's metadata."""
        content = f"{VERSION}|{self.frame}|{self.system}|{ACKNOWLEDGEMENT}"
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def open(self, instruction: str, observation: str) -> list[int]:
        """Tokens from the start of an episode to where its first action begins."""
        if self.frame == "bare":
            return self._observation(observation)
        opening: list[int] = []
        if self.frame == "plain":
            opening += self._message("system", instruction)
        else:
            if self.system:
                opening += self._message("system", self.system)
            opening += self._message("user", instruction)
            opening += self._message("assistant", ACKNOWLEDGEMENT)
        return opening + self._observation(observation)

    def extend(self, observation: str) -> list[int]:
        """Tokens between a finished action (stop token included) and the next one."""
        if self.frame == "bare":
            return self._observation(observation)
        return self.tokenizer.encode("\n") + self._observation(observation)

    def _observation(self, text: str) -> list[int]:
        if self.frame == "bare":
            return [*self.tokenizer.encode(text), self.tokenizer.start_id]
        user = self._message("user", text)
        return [*user, self.tokenizer.start_id, *self.tokenizer.encode("assistant\n")]

    def _message(self, role: str, text: str) -> list[int]:
        body = self.tokenizer.encode(f"{role}\n{text}")
        newline = self.tokenizer.encode("\n")
        return [self.tokenizer.start_id, *body, self.tokenizer.stop_id, *newline]
