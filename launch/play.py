r"""Plays one task in the terminal: by hand, by an oracle or a policy, or a stored episode.

  python -m agentrl.launch.play --env=textcraft
  python -m agentrl.launch.play --env=textcraft --task=textcraft_12 --oracle=observational
  python -m agentrl.launch.play --env=babyai --checkpoint=runs/demo
  python -m agentrl.launch.play --replay=runs/demo/episodes/textcraft.jsonl:17

By hand, type an action, or a whole answer (`Thought: ... Action: ...`) on one line; `?`
lists the available actions where the environment knows them; `quit` or Ctrl-D ends.

--checkpoint is a run's working directory, one of its checkpoints/STEP, or a Hugging Face
folder with a chat template. The environment is configured as the run configures it, and
each answer is shown with the probability that the policy gave to its tokens.

A stored episode is a JSON line with `item_id`, `turns`, each with an `action` and the
`observation` before it, and perhaps a `final_observation`. A `config` with `profile`,
`list_actions`, `max_turns` and `options` is used where it is stored, unless flags say
otherwise. Where the environment now says something else than then, both are shown.

The exit status is 0 unless an oracle fails or a replay differs.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging
from rich import console as rich_console

from agentrl import refusals
from agentrl.envs import base, registry
from agentrl.play import episode

_ENV = flags.DEFINE_string("env", None, "Environment, such as textcraft.")
_TASK = flags.DEFINE_string(
    "task", None, "Item id, such as textcraft_12; by default the first test task."
)
_ORACLE = flags.DEFINE_enum(
    "oracle", None, ["observational", "privileged"], "Watch an oracle play."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Watch a policy play: a run's working directory, one of its checkpoints/STEP, or a "
    "Hugging Face folder.",
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    None,
    "With --checkpoint: of sampling; 0 is greedy. By default the run's in evaluation.",
    lower_bound=0.0,
)
_SEED = flags.DEFINE_integer("seed", 0, "With --checkpoint: of sampling.")
_REPLAY = flags.DEFINE_string(
    "replay", None, "Replay a stored episode: FILE, or FILE:LINE counted from 1."
)
_PROFILE = flags.DEFINE_enum(
    "profile", None, base.PROFILES, "Rules: strict (default) or agentgym."
)
_LIST_ACTIONS = flags.DEFINE_enum(
    "list_actions", None, base.LIST_ACTIONS, "When to list the available actions."
)
_MAX_TURNS = flags.DEFINE_integer(
    "max_turns", None, "Turn limit; by default the profile's.", lower_bound=1
)
_OPTION = flags.DEFINE_multi_string(
    "option", [], "Option of the environment: --option=key=value. Repeatable."
)


def read_changes() -> dict[str, object]:
    """Returns the fields of the environment's configuration that flags give."""
    flagged = {
        "profile": _PROFILE.value,
        "list_actions": _LIST_ACTIONS.value,
        "max_turns": _MAX_TURNS.value,
        "options": episode.parse_options(_OPTION.value) or None,
    }
    return {field: value for field, value in flagged.items() if value is not None}


def run() -> int:
    """Plays what the flags ask for; returns the exit status."""
    out = rich_console.Console(highlight=False)
    changes = read_changes()
    if _REPLAY.value:
        if _TASK.value or _ENV.value or _ORACLE.value or _CHECKPOINT.value:
            raise base.EnvConfigError(
                "--replay says what is played; leave out --env, --task, --oracle and "
                "--checkpoint."
            )
        recording = episode.read_recording(_REPLAY.value)
        config = episode.make_config(recording.config, changes)
        return int(not episode.replay(recording, config, out))
    if _ENV.value is None:
        raise base.EnvConfigError(
            f"--env is missing; choose one of {list(registry.names())}."
        )
    if _CHECKPOINT.value is not None:
        if _ORACLE.value:
            raise base.EnvConfigError("give --oracle or --checkpoint, not both.")
        logging.set_verbosity(logging.WARNING)  # orbax reports every step at INFO
        from agentrl.buckets import mirror
        from agentrl.play import policy  # imports JAX

        found = _CHECKPOINT.value
        stored = policy.load(
            mirror.readable(found) if mirror.is_remote(found) else found,
            temperature=_TEMPERATURE.value,
            seed=_SEED.value,
        )
        policy.watch(stored, _ENV.value, _TASK.value, changes, out)
        return 0
    config = episode.make_config({}, changes)
    if _ORACLE.value:
        return int(
            not episode.watch_oracle(
                _ENV.value, _TASK.value, config, _ORACLE.value, out
            )
        )
    episode.play_by_hand(_ENV.value, _TASK.value, config, out)
    return 0


def main(argv: Sequence[str]) -> None:
    """Entry point; see the module docstring."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; did you mean --task?")
    try:
        sys.exit(run())
    except (*refusals.EXPECTED, *episode.REFUSALS, episode.ReplayError) as error:
        sys.exit(f"launch.play: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
