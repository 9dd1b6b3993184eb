"""Folders that other tools load: configuration, weights, tokenizer, generation settings."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from agentrl import errors, storage, types
from agentrl.models import model_config
from agentrl.pretrained import hf_config, safetensors_io, tokenizer_json, weights

SHARD_BYTES = 5 * 10**9
GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "vocab.json",
)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write(
    params: types.PyTree,
    config: model_config.ModelConfig,
    folder: pathlib.Path,
    *,
    tokenizer_folder: pathlib.Path,
    generation: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Writes a folder that `transformers` 4 and 5 load, with equal logits and ids.

    Args:
      params: of the model, on any devices.
      config: shape of the model.
      folder: new or empty.
      tokenizer_folder: where tokenizer files are copied from.
      generation: what `generation_config.json` says; None copies that of
        `tokenizer_folder`.
      dtype: of the tensors; None keeps each parameter's.
      shard_bytes: largest weights file.

    Returns:
      Type of the model, as `config.json` names it.

    Raises:
      ConfigError: if `folder` is not empty, no family fits the model, or `transformers`
        would read the tokenizer's files with other ids whatever the family.
    """
    model_type = _choose_type(config, tokenizer_folder)
    claim(folder)
    ids = copy_tokenizer(tokenizer_folder, folder, generation)
    tensors = weights.Export.of(params, config, dtype)
    if config.qkv_bias and model_type == "llama":
        tensors = tensors.with_output_biases(config)
    safetensors_io.write(tensors, folder, shard_bytes=shard_bytes)
    stored = dtype or str(jnp.dtype(params["embedding"].dtype))
    fields = hf_config.to_fields(config, stored, model_type)
    # Last: without it nothing loads. Families have ids of their own for what is left out.
    write_json(fields | dict.fromkeys(_TOKEN_IDS) | ids, folder / hf_config.FILE)
    return model_type


def copy_tokenizer(
    source: pathlib.Path,
    folder: pathlib.Path,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Copies tokenizer files and writes generation settings; returns ids of special tokens.

    A model's folder without generation settings has these ids in its `config.json`.

    Args:
      source: where from.
      folder: where to.
      generation: the settings; None takes those of `source`.
    """
    for name in (*TOKENIZER_FILES, GENERATION):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    path = folder / tokenizer_json.CONFIG
    if (folder / tokenizer_json.FILE).is_file() and path.is_file():
        write_json(tokenizer_json.portable(json.loads(path.read_text("utf-8"))), path)
    fields: dict[str, Any] = {}
    for name in (hf_config.FILE, GENERATION):
        if (source / name).is_file():
            fields |= json.loads((source / name).read_text("utf-8"))
    fields |= generation or {}
    ids = {name: fields[name] for name in _TOKEN_IDS if fields.get(name) is not None}
    if generation is not None or not (folder / GENERATION).exists():
        write_json(ids | dict(generation or {}), folder / GENERATION)
    return ids


def _choose_type(config: model_config.ModelConfig, folder: pathlib.Path) -> str:
    """Returns the first model type under which a folder's tokenizer keeps its ids.

    transformers 5 gives every model of type qwen2 the tokenizer of Qwen, with no more than
    the words of `tokenizer.json`.
    """
    found = hf_config.types_of(config)
    if not (folder / tokenizer_json.FILE).is_file():
        return found[0]
    changed = {kind: tokenizer_json.read_otherwise(folder, kind) for kind in found}
    if kept := [kind for kind in found if not changed[kind]]:
        return kept[0]
    raise errors.ConfigError(
        f"as the tokenizer of a model of type {found[0]}, transformers gives "
        f"{tokenizer_json.FILE} other ids: {changed[found[0]]}. Whoever loads the export "
        "would not get this policy."
    )


def write_json(fields: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a file as `transformers` lays it out."""
    storage.write(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def claim(folder: pathlib.Path) -> None:
    """Makes a folder, and raises `ConfigError` if there is something in it."""
    errors.refuse_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
