"""Small documents of headings, paragraphs, tables and code, written as Markdown or as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0}th,td{border:1px solid #9996;padding:.2rem .6rem;text-align:left}"
    "pre{overflow:auto;border:1px solid #9996;padding:.6rem}@media print{pre{white-space:pre-wrap}}"
)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the document's title."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head. Numbers are written to four digits."""

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be kept as it is."""

    text: str
    language: str = ""


Block = Heading | Paragraph | Table | Code


def to_markdown(blocks: Sequence[Block]) -> str:
    """Return the document as Markdown (GitHub's, for its tables); markup in its texts is escaped."""
    return "\n\n".join(_MARKDOWN[type(block)](block) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Return the document as one self-contained HTML page without scripts."""
    body = "\n".join(_HTML[type(block)](block) for block in blocks)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def shown(value: Any) -> str:
    """Return a cell's text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def _literal(text: str) -> str:
    """Escape text so that Markdown finds no markup in it."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(_literal(shown(cell)) for cell in cells) + " |"

    return "\n".join([line(table.head), "|" + "---|" * len(table.head), *map(line, table.rows)])


def _markdown_code(code: Code) -> str:
    fence = "```"
    while fence in code.text:
        fence += "`"
    return f"{fence}{code.language}\n{code.text.rstrip()}\n{fence}"


def _html_table(table: Table) -> str:
    def row(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(shown(cell))}</{tag}>" for cell in cells) + "</tr>"

    lines: Iterator[str] = (row(cells, "td") for cells in table.rows)
    return f"<table>\n<thead>{row(table.head, 'th')}</thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table>"


_MARKDOWN: Mapping[type, Callable[[Any], str]] = {
    Heading: lambda block: f"{'#' * block.level} {_literal(block.text)}",
    Paragraph: lambda block: _literal(block.text),
    Table: _markdown_table,
    Code: _markdown_code,
}
_HTML: Mapping[type, Callable[[Any], str]] = {
    Heading: lambda block: f"<h{block.level}>{escape(block.text)}</h{block.level}>",
    Paragraph: lambda block: f"<p>{escape(block.text)}</p>",
    Table: _html_table,
    Code: lambda block: f"<pre><code>{escape(block.text)}</code></pre>",
}
