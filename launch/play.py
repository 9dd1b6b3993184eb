r"""Plays one task in the terminal: by hand, by an oracle, or from a stored episode.

  python -m agentrl.launch.play --env=textcraft
  python -m agentrl.launch.play --env=textcraft --task=textcraft_12 --oracle=observational
  python -m agentrl.launch.play --replay=runs/demo/episodes/textcraft.jsonl:17

By hand, type an action, or a whole answer (`Thought: ... Action: ...`) on one line; `?`
lists the available actions where the environment knows them; `quit` or Ctrl-D ends.

A stored episode is a JSON line with `item_id`, `turns`, each with an `action` and the
`observation` before it, and perhaps a `final_observation`. A `config` with `profile`,
`list_actions`, `max_turns` and `options` is used where it is stored, unless flags say
otherwise. Where the environment now says something else than then, both are shown.

The exit status is 0 unless an oracle fails or a replay differs.
"""

import dataclasses
import json
import pathlib
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags
from rich import console as rich_console
from rich import rule

from agentrl import refusals
from agentrl.envs import base, episodes, parsing, registry, tasks

_ENV = flags.DEFINE_string("env", None, "Environment, such as textcraft.")
_TASK = flags.DEFINE_string(
    "task", None, "Item id, such as textcraft_12; by default the first test task."
)
_ORACLE = flags.DEFINE_enum(
    "oracle", None, ["observational", "privileged"], "Watch an oracle play."
)
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

Actor = Callable[[str], str | None]  # the answer to an observation; None to stop


