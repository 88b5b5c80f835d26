"""Rows from frames, arrays and mappings; request bodies from tables and files."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitserve.client.dataframes import rows_of
from fitserve.client.upload_body import dataset_name, upload_of
from fitserve.errors import BadInput

ROWS = [{"n": 1, "x": 0.5, "s": "a", "b": True}, {"n": 2, "x": None, "s": None, "b": False}]


def test_frames_of_each_library_give_the_same_rows() -> None:
    pandas = pd.DataFrame({"n": [1, 2], "x": [0.5, float("nan")], "s": ["a", None], "b": [True, False]})
    assert rows_of(pandas) == ROWS
    assert rows_of(pl.DataFrame(ROWS)) == ROWS
    assert rows_of(pl.LazyFrame(ROWS)) == ROWS
    assert rows_of(pa.Table.from_pylist(ROWS)) == ROWS
    assert rows_of(ROWS) == ROWS
    assert rows_of({"n": [1, 2], "x": (0.5, None), "s": ["a", None], "b": np.array([True, False])}) == ROWS
    assert rows_of(ROWS[0]) == ROWS[:1]


def test_times_decimals_and_numpy_scalars_become_json() -> None:
    when = dt.datetime(2026, 3, 1, 12, 30, tzinfo=dt.UTC)
    frame = pd.DataFrame({"t": [pd.Timestamp(when), pd.NaT], "n": pd.array([1, pd.NA], dtype="Int64")})
    assert rows_of(frame) == [{"t": "2026-03-01T12:30:00+00:00", "n": 1}, {"t": None, "n": None}]
    assert rows_of([[np.float32(0.5), np.int64(3), np.nan]]) == [[0.5, 3, None]]
    assert rows_of(np.array([[1.0, np.inf]])) == [[1.0, None]]


@pytest.mark.parametrize("data", ["text", 3, {"a": [1, 2], "b": [1]}, [[object()]], np.float64(1)])
def test_what_is_not_a_table_is_refused(data: object) -> None:
    with pytest.raises(BadInput):
        rows_of(data)


def test_frames_upload_as_parquet_and_keep_their_kinds() -> None:
    frame = pd.DataFrame({"code": ["001", "002"], "n": [1, 2]})
    for data in (frame, pl.from_pandas(frame), pa.Table.from_pandas(frame)):
        upload = upload_of(data)
        assert upload.content_type == "application/vnd.apache.parquet"
        table = pq.read_table(io.BytesIO(b"".join(upload.chunks())))
        assert table.column("code").to_pylist() == ["001", "002"]
        assert upload.size == sum(len(chunk) for chunk in upload.chunks())


def test_files_are_sent_from_their_beginning_each_time_and_report_their_progress(tmp_path: Path) -> None:
    path = tmp_path / "My Table (1).csv.gz"
    path.write_bytes(b"x" * 2_500_000)
    progress: list[tuple[int, int | None]] = []
    upload = upload_of(path, lambda sent, size: progress.append((sent, size)))
    assert b"".join(upload.chunks()) == b"".join(upload.chunks()) == path.read_bytes()
    assert progress[-1] == (2_500_000, 2_500_000)
    assert (upload.content_type, upload.stem) == ("text/csv", "My Table (1)")
    assert dataset_name(str(upload.stem)) == "my-table-1"
    with path.open("rb") as file:
        file.seek(500_000)
        opened = upload_of(file)
        assert opened.size == 2_000_000 == len(b"".join(opened.chunks())) == len(b"".join(opened.chunks()))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadInput, match=r"nowhere\.csv"):
        upload_of("nowhere.csv")
