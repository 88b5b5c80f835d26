"""Parquet and Arrow files from other programs give the right values, or are refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from fitserve.datasets.parquet_batches import batches_of
from fitserve.datasets.profile import DistinctCounter
from fitserve.datasets.readers.arrow_lengths import expanded_bytes
from fitserve.settings import MB
from tests.datasets.conftest import Api
from tests.datasets.uploads import refusal, stored

NOT_UTF8 = pa.array([b"Gen\xe8ve", b"Bern", b"Basel"] * 10, pa.binary())


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **options)
    return out.getvalue()


def arrow(columns: dict[str, Any]) -> bytes:
    table, out = pa.table(columns), io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def as_string(values: pa.Array) -> pa.Array:
    """Return bytes under the type of texts, which nobody has checked."""
    return values.view(pa.string())


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_texts_of_every_encoding_are_read(api: Api, encoding: str) -> None:
    texts = ["apple", "apricot", None, "banana"] * 20
    data = parquet({"t": pa.array(texts), "n": range(80)}, use_dictionary=False, column_encoding={"t": encoding})
    assert [row[0] for row in stored(api, data)[1]] == texts


@pytest.mark.parametrize(
    ("values", "expected", "storage", "code"),
    [
        (pa.array([Decimal("1.25"), None], pa.decimal32(5, 2)), [1.25, None], "float64", None),
        (pa.array([Decimal("1.25"), None], pa.decimal64(12, 2)), [1.25, None], "float64", None),
        (pa.array([Decimal("1.25"), None], pa.decimal256(60, 2)), ["1.25", None], "float64", None),
        (pa.array([Decimal(10**18 + 1), None], pa.decimal128(38, 0)), [10**18 + 1, None], "int64", "digits_kept"),
        (pa.array([Decimal(10**19), None], pa.decimal128(38, 0)), ["1" + "0" * 19, None], "string", "digits_as_text"),
        (pa.array([200, 7], pa.uint8()), [200, 7], "int64", None),
        (pa.array([7, 2**53 + 1], pa.uint64()), [7, 2**53 + 1], "int64", None),
        (pa.array([7, 2**64 - 1], pa.uint64()), ["7", str(2**64 - 1)], "string", "digits_as_text"),
        (pa.array([1.5, None], pa.float16()), [1.5, None], "float64", None),
        (pa.array([1500, None], pa.duration("ms")), [1500, None], "int64", "duration_as_number"),
        (pa.array([3_600, 60], pa.time32("s")), ["01:00:00", "00:01:00"], "string", "time_of_day_as_text"),
        (pa.array(["x", None]).dictionary_encode(), ["x", None], "string", None),
        (pa.array(["x", None], pa.large_string()), ["x", None], "string", None),
        (pa.array(["x", None], pa.string_view()), ["x", None], "string", None),
        (pa.array([b"x", None], pa.binary()), ["x", None], "string", None),
        (pa.array([b"ab", None], pa.binary(2)), ["ab", None], "string", None),
        (pa.array([b"\x01" * 16] * 2, pa.uuid()), ["01010101-0101-0101-0101-010101010101"] * 2, "string", None),
        (pa.array([0, None], pa.timestamp("ns")), ["1970-01-01T00:00:00", None], "timestamp", "time_to_microseconds"),
        (
            pa.array([1_500, None], pa.timestamp("ms", "Nowhere/At_All")),
            ["1970-01-01T00:00:01.500000+00:00", None],
            "timestamp",
            "unknown_time_zone",
        ),
        (pa.array([None, None]), [None, None], "int64", None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_plain_type_is_read(
    api: Api, values: pa.Array, expected: Sequence[Any], storage: str, code: str | None
) -> None:
    for data in (parquet({"v": values, "n": [1, 2]}), arrow({"v": values, "n": [1, 2]})):
        body, rows = stored(api, data)
        assert [row[0] for row in rows] == expected
        assert body["columns"][0]["storage"] == storage
        assert [notice["code"] for notice in body["notices"]] == ([code] if code else [])


@pytest.mark.parametrize("write", [parquet, arrow])
def test_texts_that_are_not_utf8_are_named_by_row(api: Api, write: Any) -> None:
    few = pa.concat_arrays([NOT_UTF8[:1], *[NOT_UTF8[1:3]] * 20])
    data = write({"city": as_string(few), "n": range(41)})
    problem = refusal(api, data)
    assert problem["errors"][0] | {"fix": ""} == {
        "detail": "Row 1, column 'city': 'Gen\\\\xe8ve' is not UTF-8 text.",
        "row": 1,
        "column": "city",
        "received": "Gen\\xe8ve",
        "expected": "UTF-8 text",
        "fix": "",
    }
    body, rows = stored(api, data, lenient="true")
    assert (body["refused"]["rows"], rows[0]) == (1, ["Bern", 1])


def test_bytes_that_are_no_text_are_named_once_and_can_be_left_out(api: Api) -> None:
    data = parquet({"image": pa.array([b"\xff\xd8\xff"] * 30), "n": range(30)})
    problem = refusal(api, data)
    assert len(problem["errors"]) == 1
    assert "kinds.image=ignored" in problem["errors"][0]["fix"]
    body, rows = stored(api, data, **{"kinds.image": "ignored"})
    assert (body["columns"][0]["kind"], rows[0]) == ("ignored", ["ffd8ff", 0])


def test_a_name_that_is_not_utf8_is_said(api: Api) -> None:
    data = arrow({"naXme": range(3)}).replace(b"naXme", b"na\xffme")
    assert refusal(api, data)["detail"] == "A column's name is not UTF-8."


@pytest.mark.parametrize("value", [-62_167_219_200_000, 253_402_300_800_000], ids=["year 0", "year 10000"])
def test_times_beyond_the_calendar_are_named_by_row(api: Api, value: int) -> None:
    times = pa.array([0] * 20 + [value], pa.timestamp("ms"))
    problem = refusal(api, parquet({"at": times, "n": range(21)}))
    assert problem["errors"][0]["row"] == 21
    assert "not a time in the years 1 to 9999" in problem["detail"]
    body, _ = stored(api, parquet({"at": times, "n": range(21)}), lenient="true")
    assert (body["rows"], body["refused"]["rows"]) == (20, 1)
    days = pa.array([0] * 20 + [value // 86_400_000], pa.date32())
    assert refusal(api, parquet({"on": days}))["errors"][0]["row"] == 21


def test_the_index_of_a_pandas_frame_is_named_and_ignored(api: Api) -> None:
    body, _ = stored(api, parquet({"a": range(40), "__index_level_0__": range(100, 140)}))
    assert [(column["name"], column["kind"]) for column in body["columns"]] == [("a", "numeric"), ("index", "ignored")]
    assert body["notices"][0]["code"] == "column_set_aside"
    body, _ = stored(api, parquet({"a": range(40), "__index_level_0__": range(100, 140)}), **{"kinds.index": "numeric"})
    assert (body["columns"][1]["kind"], body["notices"]) == ("numeric", [])


def test_nested_columns_are_refused_by_name_or_ignored(api: Api) -> None:
    data = parquet({"tags": [["a"], ["b", "c"], None], "n": [1, 2, 3]})
    assert "kinds.tags=ignored" in refusal(api, data)["errors"][0]["fix"]
    body, rows = stored(api, data, **{"kinds.tags": "ignored"})
    assert (body["columns"][0]["kind"], [row[0] for row in rows]) == ("ignored", ['["a"]', '["b", "c"]', None])


def test_an_encrypted_file_is_named(api: Api) -> None:
    problem = refusal(api, b"PARE" + b"\0" * 64 + b"PARE")
    assert (problem["status"], problem["detail"]) == (415, "This Parquet file is encrypted.")


LONGEST_BATCH = 2**31 - 1  # rows


@pytest.mark.parametrize(
    "column",
    [
        lambda: pa.nulls(LONGEST_BATCH),  # a quarter of a gigabyte: made where it is needed
        lambda: pa.RunEndEncodedArray.from_arrays(pa.array([LONGEST_BATCH], pa.int32()), pa.array([1])),
        lambda: pa.RunEndEncodedArray.from_arrays(pa.array([4_000], pa.int32()), pa.array(["x" * 500_000])),
    ],
    ids=["nulls", "numbers", "texts"],
)
def test_what_takes_no_bytes_in_a_file_counts_as_what_it_expands_to(api: Api, column: Callable[[], pa.Array]) -> None:
    """A few hundred bytes of Arrow are billions of rows, of which a hundred million were read before."""
    data = arrow({"a": column()})
    assert len(data) < 600_000
    assert refusal(api, data)["status"] == 413


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("opened", [pa.ipc.new_file, pa.ipc.new_stream], ids=["file", "stream"])
@pytest.mark.parametrize("repeated", [False, True], ids=["values", "dictionary"])
def test_compressed_arrow_is_refused_before_it_is_expanded(
    api: Api, compression: str, opened: Any, repeated: bool
) -> None:
    """pyarrow expands a whole batch: a few kilobytes took gigabytes before they were counted."""
    column, sink = pa.array(np.zeros(10_000)), io.BytesIO()
    if repeated:
        column = pa.DictionaryArray.from_arrays(pa.array([0, 1]), column)
    batch = pa.record_batch({"a": column})
    with opened(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    length, longer = ((count).to_bytes(8, "little") for count in (80_000, 2**33))
    assert sink.getvalue().count(length) == 1
    assert refusal(api, sink.getvalue().replace(length, longer))["status"] == 413


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_compressed_arrow_is_counted_and_read(api: Api, tmp_path: Path, compression: str | None) -> None:
    batch = pa.record_batch({"a": pa.array(["x", None, "y"] * 1000).dictionary_encode(), "b": range(3000)})
    for opened in (pa.ipc.new_file, pa.ipc.new_stream):
        path = tmp_path / "table.arrow"
        with opened(str(path), batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_batch(batch)
            writer.write_batch(batch)
        expected = 2 * (3000 * 8 + 3000 * 4 + 375) + 3 * 4 + 2 if compression else 0
        assert expanded_bytes(path) == pytest.approx(expected, abs=16)
        assert len(stored(api, path.read_bytes())[1]) == 6000


def test_runs_are_read(api: Api) -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["x", None]))
    assert [row[0] for row in stored(api, arrow({"a": runs, "b": range(5)}))[1]] == ["x", "x", None, None, None]


def test_a_file_whose_rows_are_all_left_out_is_refused(api: Api) -> None:
    problem = refusal(api, parquet({"t": as_string(pa.array([b"\xff"]))}), lenient="true")
    assert problem["errors"][0]["row"] == 1


def test_lenient_leaves_out_at_most_a_tenth(api: Api) -> None:
    texts = pa.array([b"\xff"] * 5 + [b"x"] * 25)
    problem = refusal(api, parquet({"t": as_string(texts), "n": range(30)}), lenient="true")
    assert problem["detail"].startswith("5 of 30 rows would be left out")


def test_what_typed_values_may_mean_is_said(api: Api) -> None:
    count = 30
    table = pa.table(
        {
            "amount": [f"{n},5" for n in range(count)],
            "day": [f"2024-01-{n % 28 + 1:02}" for n in range(count)],
            "zip": [f"0{n:04}" for n in range(count)],
            "timestamp": [1_700_000_000 + 86_400 * n for n in range(count)],
            "y": list(range(count)),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    body, rows = stored(api, file.getvalue())
    assert rows[1] == ["1,5", "2024-01-02", "00001", 1_700_086_400, 1]
    options = {notice["column"]: notice["option"] for notice in body["notices"]}
    assert options == {
        "amount": "kinds.amount=numeric",
        "day": "kinds.day=datetime",
        "timestamp": "kinds.timestamp=datetime",
    }
    chosen = dict(option.split("=") for option in options.values())
    assert stored(api, file.getvalue(), **chosen)[1][1] == [
        1.5,
        "2024-01-02T00:00:00",
        "00001",
        "2023-11-15T22:13:20",
        1,
    ]


def test_an_option_about_a_typed_column_is_obeyed(api: Api) -> None:
    whole, text = [-999, *range(20, 40), -999], ["NA", "U", *["u"] * 20]
    data = parquet({"n": whole, "x": [float(one) for one in whole], "t": text, "d": [45000.5] * 22})
    made, _ = stored(api, data)
    offered = {notice["option"] for notice in made["notices"]}
    assert offered == {"formats.n.also_missing=-999", "formats.x.also_missing=-999"}
    options = {
        "formats.n.also_missing": "-999",
        "formats.x.also_missing": "-999",
        "formats.t": '{"missing": ["NA"], "fold_case": true}',
        "formats.d.time": "excel",
    }
    made, rows = stored(api, data, **options)
    assert rows[:2] == [[None, None, None, "2023-03-15T12:00:00"], [20, 20, "u", "2023-03-15T12:00:00"]]
    assert [column["kind"] for column in made["columns"]][1:] == ["numeric", "categorical", "datetime"]


def test_floats_that_have_lost_their_digits_are_named(api: Api) -> None:
    made, _ = stored(api, parquet({"code": [float(2**60 + 1024 * at) for at in range(20)]}))
    assert "digits_lost_before" in {notice["code"] for notice in made["notices"]}


def test_objects_in_json_are_named(api: Api) -> None:
    body, rows = stored(api, b"".join(b'{"a": {"b": %d}, "c": [1], "y": %d}\n' % (n, n) for n in range(9)))
    assert rows[2] == ['{"b":2}', "[1]", 2]
    assert [notice["column"] for notice in body["notices"] if notice["code"] == "nested_as_text"] == ["a", "c"]


def test_a_parquet_file_is_gone_through_in_flat_memory(tmp_path: Path) -> None:
    """Arrow keeps what it has read until an iteration ends: without runs of row groups this takes the whole file."""
    group = pa.table({f"x{at}": np.random.default_rng(at).normal(size=60_000) for at in range(10)})
    with pq.ParquetWriter(tmp_path / "many.parquet", group.schema) as writer:
        for _ in range(14):
            writer.write_table(group)
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for batch in batches_of(pq.ParquetFile(tmp_path / "many.parquet", buffer_size=MB), 65_536, use_threads=False):
        rows += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
    assert rows == 14 * 60_000
    assert most < 0.6 * 14 * group.nbytes


def test_different_numbers_are_counted_exactly_until_there_are_too_many() -> None:
    random = np.random.default_rng(3)
    new, few = random.random(4_000), random.integers(0, 40, 4_000)
    with_nan = np.where(few < 20, np.nan, new)
    for values, most in ((new, 5_000), (few, 5_000), (with_nan, 5_000), (np.repeat(new, 3), 5_000), (new, 1_000)):
        counter = DistinctCounter(most)
        for part in np.array_split(values, 5):
            counter.add(pa.array(part))
        distinct, counts = counter.finish()
        expected, times = np.unique(values, return_counts=True)
        if most < len(expected):
            assert counts is None
            assert distinct == pytest.approx(len(expected), rel=0.05)
            continue
        assert counts is not None
        order = np.argsort(counts["v"].to_numpy())
        np.testing.assert_array_equal(counts["v"].to_numpy()[order], expected)
        np.testing.assert_array_equal(counts["n"].to_numpy()[order], times)
