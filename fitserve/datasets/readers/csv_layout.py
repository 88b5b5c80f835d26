"""Locate the table within a CSV file: skip lines before its header and after its last row.

A notice says what was left out, with the option that decides otherwise. The parser reads the lines that are left,
through `csv_region`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from fitserve.datasets.readers.csv_header import begins_as_number, is_header
from fitserve.wire.notices import Notice

MAX_RECORDS = 500  # records from which a layout is detected
FEW_RECORDS = 20
FEW_ROWS = 4  # least similar rows below lines of one field
MAX_BEFORE = 200  # lines before a table
MAX_SPARSE = 40  # records searched for a header below a title
_SEP_LINE = re.compile(r'"?[sS][eE][pP]=(.)"?')
MAX_AFTER = 20  # lines after a table
TAIL_BYTES = 64 * 1024  # bytes searched for lines after the table
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
_COUNT = re.compile(r"\W*+(\d++|[nN]o) ?(rows?|records?|entries|lines?|results?)(?>( \w++)*)\W*+", re.IGNORECASE)


@dataclass(frozen=True)
class Record:
    """A record's fields, and the lines (from 0) on which it begins and after which it ends."""

    fields: list[str]
    line: int
    end: int

    @property
    def is_blank(self) -> bool:
        """Whether all fields are empty."""
        return not any(text.strip() for text in self.fields)


@dataclass(frozen=True)
class Grammar:
    """Which characters separate and surround fields."""

    delimiter: str
    quote: str | None
    escape: str | None = None
    blank_before_quote: bool = False
    blank_runs: bool = False  # any number of blanks is one delimiter


@dataclass
class Parsed:
    """A file's beginning under a grammar."""

    grammar: Grammar
    records: list[Record]
    width: int = 1  # fields of most records
    share: float = 0.0  # share of the records with this width
    broken: int = 0  # records that a quote joined or changed
    widths: Counter[int] = field(default_factory=Counter)


