"""Which tasks to play: a split, a difficulty, a list of ids, or a sample of them.

Difficulty is either *structural*, known from the task itself, or *calibrated*: measured
as the pass rate of some policy and stored by `python -m launch.calibrate` as JSON lines
`{"item_id": ..., "n": ..., "pass_rate": ..., "tier": "easy" or "hard", "threshold": ...}`.
A panel's version says which tasks it holds and how they were chosen, as in
`textcraft-1, hard by qwen.jsonl (easy from pass rate 0.5), 50 of 87`.

Subsets are written `environment/subset`, such as `textcraft/depth_1`. One list of them
serves several environments: each keeps the subsets that carry its name, and all of its
tasks if none does.

`check_selection` refuses what is misspelled or unreadable without loading any data;
`select_tasks` chooses the tasks.
"""

import collections
import dataclasses
import difflib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal

from envs import base, registry

TierChoice = Literal["all", "easy", "hard"]

_TIERS = ("easy", "hard")


class TaskSelectionError(ValueError):
    """The tasks asked for do not exist, or a file of tasks cannot be read."""


def select_tasks(
    env: str,
    split: str,
    config: base.EnvConfig,
    *,
    tier: TierChoice = "all",
    tier_file: str | pathlib.Path | None = None,
    subsets: Sequence[str] = (),
    item_file: str | pathlib.Path | None = None,
    limit: int | None = None,
) -> base.TaskPanel:
    """Chooses tasks of one environment.

    Args:
      env: name of the environment.
      split: one of the environment's splits; it names the panel even if `item_file`
        says which tasks it holds.
      config: the environment's configuration.
      tier: keeps the tasks of this difficulty only.
      tier_file: JSON lines with calibrated tiers; None takes the structural ones. A
        task that the file does not list is neither easy nor hard.
      subsets: `env/subset` each, such as `textcraft/depth_1`; keeps the tasks of these
        levels, depths or types. Those of other registered environments are left to
        their own panels.
      item_file: AgentGym's form, a JSON list of `{"item_id": ...}`, in place of the
        split's own tasks.
      limit: keeps at most this many, the same ones in each process and for each
        larger limit.

    Returns:
      The tasks in the order of the split or file, at least one.

    Raises:
      TaskSelectionError: for an unknown split, tier or subset, an unreadable file, or
        if no task is left.
    """
    kept = _split_subsets(subsets, registry.names()).get(env, ())
    spec = registry.get_spec(env)
    _check_choice("split", split, spec.splits, env)
    _check_choice("tier", tier, ("all", *_TIERS), env)
    if item_file is None:
        panel = spec.panel(split, config)
    else:
        name = pathlib.Path(item_file).name
        panel = base.TaskPanel(env, split, f"ids of {name}", read_items(env, item_file))
    if tier != "all":
        panel = _keep_tier(panel, spec, config, tier, tier_file)
    if kept:
        panel = _keep_subsets(panel, spec, config, kept)
    if limit is not None:
        panel = _sample(panel, limit)
    if not panel.item_ids:
        raise TaskSelectionError(
            f"environment '{env}', split '{split}': no task is left ({panel.version}); "
            "loosen tier, tier_file, subsets or item_file."
        )
    return panel


def check_selection(
    environments: Mapping[str, base.EnvConfig],
    *,
    split: str,
    tier: str = "all",
    tier_file: str | pathlib.Path | None = None,
    subsets: Sequence[str] = (),
    item_file: str | pathlib.Path | None = None,
    limit: int | None = None,
) -> None:
    """Checks the arguments of `select_tasks` for all environments of a selection.

    It reads the files named here and loads no data of any environment. What only the
    data can tell is left to `select_tasks`: whether tasks remain, and subsets of data
    sets that the user provides.

    Args:
      environments: configurations by name of the environments that are to be played.
      split: one of the splits of each environment.
      tier: "all", "easy" or "hard".
      tier_file: as in `select_tasks`.
      subsets: `env/subset` each, of these environments only.
      item_file: as in `select_tasks`.
      limit: None, or at least 1.

    Raises:
      TaskSelectionError: in one line, for the first value that cannot be used, with
        the values that exist.
    """
    for env in environments:
        _check_registered(env)
    wanted = _split_subsets(subsets, tuple(environments))
    for env, config in environments.items():
        spec = registry.get_spec(env)
        _check_choice("split", split, spec.splits, env)
        _check_choice("tier", tier, ("all", *_TIERS), env)
        known = spec.subsets(config)
        for subset in wanted.get(env, ()) if known is not None else ():
            _check_choice("subset", subset, tuple(known or ()), env)
        if item_file is not None:
            read_items(env, item_file)
    if tier_file is not None:
        read_tiers(tier_file)
    _check_limit(limit)


