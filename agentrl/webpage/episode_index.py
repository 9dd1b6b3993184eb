"""Where each stored episode of a run stands, and what the page filters them by.

An episode has a number: its place in the order in which the index met it. Files grow at
their ends, so a number stays the same until a resumed run cuts a file back; then the
index begins anew, with another `generation`.
"""

import array
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from agentrl import config, errors, types
from agentrl.envs import base, registry
from agentrl.reporting import survey
from agentrl.transcripts import episodes, failures
from agentrl.webpage import follow

ENDINGS = tuple(ending.value for ending in types.Ending)
TAGS = failures.TAGS
# Columns of an episode that the page gets; numbers throughout.
COLUMNS = (
    "file",  # in `files`
    "iteration",
    "env",  # in `environments`
    "item",  # in `items`
    "group",
    "sample",
    "ending",  # in `ENDINGS`
    "success",
    "reward",  # undiscounted sum over turns
    "turns",
    "tokens",  # that the policy wrote
    "tag",  # the main one, in `TAGS`; -1 for none
    "tags",  # bits of all of them
)
_REAL = frozenset(("reward",))


class _Source:
    """A file of episodes."""

    def __init__(self, path: pathlib.Path, stage: config.StageConfig, kind: str):
        self.path, self.stage, self.kind = path, stage, kind
        self.file = follow.FollowedFile(path)
        self.survey = survey.Survey()
        late = int(survey.LATE * stage.num_iterations)
        self.first_judged = late if kind == "training" else 0
        self.count = 0


