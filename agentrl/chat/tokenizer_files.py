"""A policy's own vocabulary and frame as files that `transformers` reads.

A SentencePiece model or the plain bytes become a `tokenizer.json` with the same ids, and
the frame becomes a chat template that writes what `chat.Chat` writes.
"""

import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers

from agentrl import errors
from agentrl.chat import renderer, tokenizer
from agentrl.pretrained import tokenizer_json

_FORMAT: Any = sentencepiece_model_pb2  # its classes are made when it is imported
TEMPLATE = "chat_template.jinja"
_SPACE = "\u2581"  # how SentencePiece writes a space
_CHECKED_TEXTS = 500

# How the frame's messages follow one another; the table is filled in by `template`.
_TEMPLATE = """\
{%- set between = TABLE -%}
{%- set state = namespace(after='') -%}
{%- for message in messages -%}
{%- set step = state.after ~ '>' ~ message.role -%}
{%- if step not in between -%}
{{- raise_exception('this policy has seen no ' ~ message.role ~ ' message after ' \
~ (state.after or 'the start')) -}}
{%- endif -%}
{{- between[step] ~ message.content -}}
{%- if message.role == 'assistant' -%}{{- STOP -}}{%- endif -%}
{%- set state.after = message.role -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- between[state.after ~ '>prompt'] -}}{%- endif -%}
"""


def write(framed: renderer.Chat, folder: pathlib.Path) -> None:
    """Writes tokenizer and chat template of a policy with a vocabulary of its own.

    Args:
      framed: its tokenizer is a SentencePiece model or plain bytes.
      folder: exists.

    Raises:
      ConfigError: if the SentencePiece model does what a `tokenizer.json` cannot.
    """
    trained = framed.tokenizer
    if isinstance(trained, tokenizer.SentencePieceTokenizer):
        backend, padding = _from_sentencepiece(trained), _padding(trained)
    else:
        backend, padding = _from_bytes(), tokenizer.TURN_END
    backend.save(str(folder / tokenizer_json.FILE))
    fields = {
        "tokenizer_class": tokenizer_json.CLASS,
        "eos_token": tokenizer.TURN_END,
        "pad_token": padding,
        "clean_up_tokenization_spaces": False,
    }
    path = folder / tokenizer_json.CONFIG
    path.write_text(json.dumps(fields, indent=2) + "\n")
    write_template(framed, folder)


def write_template(framed: renderer.Chat, folder: pathlib.Path) -> None:
    """Writes a chat template that renders conversations as `framed` does.

    Args:
      framed: the frame, and what its tokenizer puts between messages.
      folder: holds the tokenizer's files.
    """
    backend = tokenizers.Tokenizer.from_file(str(folder / tokenizer_json.FILE))

    def text(pieces: Sequence[str | int]) -> str:
        return "".join(
            p if isinstance(p, str) else str(backend.id_to_token(p)) for p in pieces
        )

    between = {
        f"{previous}>{role}": text(pieces)
        for (previous, role), pieces in framed.delimiters.pieces.items()
    }
    stop = text((framed.tokenizer.stop_id,))
    table = json.dumps(between, ensure_ascii=False)
    filled = _TEMPLATE.replace("TABLE", table).replace("STOP", json.dumps(stop))
    (folder / TEMPLATE).write_text(filled, "utf-8")


def _from_bytes() -> tokenizers.Tokenizer:
    letters = _byte_letters()
    backend = tokenizers.Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [_special(tokenizer.TURN_START), _special(tokenizer.TURN_END)]
    )
    return backend


