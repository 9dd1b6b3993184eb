r"""Says which sizes suit a model and the tasks of an environment, with the reasons.

  python -m agentrl.launch.suggest --env=webshop --model=Qwen/Qwen2.5-0.5B-Instruct
  python -m agentrl.launch.suggest --env=textcraft,babyai --option=textcraft.distractors=0
  python -m agentrl.launch.suggest --config=my_experiment.py --model=models/qwen

It resets the tasks of both panels, lets the oracle play some, counts tokens with the
model's tokenizer and chat format, and prints token limits, buckets, slots, rows and a
learning rate, as a part of an experiment file and as --set flags. Without --model the
tokens are those of a small vocabulary of its own, as the demo has one. --config takes
environments and tokenizer from an experiment. docs/howto_experiment.md explains each.
"""

import dataclasses
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from agentrl import errors
from agentrl.envs import base, registry

_ENV = flags.DEFINE_list("env", None, "Environments that one stage is to play.")
_CONFIG = flags.DEFINE_string(
    "config", None, "Experiment whose environments and tokenizer to take."
)
_MODEL = flags.DEFINE_string(
    "model", "", "Pretrained model, as launch.train takes it; none for one of our own."
)
_FRAME = flags.DEFINE_enum(
    "frame",
    None,
    ["bare", "plain", "agentgym"],
    "Messages that an episode begins with.",
)
_OPTION = flags.DEFINE_multi_string(
    "option", [], "Option of an environment: --option=ENV.key=value. Repeatable."
)
_MAX_TURNS = flags.DEFINE_integer(
    "max_turns", None, "Turn limit; by default the environment's.", lower_bound=1
)
_LIST_ACTIONS = flags.DEFINE_enum(
    "list_actions", None, base.LIST_ACTIONS, "When to list the available actions."
)
_PROMPTS = flags.DEFINE_integer(
    "prompts", 1000, "Tasks of each panel to reset; 0 takes all.", lower_bound=0
)
_EPISODES = flags.DEFINE_integer(
    "episodes", 128, "Tasks that the oracle plays.", lower_bound=1
)
_THOUGHTS = flags.DEFINE_bool("thoughts", True, "Keep the oracle's thoughts.")
_TASKS = flags.DEFINE_integer(
    "tasks_per_iteration",
    None,
    "Tasks of an iteration; by default as many as fill some rows.",
    lower_bound=1,
)
_GROUP = flags.DEFINE_integer("group_size", 8, "Episodes of each task.", lower_bound=1)
_DEVICES = flags.DEFINE_integer(
    "devices", 1, "Data-parallel devices, which share rows and slots.", lower_bound=1
)
_LORA = flags.DEFINE_bool("lora", False, "Adapters are trained, not all parameters.")


def main(argv: Sequence[str]) -> None:
    """Measures, chooses and prints."""
    if len(argv) > 1:
        raise errors.UsageError(f"unexpected arguments {argv[1:]}; did you mean --env?")
    if (_ENV.value is None) == (_CONFIG.value is None):
        raise errors.UsageError("give either --env or --config.")
    # JAX is imported late: it reads flags and environment variables on import.
    logging.set_verbosity(logging.WARNING)
    import jax

    from agentrl import refusals
    from agentrl.advice import choose, suggest
    from agentrl.experiment import files

    jax.config.update("jax_platforms", "cpu")  # does not touch the accelerator
    try:
        if _CONFIG.value:
            settings = files.load(_CONFIG.value, model=_MODEL.value)
            names = list(settings.environments)
        else:
            names = list(_ENV.value or ())
            settings = suggest.make_settings(
                read_environments(names), _MODEL.value, _FRAME.value
            )
        lora = _LORA.value or settings.lora is not None
        wishes = choose.Wishes(
            tasks_per_iteration=_TASKS.value,
            group_size=_GROUP.value,
            devices=_DEVICES.value,
            adapters=lora,
        )
        found = suggest.suggest(
            settings,
            names,
            wishes,
            num_prompts=_PROMPTS.value,
            num_episodes=_EPISODES.value,
            thoughts=_THOUGHTS.value,
        )
        for line in suggest.describe(*found):
            print(line)
    except refusals.EXPECTED as error:
        sys.exit(f"launch.suggest: {error}")


def read_environments(names: Sequence[str]) -> dict[str, base.EnvConfig]:
    """Returns the configuration of each environment, by the flags."""
    from agentrl.play import episode

    for name in names:
        registry.get_spec(name)  # refuses unknown ones
    given: dict[str, dict[str, str | int | float | bool]] = {}
    for key, value in episode.parse_options(_OPTION.value).items():
        name, dot, option = key.partition(".")
        if not dot or name not in names:
            raise base.EnvConfigError(
                f"--option={key}={value}: write --option=ENV.key=value, with one of "
                f"--env={','.join(names)}."
            )
        given.setdefault(name, {})[option] = value
    flagged = {"max_turns": _MAX_TURNS.value, "list_actions": _LIST_ACTIONS.value}
    changes = {field: value for field, value in flagged.items() if value is not None}
    default = dataclasses.replace(base.EnvConfig(), **changes)  # type: ignore[arg-type]
    return {
        name: dataclasses.replace(default, options=given.get(name, {}))
        for name in names
    }


if __name__ == "__main__":
    app.run(main)
