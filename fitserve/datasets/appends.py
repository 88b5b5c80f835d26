"""Rows added to a dataset: a new version with its parent's rows, then those of an upload or of staged batches."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.blobs import BlobStore, disk_full_is_507
from fitserve.dataset_facts import Kind
from fitserve.datasets import TableRefused
from fitserve.datasets.ingest import IngestedTable, ingest
from fitserve.datasets.joined_types import cast, common_type
from fitserve.datasets.parquet_batches import batches_of
from fitserve.datasets.readers import open_reader
from fitserve.datasets.store import (
    COMMIT_ATTEMPTS,
    NewVersion,
    ReceivedFile,
    commit,
    latest_version,
    local_parquet,
    scratch_folder,
    with_formats,
)
from fitserve.errors import Conflict, Problem
from fitserve.parsing import ColumnFormat
from fitserve.settings import Limits
from fitserve.tables import Dataset
from fitserve.tables.json_columns import where_readable
from fitserve.wire.datasets import UploadOptions

JOIN_ROWS = 65_536  # rows copied at a time


def append_rows(
    engine: Engine,
    blobs: BlobStore,
    parent: Dataset,
    received: ReceivedFile,
    *,
    options: UploadOptions,
    limits: Limits,
    scratch: Path,
    batch: str | None = None,
    follow: bool = False,
) -> tuple[Dataset, bool]:
    """Create a version with the parent's rows, then those of an upload with the same columns (in any order).

    A `batch` that was already appended to this name is not appended again: its version and False are returned. With
    `follow`, rows go to the name's newest version, even if another append commits meanwhile; otherwise to this parent.

    Raises BadInput and its subclasses with row and column of the upload; Conflict for a batch of other rows.
    """
    for _ in range(COMMIT_ATTEMPTS):
        with db.reading(engine) as session:
            known = find_batch(session, parent, batch, received.sha256)
            newest = latest_version(session, parent.name) if follow else None
        if known is not None:
            return known, False
        if newest is not None and newest.owner == parent.owner:
            parent = newest
        append = (engine, blobs, parent, received)
        with suppress(Outdated):
            return _append(*append, options=options, limits=limits, scratch=scratch, batch=batch, follow=follow)
    raise Conflict(f"The name {parent.name!r} is in use by many uploads at once.", received=parent.name)


class Outdated(Exception):
    """The version that rows were appended to is not the newest any more."""


def find_batch(session: Session, parent: Dataset, batch: str | None, sha256: str) -> Dataset | None:
    """Return the version that contains a batch. Raises Conflict if that batch had other rows."""
    if batch is None:
        return None
    same = where_readable(Dataset.source, Dataset.source["appended"]["batch"].as_string()) == batch
    query = select(Dataset).where(Dataset.name == parent.name, Dataset.owner == parent.owner, same)
    row = session.scalar(query.order_by(Dataset.version).limit(1))
    if row is not None and row.source["appended"]["sha256"] != sha256:
        raise other_rows(batch)
    return row


def other_rows(batch: str) -> Conflict:
    """Return the error for a batch's key that was used for other rows."""
    fix = "Send a different Idempotency-Key with each batch."
    return Conflict(f"The batch {batch[:80]!r} was sent with other rows before.", received=batch[:80], fix=fix)


def _append(
    engine: Engine,
    blobs: BlobStore,
    parent: Dataset,
    received: ReceivedFile,
    *,
    options: UploadOptions,
    limits: Limits,
    scratch: Path,
    batch: str | None,
    follow: bool,
) -> tuple[Dataset, bool]:
    """Append to one version. Raises Outdated if it must be the newest and no longer is."""
    with scratch_folder(scratch) as folder:
        part_folder = folder / "part"
        part_folder.mkdir()
        part = parse_part(parent, received, options, limits, part_folder)
        appended = {"to": parent.id, "rows": part.rows, "sha256": received.sha256}

        def find_existing(session: Session, newest: Dataset | None) -> Dataset | None:
            known = find_batch(session, parent, batch, received.sha256)
            if known is None and follow and newest is not None and newest.id != parent.id:
                raise Outdated
            return known

        return append_parts(
            engine,
            blobs,
            parent,
            [part.parquet],
            {**appended, **({"batch": batch} if batch is not None else {})},
            received_bytes=received.bytes,
            limits=limits,
            folder=folder,
            find_existing=find_existing,
            refused=part.refused,
            notices=part.notices,
        )