def _byte_letters() -> dict[str, int]:
    """Returns the byte of each character of the byte-level alphabet.

    Printable characters of Latin-1 stand for themselves; the others for those that follow.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    letters |= {chr(256 + place): byte for place, byte in enumerate(others)}
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


def _from_sentencepiece(
    trained: tokenizer.SentencePieceTokenizer,
) -> tokenizers.Tokenizer:
    proto = _FORMAT.ModelProto.FromString(trained.serialized)
    _refuse_unsupported(proto)
    kinds = _FORMAT.ModelProto.SentencePiece
    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    ranked = sorted(
        (p for p in proto.pieces if p.type == kinds.NORMAL),
        key=lambda piece: (-piece.score, vocabulary[piece.piece]),
    )
    words = {piece.piece for piece in ranked}
    merges = [pair for piece in ranked for pair in _splits(piece.piece, words)]
    unknown = next(p.piece for p in proto.pieces if p.type == kinds.UNKNOWN)
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", _SPACE)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = [p.piece for p in proto.pieces if p.type == kinds.CONTROL]
    backend.add_special_tokens([_special(piece) for piece in control])
    _check(trained, backend, [piece.piece for piece in ranked])
    return backend


def _special(content: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(content, special=True, normalized=False)


def _padding(trained: tokenizer.SentencePieceTokenizer) -> str:
    """Returns the padding token; the stop token if there is none."""
    index = trained.processor.pad_id()
    return tokenizer.TURN_END if index < 0 else trained.processor.id_to_piece(index)


def _splits(piece: str, words: set[str]) -> list[tuple[str, str]]:
    """Pairs of pieces that SentencePiece merges into `piece`, in the order to try them.

    It merges whatever gives the best piece, from left to right; in a `tokenizer.json` every
    pair has a rank of its own. That matters only where two pairs overlap, x y z with
    xy = yz = piece: then (x, y) has to come first.
    """
    size = len(piece)
    places = [i for i in range(1, size) if piece[:i] in words and piece[i:] in words]

    def order(place: int) -> tuple[int, bool]:
        longer = max(place, size - place)
        # x is the longer part if y is the shorter one on both sides of the piece; it is
        # the shorter part if y is the longer one.
        short_twice = piece[longer:] == piece[: size - longer]
        long_twice = piece[:longer] == piece[size - longer :]
        shorter_first = long_twice and not short_twice
        return -longer, (place == longer) == shorter_first

    return [(piece[:i], piece[i:]) for i in sorted(places, key=order)]


def _refuse_unsupported(proto: Any) -> None:
    """Raises `ConfigError` unless the model is one that `train` could have made."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = _FORMAT.ModelProto.SentencePiece
    words = "".join(p.piece for p in proto.pieces if p.type == kinds.NORMAL)
    own = [p.piece for p in proto.pieces if p.type == kinds.USER_DEFINED]
    given = {
        "model_type is 'bpe'": trainer.model_type == trainer.BPE,
        "byte_fallback is on": trainer.byte_fallback,
        "normalization_rule_name is 'identity'": not normalizer.precompiled_charsmap,
        "add_dummy_prefix is off": not normalizer.add_dummy_prefix,
        "remove_extra_whitespaces is off": not normalizer.remove_extra_whitespaces,
        "white space is escaped": normalizer.escape_whitespaces
        and not trainer.treat_whitespace_as_suffix,
        "user-defined symbols are characters of no other piece": all(
            len(symbol) == 1 and symbol not in words for symbol in own
        ),
    }
    if missing := [name for name, holds in given.items() if not holds]:
        raise errors.ConfigError(
            "the run's SentencePiece model has no equal in the format of transformers, "
            f"which it has only if {'; if '.join(missing)}. Export is possible for models "
            "that tokenizer.kind = 'train_sentencepiece' trains."
        )


def _check(
    trained: tokenizer.SentencePieceTokenizer,
    backend: tokenizers.Tokenizer,
    pieces: list[str],
) -> None:
    """Raises `ConfigError` if random texts of pieces get other ids."""
    draw = random.Random(0)
    backend.encode_special_tokens = True
    for _ in range(_CHECKED_TEXTS):
        chosen = draw.choices([*pieces, "\n", _SPACE], k=draw.randint(1, 12))
        text = "".join(draw.choice((1, 1, 3)) * p for p in chosen).replace(_SPACE, " ")
        ours, theirs = trained.encode(text), backend.encode(text).ids
        if ours != theirs:
            raise errors.ConfigError(
                f"the run's SentencePiece model reads {text!r} as {ours}; written for "
                f"transformers it would read {theirs}. This vocabulary cannot be exported."
            )
    backend.encode_special_tokens = False
