"""Tables read back as they were written: CSV and its dialects, JSON Lines, Parquet, Arrow IPC; compressed; encoded."""

from __future__ import annotations

import gzip
import io
import json
import string
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitserve.datasets import TableUnreadable, readers
from fitserve.datasets.readers import READERS
from fitserve.wire.datasets import SUFFIXES, Format
from tests.datasets.conftest import ReadTable
from tests.waiting import fastest

Ingest = Callable[..., ReadTable]

# The cases of max-mapper/csv-spectrum, written anew: a file and the rows that a person reads in it.
SPECTRUM = {
    "comma_in_quotes": (b'first,last,zip\nJohn,"Doe, Jr.",08075\n', [["John", "Doe, Jr.", "08075"]]),
    "empty": (b'a,b,c\n1,"",""\n2,3,4\n', [[1, None, None], [2, 3, 4]]),
    "empty_crlf": (b'a,b,c\r\n1,"",""\r\n2,3,4\r\n', [[1, None, None], [2, 3, 4]]),
    "escaped_quotes": (b'a,b\n1,"ha ""ha"" ha"\n3,4\n', [[1, 'ha "ha" ha'], [3, "4"]]),
    "json": (b'key,val\n1,"{""type"": ""Point"", ""at"": [1.5, 2]}"\n', [[1, '{"type": "Point", "at": [1.5, 2]}']]),
    "newlines": (
        b'a,b,c\n1,2,3\n"Once upon \na time",5,6\n7,8,9\n',
        [["1", 2, 3], ["Once upon \na time", 5, 6], ["7", 8, 9]],
    ),
    "newlines_crlf": (b'a,b\r\n1,2\r\n"Once \r\na time",5\r\n', [["1", 2], ["Once \r\na time", 5]]),
    "quotes_and_newlines": (b'a,b\n1,"ha \n""ha"" \nha"\n3,4\n', [[1, 'ha \n"ha" \nha'], [3, "4"]]),
    "simple": (b"a,b,c\n1,2,3\n", [[1, 2, 3]]),
    "simple_crlf": (b"a,b,c\r\n1,2,3\r\n", [[1, 2, 3]]),
    "utf8": ("a,b,c\n1,2,3\n4,5,ʤ\n".encode(), [[1, 2, "3"], [4, 5, "ʤ"]]),
    "location_coordinates": ('who,where\nx,"40°, -3°"\n'.encode(), [["x", "40°, -3°"]]),
}


def test_every_format_has_one_reader_and_names_of_its_own() -> None:
    assert set(READERS) == set(get_args(Format)) == set(SUFFIXES)
    suffixes = [suffix for of_format in SUFFIXES.values() for suffix in of_format]
    assert len(suffixes) == len(set(suffixes))


def rows_in(read: ReadTable) -> list[list[Any]]:
    return [list(row.values()) for row in read.table.to_pylist()]


@pytest.mark.parametrize("name", SPECTRUM)
def test_csv_spectrum(read: Ingest, name: str) -> None:
    data, rows = SPECTRUM[name]
    assert rows_in(read(data)) == rows


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_delimiters_and_compression(read: Ingest, delimiter: str, pack: Callable[[bytes], bytes]) -> None:
    text = f'a{delimiter}"b x"\n1{delimiter}"p{delimiter}q"\n2{delimiter}r\n'
    found = read(pack(text.encode()))
    assert found.table.column_names == ["a", "b x"]
    assert rows_in(found) == [[1, f"p{delimiter}q"], [2, "r"]]


