"""Detect a CSV file's dialect from its beginning: delimiter, quote, start of the table, header, decimal sign."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from fitserve.datasets import TableEmpty, TableRefused, TableUnreadable
from fitserve.datasets.readers.csv_grammar import choose_grammar
from fitserve.datasets.readers.csv_header import (
    SecondHeader,
    begins_as_number,
    find_second_header,
    has_a_number_above_numbers,
    is_header,
    is_number,
    names_are_numbers,
)
from fitserve.datasets.readers.csv_layout import (
    Beginning,
    Parsed,
    Record,
    find_beginning,
    lines_of,
    parse,
    sep_line,
)
from fitserve.errors import Problem, TooLarge
from fitserve.settings import Limits
from fitserve.wire.datasets import NO_CHARACTER, UploadOptions
from fitserve.wire.notices import Notice

ROW_NAMES = "row_name"  # name for a column that the header does not name
# Invisible characters around names, which a request would not repeat. The first is a second byte order mark.
UNSEEN = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"
FIELDS = "Fields:"  # before the names in a comment of the W3C's logs
FEW_LINES = 100  # lines of a single column searched for a separator
_NO_SEPARATOR = ".,-+_@'\"()"  # characters also frequent in numbers, names, dates and addresses
FIXED_WIDTH = "if its columns have fixed widths, save it with a character between them, as CSV"
INDEX = "index"  # name for a first column whose header is empty
_WIDE_BLANKS = re.compile(r"\S {2,}+\S")
_COMMA_NUMBER = re.compile(r"\s*+[+-]?(\d{1,3}(?>(\.\d{3})+)|\d++),\d++\s*+")


@dataclass(frozen=True)
class CsvDialect:
    """How a CSV file is written."""

    delimiter: str
    quote: str | None
    header: bool
    names: tuple[str, ...]  # column names
    decimal: str = "."
    trim: bool = False  # remove blanks around fields
    escape: str | None = None
    comment: str | None = None  # marks lines that are comments
    first_line: int = 0  # line of the first row; the header and lines before it are not read again
    trailing: bool = False  # each row ends with a delimiter
    index: str | None = None  # the first column, where the header does not name it
    blank_before_quote: bool = False
    blank_runs: bool = False  # any number of blanks is one delimiter


def detect_dialect(sample: str, options: UploadOptions, limits: Limits, whole: bool) -> tuple[CsvDialect, list[Notice]]:
    """Return the dialect of a file that begins with `sample`, and what was decided.

    `whole`: the sample is the whole file. Raises TableUnreadable, TableRefused, TooLarge.
    """
    return _Detection(sample, options, limits, whole).dialect()


class _Detection:
    """Finds the dialect step by step; `text` is what is left of the sample, `skipped` the lines before it."""

    def __init__(self, sample: str, options: UploadOptions, limits: Limits, whole: bool) -> None:
        self.text, self.options, self.limits, self.whole = sample, options, limits, whole
        self.skipped = 0
        self.notices: list[Notice] = []
        self.delimiter = options.delimiter
        self.comment = None if options.comment == NO_CHARACTER else options.comment
        self.hidden_header: str | None = None  # a comment that may name the columns

    def dialect(self) -> tuple[CsvDialect, list[Notice]]:
        """Return the dialect, and what was decided."""
        if self.options.skip_rows:
            self._skip(self.options.skip_rows)
        elif self.options.skip_rows is None:
            self._obey_sep_line()
            self._skip_leading_comments()
            self._obey_sep_line()
        parsed = self._parse()
        if not any(not record.is_blank for record in parsed.records):
            kind = TableEmpty if self.whole else TableUnreadable
            raise kind("The file has no rows.", expected="a table with a header and at least one row")
        beginning = find_beginning(parsed, may_skip=self.options.skip_rows is None and self.options.header is not False)
        self._say_what_is_skipped(parsed, beginning)
        return self._describe(parsed, beginning), self.notices

    # --- what comes before the table -------------------------------------------------------------------------------

    def _skip(self, lines: int) -> None:
        self.skipped += lines
        self.text = "".join(lines_of(self.text)[lines:])

    def _obey_sep_line(self) -> None:
        delimiter = sep_line(self.text)
        if delimiter is None:
            return
        self._skip(1)
        if self.options.delimiter is None:
            self.delimiter = delimiter
        self._add("sep_line", f"The first line says that {delimiter!r} separates fields; it is no row.", "skip_rows=0")

    def _skip_leading_comments(self) -> None:
        """Skip lines of comments; the last one may be the header."""
        mark = self.comment or "#"
        if self.options.comment == NO_CHARACTER or not self.text.lstrip("\r\n").startswith(mark):
            return
        lines = lines_of(self.text)
        count = next(
            (index for index, line in enumerate(lines) if line.strip() and not line.startswith(mark)), len(lines)
        )
        last = next(line for line in reversed(lines[:count]) if line.strip())
        if last[len(mark) : len(mark) + 1] in (self.delimiter or ",;\t|") and last[len(mark) :]:
            count = lines.index(last)  # the header's first name is `#`
            if not any(line.strip() for line in lines[:count]):
                return
        if count == len(lines):
            return
        self.hidden_header = last[len(mark) :].strip().removeprefix(FIELDS).strip() or None
        if self.options.comment is not None or not _are_rows(lines[count:], mark):
            self.comment = mark
        self._skip(count)
        self._add(
            "comments_skipped",
            f"Lines that begin with {mark} are comments, not rows."
            if self.comment
            else f"The first lines, which begin with {mark}, are comments; those further down are rows.",
            f"comment={NO_CHARACTER}",
            f"the first line is {lines[0].strip()[:80]!r}" if lines[0].strip() else None,
        )

    def _parse(self) -> Parsed:
        parsed = choose_grammar(self.text, self.delimiter, self.options.quote, self.comment, self.whole)
        if self.comment is None and self.options.comment is None:
            marked = [record for record in parsed.records[1:] if record.fields[0].startswith("#")]
            odd = [record for record in marked if len(record.fields) != parsed.width]
            if odd and len(odd) == len(marked):
                self.comment = "#"
                line = self.skipped + odd[0].line + 1
                self._add(
                    "comments_skipped",
                    "Lines that begin with # are comments, not rows.",
                    f"comment={NO_CHARACTER}",
                    f"line {line} has {len(odd[0].fields)} fields, the table {parsed.width}",
                )
                parsed = choose_grammar(self.text, self.delimiter, self.options.quote, "#", self.whole)
        return parsed

    def _say_what_is_skipped(self, parsed: Parsed, beginning: Beginning) -> None:
        if beginning.code is None:
            return
        before, first = parsed.records[: beginning.first], parsed.records[beginning.first]
        shown = next((", ".join(record.fields)[:60] for record in before if not record.is_blank), "")
        if beginning.code == "empty_record_skipped":
            message = f"The table begins on line {self.skipped + first.line + 1}, after an empty record."
        else:
            message = f"The table begins on line {self.skipped + first.line + 1}; the lines before it are no rows."
        evidence = f"they are not like those after them; the first is {shown!r}" if shown else None
        self._add(beginning.code, message, "skip_rows=0", evidence)

    # --- the table -------------------------------------------------------------------------------------------------

    def _describe(self, parsed: Parsed, beginning: Beginning) -> CsvDialect:
        records = parsed.records[beginning.first :]
        first, grammar = records[0].fields, parsed.grammar
        if len(first) > self.limits.columns:
            expected = f"at most {self.limits.columns}"
            raise TooLarge("The table has more columns than the limit.", received=len(first), expected=expected)
        has_header = self._has_header(records, beginning)
        hidden = None if has_header or self.options.header is False else self._hidden_fields(parsed, len(first))
        if has_header and self.options.header is None and (second := self._second_header(records, beginning)):
            first = second.names
            joined = replace(records[0], fields=first, end=records[second.records].end)
            records = [joined, *records[second.records + 1 :]]
        body = records[1:] if has_header else records
        if self.whole and not body:
            empty = TableEmpty("The table has no rows, only a header.", expected="at least one row of data")
            empty.names = tuple(name.strip() for name in first)
            raise empty
        fields = [record.fields for record in body]
        trailing = beginning.trailing
        if hidden is not None:
            names = self._names(hidden, records[0])
            self._add("header_in_comment", "The columns are named by a comment before them.", "header=false")
        elif has_header:
            if not trailing and len(first) > 1 and not first[-1].strip() and _last_is_empty(fields, len(first)):
                trailing, first = True, first[:-1]
            names = self._names(first, records[0], beginning.row_names)
            if self.options.header is None and names_are_numbers(records[0].fields, fields):
                message = "The numbers of the first line are read as the columns' names: no row is like it."
                self._add("numbers_name_columns", message, "header=false")
        else:
            if len(first) > 2 and not first[-1].strip() and _last_is_empty(fields, len(first)) and len(fields) > 1:
                trailing, first = True, first[:-1]
            names = tuple(f"column_{number}" for number in range(1, len(first) + 1))
            if self.options.header is None and (beginning.code or not has_a_number_above_numbers(first, fields[1:])):
                message = "The first line is read as a row: it names no columns."
                shown = repr(first[0].strip()[:40])
                why = f"{shown} is like what stands below it" if len(fields) > 1 else f"{shown} is no name"
                self._add("no_header", message, "header=true", why)
        if trailing:
            is_shown = grammar.delimiter.isprintable() or grammar.delimiter == "\t"
            sign = repr(grammar.delimiter) if is_shown else "delimiter"
            self._add("trailing_delimiter", f"Each row ends with an extra {sign}, which is ignored.")
        self._check_widths(parsed, records, len(names) + trailing)
        if len(names) == 1 and self.options.delimiter is None:
            self._say_one_column([record.fields[0] for record in (body if len(body) > 1 else records)])
        is_index = has_header and (beginning.row_names or not first[0].strip()) and len(names) > 1
        decimal = self.options.decimal or ("," if grammar.delimiter != "," and _has_decimal_commas(fields) else ".")
        return CsvDialect(
            grammar.delimiter,
            grammar.quote,
            has_header or hidden is not None,
            names,
            decimal,
            grammar.blank_before_quote or grammar.blank_runs or _has_padded_fields(fields),
            grammar.escape,
            self.comment,
            self.skipped + (records[0].end if has_header else records[0].line),
            trailing and _rows_trail(fields, len(names)),
            names[0] if is_index else None,
            grammar.blank_before_quote,
            grammar.blank_runs,
        )

    def _say_one_column(self, texts: list[str]) -> None:
        """Note what may separate fields where a file is read as one column."""
        evidence = _possible_separator([text.strip() for text in texts[:FEW_LINES] if text.strip()])
        if evidence is not None:
            message = "The table is read as one column: no character separates fields in every line."
            self._add("one_column", message, "delimiter=...", evidence)

    def _has_header(self, records: list[Record], beginning: Beginning) -> bool:
        if self.options.header is not None:
            return self.options.header
        if beginning.row_names or beginning.trailing:
            return True
        return is_header(records[0].fields, [record.fields for record in records[1:]])

    def _second_header(self, records: list[Record], beginning: Beginning) -> SecondHeader | None:
        """Return what the records below the header say about the columns, if they are not rows, and note it."""
        if beginning.row_names or beginning.trailing:
            return None
        second = find_second_header(records[0].fields, [record.fields for record in records[1:]])
        if second is None:
            return None
        line = self.skipped + records[1].line + 1
        if second.code == "units_skipped":
            last = self.skipped + records[second.records].line + 1
            message = f"Line {line} describes the columns; it is no row."
            if last > line:
                message = f"Lines {line} to {last} describe the columns; they are no rows."
        elif second.code == "rule_skipped":
            self._add(second.code, f"Line {line} only rules off the names; it is no row.", "header=true", second.shown)
            return second
        else:
            message = f"The header has {second.records + 1} lines: line {line} is the second part of the names."
        self._add(second.code, message, "header=true", f"above numbers it has {second.shown}")
        return second

    def _hidden_fields(self, parsed: Parsed, width: int) -> list[str] | None:
        """Return the names in the last comment before the table, if it has one for each column."""
        if self.hidden_header is None:
            return None
        records = parse(self.hidden_header, parsed.grammar, whole=True).records
        return records[0].fields if records and len(records[0].fields) == width and width > 1 else None

    def _names(self, header: list[str], record: Record, row_names: bool = False) -> tuple[str, ...]:
        """Return the columns' names, each of its own."""
        wanted = [name.strip().strip(UNSEEN).strip() for name in header]
        if row_names:
            wanted = [ROW_NAMES, *wanted]
        elif len(wanted) > 1 and not wanted[0] and all(wanted[1:]):
            wanted[0] = _free_name(INDEX, set(wanted))
        names, renamed = unique_names(wanted)
        if renamed:
            shown = ", ".join(f"column {number} is {names[number - 1]!r}" for number in renamed[:5])
            more = f" and {len(renamed) - 5} more" if len(renamed) > 5 else ""
            line = self.skipped + record.line + 1
            self._add(
                "headers_renamed",
                f"Empty or repeated headers were renamed: {shown}{more}.",
                evidence=f"the header is on line {line}",
            )
        return names

    def _check_widths(self, parsed: Parsed, records: list[Record], width: int) -> None:
        """Raise TableRefused, in one sentence, where most records have another number of fields than the header."""
        counts = Counter(len(record.fields) for record in records[1:])
        right = counts[width] + counts[width - 1] * (width > parsed.width)
        total = sum(counts.values())
        if not total or width == parsed.width == 1:
            return
        usual, most = counts.most_common(1)[0]
        if right >= most:
            return
        shown = ", ".join(f"{count} have {fields}" for fields, count in counts.most_common(4))
        line = self.skipped + records[0].line + 1
        problem = Problem(
            f"The first record has {width} fields; of the {total} records after it, {shown}.",
            line=line,
            received=parsed.grammar.delimiter.join(records[0].fields)[:80],
            expected=f"as many fields in the header as in the rows, such as {usual}",
            fix="Name the line where the table begins (skip_rows), the delimiter, or the quote (quote=none).",
        )
        raise TableRefused(problem.detail, problems=[problem])

    def _add(self, code: str, message: str, option: str | None = None, evidence: str | None = None) -> None:
        self.notices.append(Notice(code=code, message=message, option=option, evidence=evidence))


