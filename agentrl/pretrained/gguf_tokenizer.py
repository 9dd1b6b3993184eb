"""The tokenizer inside a GGUF file, as a folder that `transformers` loads."""

import pathlib

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from agentrl import errors
from agentrl.pretrained import gguf_io, hf_export

_CONTROL = 3  # token type of special tokens


def write(source: gguf_io.GGUFFile, folder: pathlib.Path) -> None:
    """Writes tokenizer, chat template and generation settings into `folder`.

    Raises:
      ConfigError: if the file's tokenizer is not byte-level BPE split as SmolLM does.
    """
    kind = (
        source.metadata("tokenizer.ggml.model"),
        source.metadata("tokenizer.ggml.pre"),
    )
    if kind != ("gpt2", "smollm"):
        raise errors.ConfigError(
            f"{source.path}: tokenizer.ggml.model, tokenizer.ggml.pre = {kind} is not "
            "supported, only ('gpt2', 'smollm'); give a folder with tokenizer.json."
        )
    pieces: list[str] = source.metadata("tokenizer.ggml.tokens")
    merges = [
        tuple(pair.split(" ")) for pair in source.metadata("tokenizer.ggml.merges")
    ]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    types = source.metadata("tokenizer.ggml.token_type")
    special = [p for p, t in zip(pieces, types, strict=True) if t == _CONTROL]
    backend.add_special_tokens(special)
    ids = _special_ids(source)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=source.config_fields["max_position_embeddings"],
        **{f"{name}_token": pieces[index] for name, index in ids.items()},
    )
    tokenizer.chat_template = source.metadata("tokenizer.chat_template")
    tokenizer.save_pretrained(folder)
    hf_export.write_json(
        {f"{name}_token_id": ids[name] for name in ids if name != "unk"},
        folder / hf_export.GENERATION,
    )


def _special_ids(source: gguf_io.GGUFFile) -> dict[str, int]:
    fields = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {
        name: source.metadata(f"tokenizer.ggml.{field}_token_id")
        for name, field in fields.items()
    }
    return {name: index for name, index in ids.items() if index is not None}
