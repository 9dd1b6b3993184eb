"""Which tasks to play: a split, a difficulty, a list of ids, or a sample of them.

Difficulty is either *structural*, known from the task itself, or *calibrated*: measured
as the pass rate of some policy and stored by `python -m agentrl.launch.calibrate` as JSON
lines such as `{"item_id": "babyai_7", "n": 8, "pass_rate": 0.5, "tier": "easy",
"threshold": 0.5}`.
The lines of several environments may stand in one file, or in one file each.

A list of ids is a file in one of these forms, told apart by the first character. It may
hold tasks of several environments, and each takes its own:

    [{"item_id": "textcraft_0"}, {"item_id": "textcraft_7"}]     as AgentGym writes it
    ["textcraft_0", "textcraft_7"]                               a JSON list of ids
    {"tasks": [...], ...}                                        from `agentrl.envs.panels`
    {"item_id": "textcraft_0", ...}                              JSON lines
    textcraft_0                                                  an id a line; blank
    # textcraft_7                                                lines and comments

A panel's version says which tasks it holds and how they were chosen, as in
`textcraft-1, hard by qwen.jsonl 5f0a1b2c (easy from pass rate 0.5), 50 of 87`. Files are
named with the first 8 digits that `sha256sum` prints for them.

Subsets are written `environment/subset`, such as `textcraft/depth_1`. One list of them
serves several environments: each keeps the subsets that carry its name, and all of its
tasks if none does.

`check_selection` refuses what is misspelled or unreadable without loading any data;
`select_tasks` chooses the tasks.
"""

import collections
import dataclasses
import difflib
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal

from agentrl.envs import base, perturbations, prompts, registry

TierChoice = Literal["all", "easy", "hard"]
Stratify = Literal["", "tier", "subset"]
File = str | pathlib.Path
Files = File | Sequence[File]  # one, or several that are read as one

_TIERS = ("easy", "hard")


class TaskSelectionError(ValueError):
    """The tasks asked for do not exist, or a file of tasks cannot be read."""


def select_tasks(
    env: str,
    split: str,
    config: base.EnvConfig,
    *,
    tier: TierChoice = "all",
    tier_file: Files | None = None,
    subsets: Sequence[str] = (),
    item_file: Files | None = None,
    limit: int | None = None,
    stratify: Stratify = "",
) -> base.TaskPanel:
    """Chooses tasks of one environment.

    Args:
      env: name of the environment.
      split: one of the environment's splits; it names the panel even if `item_file`
        says which tasks it holds.
      config: the environment's configuration.
      tier: keeps the tasks of this difficulty only.
      tier_file: JSON lines with calibrated tiers, in one or more files; None takes the
        structural ones. A task that they do not list is neither easy nor hard.
      subsets: `env/subset` each, such as `textcraft/depth_1`; keeps the tasks of these
        levels, depths or types. Those of other registered environments are left to
        their own panels.
      item_file: lists of ids, in one or more files of the forms shown above, in place
        of the split's own tasks; each id must be a task of the environment.
      limit: keeps at most this many, the same ones in each process and for each
        larger limit.
      stratify: with a limit, takes equally many of each structural tier or subset.

    Returns:
      The tasks in the order of the split or file, at least one.

    Raises:
      TaskSelectionError: for an unknown split, tier or subset, an unreadable file, if no
        task is left, or if the environment's own panel is empty, repeats an id, or has
        one that is not of the form `<env>_<k>`.
    """
    kept = _split_subsets(subsets, registry.names()).get(env, ())
    spec = registry.get_spec(env)
    _check_choice("split", split, spec.splits, env)
    _check_choice("tier", tier, ("all", *_TIERS), env)
    panel = _find_panel(env, split, config, item_file)
    if tier != "all":
        panel = _keep_tier(panel, spec, config, tier, tier_file)
    if kept:
        panel = _keep_subsets(panel, spec, config, kept)
    if limit is not None:
        panel = _sample(panel, limit, spec, config, stratify)
    panel = dataclasses.replace(panel, version=panel.version + _name_changes(config))
    if not panel.item_ids:
        raise TaskSelectionError(
            f"environment '{env}', split '{split}': no task is left ({panel.version}); "
            "loosen tier, tier_file, subsets or item_file."
        )
    return panel


def _find_panel(
    env: str, split: str, config: base.EnvConfig, item_file: Files | None
) -> base.TaskPanel:
    spec = registry.get_spec(env)
    if item_file is None:
        panel = spec.panel(split, config)
        _check_own_panel(panel, env, split)
    else:
        panel = base.TaskPanel(env, split, *read_items(env, item_file))
        _check_tasks(panel, spec, config)
    return panel


