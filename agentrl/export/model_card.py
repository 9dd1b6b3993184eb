"""What an exported folder says of itself: where it is from, and what differs in it."""

import dataclasses
import pathlib

from agentrl import config
from agentrl.chat import renderer
from agentrl.pretrained import hf_config

FILE = "README.md"
_FRAMES = {
    "bare": "the observation alone, without instructions",
    "plain": "the environment's instruction as system message, then observations as user "
    "messages",
    "agentgym": "the environment's instruction as user message, its acknowledgement by the "
    f'assistant ("{renderer.ACKNOWLEDGEMENT}" where the environment has no other), then '
    "observations as user messages",
}


@dataclasses.dataclass(frozen=True)
class Card:
    """A description of an export, for people."""

    title: str
    source: str  # working directory and step
    facts: tuple[str, ...]
    differences: tuple[str, ...]  # between the policy and what the folder makes of it

    def write(self, folder: pathlib.Path) -> None:
        """Writes it into an exported folder, and the differences to the terminal."""
        lines = [f"# {self.title}", "", f"Exported by agentrl from {self.source}.", ""]
        lines += [f"* {fact}" for fact in self.facts]
        lines += ["", "## How this differs from the policy of the run", ""]
        lines += [f"* {text}" for text in self.differences] or ["In nothing."]
        (folder / FILE).write_text("\n".join(lines) + "\n", "utf-8")
        for text in self.differences:
            print(f"The export differs from the policy: {text}", flush=True)


def of_model(
    settings: config.RunConfig,
    chat: renderer.Chat,
    *,
    source: str,
    model_type: str,
    dtype: str | None,
) -> Card:
    """Describes a whole model.

    Args:
      settings: the run's.
      chat: the run's conversations.
      source: the run and step, for people.
      model_type: as `config.json` names it.
      dtype: that the tensors were rounded to; None if they are as stored.
    """
    tokenizer = chat.tokenizer
    stops = ", ".join(map(str, tokenizer.stop_ids))
    facts = [
        f"A conversation is {_FRAMES[chat.frame]}; the chat template writes it.",
        f"An answer ends with one of the tokens {stops}, which belongs to it.",
        "`generation_config.json` samples as the run's evaluations do.",
    ]
    if model_type != hf_config.types_of(settings.model)[0]:
        facts.append(
            f"The model is written as {hf_config.FAMILIES[model_type].architecture} with "
            "biases (those after the attention are zero): transformers 5 would give a "
            "model of type qwen2 the tokenizer of Qwen, whatever tokenizer.json says."
        )
    return Card(
        title=settings.name,
        source=source,
        facts=tuple(facts),
        differences=tuple(_model_differences(settings, chat, dtype)),
    )


def of_adapters(settings: config.RunConfig, *, source: str, dtype: str | None) -> Card:
    """Describes adapters without the model beside them; arguments as of `of_model`."""
    differences = _rounding(settings, dtype)
    if settings.lora is not None and settings.lora.int8_base:
        differences.append(
            "the adapters were trained beside kernels rounded to 8 bits "
            f"(lora.int8_base), and peft adds them to those of {settings.weights} as they "
            "are. Logits differ by that rounding; the merged model (launch.convert "
            "without --adapter) has the policy's own."
        )
    return Card(
        title=f"{settings.name}, adapters",
        source=source,
        facts=(f"They belong to {settings.weights}, whose tokenizer they use.",),
        differences=tuple(differences),
    )


def _rounding(settings: config.RunConfig, dtype: str | None) -> list[str]:
    found = []
    if dtype is not None and dtype != settings.model.dtypes.params:
        found.append(
            f"its numbers are rounded to {dtype}; the run trained them in "
            f"{settings.model.dtypes.params}."
        )
    compute = settings.model.dtypes.compute
    if compute != (dtype or settings.model.dtypes.params):
        found.append(
            f"the run computed in {compute}; load the model in that type to come closest."
        )
    return found


def _model_differences(
    settings: config.RunConfig, chat: renderer.Chat, dtype: str | None
) -> list[str]:
    found = _rounding(settings, dtype)
    if settings.lora is not None:
        found.append("adapters are added to the kernels, which rounds the sums.")
    if settings.model.critic:
        found.append("the critic is left out; no answer depends on it.")
    found += [
        f"chat template, {name}: {text}" for name, text in chat.exceptions.items()
    ]
    if chat.few_shot:
        found.append(
            f"the policy saw {chat.few_shot} solved tasks before each of its own, which "
            "no chat template writes; put them into the messages."
        )
    if unused := settings.model.vocab_size - chat.tokenizer.vocab_size:
        found.append(
            f"the policy never draws the last {unused} ids, which no text has; generate "
            "keeps to that by suppress_tokens of generation_config.json, other programs "
            "may not."
        )
    found.append(
        "the policy reads a marker inside a message as plain text; transformers reads "
        "it as the marker. Remove such markers from what others write."
    )
    return found