def parse_part(
    parent: Dataset, received: ReceivedFile, options: UploadOptions, limits: Limits, folder: Path
) -> IngestedTable:
    """Parse rows to append, in the same way as the parent's. Raises BadInput and its subclasses."""
    formats = {column["name"]: ColumnFormat.model_validate(column.get("format", {})) for column in parent.columns}
    stated = options.model_copy(
        update={
            "kinds": {**_kinds_that_keep_storage(parent), **options.kinds},
            "formats": {**formats, **options.formats},
        }
    )
    _check_same_columns(parent, received.path, options, limits, folder)
    return ingest(received.path, stated, limits, folder)


def append_parts(
    engine: Engine,
    blobs: BlobStore,
    parent: Dataset,
    parts: Sequence[Path],
    appended: Mapping[str, Any],
    *,
    received_bytes: int,
    limits: Limits,
    folder: Path,
    find_existing: Callable[[Session, Dataset | None], Dataset | None],
    after: Callable[[Session, Dataset], None] = lambda session, row: None,
    refused: dict[str, Any] | None = None,
    notices: Sequence[dict[str, Any]] = (),
) -> tuple[Dataset, bool]:
    """Create a version with the parent's rows, then those of parsed parts; `find_existing`, `after`: see `commit`."""
    kinds: dict[str, Kind] = {column["name"]: column["kind"] for column in parent.columns}
    whole = folder / "whole.parquet"
    _concatenate([local_parquet(blobs, parent, folder, again=True), *parts], whole)
    table = with_formats(ingest(whole, UploadOptions(format="parquet", kinds=kinds), limits, folder), parent)
    stored = blobs.put_file(table.parquet)
    version = NewVersion.of_parent(
        parent,
        table,
        stored,
        sha256=hashlib.sha256(f"{parent.sha256}+{appended['sha256']}".encode()).hexdigest(),
        bytes=parent.bytes + received_bytes,
        source={**parent.source, "appended": dict(appended)},
        refused=refused,
        notices=[*parent.notices, *(notice for notice in notices if notice not in parent.notices)],
    )
    return commit(engine, version, find_existing=find_existing, after=after)


def _kinds_that_keep_storage(parent: Dataset) -> dict[str, Kind]:
    """Return kinds that parse appended texts to the parent's storage, so that codes keep their leading zeros."""
    by_storage: dict[str, Kind] = {
        "string": "categorical",
        "timestamp": "datetime",
        "int64": "numeric",
        "float64": "numeric",
    }
    storages = {column["name"]: column["storage"] for column in parent.columns}
    return {name: by_storage[storage] for name, storage in storages.items() if storage in by_storage}


def _check_same_columns(parent: Dataset, path: Path, options: UploadOptions, limits: Limits, folder: Path) -> None:
    """Raise TableRefused where an upload has other columns than the dataset."""
    names = open_reader(path, options.model_copy(update={"kinds": {}}), limits, folder).names
    expected = [column["name"] for column in parent.columns]
    problems = [
        Problem(f"{name!r} is not a column of the dataset.", column=name) for name in sorted({*names} - {*expected})
    ]
    problems += [Problem(f"The column {name!r} is missing.", column=name) for name in sorted({*expected} - {*names})]
    if problems:
        raise TableRefused(
            f"Rows of {parent.name} have other columns.",
            received=list(names)[:50],
            expected=", ".join(expected[:50]),
            problems=problems[:20],
        )


def _concatenate(parts: Sequence[Path], target: Path) -> None:
    """Write the rows of all parts, with column types wide enough for all; the columns are the first part's."""
    schemas = [pq.read_schema(part) for part in parts]
    schema = pa.schema(
        [(name, functools.reduce(common_type, (one.field(name).type for one in schemas))) for name in schemas[0].names]
    )
    with disk_full_is_507(), pq.ParquetWriter(target, schema) as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for batch in batches_of(file, JOIN_ROWS, columns=schema.names):
                    columns = [cast(batch.column(field.name), field.type) for field in schema]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