def parse(text: str, grammar: Grammar, whole: bool, comment: str | None = None, most: int = MAX_RECORDS) -> Parsed:
    """Parse the first records; one that may be cut off by the text's end, blank lines and comments are left out."""
    csv.field_size_limit(1 << 30)
    lines = lines_of(text)
    reader = csv.reader(
        (_without_nul(line) for line in lines),
        delimiter=grammar.delimiter,
        quotechar=grammar.quote or '"',
        quoting=csv.QUOTE_MINIMAL if grammar.quote else csv.QUOTE_NONE,
        escapechar=grammar.escape,
        skipinitialspace=grammar.blank_before_quote,
    )
    records, line = [], 0
    for fields in islice(reader, most + MAX_BEFORE):
        begin, line = line, reader.line_num
        if fields and not (comment and fields[0].startswith(comment)):
            records.append(Record(fields, begin, line))
        if len(records) > most:
            break
    if not whole and 1 < len(records) <= most:
        records.pop()  # it may be cut off
    parsed = Parsed(grammar, records[:most])
    body = [record for record in parsed.records if not record.is_blank]
    parsed.widths = Counter(len(record.fields) for record in body)
    if body:
        # Of a few records, the later ones are more likely rows.
        later = Counter(len(record.fields) for record in body[len(body) // 2 if len(body) < FEW_RECORDS else 0 :])
        parsed.width = max(later, key=lambda width: (later[width], parsed.widths[width], width))
        parsed.share = parsed.widths[parsed.width] / len(body)
    parsed.broken = sum(record.end - record.line > 1 for record in body)
    return parsed


def lines_of(text: str) -> list[str]:
    """Return a text's lines with their ends, as the parser sees them: `splitlines` knows other ends of lines."""
    return list(io.StringIO(text, newline=""))


def _without_nul(line: str) -> str:
    return line.replace("\0", "\ufffd")


def sep_line(text: str) -> str | None:
    """Return the delimiter of a first line `sep=;`, which Excel writes and reads."""
    match = _SEP_LINE.fullmatch(text[:20].split("\n")[0].rstrip("\r"))
    return match[1] if match else None


# --- before the table ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beginning:
    """Where a table begins: its first record, and what is special about it."""

    first: int  # index of the record that names the columns, or of the first row
    code: str | None = None  # why records before it were skipped
    row_names: bool = False  # rows begin with a field that the header does not name
    trailing: bool = False  # rows end with a delimiter that the header lacks


def find_beginning(parsed: Parsed, *, may_skip: bool = True) -> Beginning:
    """Find the first record of the table, past a preamble or an empty record where that is allowed."""
    records, width = parsed.records, parsed.width
    if may_skip and (below := _below_pairs(records, width)):
        return Beginning(below, "preamble_skipped")
    for index, record in enumerate(records[: MAX_BEFORE if may_skip else 1]):
        after = [other.fields for other in records[index + 1 :]]
        first_width = len(record.fields)
        if record.is_blank and index + 1 < len(records):
            continue
        code = (
            ("empty_record_skipped" if all(one.is_blank for one in records[:index]) else "preamble_skipped")
            if index
            else None
        )
        if index and len(after) < index and not _is_above_short_table(records[:index], record, after, width):
            return Beginning(0)  # would skip more lines than it reads
        if (
            first_width == width
            and may_skip
            and _is_sparse(record)
            and _header_follows(records[index : index + MAX_SPARSE])
        ):
            continue
        lacks_one = first_width == width - 1 and bool(after) and len(after[0]) == width and _share(after, width) > 0.9
        begins = first_width == width or lacks_one
        if code == "preamble_skipped" and begins and not _surely_begins(records[:index], record, after):
            if lacks_one:  # the next record may be the header
                continue
            return Beginning(0)
        if first_width == width:
            return Beginning(index, code)
        if lacks_one:
            if all(not fields[-1].strip() for fields in after if len(fields) == width):
                return Beginning(index, code, trailing=True)
            is_preamble = bool(after) and is_header(after[0], after[1:], surely=True)
            if not is_preamble and len(after) > 2:
                return Beginning(index, code, row_names=True)
        if first_width > width and not record.is_blank:
            is_preamble = bool(after) and len(after[0]) == width and is_header(after[0], after[1:], surely=True)
            if not is_preamble or (first_width == width + 1 and not record.fields[-1].strip()):
                return Beginning(index, code)
    return Beginning(0)


def _below_pairs(records: list[Record], width: int) -> int:
    """Return which record names the columns of a table of numbers below pairs of name and value, after an empty line.

    A preamble may have as many fields as the table: `Sample:`, `S1`. 0: there is none.
    """
    for index in range(1, min(len(records), MAX_SPARSE)):
        rows = [record.fields for record in records[index + 1 :]]
        if records[index].line == records[index - 1].end and not records[index - 1].is_blank:
            continue
        if len(rows) < max(FEW_ROWS, index) or _share(rows, width) < 1 or len(records[index].fields) != width:
            return 0
        before = [record.fields for record in records[:index] if not record.is_blank]
        if not before:
            return 0
        numeric = [one for one in range(width) if is_numeric(rows[:100], one)]
        are_pairs = all(len(fields) <= width and not begins_as_number(fields[0]) for fields in before)
        are_pairs &= len(before) > 1 or before[0][0].rstrip().endswith(":")  # one line may be the header, above units
        are_names = not any(begins_as_number(text) or not text.strip() for text in records[index].fields)
        return index if 0 in numeric and are_pairs and are_names else 0
    return 0


def _surely_begins(before: list[Record], first: Record, after: list[list[str]]) -> bool:
    """Return whether a record is a header below a preamble, and not a row on which a table becomes wider."""
    if _has_rows(before):
        return False
    if is_header(first.fields, after, surely=True):
        return True
    if any(len(record.fields) > 1 for record in before):
        return False
    width = len(first.fields)
    are_rows = len(after) >= FEW_ROWS and width > 2 and _share(after, width) == 1
    return is_header(first.fields, after) or (are_rows and any(is_numeric(after, index) for index in range(width)))


def _has_rows(before: list[Record]) -> bool:
    """Return whether lines before a table are rows of another one: several numbers and nothing else."""
    present = [[text for text in record.fields if text.strip()] for record in before]
    return any(len(fields) > 1 and all(map(begins_as_number, fields)) for fields in present)


def _is_above_short_table(before: list[Record], first: Record, after: list[list[str]], width: int) -> bool:
    """Return whether a short table of even rows starts here, below pairs of name and value or below prose."""
    before = [record for record in before if not record.is_blank]
    if not after or _share(after, width) < 1 or _has_rows(before):
        return False
    if all(len(record.fields) == 2 < width for record in before):
        return True
    is_prose = sum(len(record.fields) > 1 for record in before) <= 1 and all(len(one.fields) < width for one in before)
    return is_prose and width > 2 and is_header(first.fields, after, surely=True)


def _is_sparse(record: Record) -> bool:
    """Return whether at most half of at least three fields have anything in them, as in a title above a table."""
    present = sum(bool(text.strip()) for text in record.fields)
    return len(record.fields) > 2 and present * 2 <= len(record.fields) + 1 and present < len(record.fields)


def _header_follows(records: list[Record]) -> bool:
    """Return whether after sparse records there is one that surely names the columns."""
    for index, record in enumerate(records):
        if not _is_sparse(record) and not record.is_blank:
            rest = [other.fields for other in records[index + 1 :]]
            return (
                index > 0
                and all(text.strip() for text in record.fields)
                and is_header(record.fields, rest, surely=True)
            )
    return False


def _share(records: list[list[str]], width: int) -> float:
    return sum(len(fields) == width for fields in records) / max(1, len(records))


def is_numeric(body: list[list[str]], index: int) -> bool:
    """Return whether everything in a column of some rows begins as numbers do."""
    present = [fields[index] for fields in body if index < len(fields) and fields[index].strip()]
    return bool(present) and all(map(begins_as_number, present))


# --- after the table -----------------------------------------------------------------------------------------------


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
        return end, [*notices, *_note_empty_rows(tail.decode("utf-8", "surrogateescape"), grammar, width)]
    message = f"{lines} lines after the table are no rows." if lines > 1 else "The last line is no row of the table."
    notice = Notice(code="footer_skipped", message=message, evidence=f"the first is {first[:80]!r}", option="footer=0")
    return begin + len(tail) - left_out, [*notices, notice]


def _is_empty_row(line: str, record: Record, grammar: Grammar) -> bool:
    """Return whether a line is delimiters alone, and no end of a field that began on another line."""
    return record.is_blank and len(record.fields) > 1 and not (grammar.quote and line.count(grammar.quote) % 2)


def _note_empty_rows(tail: str, grammar: Grammar, width: int) -> list[Notice]:
    """Note rows at a file's end that are delimiters alone, as where cells of a spreadsheet were cleared."""
    count = 0
    for line in reversed(lines_of(tail)):
        if not line.strip():
            continue
        record = next(iter(parse(line, grammar, whole=True).records), None)
        if record is None or len(record.fields) != width or not _is_empty_row(line, record, grammar):
            break
        count += 1
    if not count:
        return []
    message = f"The last {count} rows have no values." if count > 1 else "The last row has no values."
    return [Notice(code="empty_rows", message=message, evidence="only delimiters", option=f"footer={count}")]


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
    numeric = any(is_numeric(body[:100], index) for index in range(width))
    cut = begin = len(lines)
    seen = 0
    for index in range(len(lines) - 1, -1, -1):
        if not lines[index].strip():
            continue
        record = next(iter(parse(lines[index], grammar, whole=True).records), None)
        if record is not None and _is_empty_row(lines[index], record, grammar):  # part of a footer below it
            begin = index
            continue
        if grammar.quote and lines[index].count(grammar.quote) % 2:  # the end of a field that began further up
            break
        seen += 1
        if seen > MAX_AFTER or record is None or not _is_footer(record.fields, lines[index], body, numeric, width):
            break
        cut = begin = index
    if cut == len(lines):
        return 0, "", 0
    cut = min(cut, begin)
    footer = [line.strip() for line in lines[cut:] if line.strip()]
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
