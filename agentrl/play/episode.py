"""One task in the terminal: played by hand, by an oracle or policy, or from a record.

A stored episode is a JSON line with `item_id`, `turns`, each with an `action` and the
`observation` before it, and perhaps a `final_observation`. A `config` with `profile`,
`list_actions`, `max_turns` and `options` is used where it is stored, unless the caller
says otherwise. Where the environment now says something else than then, both are shown.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import console as rich_console
from rich import rule

from agentrl.envs import base, border, episodes, faults, parsing, registry, tasks


@dataclasses.dataclass(frozen=True)
class Stop:
    """Given in place of an answer: the play ends, and why is told."""

    reason: str
    unsent: str | None = None  # an answer that counts as a turn, but is not sent


# The answer to an observation; None to stop without a reason.
Actor = Callable[[str], str | Stop | None]

REFUSALS = (
    base.EnvConfigError,
    base.InvalidResultError,
    base.UnknownItemError,
    base.MissingDataError,
    base.OracleRefusalError,
    tasks.TaskSelectionError,
)

# Workers bound what they send; here a run's own limit is not known, and nothing is sent.
_MAX_BYTES = sys.maxsize

# What is typed and begins so is a whole answer, not an action alone.
WHOLE_ANSWERS = ("Thought:", "Action:", "<")


class ReplayError(ValueError):
    """A stored episode cannot be read."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """A stored episode, as far as it takes to play it again."""

    item_id: str
    turns: Sequence[Mapping[str, str]]  # "action" that was sent, "observation" before
    final_observation: str  # after the last action; empty if there was none
    config: Mapping[str, Any]  # fields of EnvConfig that were stored
    ending: str = ""  # why the episode ended; empty if that was not stored
    unsent: str | None = None  # a last answer, which was cut off


class Replayer:
    """Gives the stored answers, and shows where observations differ from the stored."""

    def __init__(self, recording: Recording, out: rich_console.Console):
        self._recording = recording
        self._turns = iter(recording.turns)
        self._out = out
        self.differs = False

    def act(self, observation: str) -> str | Stop | None:
        """Returns the next stored answer; after the last, what ended the episode."""
        turn = next(self._turns, None)
        if turn is None:
            stored = self._recording
            cut = "" if stored.unsent is None else ": the answer was cut off, not sent"
            reason = f"stored ending {stored.ending}{cut}"
            return Stop(reason, stored.unsent) if stored.ending else None
        self.compare(turn.get("observation", ""), observation)
        return turn["action"]

    def compare(self, stored: str, observation: str) -> None:
        """Shows what was stored, if anything, and is not the same now."""
        if stored and stored != border.replace_surrogates(observation):
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
        recording = Recording(
            item_id=stored["item_id"],
            turns=turns,
            final_observation=stored.get("final_observation", ""),
            config=stored.get("config") or {},
            ending=str(stored.get("ending") or ""),
        )
        return _without_unanswered(recording)
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


def _without_unanswered(recording: Recording) -> Recording:
    """Sets apart what is stored in place of an answer that never came.

    A last action that the token limit cut off was not sent to the environment; one that
    the environment broke on has no observation after it. In both cases what was observed
    last is the observation before that action.
    """
    turns, final = recording.turns, recording.final_observation
    ending = recording.ending
    if not turns or final != turns[-1].get("observation", ""):
        return recording
    if ending == "max_tokens" and not turns[-1].get("valid", True):
        return dataclasses.replace(
            recording, turns=turns[:-1], unsent=turns[-1]["action"]
        )
    if ending in ("env_error", "env_timeout"):
        return dataclasses.replace(recording, final_observation="")
    return recording


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
            show_actions(env, out)
        if text.startswith(WHOLE_ANSWERS):
            return text
        return parsing.render_react("", text)

    return act


def show_actions(env: base.Environment, out: rich_console.Console) -> None:
    """Prints the actions that are available now."""
    actions = env.available_actions() or ()
    actions = [check("an available action", action) for action in actions]
    known = "\n".join(actions) if actions else "They cannot be listed."
    out.print(known, style="dim", markup=False)


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

    Raises:
      InvalidResultError: if environment or oracle return something invalid, as workers
        tell it.
    """
    with _located(item_id, 0, ""):
        observation = check("the first observation", env.reset(item_id))
        show_start(env, item_id, observation, out)
        act = make_actor()
    total = 0.0
    turn = 0
    answer = ""
    while True:
        with _located(item_id, turn, answer):
            given = act(observation)
        if not isinstance(given, str):
            break
        answer = given
        turn += 1
        out.print(rule.Rule(f"turn {turn} of {env.max_turns}", style="dim"))
        if echo:
            out.print(answer.strip(), style="cyan", markup=False)
            out.print()
        with _located(item_id, turn, answer):
            result = border.check_result(env.step(answer), _MAX_BYTES)
        observation = result.observation
        total += result.reward
        out.print(observation, markup=False)
        show_notes(result, out)
        if result.done:
            show_end(result, turn, total, out)
            return observation, result.info.success
    if given is not None:
        turn += given.unsent is not None
        show_stop(given, turn, env.max_turns, out)
    out.print(rule.Rule(f"stopped after turn {turn}"))
    return observation, False


