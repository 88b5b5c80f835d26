"""Parts that match a pattern are fetched in parallel and form one table, in the order of their names."""

from __future__ import annotations

import io
import re
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr

from fitserve.datasets.ingest import ingest
from fitserve.datasets.joined_types import common_type
from fitserve.datasets.sources import objects
from fitserve.datasets.sources.connections import NamedConnection
from fitserve.datasets.sources.fetched import Fetched, Place, SourceAway
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.sources import ObjectSource
from tests.waiting import PATIENCE

MEETING = threading.Barrier(objects.SIDE_BY_SIDE, timeout=PATIENCE)


class MeetingStore(MemoryFileSystem):  # type: ignore[misc]
    """Opens a part only once as many are asked for as are fetched at once; parts called `torn` break off."""

    def __init__(self, *arguments: Any, meets: bool = True, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._meets = meets

    def open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        if mode == "rb":
            if self._meets:
                MEETING.wait()
            if "torn" in path:
                raise ConnectionError("reset by peer")
        return super().open(path, mode, **more)


def fetch(
    store: MeetingStore, folder: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, bytes], path: str = "*.csv"
) -> Fetched:
    root = f"/{folder.name}"
    for name, data in parts.items():
        store.pipe(f"{root}/{name}", data)
    monkeypatch.setattr(objects, "open_store", lambda *_: (store, f"{root}/{path}"))
    connection = NamedConnection(url=SecretStr("s3://bucket"))
    place = Place(folder, Limits(), UploadOptions())
    return objects.fetch("s3", ObjectSource(connection="lake", path=path), connection, place)


def test_parts_are_fetched_side_by_side_and_joined_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2 * objects.SIDE_BY_SIDE
    parts = {f"{at:02}.csv": f"id,name\n{at},n{at}\n".encode() for at in range(count)}
    fetched = fetch(MeetingStore(skip_instance_cache=True), tmp_path, monkeypatch, parts)
    lines = fetched.path.read_text().splitlines()
    assert [line.replace('"', "") for line in lines[1:]] == [f"{at},n{at}" for at in range(count)]
    assert [part["name"].rpartition("/")[2] for part in fetched.snapshot["parts"]] == sorted(parts)


def test_a_part_that_breaks_off_ends_the_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"00-torn.csv": b"id\n1\n"} | {f"{at:03}.csv": b"id\n1\n" for at in range(1, 30)}
    store = MeetingStore(meets=False, skip_instance_cache=True)
    with pytest.raises(SourceAway, match="reset by peer"):
        fetch(store, tmp_path, monkeypatch, parts)


def test_a_pattern_matches_as_in_fsspec_in_a_time_that_grows_with_its_length() -> None:
    names = ["a.csv", "b/a.csv", "b/c/a.csv", "b/c/d/e.csv.gz", "b/aa.csv", "b/[x].csv", "b/ü.csv", "c", "b/.a.csv"]
    for pattern in (
        "*",
        "*.csv",
        "**",
        "**/*.csv",
        "b/**",
        "b/**/a.csv",
        "b/*/?.csv",
        "[ab]/*[!a].csv",
        "*/**/e*",
        "b/a*a*",
    ):
        theirs = re.compile(fsspec.utils.glob_translate(pattern))
        ours = objects.Pattern(pattern.split("/"))
        assert [name for name in names if ours(name.split("/"))] == [name for name in names if theirs.match(name)], (
            pattern
        )
    began_at = time.process_time()
    assert not objects.Pattern(["*a" * 100 + "*b"])(["a" * 1000])
    assert not objects.Pattern(["**", "*a"] * 100 + ["b"])(["a"] * 300)
    assert time.process_time() - began_at < 2


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


