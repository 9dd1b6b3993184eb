r"""Passages of a corpus, and the files they are read from.

  {"id": "0", "contents": "\"Title\"\ntext of the passage"}   wiki-18, FlashRAG, Search-R1
  {"id": "0", "title": "Title", "text": "text"}               JSON lines; also "_id"
  id <tab> text <tab> title                                   DPR, with a line of names

Files may be compressed (`.jsonl.gz`, `.tsv.gz`) and begin with a byte order mark.
"""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agentrl.envs import base
from agentrl.envs.searchqa import textfiles

MAX_PASSAGE_CHARS = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that a search can return."""

    id: str
    title: str  # as the corpus has it: wiki-18 puts it between quotation marks
    text: str

    @property
    def plain_title(self) -> str:
        """The title without quotation marks around it."""
        return self.title.strip('"')


def read_passages(path: pathlib.Path) -> Iterator[Passage]:
    """Reads a corpus, one passage at a time.

    Raises:
      MissingDataError: naming the line, if the file is not of the expected form.
    """
    is_table = path.name.removesuffix(".gz").endswith(".tsv")
    records = _read_table(path) if is_table else _read_lines(path)
    for where, record in records:
        passage = parse_passage(record, where)
        size = len(passage.title) + len(passage.text)
        if size > MAX_PASSAGE_CHARS:
            raise base.MissingDataError(
                f"environment 'searchqa': {where}: passage {passage.id!r} has {size} "
                f"characters; split the corpus into passages of at most "
                f"{MAX_PASSAGE_CHARS}, better of about 100 words."
            )
        yield passage


def parse_passage(record: Any, where: str) -> Passage:
    """Makes a passage of a decoded record.

    Raises:
      MissingDataError: naming `where` it comes from, if it is not of a known form.
    """
    try:
        passage_id = str(record["id"] if "id" in record else record["_id"])
        if "contents" in record:
            title, _, text = record["contents"].partition("\n")
        else:
            title, text = record["title"].replace("\n", " "), record["text"]
        return Passage(
            passage_id,
            base.clean_text(title).strip(),
            base.clean_text(text).strip(),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise base.MissingDataError(
            f'environment \'searchqa\': {where}: expected {{"id": ..., "contents": '
            f'"title\\ntext"}} or {{"id": ..., "title": ..., "text": ...}}; '
            f"{type(error).__name__}: {error}."
        ) from error


def write_passages(path: pathlib.Path, passages: Iterable[Passage]) -> None:
    """Writes a corpus in the form of wiki-18."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for passage in passages:
            contents = f'"{passage.plain_title}"\n{passage.text}'
            record = {"id": passage.id, "contents": contents}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _read_lines(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    for number, line in textfiles.read_lines(path):
        where = f"{path}:{number}"
        yield where, textfiles.parse_json(line, where)


def _read_table(path: pathlib.Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Rows of a table as DPR publishes it: text between quotation marks, doubled within."""
    rows = csv.reader((line for _, line in textfiles.read_lines(path)), delimiter="\t")
    names = ["id", "text", "title"]
    for number, row in enumerate(rows, start=1):
        if number == 1 and {"id", "text", "title"} == set(row):
            names = row
            continue
        if len(row) != len(names):
            raise base.MissingDataError(
                f"environment 'searchqa': {path}:{number}: {len(row)} columns, not the "
                f"{len(names)} columns {names}."
            )
        yield f"{path}:{number}", dict(zip(names, row, strict=True))