def _possible_separator(texts: list[str]) -> str | None:
    """Return what stands equally often in (almost) all lines that are neither numbers nor dates; None: nothing does."""
    if len(texts) < 2 or sum(map(begins_as_number, texts)) * 2 > len(texts):
        return None
    signs = {one for one in texts[0] if not one.isalnum() and one not in _NO_SEPARATOR}
    for sign in sorted(signs, key=lambda one: (one == " ", one)):  # blanks stand between words too
        counts = Counter(text.count(sign) for text in texts)
        count, lines = counts.most_common(1)[0]
        if count and lines >= 0.9 * len(texts):
            return f"{sign!r} stands {'once' if count == 1 else f'{count} times'} in {lines} of {len(texts)} lines"
    wide = sum(_WIDE_BLANKS.search(text) is not None for text in texts)
    if wide < 0.9 * len(texts):
        return None
    return f"{wide} of {len(texts)} lines have several blanks side by side; {FIXED_WIDTH}"


def unique_names(header: list[str]) -> tuple[tuple[str, ...], list[int]]:
    """Return a name for each column, and which columns (from 1) were empty or repeated and got a new one."""
    renamed, names = [], []
    used = set(header)
    occurrences: Counter[str] = Counter()
    next_number: dict[str, int] = {}  # for each stem, the first number that is not taken
    for position, name in enumerate(header, 1):
        occurrences[name] += 1
        if name and occurrences[name] == 1:
            names.append(name)
            continue
        stem, number = (name, occurrences[name]) if name else ("column", position)
        number = max(number, next_number.get(stem, 0))
        while (replacement := f"{stem}_{number}") in used:
            number += 1
        next_number[stem] = number + 1
        used.add(replacement)
        names.append(replacement)
        renamed.append(position)
    return tuple(names), renamed


