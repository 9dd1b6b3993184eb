r"""Passages and questions, and the files they are read from.

A corpus is JSON lines in the form of wiki-18, of FlashRAG and Search-R1:

  {"id": "0", "contents": "\"Title\"\ntext of the passage"}

Questions are JSON lines, a JSON list, or a parquet file. Each record has a `question`
and its right answers under one of these names, as the data sets have them:

  golden_answers                     FlashRAG, Search-R1
  answer                             NQ-open (a list), HotpotQA (a string)
  reward_model.ground_truth.target   Search-R1, where nothing else is given

Generated questions are FlashRAG records, too; what is known of them beyond the answers
is in `metadata`.
"""

import dataclasses
import importlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envs import base

MAX_PASSAGE_CHARS = 20_000
MULTI_HOP_SETS = ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle")


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that a search can return."""

    id: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question with all answers that count as right, the preferred one first."""

    text: str
    answers: tuple[str, ...]
    hops: int = 1  # facts to be found one after the other
    subset: str = ""  # kind of question or data set
    split: str = ""  # "train" or "test"; empty if the file does not say
    entities: tuple[str, ...] = ()  # countries along the chain, the first one first
    passages: tuple[str, ...] = ()  # ids of the passages that hold the facts
    queries: tuple[str, ...] = ()  # searches that find those passages, in order


def read_passages(path: pathlib.Path) -> Iterator[Passage]:
    """Reads a corpus, one passage at a time.

    Raises:
      MissingDataError: naming the line, if the file is not of the expected form.
    """
    for number, line in enumerate(_open_lines(path), start=1):
        where = f"{path}:{number}"
        record = _parse_json(line, where)
        try:
            passage_id, contents = str(record["id"]), record["contents"]
            title, _, text = contents.partition("\n")
        except (AttributeError, KeyError, TypeError) as error:
            raise base.MissingDataError(
                f'environment \'searchqa\': {where}: expected {{"id": ..., "contents": '
                f'"title\\ntext"}}; {type(error).__name__}: {error}.'
            ) from error
        if len(contents) > MAX_PASSAGE_CHARS:
            raise base.MissingDataError(
                f"environment 'searchqa': {where}: passage {passage_id!r} has "
                f"{len(contents)} characters; split the corpus into passages of at "
                f"most {MAX_PASSAGE_CHARS}, better of about 100 words."
            )
        title = base.clean_text(title).strip().strip('"')
        yield Passage(passage_id, title, base.clean_text(text).strip())


def write_passages(path: pathlib.Path, passages: Iterable[Passage]) -> None:
    """Writes a corpus in the form that `read_passages` reads."""
    _write_lines(
        path,
        ({"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in passages),
    )


def read_questions(path: pathlib.Path) -> tuple[Question, ...]:
    """Reads all questions of a file; its ending (jsonl, json, parquet) says how.

    Raises:
      MissingDataError: if the file cannot be read or a record has no question or
        answers; the message names the record.
    """
    if path.suffix == ".parquet":
        records: Iterable[Any] = _read_parquet(path)
    elif path.suffix == ".json":
        records = _parse_json("".join(_open_lines(path)), str(path))
    else:
        lines = enumerate(_open_lines(path), start=1)
        records = (_parse_json(line, f"{path}:{number}") for number, line in lines)
    questions = []
    for number, record in enumerate(records):
        try:
            questions.append(_to_question(record, path.stem))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise base.MissingDataError(
                f"environment 'searchqa': {path}: record {number} is not a question "
                "with answers in the form of NQ-open, HotpotQA, FlashRAG or Search-R1; "
                f"{type(error).__name__}: {error}."
            ) from error
    if not questions:
        raise base.MissingDataError(
            f"environment 'searchqa': {path} holds no question."
        )
    return tuple(questions)


def write_questions(path: pathlib.Path, questions: Iterable[Question]) -> None:
    """Writes questions as FlashRAG records that `read_questions` reads."""

    def to_record(number: int, question: Question) -> dict[str, Any]:
        known = dataclasses.asdict(question)
        head = {
            "id": f"{path.stem}_{number}",
            "question": known.pop("text"),
            "golden_answers": known.pop("answers"),
        }
        return head | {"metadata": known}

    _write_lines(path, (to_record(n, q) for n, q in enumerate(questions)))


def _to_question(record: Mapping[str, Any], file_stem: str) -> Question:
    metadata = record.get("metadata") or {}
    answers = _find_answers(record)
    text = record["question"].strip()
    if not text or not answers:
        raise ValueError(f"question {text!r} has answers {answers!r}")
    subset = metadata.get("subset") or record.get("data_source") or file_stem
    has_support = "supporting_facts" in record or "supporting_facts" in metadata
    multi_hop = has_support or subset.lower() in MULTI_HOP_SETS
    split = metadata.get("split")
    return Question(
        base.clean_text(text),
        answers,
        hops=int(metadata.get("hops", 2 if multi_hop else 1)),
        subset=subset,
        split=split if split in ("train", "test") else "",
        entities=tuple(metadata.get("entities", ())),
        passages=tuple(metadata.get("passages", ())),
        queries=tuple(metadata.get("queries", ())),
    )


def _find_answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    answers = record.get("golden_answers", record.get("answer"))
    if answers is None:
        answers = record["reward_model"]["ground_truth"]["target"]
    if isinstance(answers, str):
        answers = [answers]
    if not all(isinstance(answer, str) for answer in answers):
        raise TypeError(f"answers must be text, not {answers!r}")
    return tuple(answers)


def _read_parquet(path: pathlib.Path) -> Iterable[Any]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise base.MissingDataError(
            f"environment 'searchqa': reading {path} needs pyarrow; "
            "pip install pyarrow, or convert the file to JSON lines."
        ) from error
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise _unreadable(path, error) from error


def _open_lines(path: pathlib.Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from (line for line in lines if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise base.MissingDataError(
            f"environment 'searchqa': {where} is not JSON: {error}; the file may have "
            "been cut short, fetch it again."
        ) from error


def _write_lines(path: pathlib.Path, records: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _unreadable(path: pathlib.Path, error: Exception) -> base.MissingDataError:
    return base.MissingDataError(
        f"environment 'searchqa': cannot read {path}: {error}; check options corpus "
        "and questions."
    )