def test_gzip_members_and_the_zeros_between_and_after_them(read: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{number},{number % 7}\n" for number in range(500))
    parts = [gzip.compress(part.encode()) for part in ("a,b\n", rows, "", "500,1\n")]
    for chunk in (7, 64, 1 << 20):
        monkeypatch.setattr(readers, "CHUNK", chunk)
        found = read(parts[0] + parts[1] + parts[2] + bytes(100) + parts[3] + bytes(100))
        assert len(rows_in(found)) == 501
        for damaged in (b"".join(parts)[:-1], b"".join(parts) + b"\0x"):
            with pytest.raises(TableUnreadable, match="gzip"):
                read(damaged)


def test_a_file_of_many_gzip_members_is_read_in_the_time_of_its_length(read: Ingest) -> None:
    def seconds(members: int) -> float:
        packed = gzip.compress(b"") * members + gzip.compress(b"a,b\n1,2\n3,4\n")
        started = time.process_time()
        assert rows_in(read(packed)) == [[1, 2], [3, 4]]
        return time.process_time() - started

    few = min(seconds(5_000) for _ in range(3))
    assert fastest(lambda: seconds(50_000), 30 * few) < 30 * few


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8-sig", ["één", "twee"]),
        ("utf-16", ["één", "北京"]),
        ("cp1252", ["“quoted” café", "five €", "résumé — done"]),
        ("gb18030", ["北京市", "上海市", "广州市", "深圳市的天气很好"]),
        ("big5", ["臺北市", "高雄市", "我們在這裡學習機器"]),
        ("shift_jis", ["とうきょう", "おおさか", "こんにちは世界"]),
        ("euc_kr", ["서울특별시", "부산광역시", "안녕하세요 여러분"]),
        ("cp1251", ["Привет как дела", "Хорошо спасибо друг", "Москва столица", "Сегодня хорошая погода в городе"]),
        ("cp1250", ["Łódź żółw", "Gęś ćma ńą", "Święto źle"]),
    ],
)
def test_encodings_are_recognised(read: Ingest, encoding: str, words: list[str]) -> None:
    text = "word,n\n" + "".join(f"{word},{at}\n" for at, word in enumerate(words))
    assert rows_in(read(text.encode(encoding))) == [[word, at] for at, word in enumerate(words)]
    assert rows_in(read(text.encode(encoding), encoding=encoding))[0][0] == words[0]


def test_an_encoding_of_two_words_late_in_the_file_is_asked(read: Ingest) -> None:
    text = "a,b\n" + "hello,1\n" * 800_000 + "café,2\nnaïve,3\n"
    with pytest.raises(TableUnreadable, match="its encoding cannot be told from its words"):
        read(text.encode("latin-1"))
    assert read(text.encode("latin-1"), encoding="latin-1").table.column("a").to_pylist()[-2:] == ["café", "naïve"]


def test_leading_zeros_late_in_the_file_make_a_column_text(read: Ingest) -> None:
    found = read(b"zip,n\n" + b"123,1\n" * 300_000 + b"0456,2\n")
    assert found.table.column("zip").to_pylist()[-1] == "0456"
    assert found.kinds == {"zip": "categorical", "n": "numeric"}


def test_storage_fits_the_whole_file(read: Ingest) -> None:
    late = b"".join(b"%d,%d,x\n" % (i % 977, i) for i in range(200_000)) + b"1.5,99999999999999999999,x\n"
    found = read(b"a,b,c\n" + late)
    assert (found.column("a")["storage"], found.column("a")["distinct"]) == ("float64", 978)
    assert found.table.column("b").to_pylist()[-1] == "99999999999999999999"  # float64 would lose digits


@pytest.mark.parametrize("spelling", ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "#N/A"])
def test_the_usual_spellings_of_missing_values(read: Ingest, spelling: str) -> None:
    found = read(f"a,b\n1,x\n{spelling},y\n2,{spelling}\n".encode())
    assert rows_in(found) == [[1, "x"], [None, "y"], [2, None]]


def test_stated_spellings_of_missing_values_replace_the_usual_ones(read: Ingest) -> None:
    found = read(b"a,b\n-999,NA\n2,x\n", missing=["-999"])
    assert rows_in(found) == [[None, "NA"], [2, "x"]]


def test_unknown_among_numbers_is_missing_and_named_in_the_evidence(read: Ingest) -> None:
    found = read(b"a,b\n" + b"1,x\n2,y\n35,z\nunknown,w\n" * 10)
    assert found.kinds["a"] == "numeric"
    assert found.column("a")["missing"] == 10
    assert "unknown" in found.column("a")["evidence"]


def test_decimal_commas_and_blanks_after_commas(read: Ingest) -> None:
    assert rows_in(read(b"a;b\n1,5;x\n2,25;y\n1.234,5;w\n")) == [[1.5, "x"], [2.25, "y"], [1234.5, "w"]]
    adult = read(b"39, State-gov, 77516\n40, ?, 5\n41, Private, 6\n")
    assert rows_in(adult) == [[39, "State-gov", 77516], [40, None, 5], [41, "Private", 6]]


