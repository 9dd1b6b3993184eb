"""Whole models between folders: into orbax, and out of a run or a converted folder."""

import pathlib
from collections.abc import Mapping

import jax

from agentrl import checkpoint, config, errors, parameters, sharding, types
from agentrl.models import config as model_config
from agentrl.models import lora, transformer
from launch import experiment
from pretrained import export, hf_config, locate, orbax_io, weights


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
    export.claim(folder)
    orbax_io.save(found.load(like), folder)
    export.copy_tokenizer(found.tokenizer_folder(), folder)
    export.write_json(found.fields, folder / hf_config.FILE)


def to_hugging_face(
    path: pathlib.Path,
    folder: pathlib.Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = export.SHARD_BYTES,
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
    export.claim(folder)
    converted = orbax_io.holds_params(path)
    params, model, tokenizer = (_read_converted if converted else _read_run)(path)
    export.write(
        params,
        model,
        folder,
        tokenizer_folder=tokenizer,
        dtype=dtype,
        shard_bytes=shard_bytes,
    )


# Parameters, their shape, and the folder of the tokenizer.
_Read = tuple[types.PyTree, model_config.ModelConfig, pathlib.Path]


def _read_converted(folder: pathlib.Path) -> _Read:
    found = locate.find(str(folder))
    like = _abstract(found.config, orbax_io.stored_dtypes(folder))
    return found.load(like), found.config, folder


def _read_run(path: pathlib.Path) -> _Read:
    workdir, step = checkpoint.find_checkpoint(path)
    settings = experiment.read_run(workdir)
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        model = transformer.Model(settings.model)
        mesh = config.MeshConfig(data=1, fsdp=jax.device_count())
        stored = parameters.Parameters(settings, model, sharding.make_mesh(mesh))
        checkpoints.restore_progress(step, frozen_digest=stored.frozen_digest)
        trained = checkpoints.restore_params(step, stored.abstract)
        params = lora.merge(stored.join(trained, stored.frozen))
    tokenizer = pathlib.Path(settings.tokenizer.path)
    if settings.tokenizer.kind == "train_sentencepiece":
        tokenizer = workdir
    tokenizer = tokenizer.parent if tokenizer.is_file() else tokenizer
    return params, settings.model, tokenizer


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
