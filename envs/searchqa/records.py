r"""Questions, and the files they are read from.

JSON lines, a JSON list, or a parquet file; JSON may be compressed (`.gz`). Each record
has a `question` and its right answers under one of these names, as the data sets have
them; the first that is not empty counts:

  golden_answers                     FlashRAG, Search-R1 (a list)
  answer                             NQ-open (a list), HotpotQA, 2Wiki, MuSiQue,
                                     Bamboogle (a string), TriviaQA (value and aliases)
  answers                            a list, or SQuAD's {"text": [...]}
  possible_answers                   PopQA (a list, as JSON text)
  reward_model.ground_truth.target   Search-R1

`answer_aliases` (MuSiQue) are right as well. Which split a question is for, a record
says in `metadata.split`, `extra_info.split`, `split` or in an id such as `train_0`; what
is called dev or validation counts as a test. The data set is `data_source`, or else the
name of the file, or of its folder if the file is named after a split
(`musique/dev.jsonl`).

Generated questions are FlashRAG records, too; what is known of them beyond the answers
is in `metadata`.
"""

import dataclasses
import importlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from agentrl.envs import base
from agentrl.envs.searchqa import textfiles

MULTI_HOP_SETS = ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle")

_SPLITS = {"train": "train"} | dict.fromkeys(
    ("test", "dev", "validation", "valid", "val"), "test"
)
_ANSWER_FIELDS = ("golden_answers", "answer", "answers", "possible_answers")
_ALIAS_FIELDS = ("answer_aliases", "answer_alias")
_HOPS = re.compile(r"(\d)hop")  # how ids of MuSiQue begin


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


def read_questions(path: pathlib.Path) -> tuple[Question, ...]:
    """Reads all questions of a file; its ending (jsonl, json, parquet) says how.

    Raises:
      MissingDataError: if the file cannot be read or a record has no question or
        answers; the message names the record.
    """
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    data_set = path.resolve().parent.name if stem.lower() in _SPLITS else stem
    questions = []
    for number, record in enumerate(_read_records(path)):
        try:
            questions.append(_to_question(record, data_set))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise base.MissingDataError(
                f"environment 'searchqa': {path}: record {number} is not a question "
                "with answers in the form of NQ-open, TriviaQA, PopQA, HotpotQA, "
                "MuSiQue, FlashRAG or Search-R1; "
                f"{type(error).__name__}: {error}."
            ) from error
    if not questions:
        raise base.MissingDataError(
            f"environment 'searchqa': {path} holds no question."
        )
    return tuple(questions)


def write_questions(path: pathlib.Path, questions: Iterable[Question]) -> None:
    """Writes questions as FlashRAG records that `read_questions` reads."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, question in enumerate(questions):
            known = dataclasses.asdict(question)
            head = {
                "id": f"{path.stem}_{number}",
                "question": known.pop("text"),
                "golden_answers": known.pop("answers"),
            }
            record = head | {"metadata": known}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _read_records(path: pathlib.Path) -> Iterable[Any]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith(".json"):
        text = "".join(line for _, line in textfiles.read_lines(path))
        content = textfiles.parse_json(text, str(path))
        if isinstance(content, Mapping):  # TriviaQA and SQuAD wrap their lists
            content = content.get("data", content.get("Data", [content]))
        return content
    return (
        textfiles.parse_json(line, f"{path}:{number}")
        for number, line in textfiles.read_lines(path)
    )


def _to_question(record: Mapping[str, Any], data_set: str) -> Question:
    if "question" not in record:  # TriviaQA and Bamboogle write Question and Answer
        record = {key.lower(): value for key, value in record.items()}
    metadata = record.get("metadata") or {}
    answers = _find_answers(record, metadata)
    text = record["question"].strip()
    if not text or not answers:
        raise ValueError(f"question {text!r} has answers {answers!r}")
    subset = metadata.get("subset") or record.get("data_source") or data_set
    return Question(
        base.clean_text(text),
        answers,
        hops=_count_hops(record, metadata, subset),
        subset=subset,
        split=_find_split(record, metadata),
        entities=tuple(metadata.get("entities") or ()),
        passages=tuple(metadata.get("passages") or ()),
        queries=tuple(metadata.get("queries") or ()),
    )


def _find_answers(
    record: Mapping[str, Any], metadata: Mapping[str, Any]
) -> tuple[str, ...]:
    found: list[str] = []
    for field in _ANSWER_FIELDS:
        found = _to_answers(record.get(field))
        if found:
            break
    if not found:
        truth = (record.get("reward_model") or {}).get("ground_truth") or {}
        found = _to_answers(truth.get("target"))
    for field in _ALIAS_FIELDS:
        found += _to_answers(record.get(field)) + _to_answers(metadata.get(field))
    return tuple(dict.fromkeys(found))


def _to_answers(value: Any) -> list[str]:
    """All answers in a value of one of the data sets' forms, without empty ones."""
    if value is None:
        return []
    if isinstance(value, str):
        if value.startswith('["') and value.endswith('"]'):  # PopQA
            return _to_answers(json.loads(value))
        return [value] if value.strip() else []
    if isinstance(value, Mapping):
        known = {key.lower(): entry for key, entry in value.items()}
        if not known.keys() & {"value", "text"}:
            raise ValueError(f"answers must be text or a list of text, not {value!r}")
        parts = (known.get(key) for key in ("value", "text", "aliases"))
        return [answer for part in parts for answer in _to_answers(part)]
    if not all(isinstance(answer, str) for answer in value):
        raise TypeError(f"answers must be text, not {value!r}")
    return [answer for answer in value if answer.strip()]


def _find_split(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    named = (
        metadata.get("split"),
        (record.get("extra_info") or {}).get("split"),
        record.get("split"),
        str(record.get("id", "")).rpartition("_")[0],
    )
    return next((_SPLITS[n] for n in named if n in _SPLITS), "")


def _count_hops(
    record: Mapping[str, Any], metadata: Mapping[str, Any], subset: str
) -> int:
    if hops := metadata.get("hops"):
        return int(hops)
    for source in (record, metadata):
        if match := _HOPS.match(str(source.get("id", ""))):
            return int(match[1])
        if steps := source.get("question_decomposition"):
            return len(steps)
    has_support = "supporting_facts" in record or "supporting_facts" in metadata
    return 2 if has_support or subset.lower() in MULTI_HOP_SETS else 1


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
        raise textfiles.unreadable(path, error) from error
