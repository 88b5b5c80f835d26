"""Where the table of a CSV file ends: before lines that are no rows, and before bytes that only mark the file's end."""

from __future__ import annotations

import re
from pathlib import Path

from fitserve.datasets.readers.csv_layout import Grammar, is_numeric, lines_of, parse
from fitserve.wire.notices import Notice

MAX_AFTER = 20  # lines after a table
TAIL_BYTES = 64 * 1024  # in which lines after the table are looked for
_TOTALS = re.compile(
    r"\W*+(grand |sub)?(total|totals|totale|summe|gesamt|insgesamt|sum|suma|somme|average|mean|mittelwert|moyenne|итого"
    r"|всего|合计|总计|小计|合計|總計|小計)\W*+",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\W*+(sources?|notes?|remarks?|footnotes?|legend|copyright|quellen?|hinweise?|anmerkung(en)?|nota|fuente|fonte)\W",
    re.IGNORECASE,
)
# Lines that only say that the file ends, drawn or in words, and a trailer's mark before a count.
_END = re.compile(
    r"[-=*#_~+.<>/ ]*+(eof|eor|end|fin|ende|fim|fine|koniec|конец|終わり|结束)\b.{0,40}+|[-=*#_~+]{3,}+", re.IGNORECASE
)
_TRAILER = re.compile(r"\W{0,3}+(trailer|trl|tlr|eof|footer)\W{0,3}+", re.IGNORECASE)
_COUNT = re.compile(r"\W*+(\d++|[nN]o) ?(rows?|records?|entries|lines?|results?)( \w++)*+\W*+", re.IGNORECASE)


def find_end(
    path: Path, start: int, head: bytes, grammar: Grammar, width: int, stated: int | None
) -> tuple[int | None, list[Notice]]:
    """Return where the last row ends (None where that is the file's end), and what is left out after it.

    Args:
        start: where the rows begin.
        head: the first rows.
        width: the number of columns.
        stated: how many last lines are no rows; None where they are to be found.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = max(start, size - TAIL_BYTES)
        file.seek(begin)
        tail = file.read()
    marked = tail.rstrip(b"\r\n")
    content = marked.rstrip(b"\x1a\0")
    if width > 1:  # lines of blanks are no rows
        content = _without_blank_lines(content)
    end, notices = None, list[Notice]()
    if len(content) < len(marked):
        end = begin + len(content)
        tail = content
        if content.rstrip() != marked.rstrip():
            message = "Bytes after the table that only mark the file's end are left out."
            notices.append(Notice(code="end_of_file_mark", message=message))
    if begin > start:
        cut = tail.find(b"\n") + 1
        begin, tail = begin + cut, tail[cut:]
    if stated is not None:
        left_out, first, lines = _stated_footer(tail, stated)
    else:
        rows = parse(head[:TAIL_BYTES].decode("utf-8", "replace"), grammar, True).records
        body = [record.fields for record in rows]
        left_out, first, lines = find_footer(tail.decode("utf-8", "surrogateescape"), body, grammar, width)
    if not left_out:
        return end, notices
    message = f"{lines} lines after the table are no rows." if lines > 1 else "The last line is no row of the table."
    notice = Notice(code="footer_skipped", message=message, evidence=f"the first is {first[:80]!r}", option="footer=0")
    return begin + len(tail) - left_out, [*notices, notice]


def _stated_footer(tail: bytes, stated: int) -> tuple[int, str, int]:
    """Return what `find_footer` does, of as many last lines as the request says; blank ones do not count."""
    lines = tail.splitlines(keepends=True)
    while lines and not lines[-1].strip():
        lines.pop()
    footer = lines[len(lines) - min(len(lines), stated) :]
    if not footer:
        return 0, "", 0
    blank = len(tail) - len(b"".join(lines))
    return len(b"".join(footer)) + blank, footer[0].decode("utf-8", "replace").strip(), len(footer)


def _without_blank_lines(data: bytes) -> bytes:
    """Return the data without lines of blanks at their end."""
    while (last := data.rpartition(b"\n")[2]) and not last.strip(b" \r"):
        data = data[: -len(last)].rstrip(b"\r\n")
    return data


def find_footer(tail: str, body: list[list[str]], grammar: Grammar, width: int) -> tuple[int, str, int]:
    """Return how many bytes at a file's end are no rows of the table, the first of those lines, and how many they are.

    `tail` begins with a whole line; `body` are rows from the file's beginning. A last line that is cut off is not a
    footer: it is an error.
    """
    lines = lines_of(tail)
    if not lines or (grammar.quote and tail.count(grammar.quote) % 2) or width < 2:
        return 0, "", 0
    numeric = any(is_numeric(body[:100], at) for at in range(width))
    cut = len(lines)
    for at in range(len(lines) - 1, max(-1, len(lines) - 1 - MAX_AFTER), -1):
        text = lines[at].strip()
        if not text:
            continue
        fields = next(iter(parse(lines[at], grammar, whole=True).records), None)
        if fields is None or not _is_footer(fields.fields, lines[at], body, numeric, width):
            break
        cut = at
    footer = [line.strip() for line in lines[cut:] if line.strip()]
    if not footer:
        return 0, "", 0
    return len("".join(lines[cut:]).encode("utf-8", "surrogateescape")), footer[0], len(footer)


def _is_footer(fields: list[str], line: str, body: list[list[str]], numeric: bool, width: int) -> bool:
    present = [text.strip() for text in fields if text.strip()]
    if not present:
        return False
    if len(present) == 1 and _COUNT.fullmatch(present[0]):
        return True
    if len(fields) < width and (_END.fullmatch(line.strip()) or _TRAILER.fullmatch(present[0])):
        return True
    if (len(fields) < width or len(present) == 1) and numeric and _REMARK.match(line.strip()):
        return True
    is_total = _TOTALS.fullmatch(present[0].rstrip(":")) is not None
    if is_total:
        seen = sum(text.strip().lower() == present[0].lower() for record in body for text in record)
        return seen <= 1  # itself, in a short file
    if len(fields) >= width and len(present) > 1:
        return False
    has_letters = any(character.isalpha() for character in present[0])
    is_whole = line.endswith(("\n", "\r"))
    return len(present) == 1 and len(fields) <= 1 and has_letters and is_whole and numeric and " " in present[0]
