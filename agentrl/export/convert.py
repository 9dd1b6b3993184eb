"""Whole models between folders: into orbax, and out of a run or a converted folder."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax

from agentrl import config, errors, types
from agentrl.chat import huggingface, renderer, tokenizer, tokenizer_files
from agentrl.checkpoints import checkpoint
from agentrl.experiment import files
from agentrl.export import model_card
from agentrl.models import lora, model_config, transformer
from agentrl.parallel import sharding
from agentrl.pretrained import adapters, hf_config, hf_export, orbax_io, weights
from agentrl.run import parameters
from agentrl.sources import locate


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
    errors.refuse_files(folder)
    if orbax_io.holds_params(path):
        found = locate.find(str(path))
        like = _abstract(found.config, orbax_io.stored_dtypes(path))
        hf_export.write(
            found.load(like),
            found.config,
            folder,
            tokenizer_folder=path,
            dtype=dtype,
            shard_bytes=shard_bytes,
        )
        return
    settings, stored, trained = _restore(path)
    chat = _read_chat(settings, path)
    params = lora.merge(stored.join(types.Params(trained, stored.frozen)))
    model_type = write_policy(
        settings, chat, params, folder, dtype=dtype, shard_bytes=shard_bytes
    )
    model_card.of_model(
        settings, chat, source=_describe(path), model_type=model_type, dtype=dtype
    ).write(folder)


def write_policy(
    settings: config.RunConfig,
    chat: renderer.Chat,
    params: types.PyTree,
    folder: pathlib.Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = hf_export.SHARD_BYTES,
) -> str:
    """Writes a run's policy: model, tokenizer, frame, and how it samples and stops.

    Args:
      settings: the run's.
      chat: the run's conversations.
      params: of the model, adapters merged.
      folder: new or empty.
      dtype: of the tensors; None keeps each parameter's.
      shard_bytes: largest weights file.

    Returns:
      Type of the model, as `config.json` names it.

    Raises:
      ConfigError: if `folder` is not empty, or no other tool could load the policy.
    """
    with tempfile.TemporaryDirectory() as written:
        tokenizer_folder = pathlib.Path(written)
        _write_tokenizer(settings, chat, tokenizer_folder)
        return hf_export.write(
            params,
            settings.model,
            folder,
            tokenizer_folder=tokenizer_folder,
            generation=_generation(settings, chat.tokenizer),
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
    card = model_card.of_adapters(settings, source=_describe(path), dtype=dtype)
    card.write(folder)


def _describe(path: pathlib.Path) -> str:
    workdir, step = checkpoint.find_checkpoint(path)
    return f"the run in {workdir}, step {step}"


def _read_chat(settings: config.RunConfig, path: pathlib.Path) -> renderer.Chat:
    """Returns a run's chat format, without few-shot examples."""
    wanted = settings.tokenizer
    trained = wanted.kind == "train_sentencepiece"
    where = checkpoint.find_checkpoint(path)[0] if trained else wanted.path
    loaded = tokenizer.load(wanted.kind, pathlib.Path(where), wanted.template_variables)
    return renderer.Chat(
        loaded,
        wanted.frame,
        few_shot=wanted.few_shot,
        past_reasoning=wanted.past_reasoning,
    )


def _write_tokenizer(
    settings: config.RunConfig, chat: renderer.Chat, folder: pathlib.Path
) -> None:
    """Writes a run's tokenizer for `transformers`, with the template of its frame."""
    if settings.tokenizer.kind != "huggingface":
        tokenizer_files.write(chat, folder)
        return
    source = pathlib.Path(settings.tokenizer.path)
    if not source.is_dir():
        source = locate.find(settings.tokenizer.path).tokenizer_folder()
    hf_export.copy_tokenizer(source, folder)
    if chat.frame == "bare":  # not what the published template writes
        tokenizer_files.write_template(chat, folder)
    elif isinstance(chat.tokenizer, huggingface.HuggingFaceTokenizer) and (
        settings.tokenizer.template_variables
    ):
        path = folder / tokenizer_files.TEMPLATE
        path.write_text(chat.tokenizer.chat_template, "utf-8")


def _generation(
    settings: config.RunConfig, loaded: tokenizer.Tokenizer
) -> dict[str, Any]:
    """Returns a run's `generation_config.json`: its sampling and stop tokens."""
    rollout = settings.evaluation.rollout
    fields: dict[str, Any] = {
        "eos_token_id": list(loaded.stop_ids),
        "pad_token_id": loaded.stop_id,
        "do_sample": rollout.temperature > 0,
    }
    if rollout.temperature > 0:
        fields |= {
            "temperature": rollout.temperature,
            "top_k": rollout.top_k,
            "top_p": rollout.top_p,
        }
    unused = range(loaded.vocab_size, settings.model.vocab_size)
    return fields | ({"suppress_tokens": list(unused)} if unused else {})


def _restore(
    path: pathlib.Path,
) -> tuple[config.RunConfig, parameters.Parameters, types.PyTree]:
    """Restores a run's configuration, its parameters, and the trained ones."""
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
    """Returns shapes of the parameters, sharded over all devices, by path and dtype.

    Blocks are those of single layers, as files name them.
    """
    model = dataclasses.replace(model, scan_blocks="never")
    shapes = jax.eval_shape(transformer.Model(model).init, jax.random.key(0))
    if dtypes is not None:
        shapes = jax.tree.map_with_path(
            lambda path, leaf: leaf.update(dtype=dtypes[weights.path_of(path)]), shapes
        )
    mesh = config.MeshConfig(data=1, fsdp=jax.device_count())
    return sharding.with_shardings(shapes, sharding.make_mesh(mesh))
