"""What the quotes of a CSV file mean, where its parser would not tell.

Stray ones, which are neither around a field nor doubled, are kept: the parser would drop them in silence. Rows that
quotes have joined, a quote that is never closed, and words that are quoted on purpose are found.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.datasets.readers.csv_dialect import CsvDialect
from fitserve.datasets.readers.csv_region import Region
from fitserve.parsing.missing import MISSING
from fitserve.parsing.stray_quotes import QuoteWatch, StrayQuotes
from fitserve.settings import MB
from fitserve.wire.datasets import NO_CHARACTER
from fitserve.wire.notices import Notice

_WORDS = "|".join(re.escape(word) for word in MISSING if word)
_PART = 4 * MB  # bytes that are searched at once


def watch_quotes(region: Region, dialect: CsvDialect) -> QuoteWatch | None:
    """Return a watch over the quotes of a region that is read; None where nothing is quoted."""
    delimiter = dialect.delimiter.encode()
    if region.quote is None or region.blank_runs or max(len(region.quote), len(delimiter)) > 1:
        return None
    return QuoteWatch(delimiter, region.quote)


def double_stray_quotes(path: Path, target: Path, region: Region, dialect: CsvDialect) -> StrayQuotes:
    """Write the file with its stray quotes doubled, so that the parser keeps them, and return what was found."""
    assert region.quote is not None
    escape = (dialect.escape or "").encode() or None
    mender = StrayQuotes(dialect.delimiter.encode(), region.quote, escape, dialect.blank_before_quote, region.comment)
    with path.open("rb") as file, target.open("wb") as out:
        out.write(file.read(region.start))
        left = (path.stat().st_size if region.end is None else region.end) - region.start
        while left > 0 and (data := file.read(min(4 * MB, left))):
            left -= len(data)
            out.write(mender.mend(data, is_last=left <= 0))
        while data := file.read(4 * MB):
            out.write(data)
    return mender


def note_stray_quotes(found: StrayQuotes, region: Region) -> Notice:
    """Note that stray quotes are read as text."""
    line, text = found.first or (0, "")
    fields = "1 field has" if found.count == 1 else f"{found.count} fields have"
    return Notice(
        code="stray_quotes",
        message=f"{fields} quotes that are neither around the whole field nor doubled; they are read as text.",
        evidence=f"the first, on line {region.lines_before + line + 1}: {text[:60]}",
        option=f"quote={NO_CHARACTER}",
    )


def lines_at(path: Path, numbers: Collection[int]) -> dict[int, str]:
    """Return the lines of a file that have these numbers, from 1."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        last = max(numbers, default=0)
        return {number: line for number, line in zip(range(1, last + 1), file, strict=False) if number in numbers}


def has_quoted_words(path: Path, dialect: CsvDialect, rows: bytes) -> bool:
    """Return whether a spelling of missing is quoted somewhere in a file of which not all fields are quoted.

    `rows` are its first ones.
    """
    if dialect.quote is None:
        return False
    quote, delimiter = dialect.quote.encode(), dialect.delimiter.encode()
    lines = [line for line in rows.splitlines()[:50] if line]
    fields = [field.strip() for line in lines for field in line.split(delimiter)]
    if all(field[:1] == quote or field[-1:] == quote for field in fields):
        return False
    mark = re.escape(dialect.quote)
    pattern, longest = f"{mark}(?:{_WORDS}){mark}", max(map(len, MISSING)) + 2 * len(quote)

    def has_words(start: int) -> bool:
        with path.open("rb") as file:
            file.seek(start)
            part = pa.array([file.read(_PART + longest)], pa.binary())
        return bool(pc.match_substring_regex(part, pattern)[0].as_py())  # RE2: a third of re's time, without its lock

    with ThreadPoolExecutor(2, "quoted-words") as pool:
        return any(pool.map(has_words, range(0, path.stat().st_size, _PART)))


def fewest_joined(dialect: CsvDialect) -> int:
    """Return the least number of rows joined by quotes by which these may be text. Between tabs, quotes are rare."""
    return 1 if dialect.delimiter == "\t" else 2


def joins_rows(batch: pa.RecordBatch, dialect: CsvDialect) -> bool:
    """Return whether fields of a batch have several lines with as many fields as there are columns."""
    enough = len(dialect.names) - 1
    for column in batch.columns if enough else ():
        texts = column.buffers()[2]
        if texts is None or b"\n" not in texts.to_pybytes():  # a copy and one search take a fifth of re's time
            continue
        joined = column.filter(pc.match_substring(column, "\n").fill_null(False)).to_pylist()
        if sum(text.count(dialect.delimiter) >= enough for text in joined) >= fewest_joined(dialect):
            return True
    return False


def open_field(path: Path, region: Region, dialect: CsvDialect, last_batch: pa.RecordBatch) -> str | None:
    """Return a file's last field if its quote is never closed: the parser closes it in silence."""
    value: str | None = last_batch.column(last_batch.num_columns - 1)[last_batch.num_rows - 1].as_py()
    quote = dialect.quote
    if value is None or quote is None or region.is_filtered:
        return None
    tail = (quote + value.replace(quote, quote + quote)).encode()
    with path.open("rb") as file:
        size = path.stat().st_size if region.end is None else region.end
        file.seek(max(region.start, size - len(tail) - 1))
        end = file.read(size - file.tell())
    before = end[: len(end) - len(tail)]
    return value if end.endswith(tail) and before in (b"", b"\n", dialect.delimiter.encode()) else None
