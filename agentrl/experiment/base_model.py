"""Runs that start from a model that others trained."""

import dataclasses

from agentrl import config
from agentrl.sources import locate


def start_from(settings: config.RunConfig, model: str) -> config.RunConfig:
    """Gives a run the weights, shape and tokenizer of a pretrained model.

    Args:
      settings: keeps `locate.OWN_FIELDS` of its model, its frame of conversations
        and its examples.
      model: a folder, GGUF file or name, as `sources.locate.find` takes it.

    Raises:
      ConfigError: if there is no such model, or its kind is not supported.
    """
    found = locate.find(model)
    own = {name: getattr(settings.model, name) for name in locate.OWN_FIELDS}
    return dataclasses.replace(
        settings,
        weights=found.name,
        model=dataclasses.replace(found.config, **own),
        tokenizer=config.TokenizerConfig(
            kind="huggingface",
            path=found.name,
            frame=settings.tokenizer.frame,
            few_shot=settings.tokenizer.few_shot,
        ),
    )
