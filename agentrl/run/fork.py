"""Runs that start from the policy of another run, with its tokenizer and its chat.

The new run's `start_from` is the checkpoint's absolute path and, behind a `#`, the
CRC-32 that the checkpoint records of all its files: what was started from is known, and
is verified whenever it is read again.
"""

import dataclasses
import json
import pathlib

import jax
from jax.sharding import Mesh

from agentrl import config, errors, types
from agentrl.checkpoints import checkpoint
from agentrl.experiment import files
from agentrl.models import layers, lora, model_config, transformer
from agentrl.sources import locate


def start_from(
    settings: config.RunConfig, path: str, workdir: pathlib.Path
) -> config.RunConfig:
    """Gives a run the model, tokenizer and chat of a stored policy.

    Args:
      settings: keeps `locate.OWN_FIELDS` of its model, but for the precision.
      path: working directory of another run, or one of its `checkpoints/STEP`.
      workdir: of the new run. If it has begun, it keeps the checkpoint that it began
        with, although the other run may have a newer one by now.

    Raises:
      CheckpointError: if there is no such checkpoint.
      ConfigError: if there is no such run.
    """
    source, step = checkpoint.find_checkpoint(path)
    stored = files.read_run(source)
    own = {name: getattr(settings.model, name) for name in locate.OWN_FIELDS}
    own["precision"] = stored.model.precision
    return dataclasses.replace(
        settings,
        start_from=_begun_with(source, workdir) or describe(source, step),
        weights="",
        model=dataclasses.replace(stored.model, init="random", **own),
        tokenizer=stored.tokenizer,
    )


def describe(workdir: pathlib.Path, step: int) -> str:
    """The `start_from` of a checkpoint: its path and digest."""
    folder = workdir.resolve() / checkpoint.FOLDER / str(step)
    return f"{folder}#{_digest(folder)}"


def load(
    described: str, model: model_config.ModelConfig, mesh: Mesh, like: types.PyTree
) -> types.PyTree:
    """All parameters of the policy that a run starts from, adapters merged.

    Args:
      described: the run's `start_from`.
      model: of the run that starts.
      mesh: to place them on.
      like: `jax.ShapeDtypeStruct`s of the model's parameters, with their placements.

    Raises:
      CheckpointError: if the checkpoint is missing, has changed, or is of another model.
    """
    from agentrl.run import parameters

    path, _, digest = described.rpartition("#")
    folder = pathlib.Path(path)
    if (found := _digest(folder)) != digest:
        raise errors.CheckpointError(
            f"checkpoint {folder} has digest {found}, and this run started from one of "
            f"digest {digest}. Put back the files that it started from."
        )
    workdir, _ = checkpoint.find_checkpoint(folder)
    settings = files.read_run(workdir)
    stored = parameters.Parameters(settings, transformer.Model(settings.model), mesh)
    policy = checkpoint.restore_policy(
        folder, stored.abstract, frozen_digest=stored.frozen_digest
    )
    params = lora.merge(stored.join(types.Params(policy.params, stored.frozen)))
    params = layers.load_as(
        like, lambda _: params, stacked=stored.model.scanned
    )  # the other run may have asked for another form
    if model.critic and not settings.model.critic:
        zeros = jax.tree.map(
            lambda s: jax.numpy.zeros(s.shape, s.dtype, device=s.sharding),
            like[locate.CRITIC],
        )
        params = {**params, locate.CRITIC: zeros}
    wanted, given = (
        jax.tree.map(lambda x: (x.shape, x.dtype), t) for t in (like, params)
    )
    if wanted != given:
        raise errors.CheckpointError(
            f"checkpoint {folder} holds other parameters than this run's model has: its "
            f"model is {settings.model}, this run's is {model}. Leave the model to "
            "--start_from."
        )
    return jax.device_put(params, jax.tree.map(lambda s: s.sharding, like))


def _digest(folder: pathlib.Path) -> str:
    try:
        return f"{json.loads((folder / checkpoint.CHECKSUMS).read_text())['crc32']:08x}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{folder} is no whole checkpoint of this library "
            f"({type(error).__name__}: {error}); name another one."
        ) from error


def _begun_with(source: pathlib.Path, workdir: pathlib.Path) -> str:
    """The `start_from` of a run that has begun with a checkpoint of `source`."""
    if not (workdir / files.RUN_FILE).is_file():
        return ""
    begun = files.read_run(workdir).start_from
    folder = source.resolve() / checkpoint.FOLDER
    return begun if pathlib.Path(begun.rpartition("#")[0]).parent == folder else ""
