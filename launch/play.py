r"""Plays one task in the terminal: by hand, by an oracle or a policy, or a stored episode.

  python -m agentrl.launch.play --env=textcraft
  python -m agentrl.launch.play --env=textcraft --task=textcraft_12 --oracle=observational
  python -m agentrl.launch.play --env=babyai --checkpoint=runs/demo
  python -m agentrl.launch.play --env=babyai --checkpoint=runs/demo --tokens --take_over
  python -m agentrl.launch.play --checkpoint=Qwen/Qwen2.5-0.5B-Instruct --own_task
  python -m agentrl.launch.play --replay=runs/demo/episodes/textcraft.jsonl:17

By hand, type an action, or a whole answer (`Thought: ... Action: ...`) on one line; `?`
lists the available actions where the environment knows them; `quit` or Ctrl-D ends.

--checkpoint is a run's working directory, one of its checkpoints/STEP, or what
launch.train --model takes: a name on the Hugging Face Hub, a folder, a GGUF file. The
environment is configured as the run configures it, and each answer is shown with the
probability that the policy gave to its tokens; --tokens shows that of each one. Where the
run would end an episode for its tokens, so does this, and says at which limit.

With --take_over a person sees each answer before it is sent: Enter sends it, an action
typed in its place is sent instead, `again` draws another one. With --own_task the person
is the environment and types the observations, each on one line in which \\n is a new line;
--env gives its instruction.

A stored episode is a JSON line with `item_id`, `turns`, each with an `action` and the
`observation` before it, and perhaps a `final_observation`. A `config` with `profile`,
`list_actions`, `max_turns` and `options` is used where it is stored, unless flags say
otherwise. Where the environment now says something else than then, both are shown.

The exit status is 0 unless an oracle fails or a replay differs.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from rich import console as rich_console

from agentrl import errors, refusals
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
    "Watch a policy play: a run's working directory, one of its checkpoints/STEP, or what "
    "launch.train --model takes.",
)
_TOKENS = flags.DEFINE_bool(
    "tokens", False, "With --checkpoint: show each token with its probability."
)
_TAKE_OVER = flags.DEFINE_bool(
    "take_over",
    False,
    "With --checkpoint: ask before each answer, to send another one.",
)
_OWN_TASK = flags.DEFINE_bool(
    "own_task",
    False,
    "With --checkpoint: type the observations yourself; --env only instructs.",
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

OF_POLICIES = (_TOKENS, _TAKE_OVER, _OWN_TASK, _TEMPERATURE, _SEED)
MISSING_ENV = f"--env is missing; choose one of {list(registry.names())}."


def read_changes() -> dict[str, object]:
    """Returns the fields of the environment's configuration that flags give."""
    flagged = {
        "profile": _PROFILE.value,
        "list_actions": _LIST_ACTIONS.value,
        "max_turns": _MAX_TURNS.value,
        "options": episode.parse_options(_OPTION.value) or None,
    }
    return {field: value for field, value in flagged.items() if value is not None}


def play_policy(
    checkpoint: str, changes: dict[str, object], out: rich_console.Console
) -> None:
    """Lets a stored policy play, or answer a person."""
    if _ORACLE.value:
        raise base.EnvConfigError("give --oracle or --checkpoint, not both.")
    if _OWN_TASK.value and (_TASK.value or _TAKE_OVER.value):
        raise base.EnvConfigError(
            "--own_task goes with neither --task nor --take_over."
        )
    if _ENV.value is None and not _OWN_TASK.value:
        raise base.EnvConfigError(f"{MISSING_ENV} Or give --own_task.")
    if _ENV.value is not None:
        registry.get_spec(_ENV.value)  # before a model is loaded
    path = pathlib.Path(checkpoint)
    if not path.exists() and pathlib.Path(path.parts[0]).is_dir():
        errors.refuse_missing(path)  # no name either: those do not begin with a folder
    logging.set_verbosity(logging.WARNING)  # orbax reports every step at INFO
    from agentrl.buckets import mirror
    from agentrl.hardware import compilation
    from agentrl.play import policy, watch  # import JAX

    compilation.enable_cache()
    stored = policy.load(
        mirror.readable(checkpoint) if mirror.is_remote(checkpoint) else checkpoint,
        temperature=_TEMPERATURE.value,
        seed=_SEED.value,
    )
    if not _OWN_TASK.value:
        watch.watch(
            stored,
            _ENV.value or "",
            _TASK.value,
            changes,
            out,
            show_tokens=_TOKENS.value,
            take_over=_TAKE_OVER.value,
        )
        return
    instruction = ""
    if _ENV.value is not None:
        known = stored.environments.get(_ENV.value, base.EnvConfig())
        config = dataclasses.replace(known, **changes)  # type: ignore[arg-type]
        instruction = registry.make(_ENV.value, config).instruction
    watch.converse(stored, out, instruction=instruction, show_tokens=_TOKENS.value)


def refuse_flags_of_policies() -> None:
    """Raises `EnvConfigError` if a flag is given that only acts on a policy."""
    for flag in OF_POLICIES:
        if flag.present:
            raise base.EnvConfigError(
                f"--{flag.name} has no effect without a policy; name one with --checkpoint."
            )


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
        refuse_flags_of_policies()
        recording = episode.read_recording(_REPLAY.value)
        config = episode.make_config(recording.config, changes)
        return int(not episode.replay(recording, config, out))
    if _CHECKPOINT.value is not None:
        play_policy(_CHECKPOINT.value, changes, out)
        return 0
    refuse_flags_of_policies()
    if _ENV.value is None:
        raise base.EnvConfigError(MISSING_ENV)
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
        raise errors.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --task?"
        )
    try:
        sys.exit(run())
    except (*refusals.EXPECTED, *episode.REFUSALS, episode.ReplayError) as error:
        sys.exit(f"launch.play: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
