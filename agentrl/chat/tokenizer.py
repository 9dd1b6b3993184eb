"""Tokenizers behind one protocol: SentencePiece, Hugging Face, and plain bytes.

Markers (`<|im_start|>`, `<|im_end|>`) have ids of their own and are never produced from
text: an environment that prints a marker cannot end the policy's turn.
"""

import dataclasses
import io
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import sentencepiece

from agentrl import errors, storage

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"


@dataclasses.dataclass(frozen=True)
class Delimiters:
    """Separators between messages: texts, and ids of special tokens.

    Keys are pairs of roles of `chat.Message`: "" is the start of a conversation, "prompt"
    the header of the answer to come. After an assistant's message a delimiter begins behind
    the stop token.
    """

    pieces: Mapping[tuple[str, str], tuple[str | int, ...]]
    refused: str = ""  # why there are no system messages
    exceptions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where contexts differ from the model's own chat template: name to sentence."""
    # What the template strips off the beginning of a past answer whose reasoning it drops.
    stripped_after_reasoning: str = "\n"

    def between(self, previous: str, role: str) -> tuple[str | int, ...]:
        """Texts and markers between messages by `previous` and by `role`.

        Raises:
          ConfigError: if `role` cannot follow.
        """
        if (previous, role) not in self.pieces:
            reason = self.refused if role == "system" else ""
            raise errors.ConfigError(
                f"a conversation has {role!r} after {previous or 'its start'!r}, which "
                f"this tokenizer and frame cannot render. {reason}".rstrip()
            )
        return self.pieces[previous, role]


class Tokenizer(Protocol):
    """Encodes text and decodes ids; `encode` never returns a special token."""

    @property
    def vocab_size(self) -> int:
        """Number of ids; the model's embedding must have at least as many rows."""
        ...

    @property
    def start_id(self) -> int:
        """Special token that opens a turn."""
        ...

    @property
    def stop_id(self) -> int:
        """Special token that closes a turn; the policy is trained to emit it."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All tokens that end an answer, `stop_id` first; published models have several."""
        ...

    @property
    def delimiters(self) -> Delimiters:
        """Separators of the messages of a conversation."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids, without special tokens."""
        ...

    def save(self, folder: pathlib.Path) -> None:
        """Writes everything `load` needs."""
        ...


def chatml(start: int, stop: int) -> Delimiters:
    """Delimiters of ChatML: start, role, line end, text, stop, line end."""
    opened = {role: (start, f"{role}\n") for role in ("system", "user", "assistant")}
    return Delimiters(
        {
            ("", "system"): opened["system"],
            ("", "user"): opened["user"],
            ("system", "user"): (stop, "\n", *opened["user"]),
            ("user", "assistant"): (stop, "\n", *opened["assistant"]),
            ("user", "prompt"): (stop, "\n", *opened["assistant"]),
            ("assistant", "user"): ("\n", *opened["user"]),
        }
    )


_TRAINING_OPTIONS: Mapping[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "character_coverage": 1.0,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "allow_whitespace_only_pieces": True,
    "max_sentence_length": 1 << 20,
    "user_defined_symbols": ["\n"],
    "control_symbols": [TURN_START, TURN_END],
    "bos_id": -1,
    "eos_id": -1,
    "pad_id": 0,
    "unk_id": 1,
    "num_threads": 1,
    "minloglevel": 2,
}


_TOO_SMALL = re.compile(r"required_chars\. -?\d+ vs (\d+)")
_TOO_LARGE = re.compile(r"a value <= (\d+)")


def _explain_size(error: str) -> str:
    """What SentencePiece says against a size, in terms of the field that gives it."""
    if least := _TOO_SMALL.search(error):
        return (
            "their characters, the 256 bytes and the markers alone need "
            f"tokenizer.vocab_size of at least {least[1]}."
        )
    if most := _TOO_LARGE.search(error):
        return f"their words give no more; tokenizer.vocab_size is at most {most[1]}."
    return error.rpartition("]")[2].strip() or error  # behind a place in C++ code