class EpisodeIndex:
    """The episodes of a run, in columns."""

    def __init__(
        self, workdir: pathlib.Path, settings: config.RunConfig, *, generation: int = 0
    ):
        """Begins an index.

        Args:
          workdir: of the run.
          settings: of the run.
          generation: of the index that this one replaces.
        """
        self._workdir, self._settings = workdir, settings
        self.generation = generation
        self._clear()

    def _clear(self) -> None:
        self.generation += 1
        self._sources: list[_Source] = []
        self._known: dict[pathlib.Path, _Source] = {}
        self._environments: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._subsets: list[str] = []  # of each item
        self._columns = {
            name: array.array("d" if name in _REAL else "q") for name in COLUMNS
        }
        self._offsets, self._lengths = array.array("q"), array.array("q")

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def environments(self) -> list[str]:
        """Names that the column `env` counts."""
        return list(self._environments)

    def refresh(self, max_bytes: int) -> bool:
        """Reads what files have gained; returns whether there is more to read.

        Raises:
          DamagedFileError: if a line is no stored episode.
        """
        self._find_files()
        try:
            for source in self._sources:
                for line in source.file.read(max_bytes):
                    self._add(source, line)
                if not source.file.at_end:
                    return True
        except follow.FileWasCut:
            self._clear()
            return True
        return False

    def read_all(self) -> None:
        """Reads all files to their ends."""
        while self.refresh(1 << 30):
            pass

    def _find_files(self) -> None:
        """Adds the files that have appeared, in the order of the stages.

        Names are built, not searched for: a pattern for stage "a" would find those of
        "a.2".
        """
        for stage in self._settings.stages:
            training = self._workdir / episodes.FOLDER / f"{stage.name}.jsonl"
            evaluated = survey.find_evaluations(
                self._workdir, stage.name, self._settings
            )
            for path, kind in (
                (training, "training"),
                *((path, "evaluation") for path in evaluated),
            ):
                if path not in self._known and path.is_file():
                    self._known[path] = _Source(path, stage, kind)
                    self._sources.append(self._known[path])

    def _add(self, source: _Source, line: follow.Line) -> None:
        record = line.record
        try:
            tags = record["failures"]
            values = {
                "file": self._sources.index(source),
                "iteration": record["iteration"],
                "env": _number(self._environments, record["env"]),
                "item": self._number_item(record["env"], record["item_id"]),
                "group": record["group"],
                "sample": record["sample"],
                "ending": ENDINGS.index(record["ending"]),
                "success": int(record["success"]),
                "reward": float(record["reward"]),
                "turns": len(record["turns"]),
                "tokens": sum(turn["action_tokens"] for turn in record["turns"]),
                "tag": TAGS.index(tags[0]) if tags else -1,
                "tags": sum(1 << TAGS.index(tag) for tag in tags),
            }
            judged = record["iteration"] >= source.first_judged
            source.count += 1
            if judged and record["stage"] == source.stage.name:
                place = f"{source.path}:{source.count}"
                episode = episodes.from_record(record)
                source.survey.add(episode, place, number=len(self))
            for name, value in values.items():
                self._columns[name].append(value)
        except (KeyError, TypeError, ValueError) as error:
            raise errors.DamagedFileError(
                f"{source.path} holds a line that is not a stored episode "
                f"({type(error).__name__}: {error})."
            ) from error
        self._offsets.append(line.offset)
        self._lengths.append(line.length)

    def _number_item(self, env: str, item: str) -> int:
        if item not in self._items:
            self._subsets.append(find_subset(env, item, self._settings))
        return _number(self._items, item)

    def find_surveys(self) -> list[survey.Survey]:
        """What to judge each stage by: its evaluation, or else late training."""
        found = []
        for stage in self._settings.stages:
            of_stage = [s for s in self._sources if s.stage.name == stage.name]
            evaluated = [s for s in of_stage if s.kind == "evaluation"]
            found += [source.survey for source in evaluated or of_stage]
        return found

    def to_json(
        self, first: int = 0, count: int | None = None, *, known_items: int = 0
    ) -> dict[str, Any]:
        """Returns the columns of consecutive episodes.

        Args:
          first: number of the first of them.
          count: of episodes; None takes all.
          known_items: names of items that the reader has already.
        """
        end = len(self) if count is None else min(first + count, len(self))
        return {
            "generation": self.generation,
            "first": first,
            "count": max(0, end - first),
            "total": len(self),
            "files": [
                {"name": s.path.name, "stage": s.stage.name, "kind": s.kind}
                for s in self._sources
            ],
            "environments": self.environments,
            "endings": ENDINGS,
            "tags": TAGS,
            "items": list(self._items)[known_items:],
            "subsets": self._subsets[known_items:],
            "columns": {
                name: _shorten(column[first:end]) for name, column in
                self._columns.items()
            },
        }  # fmt: skip

    def latest(self, count: int) -> list[dict[str, Any]]:
        """Describes the episodes that were stored last, the newest first."""
        numbers = range(len(self) - 1, max(-1, len(self) - 1 - count), -1)
        items = list(self._items) if numbers else []
        return [
            {
                "number": number,
                "stage": self._sources[self._columns["file"][number]].stage.name,
                "kind": self._sources[self._columns["file"][number]].kind,
                "item": items[self._columns["item"][number]],
                "ending": ENDINGS[self._columns["ending"][number]],
                **{name: self._columns[name][number]
                   for name in ("iteration", "success", "turns", "reward")},
            }
            for number in numbers
        ]  # fmt: skip

    def read_lines(self, first: int, count: int) -> Iterator[bytes]:
        """Yields the JSON of consecutive episodes, as it stands in their files.

        Raises:
          OSError: if a file cannot be read.
        """
        numbers = range(max(0, first), min(first + count, len(self)))
        at = -1
        file = None
        try:
            for number in numbers:
                source = self._columns["file"][number]
                if source != at or file is None:
                    if file is not None:
                        file.close()
                    file, at = self._sources[source].path.open("rb"), source
                file.seek(self._offsets[number])
                yield file.read(self._lengths[number])
        finally:
            if file is not None:
                file.close()


def find_subset(env: str, item: str, settings: config.RunConfig) -> str:
    """The level, depth or type of a task; empty where this is not known here."""
    try:
        spec = registry.get_spec(env)
        return spec.subset(item, settings.environments.get(env, base.EnvConfig()))
    except (
        base.EnvConfigError,
        base.UnknownItemError,
        OSError,
        ValueError,
        LookupError,
    ):
        return ""


def _number(names: dict[str, int], name: str) -> int:
    return names.setdefault(name, len(names))


def _shorten(values: Sequence[float]) -> list[float]:
    return [int(v) if v == int(v) else round(v, 4) for v in values]
