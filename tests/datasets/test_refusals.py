"""Bad tables are refused with row, column, value and what was expected; lenient mode stores the good rows."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import zstandard

from fitserve.blobs import disk_full_is_507
from fitserve.datasets import TableRefused, TableUnreadable
from fitserve.datasets.ingest import ingest
from fitserve.datasets.readers.csv_dialect import detect_dialect
from fitserve.datasets.readers.jsonl_reader import JsonLinesReader
from fitserve.datasets.store import scratch_folder
from fitserve.errors import BadInput, FitserveError, StorageFull, TooLarge, UnsupportedMedia
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions
from services.control.datasets.upload_request import parse_options
from tests.datasets.conftest import ReadTable
from tests.needs import need

Ingest = Callable[..., ReadTable]


def refusal(read: Ingest, data: bytes, **options: object) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read(data, **options)
    assert 400 <= caught.value.status < 500
    return caught.value


@pytest.mark.parametrize("row", [300_000, pytest.param(900_000, marks=pytest.mark.long)])
def test_a_bad_number_at_a_late_row(read: Ingest, row: int) -> None:
    good = b"".join(b"%d,%d\n" % (i, i * 2) for i in range(1, row))
    data = b"x,y\n" + good + b"oops,5\n" + good[:5_000]
    problem = refusal(read, data).problems[0]
    assert (problem.row, problem.line, problem.column) == (row, row + 1, "x")
    assert (problem.received, problem.expected) == ("oops", "a number")
    lenient = read(data, lenient=True)
    assert lenient.ingested.refused is not None
    assert (lenient.ingested.refused["rows"], lenient.column("x")["storage"]) == (1, "int64")


def test_all_ragged_lines_are_reported(read: Ingest) -> None:
    error = refusal(read, b'a,b\n1,2\n3\n\n4,5,6\n"x\ny",7\n8\n')
    assert [(p.row, p.line, p.received) for p in error.problems] == [(2, 3, "3"), (3, 5, "4,5,6"), (5, 8, "8")]
    lenient = read(b'a,b\n1,2\n3\n\n4,5,6\n"x\ny",7\n8\n' + b"w,9\n" * 40, lenient=True)
    assert lenient.table.to_pylist()[:3] == [{"a": "1", "b": 2}, {"a": "x\ny", "b": 7}, {"a": "w", "b": 9}]


def test_at_most_twenty_problems_are_shown(read: Ingest) -> None:
    error = refusal(read, b"a,b\n" + b"1,2\n" * 50 + b"3\n" * 500)
    assert error.problems[0].detail == "At least 20 rows have 1 fields; the header has 2."
    assert [problem.row for problem in error.problems[1:]] == [51, 52, 53]
    assert "500 of 550 rows" in refusal(read, b"a,b\n" + b"1,2\n" * 50 + b"3\n" * 500, lenient=True).detail
    lenient = read(b"a,b\n" + b"1,2\n" * 500 + b"3\n" * 50, lenient=True)
    assert lenient.ingested.refused is not None
    assert lenient.ingested.refused["rows"] == 50
    assert len(lenient.ingested.refused["problems"]) == 3


def test_the_same_value_is_said_once_with_its_rows(read: Ingest) -> None:
    rows = [f"{n},{'other' if n % 100 == 50 else n % 4 + 9}" for n in range(2000)]
    error = refusal(read, ("a,b\n" + "\n".join(rows) + "\n").encode())
    assert [(problem.row, problem.column, problem.received) for problem in error.problems] == [(51, "b", "other")]
    assert "The same is in rows 151, 251, 351, 451, 551 and more." in error.problems[0].detail
    assert "(20 problems.)" in error.detail


def test_first_rows_that_are_a_header_are_said_once(read: Ingest) -> None:
    head = "region,1,1,2\nnode,1,2,1\nside,left,right,left\n"
    error = refusal(read, (head + "".join(f"{n},{n}.5,{n}.1,{n}.2\n" for n in range(90))).encode())
    assert [problem.row for problem in error.problems] == [1, 2, 3]
    assert all("Are rows 1 to 3 part of the header?" in str(problem.fix) for problem in error.problems)


def test_ragged_lines_and_bad_numbers_are_reported_together(read: Ingest) -> None:
    data = b"a,b\n" + b"1,2\n" * 1000 + b"1,2,3\n" + b"x,2\n" + b"1,2\n" * 1000
    error = refusal(read, data)
    assert [(p.row, p.column) for p in error.problems] == [(1001, None), (1002, "a")]


def test_row_numbers_count_the_rows_left_out(read: Ingest) -> None:
    data = b"a,b\n" + b"9\n" * 7 + b"1,2\n" * 1000 + b"x,2\n" + b"1,2\n" * 1000
    found = read(data, lenient=True).ingested
    assert found.refused is not None
    assert found.rows == 2000
    assert found.refused["problems"][-1]["row"] == 1008


@pytest.mark.parametrize("pad", [0, 300_000])
def test_nul_bytes(read: Ingest, pad: int) -> None:
    data = b"a,b\n" + b"x,1\n" * pad + b"y\0,2\nz,3\n"
    problem = refusal(read, data).problems[0]
    assert (problem.row, problem.column) == (pad + 1, "a")
    assert read(data, lenient=True).ingested.rows == pad + 1


def test_invalid_utf8_after_utf8_names_the_line(read: Ingest) -> None:
    problem = refusal(read, "a,b\nx,1\né,2\n".encode() + b"z\xff,3\n").problems[0]
    assert problem.line == 4
    far = "a,b\né,2\n".encode() + b"x,1\n" * 1_500_000 + b"z\xff,3\n"
    assert refusal(read, far).problems[0].line == 1_500_003


def test_headers(read: Ingest) -> None:
    found = read(b"a,a,\n1,2,3\n")
    assert found.table.column_names == ["a", "a_2", "column_3"]
    assert [notice["code"] for notice in found.ingested.notices] == ["headers_renamed"]


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"a,b\n", b"a,b", b"\xef\xbb\xbf", gzip.compress(b"")],
    ids=["empty", "blank lines", "header", "header without an end", "byte order mark", "gzip of nothing"],
)
def test_a_file_without_rows_is_unreadable(read: Ingest, data: bytes) -> None:
    assert isinstance(refusal(read, data), TableUnreadable)


def test_a_quote_that_is_never_closed(read: Ingest) -> None:
    problem = refusal(read, b'a,b\n1,x\n2,"y\n3,z\n').problems[0]
    assert (problem.row, problem.line, problem.column) == (2, 3, "b")


@pytest.mark.parametrize("quoted", [False, True])
def test_fields_beyond_the_limit(read: Ingest, quoted: bool) -> None:
    field = b"x" * (3 << 20)
    field = b'"' + field + b'"' if quoted else field
    problem = refusal(read, b"a,b\n0,y\n1," + field + b"\n2,y\n").problems[0]
    assert (problem.row, problem.column) == (2, "b")
    assert read(b"a,b\n0,y\n1," + field + b"\n2,y\n", lenient=True).ingested.rows == 2
    with pytest.raises(TooLarge):
        read(b"a,b\n1," + b"x" * (80 << 20) + b"\n")


def test_a_field_of_half_a_megabyte_is_accepted(read: Ingest) -> None:
    assert read(b"a,b\n1," + b"x" * (1 << 19) + b"\n2,y\n").ingested.rows == 2
    wide = b"a,b,c,d\n" + b",".join([b"x" * 900_000] * 4) + b"\n"
    assert read(wide).ingested.rows == 1  # a row longer than the parser's block


def test_too_many_rows_or_columns(read: Ingest) -> None:
    with pytest.raises(TooLarge):
        read(b"a\n" + b"1\n" * 101, limits=Limits(rows=100))
    with pytest.raises(TooLarge):
        read(b",".join(b"c%d" % i for i in range(10_000)) + b"\n")


def parquet_bomb() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"s": ["y" * 1_000_000] * 1_000}), out)
    assert len(out.getvalue()) < 100_000
    return out.getvalue()


@pytest.mark.parametrize(
    "bomb",
    [lambda: gzip.compress(b"0" * (200 << 20), 1), lambda: zstandard.compress(b"0" * (200 << 20)), parquet_bomb],
    ids=["gzip", "zstd", "parquet"],
)
def test_bombs(read: Ingest, bomb: Callable[[], bytes]) -> None:
    with pytest.raises(TooLarge):
        read(bomb())


def parquet(**columns: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def arrow() -> bytes:
    out = io.BytesIO()
    table = pa.table({"a": list(range(100)), "b": ["x"] * 100})
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'[{"":' * 50_000, b'{"a": ' + b"[" * 100_000], ids=["arrays", "both", "object"]
)
def test_json_that_is_nested_thousands_deep(read: Ingest, data: bytes, lenient: bool) -> None:
    assert isinstance(refusal(read, data, format="jsonl", lenient=lenient), BadInput)


@pytest.mark.parametrize("row", [b'{"a": 3, "b": 4, "a": 5}', b'{"a" : 3, "b" : {"a" : 1}, "b" : 4}'])
def test_an_object_that_names_a_member_twice(read: Ingest, row: bytes) -> None:
    first = b'{"a": 1, "b": {"b": "\\": "}}\n'
    (problem,) = refusal(read, first + row).problems
    assert (problem.row, problem.line) == (2, 2)
    assert "twice" in problem.detail
    assert read(first * 20 + row, lenient=True).table.num_rows == 20


def test_damaged_files_are_refused_and_never_crash(read: Ingest) -> None:
    whole = [parquet(a=list(range(200)), b=["x", "y"] * 100), arrow(), gzip.compress(b"a,b\n1,2\n" * 100)]
    dice = random.Random(0)
    for data in whole:
        for _ in range(25):
            cut = data[: dice.randrange(4, len(data))]
            flipped = bytearray(data)
            for _ in range(3):
                flipped[dice.randrange(4, len(data))] ^= 1 << dice.randrange(8)
            for damaged in (cut, bytes(flipped)):
                try:
                    read(damaged)
                except FitserveError as error:
                    assert error.status < 500


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x89HDF", b"%PDF-1.4", b"BZh91AY", b"\xfd7zXZ\0"])
def test_other_formats_are_named(read: Ingest, head: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        read(head + b"....")


def test_nested_columns_are_named(read: Ingest) -> None:
    assert refusal(read, parquet(a=[1, 2], s=[[1], [2]])).problems[0].column == "s"


def test_json_lines_name_row_and_line(read: Ingest) -> None:
    data = b'{"a":1}\n\n{"a":2\n{"a":3}\n[1]\n{"a":NaN}\n'
    assert [(p.row, p.line) for p in refusal(read, data).problems] == [(2, 3), (4, 5), (5, 6)]
    assert read(data + b'{"a":4}\n' * 40, lenient=True).table.to_pylist()[:3] == [{"a": 1}, {"a": 3}, {"a": 4}]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("numeric", "x", "a number"),
        ("boolean", "maybe", "a boolean"),
        ("datetime", "yesterday", "a date or time"),
    ],
)
def test_every_value_is_checked_against_a_stated_kind(read: Ingest, kind: str, value: str, expected: str) -> None:
    usual = {"numeric": "1", "boolean": "yes", "datetime": "2020-01-01"}[kind]
    data = f"a,b\n{usual},1\n{value},2\n{usual},3\n".encode()
    problem = refusal(read, data, kinds={"a": kind}).problems[0]
    assert (problem.row, problem.line, problem.column, problem.received) == (2, 3, "a", value)
    assert problem.expected == expected
    assert read(data, kinds={"a": kind}, lenient=True).ingested.rows == 2


def test_kinds_of_unknown_columns_are_refused(read: Ingest) -> None:
    assert refusal(read, b"a,b\n1,2\n", kinds={"c": "text"}).problems[0].pointer == "/kinds/c"


def test_a_full_disk_is_507(tmp_path: Path) -> None:
    with pytest.raises(StorageFull), disk_full_is_507(), Path("/dev/full").open("wb") as full:
        full.write(b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: data.replace(b"a,", b"\xe9,")])
def test_a_disk_that_fills_up_while_parsing(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    need("the right to mount a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        upload = tmp_path / "upload"
        upload.write_bytes(pack(b"a,b\n" + b"".join(b"%d,%f\n" % (i, i * 1.7) for i in range(300_000))))
        with pytest.raises(StorageFull), scratch_folder(small) as folder:
            ingest(upload, UploadOptions(), Limits(), folder)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_column_that_is_mostly_text_is_not_refused(read: Ingest) -> None:
    found = read(b"ticket,n\n" + b"".join(b"%d,1\nA/5 %d,2\n" % (i, i) for i in range(50)))
    assert found.kinds["ticket"] in ("categorical", "ignored", "text")
    assert isinstance(TableRefused(), BadInput)


@pytest.mark.parametrize(
    "encoding", ["zip", "base64", "uu", "bz2", "hex", "quopri", "rot13", "punycode", "idna", "unicode_escape"]
)
def test_an_encoding_is_one_of_text(read: Ingest, encoding: str) -> None:
    error = refusal(read, b"a,b\n1,2\n3,4\n", encoding=encoding)
    assert "encoding" in error.detail


def test_letters_in_utf_7_have_an_end(read: Ingest) -> None:
    error = refusal(read, b"a,b\n1,+" + b"APwA" * (3 << 18) + b"-\n", encoding="utf-7")
    assert error.detail == "Line 2 has bytes that are not utf-7."


@pytest.mark.parametrize(
    "encoding", ["utf-8", "latin-1", "cp1252", "gb18030", "shift-jis", "koi8-r", "mac-roman", "utf-7"]
)
def test_encodings_of_text_are_read(read: Ingest, encoding: str) -> None:
    assert read(b"a,b\n1,2\n3,4\n", encoding=encoding).table.num_rows == 2


@pytest.mark.parametrize("options", [{"quote": "\0"}, {"delimiter": "\0"}, {"quote": "\n"}, {"delimiter": "é"}])
def test_a_delimiter_is_a_printable_character(options: dict[str, str]) -> None:
    with pytest.raises(BadInput) as caught:
        parse_options(options.items())
    assert caught.value.problems[0].received is not None


def test_a_quote_that_is_the_delimiter() -> None:
    with pytest.raises(BadInput):
        parse_options([("quote", ","), ("delimiter", ",")])


def test_a_wide_json_line_is_refused_when_it_is_read(tmp_path: Path) -> None:
    row = json.dumps({f"k{number}": number for number in range(20_000)})
    path = tmp_path / "wide.jsonl"
    path.write_text(f"{row}\n" + "not even read\n" * 1_000)
    with pytest.raises(TooLarge):
        JsonLinesReader(path, UploadOptions(), Limits(), tmp_path)


def test_repeated_headers_take_linear_time() -> None:
    def seconds(count: int) -> float:
        header = ",".join([*(f"a_{number}" for number in range(2, count)), *["a"] * count])
        begun = time.thread_time()
        with pytest.raises(TableRefused):
            detect_dialect(f"{header}\n1\n", UploadOptions(), Limits(columns=10**6), True)
        return time.thread_time() - begun

    assert seconds(8_000) < 10 * max(seconds(2_000), 0.002)
