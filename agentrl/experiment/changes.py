"""A run that is gone on with under another configuration: what changes, and what may."""

import dataclasses
import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import agentrl
from agentrl import config, errors
from agentrl.experiment import files, rules


@dataclasses.dataclass(frozen=True)
class Change:
    """One field with both values, as JSON has them; None for a stage that is new."""

    field: str  # dotted path
    old: Any
    new: Any


def compare(stored: config.RunConfig, wanted: config.RunConfig) -> list[Change]:
    """The fields in which two configurations differ.

    A stage more, or an environment more, is one of them; so is the order of environments,
    which checkpoints know by their numbers.
    """
    before, after = files.to_json(stored), files.to_json(wanted)
    old_stages, new_stages = before.pop("stages"), after.pop("stages")
    pairs = list(zip(old_stages, new_stages, strict=False))
    paths = files.differences(before, after)
    for index, (old, new) in enumerate(pairs):
        paths += files.differences(old, new, f"stages.{index}")
    before["stages"], after["stages"] = old_stages, new_stages
    changes = [Change(path, _get(before, path), _get(after, path)) for path in paths]
    old_names, new_names = list(before["environments"]), list(after["environments"])
    if new_names[: len(old_names)] != old_names:
        changes.append(Change("environments", old_names, new_names))
    for index in range(len(pairs), max(len(old_stages), len(new_stages))):
        old, new = old_stages[index:][:1], new_stages[index:][:1]
        changes.append(
            Change(f"stages.{index}", *(x[0] if x else None for x in (old, new)))
        )
    return changes


def check(
    changes: Sequence[Change],
    stored: config.RunConfig,
    *,
    allowed: Sequence[str],
    workdir: object,
) -> None:
    """Raises `ConfigError` if one of the changes may not be made.

    Args:
      changes: of `compare`.
      stored: the run as it was.
      allowed: fields of --allow_changes; stages by name, number or `*`.
      workdir: of the run, for the message.
    """
    names = [stage.name for stage in stored.stages]
    fixed, results = [], []
    for change in changes:
        kind = _kind(change, stored)
        if kind == "fixed":
            fixed.append(change)
        elif kind == "results" and not any(
            _covers(field, change.field, names) for field in allowed
        ):
            results.append(change)
    if fixed:
        raise errors.ConfigError(
            f"{workdir} holds a run with another configuration, and its files depend on "
            f"these fields: {_list(fixed)}. Use another --workdir; --start_from starts "
            "it from this run's policy."
        )
    if results:
        fields = ",".join(_spell(change.field, names) for change in results)
        raise errors.ConfigError(
            f"{workdir} holds a run with another configuration, and from here on it "
            f"would learn something else: {_list(results)}. Use another --workdir, "
            "repeat the original command, or change the run, which run.json records: "
            f"--allow_changes={fields}"
        )


def describe_schedules(
    changes: Sequence[Change], wanted: config.RunConfig
) -> list[str]:
    """Names the learning-rate schedules that a longer stage stretches."""
    lines = []
    for change in changes:
        if not rules.matches("stages.*.num_iterations", change.field):
            continue
        stage = wanted.stages[int(change.field.split(".")[1])]
        if stage.optimizer.schedule != "constant":
            lines.append(
                f"stage '{stage.name}' has optimizer.schedule = "
                f"{stage.optimizer.schedule!r}, which decayed over {change.old} "
                f"iterations and decays over {change.new} from here on."
            )
    return lines


def to_record(
    changes: Sequence[Change],
    *,
    stage: str,
    iteration: int,
    allowed: Sequence[str],
) -> dict[str, Any]:
    """An entry of `changes` in `run.json`.

    Args:
      changes: of `compare`.
      stage: name of the stage that the run has reached.
      iteration: iterations of it that are finished.
      allowed: fields of --allow_changes.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "version": agentrl.__version__,
        "stage": stage,
        "iteration": iteration,
        "allowed": list(allowed),
        "fields": [dataclasses.asdict(change) for change in changes],
    }


def _kind(change: Change, stored: config.RunConfig) -> rules.Change:
    num_stages = len(stored.stages)
    kind = rules.change_of(change.field)
    if rules.matches("stages.*", change.field):  # a whole stage
        return "fixed" if change.new is None else "grows"
    if change.field == "environments":  # their order
        return "fixed"
    if rules.matches("environments.*", change.field):  # a whole environment
        return "grows"
    if kind == "grows":  # num_iterations
        last = change.field == f"stages.{num_stages - 1}.num_iterations"
        return "grows" if last and change.new > change.old else "results"
    return kind


def _get(tree: Any, path: str) -> Any:
    for key in path.split("."):
        if isinstance(tree, Mapping):
            tree = tree.get(key)
        elif isinstance(tree, list):
            tree = tree[int(key)]
    return tree


def _covers(field: str, path: str, stages: Sequence[str]) -> bool:
    """Whether a field of --allow_changes is the path, or lies above it."""
    parts = path.split(".")
    wanted = field.split(".")
    if len(wanted) > len(parts):
        return False
    for index, (one, other) in enumerate(zip(wanted, parts, strict=False)):
        named = (
            index == 1
            and parts[0] == "stages"
            and other.isdecimal()
            and int(other) < len(stages)
            and stages[int(other)] == one
        )
        if one not in ("*", other) and not named:
            return False
    return True


def _spell(path: str, stages: Sequence[str]) -> str:
    """The path with the name of the stage in the place of its number."""
    parts = path.split(".")
    if parts[0] == "stages" and len(parts) > 1 and int(parts[1]) < len(stages):
        parts[1] = stages[int(parts[1])]
    return ".".join(parts)


def _list(changes: Sequence[Change]) -> str:
    shown = [f"{c.field} was {c.old!r:.80} and is {c.new!r:.80}" for c in changes[:5]]
    more = [f"and {len(changes) - 5} more"] if len(changes) > 5 else []
    return "; ".join(shown + more)