@contextlib.contextmanager
def _located(item_id: str, turn: int, answer: str) -> Iterator[None]:
    """Begins what is told of an invalid value with the call that returned it."""
    try:
        yield
    except base.InvalidResultError as error:
        place = faults.locate(item_id, turn=turn, text=answer)
        raise base.InvalidResultError(f"{place}: {error}") from error


def check(field: str, value: object) -> str:
    """Returns a text of an environment as workers pass it on.

    Raises:
      InvalidResultError: if it is no text; the message begins with `field`.
    """
    return border.check_text(field, value, _MAX_BYTES)


def show_start(
    env: base.Environment, item_id: str, observation: str, out: rich_console.Console
) -> None:
    """Prints what is played, the rules and the first observation."""
    subset = registry.get_spec(env.name).subset(item_id, env.config)
    title = f"{item_id} ({subset}), profile {env.config.profile}"
    out.print(rule.Rule(title, style="bold"))
    instruction = check("instruction", env.instruction)
    out.print(instruction.strip(), style="dim", markup=False)
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


def show_stop(stop: Stop, turn: int, max_turns: int, out: rich_console.Console) -> None:
    """Prints why the play ends before the environment ended it."""
    if stop.unsent is not None:
        out.print(rule.Rule(f"turn {turn} of {max_turns}", style="dim"))
        out.print(stop.unsent.strip(), style="cyan", markup=False)
        out.print()
    out.print(stop.reason, style="yellow", markup=False, soft_wrap=True)


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


def make_config(
    stored: Mapping[str, Any], changes: Mapping[str, Any]
) -> base.EnvConfig:
    """Returns the stored configuration with some fields replaced.

    Raises:
      ReplayError: if what is stored is not a configuration.
    """
    try:
        return base.EnvConfig(**{**stored, **changes})
    except TypeError as error:
        raise ReplayError(f"--replay: the stored configuration: {error}.") from error


def replay(
    recording: Recording, config: base.EnvConfig, out: rich_console.Console
) -> bool:
    """Plays a stored episode again; returns whether nothing differed."""
    replayer = Replayer(recording, out)
    with opened(recording.item_id.rpartition("_")[0], config) as env:
        last, _ = play(env, recording.item_id, lambda: replayer.act, out, echo=True)
    replayer.compare(recording.final_observation, last)
    return not replayer.differs


def watch_oracle(
    name: str,
    item_id: str | None,
    config: base.EnvConfig,
    kind: str,
    out: rich_console.Console,
) -> bool:
    """Lets an oracle play; returns whether it solved the task.

    Without an `item_id` it is the first test task, here and below.
    """
    oracle = typing.cast(base.OracleKind, kind)
    with opened(name, config) as env:
        _, solved = play(
            env,
            item_id or first_task(name, config),
            lambda: _checked(episodes.make_oracle(env, oracle)),
            out,
            echo=True,
        )
    return solved


def _checked(oracle: base.Oracle) -> Actor:
    """An oracle whose answers are checked as in a worker."""

    def act(observation: str) -> str:
        return episodes.check_answer(oracle.act(observation))

    return act


def play_by_hand(
    name: str,
    item_id: str | None,
    config: base.EnvConfig,
    out: rich_console.Console,
) -> None:
    """Asks the person at the terminal for every answer."""
    with opened(name, config) as env:
        chosen = item_id or first_task(name, config)
        play(env, chosen, lambda: make_hand(env, out), out, echo=False)


def first_task(name: str, config: base.EnvConfig) -> str:
    """Returns the id of the first test task of an environment."""
    return tasks.select_tasks(name, "test", config).item_ids[0]


@contextlib.contextmanager
def opened(name: str, config: base.EnvConfig) -> Iterator[base.Environment]:
    """Makes an environment and closes it at the end."""
    env = registry.make(name, config)
    try:
        yield env
    finally:
        env.close()