def test_a_file_without_a_header(read: Ingest) -> None:
    found = read(b"6,148,72.5,a\n1,85,66,b\n8,183,64,c\n")
    assert found.table.column_names == ["column_1", "column_2", "column_3", "column_4"]
    assert found.table.num_rows == 3
    assert read(b"x,y\np,q\nr,s\n").table.num_rows == 2
    assert read(b"x,y\np,q\nr,s\n", header=False).table.num_rows == 3


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["2020-01-02", "2021-03-04"], datetime(2020, 1, 2)),
        (["2020-01-02 03:04:05", "2021-03-04 05:06:07"], datetime(2020, 1, 2, 3, 4, 5)),
        (["2020-01-02T03:04:05+02:00", "2020-01-02T03:04:05Z"], datetime(2020, 1, 2, 1, 4, 5, tzinfo=UTC)),
        (["01/02/2020", "13/02/2020"], datetime(2020, 2, 1)),
        (["01/02/2020", "02/13/2020"], datetime(2020, 1, 2)),
        (["31.12.2020", "01.01.2021"], datetime(2020, 12, 31)),
    ],
)
def test_dates(read: Ingest, texts: list[str], first: datetime) -> None:
    found = read(("when,n\n" + "".join(f"{text},1\n" for text in texts)).encode())
    assert found.kinds["when"] == "datetime"
    assert found.table.column("when")[0].as_py() == first


def test_json_lines_and_arrays(read: Ingest) -> None:
    lines = b'{"a":1,"b":"x"}\n\n{"b":null,"a":2.5,"c":true}\n{"c":false,"d":{"k":[1]},"b":"007"}\n'
    expected = [
        {"a": 1.0, "b": "x", "c": None, "d": None},
        {"a": 2.5, "b": None, "c": True, "d": None},
        {"a": None, "b": "007", "c": False, "d": '{"k":[1]}'},
    ]
    assert read(lines).table.to_pylist() == expected
    array = b"[" + b",".join(line for line in lines.split(b"\n") if line) + b"]"
    assert read(array).table.to_pylist() == expected


# --- any table that pyarrow writes reads back equal ---

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
FLOATS = st.floats(allow_nan=True, width=64)
TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "i8": (pa.int8(), st.integers(-128, 127)),
    "i64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u32": (pa.uint32(), st.integers(0, 2**32 - 1)),
    "f32": (pa.float32(), st.floats(width=32)),
    "f64": (pa.float64(), FLOATS),
    "bool": (pa.bool_(), st.booleans()),
    "text": (pa.string(), TEXT),
    "large": (pa.large_string(), TEXT),
    "date": (pa.date32(), st.dates()),
    "time": (pa.timestamp("us"), st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))),
    "utc": (pa.timestamp("ms", "UTC"), st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))),
    "cents": (pa.decimal128(12, 2), st.decimals(-(10**9), 10**9, places=2, allow_nan=False)),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=4, unique=True))
    rows = draw(st.integers(1, 12))
    columns = {}
    for kind in kinds:
        arrow, values = TYPES[kind]
        cells = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        if arrow == pa.timestamp("ms", "UTC"):
            cells = [cell and cell.replace(microsecond=0) for cell in cells]
        columns[kind] = pa.array(cells, arrow)
    return pa.table(columns)


def serialize(table: pa.Table, how: str) -> bytes:
    out = io.BytesIO()
    if how.startswith("parquet"):
        pq.write_table(table, out, compression="zstd", row_group_size=5, version="2.6")
    else:
        make = pa.ipc.new_stream if how == "stream" else pa.ipc.new_file
        with make(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    data = out.getvalue()
    return gzip.compress(data) if how.endswith("gz") else data


def are_equal(one: pa.Table, other: pa.Table) -> bool:
    """Return whether two tables are equal, where NaN equals NaN."""
    return one.column_names == other.column_names and all(
        repr(one.column(name).to_pylist()) == repr(other.column(name).to_pylist()) for name in one.column_names
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), how=st.sampled_from(["parquet", "parquet.gz", "file", "stream"]))
def test_typed_tables_read_back_equal(read: Ingest, table: pa.Table, how: str) -> None:
    found = read(serialize(table, how))
    assert are_equal(found.table, table)
    assert found.table.schema.types == table.schema.types
    assert [column["missing"] for column in found.ingested.columns] == [
        sum(cell is None or cell != cell for cell in table.column(name).to_pylist()) for name in table.column_names
    ]


# In CSV a text that looks like a number, a date, a boolean or a missing value is one, and blanks around it are lost.
WORD = st.text(string.ascii_letters + "éłß北京 ,;\"'\n", min_size=1, max_size=10).filter(
    lambda word: (
        word.strip() == word
        and len(word) > 2
        and word.lower()
        not in {"null", "none", "nan", "inf", "infinity", "true", "false", "unk", "nil", "unknown", "missing", "n/a"}
    )
)
CSV_TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "whole": (pa.int64(), st.integers(-(10**15), 10**15)),
    "real": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "word": (pa.string(), WORD),
    "flag": (pa.bool_(), st.booleans()),
    "moment": (pa.timestamp("us"), st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))),
}


