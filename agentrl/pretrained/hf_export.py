"""Folders that other tools load: configuration, weights, tokenizer, generation settings."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from agentrl import errors, storage, types
from agentrl.models import config as model_config
from agentrl.pretrained import hf_config, safetensors_io, weights

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
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads, with equal logits.

    Args:
      params: of the model, on any devices.
      config: shape of the model.
      folder: new or empty.
      tokenizer_folder: where tokenizer files and generation settings are copied from.
      dtype: of the tensors; None keeps each parameter's.
      shard_bytes: largest weights file.

    Raises:
      ConfigError: if `folder` is not empty, or no family fits the model.
    """
    claim(folder)
    tensors = weights.Export.of(params, config, dtype)
    stored = dtype or str(jnp.dtype(params["embedding"].dtype))
    safetensors_io.write(tensors, folder, shard_bytes=shard_bytes)
    ids = copy_tokenizer(tokenizer_folder, folder)
    # Last: without it nothing loads.
    write_json(hf_config.to_fields(config, stored) | ids, folder / hf_config.FILE)


def copy_tokenizer(source: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Copies tokenizer files and generation settings; returns ids of special tokens.

    A model's folder without generation settings has these ids in its `config.json`.
    """
    for name in (*TOKENIZER_FILES, GENERATION):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    fields: dict[str, Any] = {}
    for name in (hf_config.FILE, GENERATION):
        if (source / name).is_file():
            fields |= json.loads((source / name).read_text())
    ids = {name: fields[name] for name in _TOKEN_IDS if fields.get(name) is not None}
    if not (folder / GENERATION).exists():
        write_json(ids, folder / GENERATION)
    return ids


def write_json(fields: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes a file as `transformers` lays it out."""
    storage.write(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")


def claim(folder: pathlib.Path) -> None:
    """Makes a folder, and raises `ConfigError` if there is something in it."""
    errors.refuse_files(folder)
    folder.mkdir(parents=True, exist_ok=True)