def _are_rows(lines: list[str], mark: str) -> bool:
    """Return whether lines below a header that begin with a comment's mark are rows: #FF0000,red."""
    header, *rest = [line.strip() for line in lines if line.strip()] or [""]
    marked = [line for line in rest if line.startswith(mark)]
    if not marked or len(marked) == len(rest) == 1:
        return bool(marked)
    delimiter = max(",;\t|", key=header.count)
    are_alike = all(line.count(delimiter) == header.count(delimiter) for line in marked)
    have_blanks = any(line[len(mark) :][:1].isspace() for line in marked)
    return are_alike and (len(marked) * 2 >= len(rest) or (delimiter in header and not have_blanks))


def _free_name(name: str, taken: set[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _last_is_empty(body: list[list[str]], width: int) -> bool:
    """Return whether the last field is empty or absent in every row."""
    return all(len(fields) < width or not fields[width - 1].strip() for fields in body)


def _rows_trail(body: list[list[str]], columns: int) -> bool:
    return sum(len(fields) > columns for fields in body) * 2 >= len(body)


def _has_padded_fields(body: list[list[str]]) -> bool:
    """Return whether fields are separated by a delimiter and a blank (`1, 2, 3`)."""
    fields = [field for record in body for field in record[1:] if field]
    return bool(fields) and sum(field[0] == " " for field in fields) > 0.9 * len(fields)


def _has_decimal_commas(body: list[list[str]]) -> bool:
    fields = [field for record in body for field in record]
    commas = sum(1 for field in fields if _COMMA_NUMBER.fullmatch(field))
    points = sum(1 for field in fields if "." in field and is_number(field))
    return commas > 2 and commas > points