def read_items(env: str, path: str | pathlib.Path) -> tuple[str, ...]:
    """Reads AgentGym's list of tasks, `[{"item_id": "<env>_<int>"}, ...]`.

    Raises:
      TaskSelectionError: if the file is missing, not of this form, or repeats a task.
      UnknownItemError: if a task belongs to another environment.
    """
    try:
        items = json.loads(_read_text(path))
        ids = tuple(item["item_id"] for item in items)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise TaskSelectionError(
            f"{path}: expected a JSON list of {{'item_id': '{env}_0'}}, as AgentGym "
            f"writes it; {type(error).__name__}: {error}."
        ) from error
    for item_id in ids:
        base.parse_item_id(env, item_id)
    if twice := [i for i, count in collections.Counter(ids).items() if count > 1]:
        raise TaskSelectionError(f"{path}: tasks listed more than once: {twice[:5]}.")
    return ids


def read_tiers(path: str | pathlib.Path) -> tuple[dict[str, base.Tier], str]:
    """Reads calibrated tiers.

    Returns:
      The tiers by item id, and a name for the file that tells the threshold, if known.

    Raises:
      TaskSelectionError: if the file is missing or a line is not of the form given in
        the module docstring; the message names the line.
    """
    tiers, thresholds = {}, set()
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        try:
            entry = json.loads(line)
            item_id, tier = entry["item_id"], entry["tier"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TaskSelectionError(
                f"{path}:{number}: expected a JSON object with 'item_id' and 'tier', "
                f"as launch.calibrate writes it; {type(error).__name__}: {error}."
            ) from error
        if tier not in _TIERS:
            raise TaskSelectionError(
                f"{path}:{number}: {item_id!r} has tier {tier!r}, not one of {_TIERS}."
            )
        if item_id in tiers:
            raise TaskSelectionError(f"{path}:{number}: second line for {item_id!r}.")
        tiers[item_id] = tier
        thresholds.add(entry.get("threshold"))
    known = ", ".join(f"{value:g}" for value in sorted(thresholds - {None}))
    name = pathlib.Path(path).name
    return tiers, f"{name} (easy from pass rate {known})" if known else name


def _keep_tier(
    panel: base.TaskPanel,
    spec: base.EnvSpec,
    config: base.EnvConfig,
    tier: str,
    tier_file: str | pathlib.Path | None,
) -> base.TaskPanel:
    if tier_file is None:
        source = "structure"
        ids = [i for i in panel.item_ids if spec.tier(i, config) == tier]
    else:
        tiers, source = read_tiers(tier_file)
        ids = [i for i in panel.item_ids if tiers.get(i) == tier]
    version = f"{panel.version}, {tier} by {source}"
    return dataclasses.replace(panel, version=version, item_ids=tuple(ids))


def _keep_subsets(
    panel: base.TaskPanel,
    spec: base.EnvSpec,
    config: base.EnvConfig,
    kept: Sequence[str],
) -> base.TaskPanel:
    subset_of = {i: spec.subset(i, config) for i in panel.item_ids}
    for subset in kept:
        _check_choice(
            "subset", subset, tuple(sorted(set(subset_of.values()))), spec.name
        )
    version = f"{panel.version}, {' and '.join(sorted(kept))}"
    ids = tuple(i for i in panel.item_ids if subset_of[i] in kept)
    return dataclasses.replace(panel, version=version, item_ids=ids)


def _sample(panel: base.TaskPanel, limit: int) -> base.TaskPanel:
    """Keeps the tasks with the lowest hash: a panel may be sorted by difficulty."""
    _check_limit(limit)
    total = len(panel.item_ids)
    if total <= limit:
        return panel
    kept = set(
        sorted(panel.item_ids, key=lambda i: base.stable_hash("sample", i))[:limit]
    )
    return dataclasses.replace(
        panel,
        version=f"{panel.version}, {limit} of {total}",
        item_ids=tuple(i for i in panel.item_ids if i in kept),
    )


def _split_subsets(
    subsets: Sequence[str], environments: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Groups `env/subset` names by environment, which must be one of `environments`."""
    if isinstance(subsets, str):
        raise TaskSelectionError(
            f"subsets = {subsets!r} is one string; give a list such as "
            "['textcraft/depth_1']."
        )
    grouped: dict[str, tuple[str, ...]] = {}
    for name in subsets:
        env, slash, subset = name.partition("/")
        if not (env and slash and subset):
            raise TaskSelectionError(
                f"subset {name!r} does not name an environment; write it as "
                f"'environment/subset'. The environments are {list(environments)}."
            )
        if env not in environments:
            hint = _suggest(name, [f"{known}/{subset}" for known in environments])
            raise TaskSelectionError(
                f"subset {name!r} is of environment {env!r}, which is not played.{hint} "
                f"The environments are {list(environments)}."
            )
        grouped[env] = (*grouped.get(env, ()), subset)
    return grouped


def _check_registered(env: str) -> None:
    if env not in registry.names():
        raise TaskSelectionError(
            f"unknown environment {env!r}.{_suggest(env, registry.names())} Registered: "
            f"{list(registry.names())}."
        )


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise TaskSelectionError(f"limit = {limit}; it must be at least 1.")


def _suggest(value: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_choice(field: str, value: str, known: tuple[str, ...], env: str) -> None:
    if value not in known:
        raise TaskSelectionError(
            f"environment '{env}' has no {field} {value!r}.{_suggest(value, known)} It "
            f"has {list(known)}."
        )


def _read_text(path: str | pathlib.Path) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskSelectionError(
            f"cannot read the task file {path}: {error}."
        ) from error
