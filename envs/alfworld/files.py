"""Upstream's own games: finds `game.tw-pddl` files and gives them numbers."""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from agentrl.envs import base
from agentrl.envs.alfworld import games, problem

_FOLDERS = {
    "train": ("train",),
    "test": ("valid_train", "valid_seen"),  # the first that exists
    "test_unseen": ("valid_unseen",),
}
_LEFT_OUT = ("movable", "Sliced")  # tasks that upstream's loader skips as well
_SOLVABLE = re.compile(r'"solvable"\s*:\s*true')


@dataclasses.dataclass(frozen=True)
class GameFiles:
    """The games of a folder: `paths` in the order of task numbers."""

    paths: Sequence[pathlib.Path]
    splits: Mapping[str, range]
    version: str  # changes with the names of the games

    def load(self, index: int) -> games.Game:
        """Reads the game of task `index`.

        Raises:
          UnknownItemError: if there are not that many games.
          MissingDataError: if the file is unreadable or no game of the six types.
        """
        if index >= len(self.paths):
            raise base.UnknownItemError(
                f"'alfworld_{index}' is not a task; the folder has "
                f"{len(self.paths)} games, up to 'alfworld_{len(self.paths) - 1}'."
            )
        return _load(self.paths[index])

    def check(self, split: str) -> None:
        """Reads all games of a split, so that none turns out damaged in an episode.

        Raises:
          MissingDataError: naming the first damaged files and how many there are.
        """
        damaged = []
        for index in self.splits[split]:
            try:
                _load(self.paths[index])
            except base.MissingDataError as error:
                damaged.append(str(error))
        if damaged:
            raise base.MissingDataError(
                f"{damaged[0]} {len(damaged)} of {len(self.splits[split])} games of "
                f"split '{split}' cannot be played."
            )


def open_files(config: base.EnvConfig) -> GameFiles | None:
    """The games that option `data_dir` names, None without the option.

    The option may hold variables, such as `$ALFWORLD_DATA`. Option `mappings` names
    the folder with AgentGym's `mappings_train.json` and `mappings_test.json`, which
    give the tasks AgentGym's numbers.

    Raises:
      EnvConfigError: if there are mappings but no `data_dir`.
      MissingDataError: if the folders or the games in them do not exist.
    """
    data_dir = str(config.options.get("data_dir", ""))
    mappings = str(config.options.get("mappings", ""))
    if data_dir:
        return _scan(_expand(data_dir), _expand(mappings) if mappings else None)
    if mappings:
        raise base.EnvConfigError(
            "environment 'alfworld': option mappings numbers the games of option "
            "data_dir; set data_dir as well, e.g. to '$ALFWORLD_DATA'."
        )
    return None


def _expand(path: str) -> pathlib.Path:
    expanded = os.path.expandvars(os.path.expanduser(path))
    if "$" in expanded:
        raise base.MissingDataError(
            f"environment 'alfworld': the path {path!r} holds a variable that is not "
            "set; set it, or write the path out."
        )
    return pathlib.Path(expanded)


@functools.lru_cache(maxsize=4)
def _scan(folder: pathlib.Path, mappings: pathlib.Path | None) -> GameFiles:
    root = folder / "json_2.1.1" if (folder / "json_2.1.1").is_dir() else folder
    find = functools.partial(_list_games, root)
    if mappings is not None:
        find = functools.partial(_read_mapping, root, mappings)
    paths: list[pathlib.Path] = []
    splits = {}
    for split in _FOLDERS:
        start = len(paths)
        paths += find(split)
        splits[split] = range(start, len(paths))
    if not splits["train"] and not splits["test"]:
        raise base.MissingDataError(
            f"environment 'alfworld': no solvable game.tw-pddl under {root}; point "
            "option data_dir at the folder that `alfworld-download` filled, or leave "
            "it out to play generated games."
        )
    names = (path.relative_to(root).as_posix() for path in paths)
    version = f"files-{base.stable_hash(*names):016x}"
    return GameFiles(tuple(paths), splits, version)


def _list_games(root: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Solvable games of the split's folder, in the order of their paths."""
    folder = next(
        (root / name for name in _FOLDERS[split] if (root / name).is_dir()), None
    )
    if folder is None:
        return []
    found = sorted(folder.glob("*/*/game.tw-pddl"), key=lambda path: path.parts)
    return [
        path
        for path in found
        if not any(word in path.parts[-3] for word in _LEFT_OUT) and _is_wanted(path)
    ]


def _is_wanted(path: pathlib.Path) -> bool:
    """Whether a game says that it can be solved, or is damaged, which is told later.

    A damaged game that was left out would give all that follow another number.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return True
    if _SOLVABLE.search(text):
        return True
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return True
    return False


def _read_mapping(
    root: pathlib.Path, mappings: pathlib.Path, split: str
) -> list[pathlib.Path]:
    if split == "test_unseen":
        return []
    path = mappings / f"mappings_{split}.json"
    try:
        rows = json.loads(path.read_text())
        rows.sort(key=lambda row: row["item_id"])
        return [
            root
            / _FOLDERS[split][0]
            / row["task_type"]
            / row["task_id"]
            / "game.tw-pddl"
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise base.MissingDataError(
            f"environment 'alfworld': cannot read {path}: {error!r}; option mappings "
            "names the folder agentenv-alfworld/configs of AgentGym."
        ) from error


@functools.lru_cache(maxsize=512)
def _load(path: pathlib.Path) -> games.Game:
    try:
        texts = json.loads(path.read_text())
        return problem.read_game(
            texts["pddl_problem"], texts["grammar"], texts["pddl_domain"]
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise base.MissingDataError(
            f"environment 'alfworld': cannot play {path}: {error}; fetch the file "
            "again, or take it out of the folder."
        ) from error
