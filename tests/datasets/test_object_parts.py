"""Parts of a pattern are fetched side by side, and are one table in the order of their names."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr

from fitserve.datasets.sources import objects
from fitserve.datasets.sources.connections import Connection
from fitserve.datasets.sources.fetched import Fetched, Place, SourceAway
from fitserve.settings import Limits
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.sources import ObjectSource

MEETING = threading.Barrier(objects.SIDE_BY_SIDE, timeout=30)


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


def fetch(store: MeetingStore, folder: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, bytes]) -> Fetched:
    root = f"/{folder.name}"
    for name, data in parts.items():
        store.pipe(f"{root}/{name}", data)
    monkeypatch.setattr(objects, "open_store", lambda *_: (store, f"{root}/*.csv"))
    connection = Connection(url=SecretStr("s3://bucket"))
    place = Place(folder, Limits(), UploadOptions())
    return objects.fetch("s3", ObjectSource(connection="lake", path="*.csv"), connection, place)


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
