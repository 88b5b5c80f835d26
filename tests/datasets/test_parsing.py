"""Consistent parsing: a text is the same number, time or label in a table's column and in a prediction's row."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import as_label, as_number, as_seconds
from fitserve.parsing import ColumnFormat, numbers, times
from fitserve.parsing.stray_quotes import QuoteWatch, StrayQuotes, double_stray_quotes
from fitserve.spec.feature import Feature

NUMBER_FORMATS = [
    ColumnFormat(decimal="."),
    ColumnFormat(decimal=".", thousands=","),
    ColumnFormat(decimal=",", thousands="."),
    ColumnFormat(decimal=",", thousands=" ", units=("€", "EUR")),
    ColumnFormat(decimal=".", thousands="'", units=("$", "US$")),
    ColumnFormat(decimal=".", units=("%", "kg", "g")),
    ColumnFormat(decimal=",", thousands="_"),
    ColumnFormat(decimal=".", thousands=",", units=("+",)),
]
PIECES = st.sampled_from(
    [
        *"0123456789",
        "12",
        "345",
        "000",
        *"., '_-+()eE",
        "€",
        "EUR",
        "$",
        "US$",
        "%",
        "kg",
        "g",
        "\u00a0",
        "\u2009",
        "\u2212",
        "’",
        "inf",
        "nan",
        "x",
        "é",
        ".-",
        ",–",
    ]
)
TIMES = st.sampled_from(
    [
        *"0123456789",
        "2024",
        "01",
        "13",
        "31",
        "99",
        *"-/. :TZ,W",
        "Jan",
        "märz",
        "May",
        "AM",
        "pm",
        "+02:00",
        "-0530",
        "UTC",
        "of",
        "st",
    ]
)
WHOLE_TIMES = st.builds(
    lambda a, one, b, two, c, clock: f"{a}{one}{b}{two}{c}{clock}",
    st.integers(0, 2100),
    st.sampled_from("-/."),
    st.integers(0, 32),
    st.sampled_from("-/."),
    st.integers(0, 2100),
    st.sampled_from(
        [
            *("", " 10:20", "T23:59:59.123456", " 1:05 pm", " 13:00 PM", " 00:10 am", " 24:00", "T10:00Z"),
            *(" 10:00+02:00", " 10:00 EST", " 10:00 XYZ", " 10.20.30 PM", " 10:20 Uhr", "T10:00+01:00[Europe/Berlin]"),
        ]
    ),
)


def one_number(text: str, format: ColumnFormat) -> float | None:
    try:
        return float(numbers.read_number(text, format))
    except (ValueError, OverflowError):
        return None


@settings(deadline=None)
@given(st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=1, max_size=6), st.sampled_from(NUMBER_FORMATS))
def test_a_number_is_the_same_in_a_column_and_alone(texts: list[str], format: ColumnFormat) -> None:
    texts = [text for text in texts if text.strip().lower() not in ("nan", "-nan", "+nan")] or ["1"]
    parsed, bad = numbers.parse_numbers(pa.array(texts, pa.string()), format)
    for text, value, is_bad in zip(texts, parsed.to_pylist(), bad, strict=True):
        expected = one_number(text, format)
        assert (expected is None) == bool(is_bad), text
        if expected is not None:
            assert math.isclose(float(value), expected, rel_tol=1e-15) or value == expected, text


@settings(deadline=None)
@given(
    st.lists(st.lists(TIMES, max_size=8).map("".join) | WHOLE_TIMES, min_size=1, max_size=6),
    st.sampled_from(["ymd", "dmy", "mdy"]),
    st.sampled_from([None, 1926, 2000]),
)
def test_a_time_is_the_same_in_a_column_and_alone(texts: list[str], order: Any, first_year: int | None) -> None:
    format = ColumnFormat(time=order, first_year=first_year)
    parsed, bad, _ = times.parse_times(pa.array(texts, pa.string()), format)
    for text, value, is_bad in zip(texts, parsed.to_pylist(), bad, strict=True):
        try:
            expected = round(times.read_time(text, format) * 1e6)
        except ValueError:
            assert is_bad, text
            continue
        assert not is_bad, text
        assert abs(value - expected) <= 64, text  # float64 keeps seconds of the year 9999 to some microseconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1700000000", 1.7e9),
        ("1700000000000", 1.7e9),
        ("1700000000000000", 1.7e9),
        ("1700000000000000000", 1.7e9),
        ("-1", -1),
    ],
)
def test_epochs_are_told_apart_by_their_size(text: str, seconds: float) -> None:
    format = ColumnFormat(time="epoch")
    assert as_seconds(text, format) == as_seconds(int(text)) == seconds
    parsed, bad, _ = times.parse_times(pa.array([text]), format)
    assert not bad.any()
    assert parsed[0].as_py() == seconds * 1e6
    with pytest.raises(ValueError, match="year"):
        as_seconds(1e25)


@pytest.mark.parametrize(
    ("value", "order", "first_year", "day"),
    [
        (240131, "yymmdd", None, date(2024, 1, 31)),
        ("40131", "yymmdd", None, date(2004, 1, 31)),
        ("310124", "ddmmyy", None, date(2024, 1, 31)),
        (13124.0, "mmddyy", 1900, date(1924, 1, 31)),
        ("2024-01-31", "yymmdd", None, date(2024, 1, 31)),
        (1022024, "ddmmyyyy", None, date(2024, 2, 1)),
        ("01022024", "ddmmyyyy", None, date(2024, 2, 1)),
        ("2012024", "mmddyyyy", None, date(2024, 2, 1)),
        ("991332", "yymmdd", None, None),
        ("31022024", "ddmmyyyy", None, None),
        (1240131, "yymmdd", None, None),
        (240131.5, "yymmdd", None, None),
        (-240131, "yymmdd", None, None),
    ],
)
def test_digits_are_a_day_in_a_prediction_too(value: Any, order: Any, first_year: Any, day: date | None) -> None:
    format = ColumnFormat(time=order, first_year=first_year)
    if day is None:
        with pytest.raises(ValueError, match=r"date|month|day|isoformat"):
            as_seconds(value, format)
        return
    expected = (day - date(1970, 1, 1)).days * 86_400
    assert as_seconds(value, format) == expected
    if str(value).isdecimal():
        parsed, bad, _ = times.parse_times(pa.array([str(value)]), format)
        assert (parsed[0].as_py() / 1e6, bad.any()) == (expected, False)


def test_the_encoder_reads_a_row_as_it_stood_in_the_file() -> None:
    rows = {"price": [1234.5, 2.0], "day": [datetime(2024, 2, 1), datetime(2024, 2, 13)], "size": ["S", "L"]}
    kinds = {"price": ("numeric", "float64"), "day": ("datetime", "timestamp"), "size": ("categorical", "string")}
    formats = {
        "price": ColumnFormat(decimal=",", thousands=".", units=("€",)),
        "day": ColumnFormat(time="dmy"),
        "size": ColumnFormat(trim=True, fold_case=True, labels={"s": "S", "l": "L"}),
    }
    columns = tuple(
        ColumnFacts(name=name, kind=kind, storage=storage, rows=2, distinct=2, format=formats[name])
        for name, (kind, storage) in kinds.items()
    )
    facts = DatasetFacts(name="t", version=1, sha256="0" * 64, rows=2, columns=columns)
    fitted = Encoder.fit([Feature(column=name) for name in rows], pa.table(rows), facts)
    for encoder in (fitted, Encoder.from_json(json.loads(json.dumps(fitted.to_json())))):
        written = [
            {"price": "1.234,50 €", "day": "01/02/2024", "size": " s"},
            {"price": 2, "day": "13/02/2024", "size": "L"},
        ]
        found, warnings = encoder.encode_rows(written)
        assert warnings == [[], []]
        for name, expected in encoder.encode(pa.table(rows)).items():
            assert (found[name] == expected).all()


def test_a_prediction_reads_texts_as_the_column_was_written() -> None:
    euro = ColumnFormat(decimal=",", thousands=".", units=("€",), also_missing=("k.a.",))
    assert as_number("1.234,50 €", euro) == 1234.5
    assert math.isnan(as_number("k.A.", euro))
    assert math.isnan(as_number(" ", euro))
    assert as_number(7, euro) == 7
    with pytest.raises(ValueError, match="number"):
        as_number("1,2,3", euro)
    assert as_label("2,0", ColumnFormat(decimal=",")) == "2"
    digits = "1234567890123456789012345678901"
    assert as_label(Decimal(f"{digits}.2300")) == f"{digits}.23"
    assert as_label(Decimal(f"{digits}0.00")) == f"{digits}0"
    folded = ColumnFormat(trim=True, fold_case=True, labels={"yes": "Yes", "no": "No"}, keep=("NA",))
    assert [as_label(text, folded) for text in (" YES ", "no", "NA", "None", "", "maybe")] == [
        "Yes", "No", "NA", None, None, "maybe"
    ]  # fmt: skip
    dates = ColumnFormat(time="dmy")
    assert as_seconds("01/02/2024", dates) == as_seconds("2024-02-01", dates) == as_seconds("2024-02-01")
    assert as_seconds(1022024, dates) == as_seconds("01022024", dates) == as_seconds("2024-02-01")
    assert as_seconds("1022024", dates) == as_seconds("2024-02-01")
    assert as_seconds(2012024, ColumnFormat(time="mdy")) == as_seconds("2024-02-01")
    assert math.isnan(as_seconds("NA", dates))


@given(
    rows=st.lists(st.lists(st.text('a",\n ', max_size=8), min_size=2, max_size=3), min_size=1, max_size=6),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    pieces=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_a_table_without_stray_quotes_is_not_changed(rows: list[list[str]], quoting: Any, pieces: int) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=quoting, lineterminator="\n").writerows(rows)
    data = out.getvalue().encode()
    size = -(-len(data) // pieces)
    mender, watch = StrayQuotes(b","), QuoteWatch(b",", b'"')
    mended = b""
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        watch.see(piece)
        mended += mender.mend(piece, is_last=start + size >= len(data))
    assert (mended, mender.count, watch.is_suspicious) == (data, 0, False)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ('1,"a "b" c",2\n', '1,"a ""b"" c",2\n'),
        ('"a" b,"c"\n', '"""a"" b","c"\n'),
        ('1,"a, b\n2,"c",d\n', '1,"""a", b\n2,"c",d\n'),
        ('1,"a "b"', '1,"a ""b"'),
        ('1,5" pipe,"6"\n', '1,"5"" pipe","6"\n'),
    ],
)
def test_stray_quotes_are_doubled(text: str, mended: str) -> None:
    assert double_stray_quotes(text, ",") == mended
    (row,) = list(csv.reader(io.StringIO(mended), strict=True))[:1]
    assert len(row) >= 2
