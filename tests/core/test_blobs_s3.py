"""Blobs in a real S3 server: whole or absent, visible to every process, collected by age, verified when read."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from sqlalchemy import Engine

from fitserve import blobs, db
from fitserve.blobs import Corrupt, open_store
from fitserve.errors import NotFound, Unavailable
from fitserve.runs import blob_references
from fitserve.tables import Dataset
from tests.faults.cluster import add_dataset

pytestmark = pytest.mark.xdist_group("s3")

BIG = 130 * 1024 * 1024  # more than one part of an upload


@pytest.fixture
def raw(s3_environment: dict[str, str]) -> Any:
    """Return a client of the same server that is not ours."""
    return botocore.session.get_session().create_client("s3", endpoint_url=s3_environment["AWS_ENDPOINT_URL"])


def object_key(url: str, sha256: str) -> dict[str, str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": f"{prefix}/{sha256[:2]}/{sha256}"}


def test_a_file_of_many_parts_comes_back_whole(s3_url: str, raw: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1024 * 1024) * (BIG // 1024 // 1024))
    store = open_store(s3_url)
    stored = store.put_file(source)
    assert stored.bytes == BIG
    assert "-" in raw.head_object(**object_key(s3_url, stored.sha256))["ETag"]  # an ETag of a multipart upload
    path = store.local(stored.sha256, tmp_path / "cache")
    assert blobs.sha256_of(path) == stored.sha256 == path.name
    assert store.local(stored.sha256, tmp_path / "cache") == path
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [stored.sha256]


def test_an_upload_that_was_cut_off_does_not_exist(s3_url: str, raw: Any) -> None:
    store = open_store(s3_url)
    sha256 = "ab" * 32
    begun = raw.create_multipart_upload(**object_key(s3_url, sha256))
    raw.upload_part(**object_key(s3_url, sha256), UploadId=begun["UploadId"], PartNumber=1, Body=b"half")
    assert not store.exists(sha256)
    assert list(store.listing()) == []
    with pytest.raises(NotFound):
        store.read(sha256)


def test_a_change_by_one_process_is_visible_to_another_at_once(s3_url: str) -> None:
    one, other = open_store(s3_url), open_store(s3_url)
    assert list(other.listing()) == []
    stored = one.put_bytes(b"weights")
    assert [name for name, _ in other.listing()] == [stored.sha256]
    assert other.exists(stored.sha256)
    assert abs(other.written_at(stored.sha256) - time.time()) < 60
    one.delete(stored.sha256)
    assert not other.exists(stored.sha256)
    assert other.written_at(stored.sha256) == 0.0
    other.delete(stored.sha256)


def test_a_changed_object_is_refused(s3_url: str, raw: Any, tmp_path: Path) -> None:
    store = open_store(s3_url)
    stored = store.put_bytes(b"weights")
    raw.put_object(**object_key(s3_url, stored.sha256), Body=b"weighty")
    with pytest.raises(Corrupt):
        store.read(stored.sha256)
    with pytest.raises(Corrupt):
        store.local(stored.sha256, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_corrupt_copy_is_fetched_again(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url)
    stored = store.put_bytes(b"weights")
    store.local(stored.sha256, tmp_path).write_bytes(b"weighty")
    assert store.local(stored.sha256, tmp_path).read_bytes() == b"weights"


def test_copies_unused_for_longest_are_deleted(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "CACHE_BYTES", 2_500)
    store = open_store(s3_url)
    old, used, new = (store.put_bytes(bytes([number]) * 1000).sha256 for number in range(3))
    for sha256, age in ((old, 9000), (used, 8000)):
        path = store.local(sha256, tmp_path)
        os.utime(path, (time.time() - age,) * 2)
    store.local(used, tmp_path)
    store.local(new, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {used, new}


def test_the_collector_spares_blobs_that_are_referenced_or_young(engine: Engine, s3_url: str) -> None:
    store = open_store(s3_url)
    add_dataset(engine, store)
    stray = store.put_bytes(b"nothing refers to it").sha256
    assert blob_references.delete_unreferenced(engine, store, age_seconds=3600) == 0
    with db.transaction(engine) as session:
        blob_references.add_references(
            session, store, {"checkpoint": store.put_bytes(b"a checkpoint")}, datetime.now(UTC)
        )
    time.sleep(1.1)  # S3 reports whole seconds
    assert blob_references.delete_unreferenced(engine, store, age_seconds=0) == 2
    assert not store.exists(stray)
    with db.reading(engine) as session:
        dataset_blob = session.query(Dataset).one().blob
    assert [name for name, _ in store.listing()] == [dataset_blob]
    with pytest.raises(blob_references.BlobVanished), db.transaction(engine) as session:
        blob_references.add_references(session, store, {"onnx": blobs.StoredBlob(stray, 20)}, datetime.now(UTC))


def test_a_missing_bucket_is_created(s3_environment: dict[str, str], tmp_path: Path) -> None:
    store = open_store(f"s3://{tmp_path.name.replace('_', '-')[:40]}-{os.getpid()}/blobs")
    with pytest.raises(Unavailable):
        store.put_bytes(b"weights")
    store.prepare()
    store.prepare()
    assert store.read(store.put_bytes(b"weights").sha256) == b"weights"


def test_an_unreachable_store_is_unavailable(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    store = open_store(s3_url)
    stored = store.put_bytes(b"weights")
    away = s3fs.S3FileSystem(
        endpoint_url="http://127.0.0.1:9", config_kwargs={"retries": {"max_attempts": 0}}, skip_instance_cache=True
    )
    away.retries = 0
    monkeypatch.setattr(store, "fs", away)
    for attempt in (
        lambda: store.read(stored.sha256),
        lambda: store.put_bytes(b"other"),
        lambda: store.exists(stored.sha256),
        lambda: list(store.listing()),
        lambda: store.local(stored.sha256, tmp_path),
    ):
        with pytest.raises(Unavailable) as caught:
            attempt()
        assert caught.value.status == 503
