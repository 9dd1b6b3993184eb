"""Failed episodes that a reader has labelled: a file of texts and a table of tags.

The texts are JSON lines (`.gz` or not) with `id`, `env`, `ending`, `turns` of
`observation`, `action` and `valid`, and `final_observation`. The table (CSV) has the
columns `id`, `tags` and `unclear`, tags separated by spaces. `tests/reporting/labels` has
examples.
"""

import csv
import dataclasses
import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from agentrl import errors, types
from agentrl.transcripts import episodes, failures

_COLUMNS = ("id", "tags", "unclear")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """An episode with what a reader found in it."""

    id: str
    episode: episodes.StoredEpisode
    tags: frozenset[str]
    unclear: frozenset[str]  # may be argued either way


def read(texts: pathlib.Path, labels: pathlib.Path) -> Iterator[Labelled]:
    """Yields the labelled episodes in the order of the file of texts.

    Raises:
      DamagedFileError: if one of the files is damaged, or names tags or episodes that
        are not there; the message names the file.
      OSError: if one cannot be read.
    """
    found = _read_labels(labels)
    for number, line in enumerate(_read_lines(texts), start=1):
        try:
            record = json.loads(line)
            episode = restore(record)
        except (KeyError, TypeError, ValueError) as error:
            raise errors.DamagedFileError(
                f"{texts}:{number} is no labelled episode "
                f"({type(error).__name__}: {error})."
            ) from error
        if episode.item_id not in found:
            raise errors.DamagedFileError(
                f"{labels} has no row for episode {episode.item_id!r} of {texts}; do the "
                "two belong together?"
            )
        yield Labelled(episode.item_id, episode, *found[episode.item_id])


def restore(record: Mapping[str, Any]) -> episodes.StoredEpisode:
    """Returns the episode as rules and judges take it; what they do not read is nothing.

    Raises:
      KeyError, TypeError, ValueError: if it is not such an episode.
    """
    turns = tuple(
        episodes.StoredTurn(**turn, reward=0.0, observation_tokens=0, action_tokens=0)
        for turn in record["turns"]
    )
    return episodes.StoredEpisode(
        stage="",
        iteration=0,
        env=record["env"],
        item_id=record["id"],
        group=0,
        sample=0,
        policy_step=0,
        ending=types.Ending(record["ending"]),
        success=False,
        score=0.0,
        reward=0.0,
        turns=turns,
        final_observation=record["final_observation"],
    )


def _read_labels(
    path: pathlib.Path,
) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            if tuple(rows.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are {rows.fieldnames}, not {_COLUMNS}")
            for row in rows:
                tags, unclear = (frozenset(row[c].split()) for c in _COLUMNS[1:])
                if unknown := sorted((tags | unclear) - set(failures.TAGS)):
                    raise ValueError(f"line {rows.line_num}: there is no tag {unknown}")
                found[row["id"]] = tags, unclear
    except (csv.Error, AttributeError, ValueError) as error:
        raise errors.DamagedFileError(
            f"{path} is no table of labels ({error}); see --labels."
        ) from error
    return found


def _read_lines(path: pathlib.Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            yield from lines
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile, zlib.error) as error:
        raise errors.DamagedFileError(
            f"{path} is no file of labelled episodes ({error}); see --labelled."
        ) from error