class ReplayError(ValueError):
    """A stored episode cannot be read."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """A stored episode, as far as it takes to play it again."""

    item_id: str
    turns: Sequence[Mapping[str, str]]  # "action", and "observation" before it
    final_observation: str  # after the last action; empty if not stored
    config: Mapping[str, Any]  # fields of EnvConfig that were stored


class Replayer:
    """Gives the stored answers, and shows where observations differ from the stored."""

    def __init__(self, recording: Recording, out: rich_console.Console):
        self._turns = iter(recording.turns)
        self._out = out
        self.differs = False

    def act(self, observation: str) -> str | None:
        """Returns the next stored answer; None after the last."""
        turn = next(self._turns, None)
        if turn is None:
            return None
        self.compare(turn.get("observation", ""), observation)
        return turn["action"]

    def compare(self, stored: str, observation: str) -> None:
        """Shows what was stored, if anything, and is not the same now."""
        if stored and stored != observation:
            self.differs = True
            self._out.print("This differs from what was stored:", style="bold red")
            self._out.print(stored, style="red", markup=False)


def read_recording(place: str) -> Recording:
    """Reads the episode at `FILE` or `FILE:LINE`.

    Raises:
      ReplayError: if the file or line does not hold an episode; names both.
    """
    path, colon, digits = place.rpartition(":")
    if not (colon and digits.isdecimal()):
        path, digits = place, "1"
    number = int(digits)
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
        stored = json.loads(lines[number - 1] if number else "")
        turns = [{"action": turn["action"], **turn} for turn in stored["turns"]]
        return Recording(
            item_id=stored["item_id"],
            turns=turns,
            final_observation=stored.get("final_observation", ""),
            config=stored.get("config", {}),
        )
    except OSError as error:
        raise ReplayError(f"--replay: cannot read {path}: {error}.") from error
    except IndexError as error:
        raise ReplayError(
            f"--replay: {path} has {len(lines)} lines; there is no line {number}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(
            f"--replay: {path}:{number} is not an episode with 'item_id' and "
            f"'turns': {type(error).__name__}: {error}."
        ) from error


def make_config(stored: Mapping[str, Any]) -> base.EnvConfig:
    """The stored configuration, overridden by flags."""
    flagged = {
        "profile": _PROFILE.value,
        "list_actions": _LIST_ACTIONS.value,
        "max_turns": _MAX_TURNS.value,
        "options": parse_options(_OPTION.value) or None,
    }
    given = {field: value for field, value in flagged.items() if value is not None}
    try:
        return base.EnvConfig(**{**stored, **given})
    except TypeError as error:
        raise ReplayError(f"--replay: the stored configuration: {error}.") from error


def parse_options(pairs: Sequence[str]) -> dict[str, str | int | float | bool]:
    """Reads `key=value` pairs; values that are JSON numbers or booleans become such.

    Raises:
      EnvConfigError: if a pair has no `=`.
    """
    options: dict[str, str | int | float | bool] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise base.EnvConfigError(f"--option={pair}: write --option=key=value.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        options[key] = value if isinstance(value, int | float | bool) else text
    return options


def make_hand(env: base.Environment, out: rich_console.Console) -> Actor:
    """An actor that asks the person at the terminal."""

    def act(observation: str) -> str | None:
        while True:
            try:
                text = out.input("[bold cyan]> [/]")
            except EOFError:
                return None
            if text == "quit":
                return None
            if text != "?":
                break
            actions = env.available_actions()
            known = "\n".join(actions) if actions else "They cannot be listed."
            out.print(known, style="dim", markup=False)
        if text.startswith(("Thought:", "Action:", "<")):
            return text
        return parsing.render_react("", text)

    return act


def play(
    env: base.Environment,
    item_id: str,
    make_actor: Callable[[], Actor],
    out: rich_console.Console,
    *,
    echo: bool,
) -> tuple[str, bool]:
    """Plays one episode and prints it.

    Args:
      env: the environment.
      item_id: the task.
      make_actor: called after the reset.
      out: where to print.
      echo: whether to print the answers, too.

    Returns:
      The last observation, and whether the task was solved.
    """
    observation = env.reset(item_id)
    show_start(env, item_id, observation, out)
    act = make_actor()
    total = 0.0
    turn = 0
    while (answer := act(observation)) is not None:
        turn += 1
        out.print(rule.Rule(f"turn {turn} of {env.max_turns}", style="dim"))
        if echo:
            out.print(answer.strip(), style="cyan", markup=False)
            out.print()
        result = env.step(answer)
        observation = result.observation
        total += result.reward
        out.print(observation, markup=False)
        show_notes(result, out)
        if result.done:
            show_end(result, turn, total, out)
            return observation, result.info.success
    out.print(rule.Rule(f"stopped after turn {turn}"))
    return observation, False


def show_start(
    env: base.Environment, item_id: str, observation: str, out: rich_console.Console
) -> None:
    """Prints what is played, the rules and the first observation."""
    subset = registry.get_spec(env.name).subset(item_id, env.config)
    title = f"{item_id} ({subset}), profile {env.config.profile}"
    out.print(rule.Rule(title, style="bold"))
    out.print(env.instruction.strip(), style="dim", markup=False)
    out.print(rule.Rule("first observation", style="dim"))
    out.print(observation, markup=False)


def show_notes(result: base.StepResult, out: rich_console.Console) -> None:
    """Prints what the agent does not see of a turn, where it is worth a line."""
    notes = []
    if result.reward:
        notes.append(f"reward {result.reward:g}")
    if result.info.parse_error:
        notes.append("answer not understood")
    elif not result.info.valid_action:
        notes.append("action not allowed")
    if notes:
        out.print("; ".join(notes), style="yellow")


def show_end(
    result: base.StepResult, turns: int, total: float, out: rich_console.Console
) -> None:
    """Prints the outcome."""
    if result.info.success:
        outcome, style = "solved", "bold green"
    elif result.terminated:
        outcome, style = "failed", "bold red"
    else:
        outcome, style = "out of turns", "bold yellow"
    summary = f"turns {turns}, return {total:g}, score {result.info.score:g}"
    out.print(rule.Rule(f"{outcome}: {summary}", style=style))


def run() -> int:
    """Plays what the flags ask for; returns the exit status."""
    out = rich_console.Console(highlight=False)
    recording = read_recording(_REPLAY.value) if _REPLAY.value else None
    config = make_config(recording.config if recording else {})
    name, item_id = choose_task(recording, config)
    env = registry.make(name, config)
    try:
        if recording is not None:
            replayer = Replayer(recording, out)
            last, _ = play(env, item_id, lambda: replayer.act, out, echo=True)
            replayer.compare(recording.final_observation, last)
            return int(replayer.differs)
        if _ORACLE.value is not None:
            kind = typing.cast(base.OracleKind, _ORACLE.value)
            _, solved = play(
                env,
                item_id,
                lambda: episodes.make_oracle(env, kind).act,
                out,
                echo=True,
            )
            return int(not solved)
        play(env, item_id, lambda: make_hand(env, out), out, echo=False)
        return 0
    finally:
        env.close()


def choose_task(recording: Recording | None, config: base.EnvConfig) -> tuple[str, str]:
    """Environment and task, from the recording or the flags.

    Raises:
      EnvConfigError: if they contradict each other, or no environment is named.
    """
    if recording is not None:
        if _TASK.value or _ENV.value or _ORACLE.value:
            raise base.EnvConfigError(
                "--replay says what is played; leave out --env, --task and --oracle."
            )
        return recording.item_id.rpartition("_")[0], recording.item_id
    if _ENV.value is None:
        raise base.EnvConfigError(
            f"--env is missing; choose one of {list(registry.names())}."
        )
    if _TASK.value is not None:
        return _ENV.value, _TASK.value
    first = tasks.select_tasks(_ENV.value, "test", config).item_ids[0]
    return _ENV.value, first


def main(argv: Sequence[str]) -> None:
    """Entry point; see the module docstring."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; did you mean --task?")
    try:
        sys.exit(run())
    except (*refusals.EXPECTED, base.OracleRefusalError, ReplayError) as error:
        sys.exit(f"launch.play: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    app.run(main)