def _check_own_panel(panel: base.TaskPanel, env: str, split: str) -> None:
    """Refuses what the environment's author has to correct, not who selects tasks."""
    where = f"environment '{env}', split '{split}': its own panel ({panel.version})"
    if not panel.item_ids:
        raise TaskSelectionError(f"{where} is empty; add tasks to it.")
    for item_id in panel.item_ids:
        try:
            base.parse_item_id(env, item_id)
        except base.UnknownItemError as error:
            raise TaskSelectionError(f"{where}: {error}") from error
    if repeats := len(panel.item_ids) - len(set(panel.item_ids)):
        counts = collections.Counter(panel.item_ids)
        first = next(i for i in panel.item_ids if counts[i] > 1)
        raise TaskSelectionError(
            f"{where} lists {first!r} more than once; {repeats} of its "
            f"{len(panel.item_ids)} entries are repetitions. List each task once."
        )


def check_selection(
    environments: Mapping[str, base.EnvConfig],
    *,
    split: str,
    tier: str = "all",
    tier_file: Files | None = None,
    subsets: Sequence[str] = (),
    item_file: Files | None = None,
    limit: int | None = None,
    stratify: Stratify = "",
    others: Mapping[str, base.EnvConfig] | None = None,
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
      subsets: `env/subset` each, of these environments or of `others`.
      item_file: as in `select_tasks`.
      limit: None, or at least 1.
      stratify: has no effect without a limit.
      others: environments that are not played here, whose subsets may be named all the
        same: one list of subsets serves all selections of a run.

    Raises:
      TaskSelectionError: in one line, for the first value that cannot be used, with
        the values that exist.
    """
    for env in environments:
        _check_registered(env)
    nameable = {**(others or {}), **environments}
    for env, chosen in _split_subsets(subsets, tuple(nameable)).items():
        known = registry.get_spec(env).subsets(nameable[env])
        for subset in chosen if known is not None else ():
            _check_choice("subset", subset, tuple(known or ()), env)
    for env in environments:
        spec = registry.get_spec(env)
        _check_choice("split", split, spec.splits, env)
        _check_choice("tier", tier, ("all", *_TIERS), env)
        if item_file is not None:
            read_items(env, item_file)
    if tier_file is not None:
        tiers, name = read_tiers(tier_file)
        measured = {item_id.rpartition("_")[0] for item_id in tiers}
        for env in environments if tier != "all" else ():
            if env not in measured:
                raise TaskSelectionError(
                    f"tier_file {name} has no task of environment '{env}', only of "
                    f"{sorted(measured)}; measure it with launch.calibrate."
                )
    _check_limit(limit, stratify)


def read_items(env: str, files: Files) -> tuple[str, tuple[str, ...]]:
    """Reads lists of tasks, in the forms of the module docstring.

    Args:
      env: the environment whose tasks are taken; those of others are left to them.
      files: one list or several, of which the tasks stand one after the other.

    Returns:
      The version of a panel with these tasks, and their ids in order, at least one.

    Raises:
      TaskSelectionError: if a file is missing or of another form, names a task twice or
        an environment that does not exist, or if there is no task of `env`.
    """
    ids: list[str] = []
    others = set[str]()
    for path in _as_list(files):
        for item_id in _parse_items(path, env):
            owner = item_id.rpartition("_")[0]
            if owner == env:
                _check_id(item_id, env, path)
                ids.append(item_id)
            elif owner in registry.names():
                others.add(owner)
            else:
                known = (env, *registry.names())
                raise TaskSelectionError(
                    f"{path}: {item_id[:80]!r} is a task of no environment."
                    f"{_suggest(owner, known)} Ids look like '{env}_0'."
                )
    named = _name_files(files)
    if twice := [i for i, count in collections.Counter(ids).items() if count > 1]:
        raise TaskSelectionError(f"{named}: tasks listed more than once: {twice[:5]}.")
    if not ids:
        raise TaskSelectionError(
            f"{named}: no task is of environment '{env}'"
            + (
                f", all are of {sorted(others)}."
                if others
                else "; there is none at all."
            )
        )
    return f"ids of {named}", tuple(ids)


def _parse_items(path: File, env: str) -> list[str]:
    """All ids of a file, whatever their environments."""
    text = _read_text(path).strip()
    try:
        if text.startswith("["):
            entries = json.loads(text)
        elif text.startswith("{\n"):  # one object over many lines
            entries = json.loads(text)["tasks"]
        else:
            lines = (line.partition("#")[0].strip() for line in text.splitlines())
            entries = [
                json.loads(line) if line.startswith("{") else line
                for line in lines
                if line
            ]
        ids = [e if isinstance(e, str) else e["item_id"] for e in entries]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise TaskSelectionError(
            f"{path}: expected a JSON list of {{'item_id': '{env}_0'}}, as AgentGym "
            f"writes it, or one id a line; {type(error).__name__}: {error}."
        ) from error
    if wrong := [item_id for item_id in ids if not isinstance(item_id, str)]:
        raise TaskSelectionError(
            f"{path}: ids are text such as '{env}_0', not {wrong[0]!r}."
        )
    return ids


def _check_id(item_id: str, env: str, path: File) -> None:
    try:
        base.parse_item_id(env, item_id)
    except base.UnknownItemError as error:
        raise TaskSelectionError(f"{path}: {error}") from error


def _check_tasks(
    panel: base.TaskPanel, spec: base.EnvSpec, config: base.EnvConfig
) -> None:
    """Refuses ids beyond the last task; the environment's labels need the task."""
    for item_id in panel.item_ids:
        try:
            spec.subset(item_id, config)
        except base.UnknownItemError as error:
            raise TaskSelectionError(f"{panel.version}: {error}") from error


def read_tiers(files: Files) -> tuple[dict[str, base.Tier], str]:
    """Reads calibrated tiers of one environment or several, from one file or several.

    Returns:
      The tiers by item id, and a name for the files that tells the threshold, if known.

    Raises:
      TaskSelectionError: if a file is missing or a line is not of the form given in
        the module docstring; the message names the line.
    """
    tiers: dict[str, base.Tier] = {}
    thresholds = set()
    for path in _as_list(files):
        for number, line in enumerate(_read_text(path).splitlines(), start=1):
            where = f"{path}:{number}"
            item_id, tier, threshold = _parse_tier(line, where)
            if item_id in tiers:
                raise TaskSelectionError(f"{where}: second line for {item_id!r}.")
            tiers[item_id] = tier
            thresholds.add(threshold)
    known = ", ".join(f"{value:g}" for value in sorted(thresholds - {None}))
    name = _name_files(files)
    return tiers, f"{name} (easy from pass rate {known})" if known else name


def _parse_tier(line: str, where: str) -> tuple[str, base.Tier, float | None]:
    try:
        entry = json.loads(line)
        item_id, tier = entry["item_id"], entry["tier"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise TaskSelectionError(
            f"{where}: expected a JSON object with 'item_id' and 'tier', as "
            f"launch.calibrate writes it; {type(error).__name__}: {error}."
        ) from error
    if tier not in _TIERS:
        raise TaskSelectionError(
            f"{where}: {item_id!r} has tier {tier!r}, not one of {_TIERS}."
        )
    return item_id, tier, entry.get("threshold")


def _as_list(files: Files) -> list[File]:
    return [files] if isinstance(files, str | pathlib.Path) else list(files)


def _name_files(files: Files) -> str:
    """Names files with digests of their contents, such as `test.json 5f0a1b2c`."""
    return " and ".join(
        f"{pathlib.Path(path).name} {digest_file(path)}" for path in _as_list(files)
    )


def digest_file(path: File) -> str:
    """First 8 hex digits of the SHA-256 of a file, as `sha256sum` prints them."""
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:8]
    except OSError as error:
        raise TaskSelectionError(
            f"cannot read the task file {path}: {error}."
        ) from error


def _keep_tier(
    panel: base.TaskPanel,
    spec: base.EnvSpec,
    config: base.EnvConfig,
    tier: str,
    tier_file: Files | None,
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


def _sample(
    panel: base.TaskPanel,
    limit: int,
    spec: base.EnvSpec,
    config: base.EnvConfig,
    stratify: Stratify,
) -> base.TaskPanel:
    """Keeps the tasks with the lowest hash, for a panel may be sorted by difficulty.

    With `stratify` the lowest of each tier or subset in turn.
    """
    _check_limit(limit)
    total = len(panel.item_ids)
    if total <= limit:
        return panel
    # Without, each task is a part of its own.
    find = {"": lambda item, _: item, "tier": spec.tier, "subset": spec.subset}
    turns = collections.Counter[str]()
    ordered = []
    for item in sorted(panel.item_ids, key=lambda i: base.stable_hash("sample", i)):
        part = find[stratify](item, config)
        ordered.append((turns[part], len(ordered), item))
        turns[part] += 1
    kept = {item for *_, item in sorted(ordered)[:limit]}
    equal = f", equal by {stratify}" if stratify else ""
    return dataclasses.replace(
        panel,
        version=f"{panel.version}, {limit} of {total}{equal}",
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


def _name_changes(config: base.EnvConfig) -> str:
    try:
        given = prompts.describe_given(config.options)
    except prompts.PromptError as error:
        raise TaskSelectionError(str(error)) from error
    return given + perturbations.describe(config.options)


def _check_registered(env: str) -> None:
    if env not in registry.names():
        registry.refuse_malformed()  # it may be meant by an entry that cannot be read
        raise TaskSelectionError(
            f"unknown environment {env!r}.{_suggest(env, registry.names())} Registered: "
            f"{list(registry.names())}; others are named in {registry.VARIABLE}."
        )


def _check_limit(limit: int | None, stratify: Stratify = "") -> None:
    if limit is not None and limit < 1:
        raise TaskSelectionError(f"limit = {limit}; it must be at least 1.")
    if stratify and limit is None:
        raise TaskSelectionError(
            f"stratify = {stratify!r} has no effect without a number of tasks; give one, "
            "or leave it out."
        )


def _suggest(value: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_choice(field: str, value: str, known: tuple[str, ...], env: str) -> None:
    if value not in known:
        raise TaskSelectionError(
            f"environment '{env}' has no {field} {value!r}.{_suggest(value, known)} It "
            f"has {list(known)}."
        )


def _read_text(path: File) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskSelectionError(
            f"cannot read the task file {path}: {error}."
        ) from error
