"""Hugging Face tokenizers behind the protocol of `chat.tokenizer`."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
import transformers

from agentrl import errors
from agentrl.chat import chat_template, renderer
from agentrl.pretrained import tokenizer_json
from agentrl.sources import locate

_CONFIG = "config.json"
_GENERATION = "generation_config.json"


class HuggingFaceTokenizer:
    """A fast tokenizer whose turns are delimited as its own chat template does.

    Special tokens are never produced from text. Tokens that were added but are not special
    (`<think>` of Qwen3) are words of the model, and are.
    """

    def __init__(
        self,
        tokenizer: transformers.PreTrainedTokenizerFast,
        end_ids: Sequence[int] = (),
    ):
        """Takes the chat template apart.

        Args:
          tokenizer: holds vocabulary and template.
          end_ids: tokens that end an answer besides the template's own.

        Raises:
          ConfigError: if the template cannot be appended to, or lets text forge a turn.
        """
        chat_template.mark_delimiters(tokenizer)
        self._tokenizer = tokenizer
        # A copy for plain text: that of `transformers` keeps reading special tokens.
        self._backend = tokenizers.Tokenizer.from_str(
            tokenizer.backend_tokenizer.to_str()
        )
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        self.vocab_size = max(self._backend.get_vocab().values()) + 1
        self._refuse_special_tokens_in_text()
        self.delimiters, self.stop_id = chat_template.find_delimiters(tokenizer)
        self.stop_ids = tuple(dict.fromkeys((self.stop_id, *end_ids)))
        stripped = chat_template.find_stripped(tokenizer, self.delimiters)
        if stripped is not None:
            self.delimiters = dataclasses.replace(
                self.delimiters, stripped_after_reasoning=stripped
            )
        self.delimiters = dataclasses.replace(
            self.delimiters,
            exceptions=chat_template.find_exceptions(
                tokenizer, renderer.Chat(self, "agentgym")
            ),
        )

    @classmethod
    def load(
        cls,
        where: pathlib.Path,
        variables: Mapping[str, bool | int | float | str] | None = None,
    ) -> "HuggingFaceTokenizer":
        """Reads a model's tokenizer, its chat template, and what ends its answers.

        Args:
          where: a folder, or what else `locate.find` knows: a GGUF file, a model's name.
          variables: of the chat template, to fix; see `chat_template.set_variables`.

        Raises:
          ConfigError: if there is none, its ids are not those of its tokenizer.json, its
            template cannot be appended to or does not read a variable, or it has ids
            without a row in the embedding that the folder's `config.json` describes.
        """
        known = where.is_dir()
        folder = where if known else locate.find(str(where)).tokenizer_folder()
        found = tokenizer_json.load(folder)
        chat_template.set_variables(found, variables or {})
        chat_template.check_limits(found)
        loaded = cls(found, _end_ids(folder, found))
        rows = _read_fields(folder / _CONFIG).get("vocab_size", loaded.vocab_size)
        if loaded.vocab_size > rows:
            raise errors.ConfigError(
                f"the tokenizer in {folder} has {loaded.vocab_size} ids, but "
                f"{folder / _CONFIG} says vocab_size = {rows}; every id needs a row in "
                "the embedding."
            )
        return loaded

    @property
    def chat_template(self) -> str:
        """The source of the chat template, with the variables that were fixed."""
        return str(self._tokenizer.chat_template)

    @property
    def start_id(self) -> int:
        """Last special token of the header of an answer; only the bare frame needs it."""
        header = self.delimiters.between("user", "prompt")
        return [piece for piece in header if isinstance(piece, int)][-1]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, none of them special."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids without special tokens; invalid UTF-8 becomes U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, folder: pathlib.Path) -> None:
        """Writes tokenizer and chat template as `transformers` does."""
        self._tokenizer.save_pretrained(folder)

    def _refuse_special_tokens_in_text(self) -> None:
        special = {
            index: token.content
            for index, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        }
        for content in special.values():
            if leaked := special.keys() & set(self.encode(content)):
                raise errors.ConfigError(
                    f"{self._tokenizer.name_or_path}: the text {content!r} becomes the "
                    f"special tokens {sorted(leaked)}, so an observation could end a turn."
                )


def _end_ids(
    folder: pathlib.Path, tokenizer: transformers.PreTrainedTokenizerFast
) -> tuple[int, ...]:
    """Tokens that end an answer by the model's settings, as `generate` looks them up."""
    for name in (_GENERATION, _CONFIG):
        given = _read_fields(folder / name).get("eos_token_id")
        if given is None:
            continue
        ids = given if isinstance(given, list) else [given]
        known = tokenizer.backend_tokenizer.id_to_token
        for index in ids:
            if type(index) is not int or index < 0 or known(index) is None:
                raise errors.ConfigError(
                    f"{folder / name} has eos_token_id = {given}, but the tokenizer "
                    f"beside it has no token {index!r}; one of the two files is of "
                    "another model."
                )
        return tuple(ids)
    index = tokenizer.backend_tokenizer.token_to_id(str(tokenizer.eos_token))
    return () if index is None else (index,)


def _read_fields(path: pathlib.Path) -> dict[str, Any]:
    """Fields of a JSON file; none if there is no such file."""
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text("utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"it holds a {type(fields).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise errors.ConfigError(
            f"{path} cannot be read ({error}); fetch it again."
        ) from error
    return fields
