"""Advice on the sizes of a run, as text: measured, chosen, explained."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from agentrl import config, types
from agentrl.advice import choose, measure
from agentrl.chat import renderer, tokenizer
from agentrl.envs import base, pool
from agentrl.experiment import base_model
from agentrl.models import transformer
from agentrl.models.model_config import ModelConfig
from agentrl.run import assemble

_OWN_VOCABULARY = 512
_MIN_TUNED_ANSWER = 128  # tokens that a model tuned to explain itself may want


def make_settings(
    environments: Mapping[str, base.EnvConfig], model: str, frame: str | None = None
) -> config.RunConfig:
    """Returns a run that holds what is measured with, and nothing to train.

    Args:
      environments: to measure.
      model: pretrained, as `train --model` takes it; empty for a small one with a
        vocabulary of its own.
      frame: of conversations; None takes the instruction as system message for a
        pretrained model, nothing for one of our own.

    Raises:
      ConfigError: if there is no such model.
    """
    chosen = frame or ("plain" if model else "bare")
    settings = config.RunConfig(
        name="suggest",
        stages=(),
        environments=environments,
        model=ModelConfig(vocab_size=_OWN_VOCABULARY),
        tokenizer=config.TokenizerConfig(vocab_size=_OWN_VOCABULARY, frame=chosen),  # type: ignore[arg-type]
    )
    return base_model.start_from(settings, model) if model else settings


def suggest(
    settings: config.RunConfig,
    names: Sequence[str],
    wishes: choose.Wishes,
    *,
    num_prompts: int = 0,
    num_episodes: int = 128,
    thoughts: bool = True,
) -> tuple[list[measure.Tokens], choose.Advice]:
    """Measures environments with a run's tokenizer and chooses sizes for it.

    Args:
      settings: gives tokenizer, environments and model; nothing is written.
      names: environments of it that one stage is to play.
      wishes: what is decided already.
      num_prompts: tasks of each panel to reset; 0 takes all.
      num_episodes: tasks that the oracle plays.
      thoughts: whether its answers keep their thoughts.

    Raises:
      ConfigError: if an environment cannot be measured, or its tasks do not fit.
    """
    if settings.weights and not wishes.min_action_tokens:
        wishes = dataclasses.replace(wishes, min_action_tokens=_MIN_TUNED_ANSWER)
    with (
        tempfile.TemporaryDirectory() as nowhere,
        assemble.open_pool(settings) as environments,
    ):
        chat = _make_chat(settings, pathlib.Path(nowhere), environments)
        measured = [
            measure.measure(
                name,
                settings,
                chat,
                environments,
                num_prompts=num_prompts,
                num_episodes=num_episodes,
                thoughts=thoughts,
            )
            for name in names
        ]
    num_params = _count_params(settings.model)
    advice = choose.advise(measured, settings.model, num_params, wishes)
    size = chat.tokenizer.vocab_size
    if _chose_vocabulary(settings) and size < settings.tokenizer.vocab_size:
        note = (
            f"measured with a vocabulary of {size}: the words of these environments give "
            "no more, so tokenizer.vocab_size may not be above it."
        )
        advice = dataclasses.replace(advice, warnings=(*advice.warnings, note))
    return measured, advice


def _make_chat(
    settings: config.RunConfig, nowhere: pathlib.Path, environments: pool.EnvPool
) -> renderer.Chat:
    """Makes the chat to measure with; a vocabulary that nobody asked for may be smaller.

    Raises:
      ConfigError: if tokenizer and environments do not go together.
    """
    if _chose_vocabulary(settings):
        texts = assemble.collect_texts(settings, environments)
        size = settings.tokenizer.vocab_size
        trained = tokenizer.SentencePieceTokenizer.train(texts, size, exact=False)
        trained.save(nowhere)  # where it is looked for
    return assemble.make_chat(settings, nowhere, environments)


def _chose_vocabulary(settings: config.RunConfig) -> bool:
    """Whether the vocabulary's size is that of `make_settings`, not of an experiment."""
    trains_one = settings.tokenizer.kind == "train_sentencepiece"
    return trains_one and not settings.stages


def describe(
    measured: Sequence[measure.Tokens], advice: choose.Advice
) -> Iterator[str]:
    """Yields the lines of a suggestion: measurements, reasons, fragment, flags."""
    yield "Measured, in tokens (median, 95th percentile, most):"
    for found in measured:
        yield f"  {found.env}: {found.num_tasks} tasks, at most {found.max_turns} turns"
        for title, values in (
            (f"first observation, {len(found.prompts)} tasks", found.prompts),
            ("later observations", found.observations),
            (f"answers of the oracle, {len(found.episodes)} episodes", found.actions),
            ("its episodes", found.lengths),
        ):
            yield f"    {title:38} {_spread(values)}"
        if found.num_lost:
            yield f"    {found.num_lost} tasks could not be started"
    yield ""
    yield "Advice:"
    values = {
        **advice.rollout,
        **advice.learner,
        "learning_rate": advice.learning_rate,
        "episodes_per_step": advice.episodes_per_step,
    }
    for field, value in values.items():
        reason = advice.reasons.get(field)
        yield f"  {field} = {value!r}" + (f": {reason}" if reason else "")
    yield from (f"  Note: {warning}" for warning in advice.warnings)
    yield ""
    yield "In an experiment file:"
    yield ""
    yield choose.to_fragment(advice)
    yield ""
    yield "On the command line:"
    yield ""
    yield " \\\n  ".join(f"--set='{line}'" for line in choose.to_overrides(advice))


def _spread(values: Sequence[int]) -> str:
    if not values:
        return "none"
    middle, high = np.quantile(values, (0.5, 0.95), method="higher")
    return f"{middle:6} {high:6} {max(values):6}"


def _count_params(model: ModelConfig) -> int:
    shapes: types.PyTree = jax.eval_shape(
        transformer.Model(model).init, jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