class SentencePieceTokenizer:
    """A SentencePiece model whose control symbols include the two markers."""

    FILE = "tokenizer.model"

    def __init__(self, model: bytes):
        self.serialized = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.start_id = self._id_of(TURN_START)
        self.stop_id = self._id_of(TURN_END)
        self.stop_ids = (self.stop_id,)
        self.vocab_size = self.processor.vocab_size()
        self.delimiters = chatml(self.start_id, self.stop_id)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, exact: bool = True
    ) -> "SentencePieceTokenizer":
        """Learns a vocabulary from `texts`; the same texts give the same model.

        Args:
          texts: to learn from.
          vocab_size: number of ids.
          exact: whether fewer ids, where texts give no more, are an error.

        Raises:
          ConfigError: if so many ids cannot be made of these texts.
        """
        # The limit is on a line's bytes; longer ones would be skipped in silence.
        lines = [line for text in texts for line in text.split("\n") if line]
        if not lines:
            raise errors.ConfigError(
                f"tokenizer.vocab_size = {vocab_size} cannot be had: the environments' "
                "demonstrations hold no text to learn a vocabulary from."
            )
        output = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=output,
                vocab_size=vocab_size,
                hard_vocab_limit=exact,
                **_TRAINING_OPTIONS,
            )
        except RuntimeError as error:
            raise errors.ConfigError(
                f"tokenizer.vocab_size = {vocab_size} cannot be had of the environments' "
                f"demonstrations ({len(lines)} lines): {_explain_size(str(error))}"
            ) from error
        return cls(output.getvalue())

    @classmethod
    def load(cls, path: pathlib.Path) -> "SentencePieceTokenizer":
        """Reads a model file, or `tokenizer.model` in a folder."""
        path = path / cls.FILE if path.is_dir() else path
        if not path.is_file():
            raise errors.ConfigError(f"no SentencePiece model at {path}.")
        try:
            return cls(path.read_bytes())
        except RuntimeError as error:  # how SentencePiece reports what it cannot parse
            raise errors.DamagedFileError(
                f"{path} is damaged: it is no SentencePiece model ({error}). Restore the "
                "file; a policy that was trained with it cannot be read by another."
            ) from error

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; characters outside the vocabulary become bytes."""
        return self.processor.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids; invalid UTF-8 becomes U+FFFD."""
        markers = (self.start_id, self.stop_id, 0)
        return self.processor.decode([int(i) for i in ids if i not in markers])

    def save(self, folder: pathlib.Path) -> None:
        """Writes `tokenizer.model` into `folder`."""
        storage.write(folder / self.FILE, self.serialized)

    def _id_of(self, marker: str) -> int:
        index = self.processor.piece_to_id(marker)
        if index == self.processor.unk_id():
            raise errors.ConfigError(
                f"the SentencePiece model has no piece {marker!r}; train it with "
                "control_symbols that include both turn markers."
            )
        return index


class ByteTokenizer:
    """UTF-8 bytes plus two markers: no vocabulary to train, for tests."""

    start_id = 256
    stop_id = 257
    stop_ids = (stop_id,)
    vocab_size = 258
    delimiters = chatml(start_id, stop_id)

    def encode(self, text: str) -> list[int]:
        """Returns the UTF-8 bytes of `text`."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes the bytes in `ids`."""
        return bytes(int(i) for i in ids if i < 256).decode(errors="replace")

    def save(self, folder: pathlib.Path) -> None:
        """Writes nothing: there is nothing to know."""
        del folder


def load(
    kind: str,
    path: pathlib.Path,
    variables: Mapping[str, bool | int | float | str] | None = None,
) -> Tokenizer:
    """Loads a tokenizer of `TokenizerConfig.kind` from a file or folder.

    Args:
      kind: of the tokenizer.
      path: file or folder.
      variables: of a Hugging Face folder's chat template, to fix.
    """
    if kind == "bytes":
        return ByteTokenizer()
    if kind in ("sentencepiece", "train_sentencepiece"):
        return SentencePieceTokenizer.load(path)
    if kind == "huggingface":
        from agentrl.chat import huggingface

        return huggingface.HuggingFaceTokenizer.load(path, variables)
    raise errors.ConfigError(f"tokenizer.kind = {kind!r} is not supported here.")