@st.composite
def csv_tables(draw: st.DrawFn) -> pa.Table:
    kinds = draw(st.lists(st.sampled_from(sorted(CSV_TYPES)), min_size=1, max_size=4, unique=True))
    rows = draw(st.integers(2, 10))
    columns = {}
    for kind in kinds:
        arrow, values = CSV_TYPES[kind]
        cells = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        cells[0] = draw(values)  # a column without any value has no type
        columns[kind] = pa.array(cells, arrow)
    return pa.table(columns)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=csv_tables(), delimiter=st.sampled_from([",", ";", "\t", "|"]))
def test_csv_tables_read_back_equal(read: Ingest, table: pa.Table, delimiter: str) -> None:
    out = io.BytesIO()
    pa.csv.write_csv(table, out, pa.csv.WriteOptions(delimiter=delimiter))
    found = read(out.getvalue(), delimiter=delimiter, header=True, decimal=".").table
    for name in table.column_names:
        expected = table.column(name)
        if name == "real":
            got = found.column(name).cast(pa.float64()).to_pylist()
            assert got == expected.to_pylist()
        else:
            assert found.column(name).to_pylist() == expected.to_pylist()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=csv_tables())
def test_json_lines_read_back_equal(read: Ingest, table: pa.Table) -> None:
    lines = [
        json.dumps({k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()})
        for row in table.to_pylist()
    ]
    found = read("\n".join(lines).encode()).table
    for name in table.column_names:
        assert found.column(name).to_pylist() == table.column(name).to_pylist()


def test_real_tables_have_the_right_kinds(read: Ingest, shared_tables: Path) -> None:
    expected: dict[str, dict[str, str]] = {
        "student_data.csv": {"admit": "boolean", "gre": "numeric", "gpa": "numeric", "rank": "categorical"},
        "titanic.csv": {
            "PassengerId": "ignored", "Survived": "boolean", "Pclass": "categorical", "Name": "text",
            "Sex": "categorical", "Age": "numeric", "SibSp": "numeric", "Parch": "numeric", "Ticket": "ignored",
            "Fare": "numeric", "Cabin": "ignored", "Embarked": "categorical",
        },
        "bank_additional.csv": {"age": "numeric", "job": "categorical", "emp.var.rate": "numeric", "y": "boolean"},
        "pima_diabetes.csv": {"column_1": "numeric", "column_6": "numeric", "column_9": "boolean"},
        "penguins.csv": {"species": "categorical", "bill_length_mm": "numeric", "sex": "categorical"},
        "winequality_red.csv": {"fixed acidity": "numeric", "quality": "numeric"},
        "mnist_10k.csv.gz": {"label": "categorical", "1x1": "numeric", "14x14": "numeric"},
        "sms_spam.csv": {"type": "categorical", "text": "text"},
        "auto_mpg.csv": {"mpg": "numeric", "horsepower": "numeric", "origin": "categorical", "name": "text"},
        "insurance.csv": {"children": "numeric", "smoker": "boolean", "region": "categorical", "charges": "numeric"},
        "bike_hour.csv": {"instant": "ignored", "dteday": "datetime", "season": "categorical", "cnt": "numeric"},
        "nyc_taxis.csv": {"pickup": "datetime", "dropoff": "datetime", "fare": "numeric", "pickup_zone": "categorical"},
        "imdb_train.csv.gz": {"review": "text", "sentiment": "categorical"},
        "kddcup99_10pct.csv.gz": {"duration": "numeric", "service": "categorical", "label": "categorical"},
    }  # fmt: skip
    rows = {"student_data.csv": 400, "imdb_train.csv.gz": 25_000, "kddcup99_10pct.csv.gz": 494_021}
    for name, kinds in expected.items():
        found = read(shared_tables / name)
        assert {column: found.kinds[column] for column in kinds} == kinds, name
        assert found.ingested.rows == rows.get(name, found.ingested.rows)
    titanic = read(shared_tables / "titanic.csv")
    assert [titanic.column(name)["missing"] for name in ("Age", "Cabin", "Embarked")] == [177, 687, 2]


def test_a_column_is_compressed_where_that_makes_it_smaller(read: Ingest) -> None:
    digits = np.random.default_rng(0).random(2_000)
    whole = pa.table({"random": digits, "words": [f"the word number {n // 5}" for n in range(2_000)]})
    sink = pa.BufferOutputStream()
    pq.write_table(whole, sink)
    found = read(sink.getvalue().to_pybytes())
    assert found.table.equals(whole)
    group = pq.read_metadata(found.ingested.parquet).row_group(0)
    assert [group.column(at).compression for at in range(2)] == ["UNCOMPRESSED", "SNAPPY"]
    assert found.column("random")["distinct"] == 2_000
