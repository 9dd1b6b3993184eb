"""How an environment can fail an episode, and the texts that say so."""

import collections
import enum
import shlex
import traceback
from collections.abc import Iterable

from agentrl.envs import base


class Fault(enum.StrEnum):
    """What an environment did to lose an episode."""

    RAISED = "raised"  # a call raised an exception
    INVALID = "returned something invalid"  # see `agentrl.envs.border`
    TIMED_OUT = "timed out"  # a call passed its deadline
    DIED = "ended the worker process"  # crashed or left it, or wrote to its socket
    MEMORY = "passed the memory limit"  # alone in its worker
    IMPURE = "differed when replayed"  # not a function of item id, config and actions


class PoolError(RuntimeError):
    """The pool was used out of order, or its workers cannot do their work."""


class EnvFaultsError(PoolError):
    """Environments lost more episodes than is allowed."""


def describe(
    item_id: str, config: base.EnvConfig, *, turn: int, text: str, problem: str
) -> str:
    """Returns what went wrong, where, and how to see it again.

    Args:
      item_id: the task.
      config: of its environment.
      turn: number of the step that failed, from 1; 0 for the reset.
      text: the agent's answer in that step.
      problem: what went wrong.
    """
    return (
        f"{locate(item_id, turn=turn, text=text)}: {problem}\n"
        f"  replay the task alone: {replay_command(item_id, config)}"
    )


def locate(item_id: str, *, turn: int, text: str) -> str:
    """Returns environment, task and call of a fault, as messages of it begin.

    Args:
      item_id: the task.
      turn: number of the step that failed, from 1; 0 for the reset.
      text: the agent's answer in that step.
    """
    env = item_id.rpartition("_")[0]
    place = f"turn {turn}, on the answer {text[:200]!r}" if turn else "its reset"
    return f"environment '{env}', task {item_id}, {place}"


def brief(error: Exception) -> str:
    """Returns type, text and place of an error, in one line."""
    text = " ".join(str(error).split())
    told = f"{type(error).__name__}: {text}"
    if isinstance(error, SyntaxError):  # whose text names the place in question
        return told
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{told} ({frame.filename}, line {frame.lineno})"


def replay_command(item_id: str, config: base.EnvConfig) -> str:
    """Returns the command that plays the task `item_id` under `config` in a terminal."""
    env = item_id.rpartition("_")[0]
    flags = [f"--env={env}", f"--task={item_id}", f"--profile={config.profile}"]
    flags.append(f"--list_actions={config.list_actions}")
    if config.max_turns is not None:
        flags.append(f"--max_turns={config.max_turns}")
    flags += [f"--option={key}={value}" for key, value in config.options.items()]
    return shlex.join(["python", "-m", "agentrl.launch.play", *flags])


def summarize(found: Iterable[tuple[str, str]]) -> str:
    """Returns the number of faults of each kind, and the first error of each.

    Args:
      found: kind and error text of each lost episode.
    """
    counts: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    for kind, error in found:
        counts[kind] += 1
        first.setdefault(kind, error)
    numbers = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
    texts = [
        f"The first that {kind}:\n{first[kind]}" for kind, _ in counts.most_common()
    ]
    return "\n".join([f"By kind: {numbers}.", *texts])
