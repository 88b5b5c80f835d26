"""A table written in any of thousands of dialects reads back unchanged, or is refused in one sentence."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from fitserve.datasets.preview import read_rows
from fitserve.errors import BadInput
from tests.datasets.conftest import ReadTable

Ingest = Callable[..., ReadTable]
WORDS = {
    "utf-8": ("Zürich", "Łódź", "北京", "São Paulo", "naïve"),
    "utf-8-sig": ("Zürich", "Łódź", "北京", "São Paulo", "naïve"),
    "utf-16": ("Zürich", "Łódź", "北京", "São Paulo", "naïve"),
    "utf-16-le": ("Zürich", "Łódź", "Genève", "São Paulo", "naïve"),
    "utf-16-be": ("Zürich", "Łódź", "Genève", "São Paulo", "naïve"),
    "cp1252": ("Zürich", "Genève", "São Paulo", "Besançon", "Málaga"),
    "cp1251": ("Москва", "Казань", "Самара", "Нижний Новгород", "Пермь"),
    "koi8-r": ("Москва", "Казань", "Самара", "Нижний Новгород", "Пермь"),
    "gb18030": ("北京市", "上海市", "广州市", "深圳市", "天津市"),
    "big5": ("臺北市", "高雄市", "臺中市", "新竹縣", "花蓮縣"),
    "shift_jis": ("東京都", "大阪府", "さいたま市", "名古屋", "福岡県"),
    "ascii": ("London", "Paris", "Rome", "Oslo", "New York"),
}
PREAMBLES = {
    "none": "",
    "title": "Report of the month\n\n",
    "two lines": "Made by a program\nPrinted on Friday\n",
    "comments": "# made by a program\n# on a day\n",
    "blank lines": "\n\n",
    "pairs": "Holder{d}Test Person\nFrom{d}2024-06-02\n\n",
    "sep": "sep={d}\n",
    "empty record": "{d}{d}{d}{d}\n",
}
FOOTERS = {
    "none": "",
    "count": "({n} rows)\n",
    "selected": "\n{n} rows selected.\n",
    "source": "\nSource: the office of records\n",
    "end of file": "\x1a",
    "blank lines": "\n\n\n",
}


@dataclass(frozen=True)
class Dialect:
    """How a table is written."""

    delimiter: str
    quote: str
    quote_all: bool
    line_end: str
    decimal: str
    encoding: str
    preamble: str
    footer: str
    date_format: str
    missing: str
    trailing: bool
    blank: bool  # after each delimiter
    row_names: bool  # without a header

    def write(self, names: list[str], rows: list[list[Any]]) -> bytes:
        """Return the table's bytes."""
        out = io.StringIO()
        quoting = csv.QUOTE_ALL if self.quote_all else csv.QUOTE_MINIMAL
        writer = csv.writer(out, delimiter=self.delimiter, quotechar=self.quote, quoting=quoting, lineterminator="\n")
        end = [""] if self.trailing else []
        writer.writerow([*names, *end])
        for number, row in enumerate(rows):
            named = [f"row {number}"] if self.row_names else []
            writer.writerow([*named, *(self._text(value) for value in row), *end])
        table = out.getvalue()
        if self.trailing and self.quote_all:
            table = table.replace(self.delimiter + self.quote * 2 + "\n", self.delimiter + "\n")
        if self.blank:
            table = table.replace(self.delimiter, self.delimiter + " ")
        text = PREAMBLES[self.preamble].format(d=self.delimiter) + table + FOOTERS[self.footer].format(n=len(rows))
        return text.replace("\n", self.line_end).encode(self.encoding)

    def _text(self, value: Any) -> str:
        if value is None:
            return self.missing
        if isinstance(value, float):
            return f"{value:.2f}".replace(".", self.decimal)
        return value.strftime(self.date_format) if isinstance(value, date) else str(value)


@st.composite
def dialects(draw: st.DrawFn) -> Dialect:
    delimiter = draw(st.sampled_from(",;\t|^"))
    blank = draw(st.booleans()) and delimiter in ",;|"
    trailing = draw(st.booleans()) and not blank
    encodings = [name for name in WORDS if name != "ascii" or not blank]
    return Dialect(
        delimiter,
        quote=draw(st.sampled_from('""\'')),
        quote_all=draw(st.booleans()),
        line_end=draw(st.sampled_from(["\n", "\r\n"])),
        decimal=draw(st.sampled_from(".," if delimiter != "," else ".")),
        encoding=draw(st.sampled_from(encodings)),
        preamble=draw(st.sampled_from(sorted(PREAMBLES))),
        footer=draw(st.sampled_from(sorted(FOOTERS))),
        date_format=draw(st.sampled_from(["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y"])),
        missing=draw(st.sampled_from(["", "NA", "n/a", "NULL"])),
        trailing=trailing,
        blank=blank,
        row_names=draw(st.booleans()) and not trailing,
    )


@st.composite
def tables(draw: st.DrawFn, dialect: Dialect) -> tuple[list[str], list[list[Any]]]:
    """Draw names and rows: a word, a whole number, a decimal that may be missing, a date, a label."""
    count = draw(st.integers(24, 60))
    words = WORDS[dialect.encoding]
    seed = draw(st.randoms(use_true_random=False))
    rows: list[list[Any]] = []
    for number in range(count):
        word = seed.choice(words) + (
            f"{dialect.delimiter} {number}" if number % 5 == 1 and not dialect.blank else f" {number % 7}"
        )
        amount = None if number and seed.random() < 0.1 else seed.randrange(100, 90_000) / 100
        day = date(2020, 1, 13) + timedelta(days=seed.randrange(0, 900))
        rows.append([word, seed.randrange(0, 10_000), amount, day, seed.choice(["in", "out"])])
    return ["place", "count", "amount", "day", "side"], rows


def check(read: Ingest, dialect: Dialect, names: list[str], rows: list[list[Any]]) -> bool:
    """Return whether the table reads back as it was; a refusal has one sentence, and few problems."""
    try:
        found = read(dialect.write(names, rows))
    except BadInput as error:
        assert 10 < len(error.detail) < 400
        assert error.detail.rstrip().endswith((".", ")", "?")), error.detail
        assert len(error.problems) <= 20
        return False
    read_names, read_back = read_rows(found.ingested.parquet, 0, 1_000)
    skipped = int(dialect.row_names)
    assert read_names[skipped:] == names
    assert len(read_back) == len(rows)
    for got, row in zip(read_back, rows, strict=True):
        expected = [f"{value.isoformat()}T00:00:00" if isinstance(value, date) else value for value in row]
        assert got[skipped:] == expected
    return True


FAST = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
PARTS = 10
LONG = settings(max_examples=5_000 // PARTS, deadline=None, suppress_health_check=list(HealthCheck))


@FAST
@given(data=st.data())
def test_a_table_in_any_dialect_reads_back(read: Ingest, data: st.DataObject) -> None:
    dialect = data.draw(dialects())
    event("read" if check(read, dialect, *data.draw(tables(dialect))) else "refused")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
@LONG
@given(data=st.data())
def test_thousands_of_tables_in_any_dialect_read_back(read: Ingest, part: int, data: st.DataObject) -> None:
    dialect = data.draw(dialects())
    event("read" if check(read, dialect, *data.draw(tables(dialect))) else "refused")
