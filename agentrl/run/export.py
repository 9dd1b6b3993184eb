"""Whole models between folders: into orbax, and out of a run or a converted folder."""

import pathlib
from collections.abc import Mapping

import jax

from agentrl import config, errors, types
from agentrl.experiment import files
from agentrl.models import config as model_config
from agentrl.models import lora, transformer
from agentrl.parallel import sharding
from agentrl.pretrained import adapters, hf_config, hf_export, locate, orbax_io, weights
from agentrl.run import checkpoint, parameters


def to_orbax(model: str, folder: pathlib.Path) -> None:
    """Writes a folder that a run starts from, numbers as they are stored.

    Args:
      model: as `locate.find` takes it.
      folder: new or empty.

    Raises:
      ConfigError: if the model is not supported, or `folder` is not empty.
      CheckpointError: if its files are damaged or of another model.
    """
    found = locate.find(model)
    if orbax_io.holds_params(found.path):
        raise errors.ConfigError(f"{found.path} is a converted folder already.")
    dtypes = weights.stored_dtypes(found.source(), found.config)
    like = _abstract(found.config, dtypes)
    hf_export.claim(folder)
    orbax_io.save(found.load(like), folder)
    hf_export.copy_tokenizer(found.tokenizer_folder(), folder)
    hf_export.write_json(found.fields, folder / hf_config.FILE)


def to_hugging_face(
    path: pathlib.Path,
    folder: pathlib.Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = hf_export.SHARD_BYTES,
) -> None:
    """Writes a folder that `transformers` loads.

    Args:
      path: working directory of a run, one of its checkpoints, or a converted folder.
      folder: new or empty.
      dtype: of the tensors; None keeps each parameter's.
      shard_bytes: largest weights file.

    Raises:
      ConfigError: if `folder` is not empty, or no family fits the model.
      CheckpointError: if there is no such checkpoint, or it is damaged.
    """
    hf_export.claim(folder)
    converted = orbax_io.holds_params(path)
    params, model, tokenizer = (_read_converted if converted else _read_run)(path)
    hf_export.write(
        params,
        model,
        folder,
        tokenizer_folder=tokenizer,
        dtype=dtype,
        shard_bytes=shard_bytes,
    )


def to_peft(
    path: pathlib.Path, folder: pathlib.Path, *, dtype: str | None = None
) -> None:
    """Writes the adapters of a run as a folder that the `peft` library loads.

    With `lora.int8_base` they were trained beside rounded kernels, which only the merged
    model of `to_hugging_face` holds.

    Args:
      path: working directory of a run with `lora`, or one of its checkpoints.
      folder: new or empty.
      dtype: of the tensors; None keeps each parameter's.

    Raises:
      ConfigError: if the run has no adapters, a base of random weights, or trained
        parameters besides its adapters, or if `folder` is not empty.
      CheckpointError: if there is no such checkpoint, or it is damaged.
    """
    settings, _, trained = _restore(path)
    if settings.lora is None or not settings.weights:
        raise errors.ConfigError(
            f"the run in {path} has lora = {settings.lora} and weights = "
            f"{settings.weights!r}; adapters are exported of runs that have both. Leave "
            "out --adapter for the merged model."
        )
    adapters.write(
        trained,
        settings.model,
        settings.lora,
        folder,
        base=settings.weights,
        dtype=dtype,
    )


# Parameters, their shape, and the folder of the tokenizer.
_Read = tuple[types.PyTree, model_config.ModelConfig, pathlib.Path]


def _read_converted(folder: pathlib.Path) -> _Read:
    found = locate.find(str(folder))
    like = _abstract(found.config, orbax_io.stored_dtypes(folder))
    return found.load(like), found.config, folder


def _read_run(path: pathlib.Path) -> _Read:
    settings, stored, trained = _restore(path)
    params = lora.merge(stored.join(types.Params(trained, stored.frozen)))
    tokenizer = pathlib.Path(settings.tokenizer.path)
    if settings.tokenizer.kind == "huggingface" and not tokenizer.is_dir():
        tokenizer = locate.find(settings.tokenizer.path).tokenizer_folder()
    elif settings.tokenizer.kind != "huggingface":  # in a file of its own, or none
        kept = settings.tokenizer.kind != "sentencepiece"
        tokenizer = checkpoint.find_checkpoint(path)[0] if kept else tokenizer
        tokenizer = tokenizer.parent if tokenizer.is_file() else tokenizer
    return params, settings.model, tokenizer


def _restore(
    path: pathlib.Path,
) -> tuple[config.RunConfig, parameters.Parameters, types.PyTree]:
    """A run's configuration, its parameters, and their trained half as stored."""
    workdir, _ = checkpoint.find_checkpoint(path)
    settings = files.read_run(workdir)
    model = transformer.Model(settings.model)
    mesh = config.MeshConfig(data=1, fsdp=jax.device_count())
    stored = parameters.Parameters(settings, model, sharding.make_mesh(mesh))
    policy = checkpoint.restore_policy(
        path, stored.abstract, frozen_digest=stored.frozen_digest
    )
    return settings, stored, policy.params


def _abstract(
    model: model_config.ModelConfig, dtypes: Mapping[str, str] | None = None
) -> types.PyTree:
    """Shapes of the parameters, spread over all devices, in the dtypes of their paths."""
    shapes = jax.eval_shape(transformer.Model(model).init, jax.random.key(0))
    if dtypes is not None:
        shapes = jax.tree.map_with_path(
            lambda path, leaf: leaf.update(dtype=dtypes[weights.path_of(path)]), shapes
        )
    mesh = config.MeshConfig(data=1, fsdp=jax.device_count())
    return sharding.place(shapes, sharding.make_mesh(mesh))
