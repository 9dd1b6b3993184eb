"""Blocks of a page, and how they read as HTML and as Markdown.

Both forms render the same blocks: what one says, the other says. HTML needs nothing but
itself.
"""

import dataclasses
import html
import pathlib
from collections.abc import Mapping, Sequence

_STYLE = pathlib.Path(__file__).with_name("page.css")
MANY = 20  # rows of a table that nobody reads from begin to end
HOLE = "\N{EM DASH}"  # in the place of a number that is not there yet


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and what marks it in HTML."""

    text: str
    shade: float | None = None  # -1 to 1: how far below or above zero
    marks: tuple[str, ...] = ()  # classes: "unsure", "own"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a note beneath."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""
    folded: bool = False  # in HTML, until it is clicked


@dataclasses.dataclass(frozen=True)
class Points:
    """Sentences, one below the other."""

    sentences: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawing, which Markdown leaves out: its numbers stand in a table."""

    svg: str
    caption: str


Block = str | Points | Table | Chart


def to_markdown(title: str, sections: Mapping[str, Sequence[Block]]) -> str:
    """The page as Markdown, without charts."""
    lines = [f"# {title}", ""]
    for heading, blocks in sections.items():
        lines += [f"## {heading}", ""]
        for block in blocks:
            if isinstance(block, str):
                lines += [block, ""]
            elif isinstance(block, Points):
                lines += [*(f"* {sentence}" for sentence in block.sentences), ""]
            elif isinstance(block, Table):
                lines.append(f"| {' | '.join(block.header)} |")
                lines.append("|" + "---|" * len(block.header))
                lines += [
                    f"| {' | '.join(c if isinstance(c, str) else c.text for c in row)} |"
                    for row in block.rows
                ]
                lines += ["", block.note, ""] if block.note else [""]
    return "\n".join(lines)


def to_html(title: str, sections: Mapping[str, Sequence[Block]]) -> str:
    """The page as HTML, in one file."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE.read_text()}</style>",
        f"<main><h1>{html.escape(title)}</h1>",
    ]
    for heading, blocks in sections.items():
        parts.append(f"<section><h2>{html.escape(heading)}</h2>")
        for block in blocks:
            if isinstance(block, str):
                parts.append(f"<p>{html.escape(block)}</p>")
            elif isinstance(block, Points):
                items = (f"<li>{html.escape(text)}</li>" for text in block.sentences)
                parts.append(f"<ul>{''.join(items)}</ul>")
            elif isinstance(block, Table):
                parts.append(_table_to_html(block))
            else:
                caption = html.escape(block.caption)
                parts.append(
                    f"<figure>{block.svg}<figcaption>{caption}</figcaption></figure>"
                )
        parts.append("</section>")
    return "\n".join([*parts, "</main></html>\n"])


def _table_to_html(table: Table) -> str:
    header = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    rows = "".join(f"<tr>{''.join(map(_cell_to_html, row))}</tr>" for row in table.rows)
    note = f"<p class='note'>{html.escape(table.note)}</p>" if table.note else ""
    shown = (
        f"<div class='scroll'><table><thead><tr>{header}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
    if table.folded:
        shown = f"<details><summary>{len(table.rows)} rows</summary>{shown}</details>"
    return shown + note


def _cell_to_html(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    value, bracket, interval = html.escape(cell.text).partition(" [")
    text = f"{value}<small> [{interval}</small>" if bracket else value
    side = "gain" if (cell.shade or 0) > 0 else "loss"
    style = ""
    if cell.shade:
        share = min(100, round(100 * abs(cell.shade) ** 0.5))
        style = f" style='--share: {share}%'"
    classes = " ".join((*([side] if cell.shade else []), *cell.marks))
    return f"<td class='{classes}'{style}>{text}</td>"
