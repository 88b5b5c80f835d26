"""Keeps quotes of a CSV file that are neither around a field nor doubled: the parser would drop them in silence."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fitserve.datasets.readers.csv_dialect import CsvDialect
from fitserve.datasets.readers.csv_region import Region
from fitserve.parsing.stray_quotes import QuoteWatch, StrayQuotes
from fitserve.settings import MB
from fitserve.wire.datasets import NO_CHARACTER
from fitserve.wire.notices import Notice


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
