"""Hugging Face tokenizers behind the protocol of `conversations.tokenizer`."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import tokenizers
import transformers

from agentrl import errors
from agentrl.chat import chat_template, renderer
from agentrl.pretrained import locate


class HuggingFaceTokenizer:
    """A fast tokenizer whose turns are delimited as its own chat template does.

    Special tokens are never produced from text. Tokens that were added but are not special
    (`<think>` of Qwen3) are words of the model, and are.
    """

    def __init__(self, tokenizer: transformers.PreTrainedTokenizerFast):
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
        self.delimiters = dataclasses.replace(
            self.delimiters,
            exceptions=chat_template.find_exceptions(
                tokenizer, renderer.Chat(self, "agentgym")
            ),
        )

    @classmethod
    def load(cls, where: pathlib.Path) -> "HuggingFaceTokenizer":
        """Reads a model's tokenizer and its chat template.

        Args:
          where: a folder, or what else `locate.find` knows: a GGUF file, a model's name.

        Raises:
          ConfigError: if there is none, its template cannot be appended to, or it has ids
            without a row in the embedding that the folder's `config.json` describes.
        """
        known = where.is_dir()
        folder = where if known else locate.find(str(where)).tokenizer_folder()
        try:
            found = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise errors.ConfigError(
                f"{folder} holds no tokenizer that transformers can read: {error}"
            ) from error
        if not isinstance(found, transformers.PreTrainedTokenizerFast):
            raise errors.ConfigError(
                f"{folder} holds a {type(found).__name__}, which has no fast version; "
                "convert it to a tokenizer.json first."
            )
        loaded = cls(found)
        config = folder / "config.json"
        if config.is_file():
            rows = json.loads(config.read_text()).get("vocab_size", loaded.vocab_size)
            if loaded.vocab_size > rows:
                raise errors.ConfigError(
                    f"the tokenizer in {folder} has {loaded.vocab_size} ids, but "
                    f"{config} says vocab_size = {rows}; every id needs a row in the "
                    "embedding."
                )
        return loaded

    @property
    def start_id(self) -> int:
        """Last special token of the header of an answer; only the bare frame needs it."""
        header = self.delimiters.between("user", "prompt")
        special = [piece for piece in header if isinstance(piece, int)]
        if not special:
            raise errors.ConfigError(
                f"the chat template of {self._tokenizer.name_or_path} opens an answer with "
                f"{header}, which holds no special token; tokenizer.frame = 'bare' needs "
                "one, so choose 'plain' or 'agentgym'."
            )
        return special[-1]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, none of them special."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens; bytes that are no UTF-8 become U+FFFD."""
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
