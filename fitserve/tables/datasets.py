"""Blobs, datasets, unfinished uploads, staged rows, and uploaded weights."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from fitserve.tables.base import Base, partial_index


class Blob(Base):
    """Bytes in the blob store, named by their SHA-256. Only blobs with a row are loaded."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    bytes: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))  # dataset, manifest, keras, onnx, checkpoint, plot, ...
    created_at: Mapped[datetime]


PLAYGROUND = "playground-"  # name prefix of the datasets that the dashboard's playground creates


class Dataset(Base):
    """One version of an uploaded table, immutable."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("name", "version"), Index("ix_datasets_sha256", "sha256"))
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    version: Mapped[int]
    owner: Mapped[str] = mapped_column(String(63))
    sha256: Mapped[str] = mapped_column(String(64))  # hash of the content as uploaded
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))  # the Parquet file
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"))
    rows: Mapped[int]
    bytes: Mapped[int]  # as uploaded
    source: Mapped[dict[str, Any]]  # format, dialect, encoding, compression, options of the upload
    columns: Mapped[list[Any]]  # wire.Column, in order
    profile: Mapped[dict[str, Any]]
    refused: Mapped[dict[str, Any] | None]  # lenient uploads: the number of skipped rows, and the first of them
    notices: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'"))  # wire.notices.Notice
    shared: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class StagedRows(Base):
    """A batch of rows that waits to be appended; afterwards, the record of the version that received it."""

    __tablename__ = "staged_rows"
    __table_args__ = (
        UniqueConstraint("name", "batch"),
        partial_index(
            "ix_staged_rows_waiting",
            "name",
            "id",
            where="dataset_id IS NULL",
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # ids sort by time
    owner: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(63))  # the dataset's name
    batch: Mapped[str | None] = mapped_column(String(255))  # the Idempotency-Key
    sha256: Mapped[str] = mapped_column(String(64))  # hash of the batch as sent
    rows: Mapped[int]
    size: Mapped[int]  # in bytes, as sent
    parquet: Mapped[bytes | None]  # the parsed rows; None once they are appended
    dataset_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]


class Upload(Base):
    """An unfinished resumable upload."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(63))
    length: Mapped[int | None]
    offset: Mapped[int]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    dataset_id: Mapped[str | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class UploadedWeights(Base):
    """Weight arrays by layer, from which networks start training. Only `fitserve.uploaded_weights` writes here."""

    __tablename__ = "uploaded_weights"
    __table_args__ = (UniqueConstraint("owner", "sha256"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # ids sort by time
    owner: Mapped[str] = mapped_column(String(63))
    sha256: Mapped[str] = mapped_column(String(64))  # hash of the file as sent
    artifact: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"))  # the manifest that names it
    bytes: Mapped[int]
    parameters: Mapped[int]
    created_at: Mapped[datetime]