FOLDERS: dict[str, tuple[dict[str, bytes], list[dict[str, Any]], str]] = {
    "numbers, days and texts": (
        {
            "y=2018/day=2018-03-01/who=A%20b/a.parquet": parquet(v=[1, 2]),
            "y=2019/day=2019-12-24/who=__HIVE_DEFAULT_PARTITION__/b.parquet": parquet(v=[3]),
        },
        [
            {"v": 1, "y": 2018, "day": date(2018, 3, 1), "who": "A b"},
            {"v": 2, "y": 2018, "day": date(2018, 3, 1), "who": "A b"},
            {"v": 3, "y": 2019, "day": date(2019, 12, 24), "who": None},
        ],
        "Read from the names of the parts' folders: 'y', 'day', 'who'.",
    ),
    "what only looks like a number or a day": (
        {"week=2026-W01-1/n=1\u0663/a.parquet": parquet(v=[1]), "week=2026-W02-1/n=-0/b.parquet": parquet(v=[2])},
        [{"v": 1, "week": "2026-W01-1", "n": "1\u0663"}, {"v": 2, "week": "2026-W02-1", "n": "-0"}],
        "Read from the names of the parts' folders: 'week', 'n'.",
    ),
    "nothing behind the sign": (
        {"y=/b=/a.parquet": parquet(v=[1]), "y=2/b=c=d/b.parquet": parquet(v=[2])},
        [{"v": 1, "y": None, "b": None}, {"v": 2, "y": 2, "b": "c=d"}],
        "Read from the names of the parts' folders: 'y', 'b'.",
    ),
    "one part": (
        {"code=007/a.csv": b"v\n1\n"},
        [{"v": 1, "code": "007"}],
        "Read from the names of the parts' folders: 'code'.",
    ),
    "the parts' own": ({"v=1/a.csv": b"v\n5\n", "v=2/b.csv": b"v\n6\n"}, [{"v": 5}, {"v": 6}], ""),
    "not all parts": (
        {"a.csv": b"v\n5\n", "y=2/b.csv": b"v\n6\n"},
        [{"v": 5}, {"v": 6}],
        "Not read, as not all parts have it: 'y' in the names of their folders.",
    ),
    "JSON Lines": (
        {"y=1/a.jsonl": b'{"v": 5}\n', "y=2/b.jsonl": b'{"v": 6}\n'},
        [{"v": 5}, {"v": 6}],
        "Not read, as the parts are JSON Lines: 'y' in the names of their folders.",
    ),
}


@pytest.mark.parametrize("folders", FOLDERS)
def test_folders_that_name_columns_are_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: str) -> None:
    parts, rows, said = FOLDERS[folders]
    store = MeetingStore(meets=False, skip_instance_cache=True)
    fetched = fetch(store, tmp_path, monkeypatch, parts, "**/*.*")
    read = ingest(fetched.path, UploadOptions(), Limits(), tmp_path)
    assert pq.read_table(read.parquet).to_pylist() == rows
    assert [one.message for one in fetched.notices] == ([said] if said else [])


def test_a_part_in_another_folder_is_other_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = set()
    for year in (2025, 2026, 2026):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        parts = {f"y={year}/a.csv": b"v\n1\n"}
        store = MeetingStore(meets=False, skip_instance_cache=True)
        contents.add(fetch(store, folder, monkeypatch, parts, "*/*.csv").sha256)
        store.rm(f"/{folder.name}", recursive=True)
    assert len(contents) == 2


def test_an_object_with_the_signs_of_a_pattern_is_not_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MeetingStore(meets=False, skip_instance_cache=True)
    parts = {"sales [1].csv": b"v\n1\n", "sales 1.csv": b"v\n2\n"}
    assert fetch(store, tmp_path, monkeypatch, parts, "sales [1].csv").path.read_bytes() == b"v\n1\n"


def test_decimals_keep_their_digits_beside_other_numbers() -> None:
    assert common_type(pa.decimal128(9, 2), pa.int64()) == pa.decimal128(22, 2)
    assert common_type(pa.decimal128(9, 2), pa.decimal128(30, 19)) == pa.decimal128(30, 19)
    assert common_type(pa.decimal128(38, 0), pa.decimal128(38, 9)) == pa.float64()
    assert common_type(pa.decimal256(50, 2), pa.decimal256(40, 3)) == pa.decimal256(51, 3)
    assert common_type(pa.decimal256(76, 2), pa.decimal256(40, 3)) == pa.float64()
    assert common_type(pa.decimal128(9, 2), pa.float64()) == pa.float64()


def test_whole_numbers_without_a_sign_keep_their_digits_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = pa.array([2**64 - 1, 7], pa.uint64())
    parts = {
        "a.parquet": parquet(v=large, w=large),
        "b.parquet": parquet(v=pa.array([-(2**63)], pa.int64()), w=pa.array([1], pa.uint8())),
    }
    fetched = fetch(MeetingStore(meets=False, skip_instance_cache=True), tmp_path, monkeypatch, parts, "*.parquet")
    read = pq.read_table(ingest(fetched.path, UploadOptions(), Limits(), tmp_path).parquet)
    assert read.column("v").to_pylist() == ["18446744073709551615", "7", "-9223372036854775808"]
    assert read.column("w").to_pylist() == ["18446744073709551615", "7", "1"]
