"""Blobs are durable before they get their name, and verified when they are read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitserve import artifacts, blobs
from fitserve.blobs import BlobStore, Corrupt, FolderStore, open_store
from fitserve.datasets.store import local_parquet
from fitserve.errors import NotFound, StorageFull
from fitserve.tables import Dataset


@pytest.fixture(params=["folder", "fsspec", pytest.param("s3", marks=pytest.mark.xdist_group("s3"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_url"))
    if request.param == "folder":
        return open_store(f"file://{tmp_path / 'blobs'}")
    return open_store(f"memory://{tmp_path.name}")


@given(data=st.binary(max_size=5000))
def test_bytes_read_back(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = FolderStore(tmp_path_factory.getbasetemp() / "property")
    stored = store.put_bytes(data)
    assert stored == blobs.StoredBlob(hashlib.sha256(data).hexdigest(), len(data))
    assert store.read(stored.sha256) == data


def test_a_file_reads_back_and_is_listed(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights" * 1000)
    stored = store.put_file(source)
    assert store.local(stored.sha256, tmp_path / "cache").read_bytes() == source.read_bytes()
    assert [name for name, _ in store.listing()] == [stored.sha256]
    store.delete(stored.sha256)
    store.delete(stored.sha256)
    assert not store.exists(stored.sha256)
    with pytest.raises(NotFound):
        store.read(stored.sha256)


def test_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    stored = store.put_bytes(b"weights")
    path = tmp_path / stored.sha256[:2] / stored.sha256
    path.write_bytes(b"weighty")
    with pytest.raises(Corrupt):
        store.read(stored.sha256)
    with pytest.raises(Corrupt):
        store.local(stored.sha256, tmp_path / "cache")


def test_no_name_leads_out_of_the_store(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for name in ("../secret", "..%2fsecret", "a\0b", "A" * 64, ""):
        with pytest.raises(NotFound):
            store.read(name)
        with pytest.raises(NotFound):
            store.local(name, tmp_path / "cache")


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull) as caught:
        store.put_bytes(b"weights")
    assert caught.value.status == 507
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_artifact_is_named_by_its_manifest(store: BlobStore, tmp_path: Path) -> None:
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(b"graph")
    artifact, stored = artifacts.write(store, {"onnx": onnx}, {"task": "binary", "onnx": {"inputs": []}})
    read = artifacts.read(store, artifact.sha256)
    assert read == artifact
    assert read.file("onnx") == stored["onnx"]
    assert read.manifest["onnx"]["inputs"] == []
    assert read.kinds == ["onnx"]


def test_a_table_that_changes_after_it_was_verified_is_corrupt(tmp_path: Path) -> None:
    blobs, dataset = FolderStore(tmp_path / "blobs"), Dataset()
    dataset.blob = blobs.put_bytes(b"a table").sha256
    path = local_parquet(blobs, dataset, tmp_path)
    assert local_parquet(blobs, dataset, tmp_path) == path
    path.write_bytes(b"A table")
    for _ in range(2):
        with pytest.raises(Corrupt):
            local_parquet(blobs, dataset, tmp_path)


def test_a_job_finds_bytes_that_a_disk_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.datasets.store._stamp", lambda _path: (1, 2, 3))  # the disk tells nobody
    blobs, dataset = FolderStore(tmp_path / "blobs"), Dataset()
    dataset.blob = blobs.put_bytes(b"another table").sha256
    path = local_parquet(blobs, dataset, tmp_path)
    path.write_bytes(b"Another table")
    with pytest.raises(Corrupt):
        local_parquet(blobs, dataset, tmp_path, again=True)
