"""New versions of a dataset: rows appended, kinds corrected."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import Engine

from fitserve.blobs import BlobStore, disk_full_is_507
from fitserve.dataset_facts import Kind
from fitserve.datasets import store
from fitserve.datasets.ingest import ingest
from fitserve.datasets.open_file import open_source
from fitserve.datasets.readers import make_reader
from fitserve.datasets.store import Received
from fitserve.datasets.table_problems import TableRefused
from fitserve.encoding.coercion import labels_of
from fitserve.errors import Problem
from fitserve.settings import Limits
from fitserve.tables import Dataset
from fitserve.wire.datasets import UploadOptions

ROWS = 65_536


def append(
    engine: Engine,
    blobs: BlobStore,
    parent: Dataset,
    received: Received,
    *,
    options: UploadOptions,
    limits: Limits,
    scratch: Path,
) -> Dataset:
    """A new version: the parent's rows, then those of an upload with the same columns (in any order).

    Raises BadInput and its subclasses with row and column of the upload.
    """
    kinds: dict[str, Kind] = {column["name"]: column["kind"] for column in parent.columns}
    asked = options.model_copy(update={"kinds": {**_readable(parent), **options.kinds}})
    with store.scratch_folder(scratch) as folder:
        part_folder = folder / "part"
        part_folder.mkdir()
        part = ingest(received.path, _only_known(asked, received, limits, part_folder, parent), limits, part_folder)
        whole = folder / "whole.parquet"
        before = pq.ParquetFile(store.local_parquet(blobs, parent, folder))
        _join(before, pq.ParquetFile(part.parquet), whole)
        table = ingest(whole, UploadOptions(format="parquet", kinds=kinds), limits, folder)
        stored = blobs.put_file(table.parquet)
    digest = hashlib.sha256(f"{parent.sha256}+{received.sha256}".encode()).hexdigest()
    source = {**parent.source, "appended": {"to": parent.id, "rows": part.rows, "sha256": received.sha256}}
    return _commit(engine, parent, table, stored, digest, parent.bytes + received.bytes, source, part.refused)


def correct_kinds(
    engine: Engine, blobs: BlobStore, parent: Dataset, kinds: dict[str, Kind], *, limits: Limits, scratch: Path
) -> Dataset:
    """A new version whose columns have other kinds; values are read again where a kind needs it. Raises BadInput."""
    wanted: dict[str, Kind] = {column["name"]: column["kind"] for column in parent.columns}
    unknown = next((name for name in kinds if name not in wanted), None)
    if unknown is not None:
        problem = Problem(
            f"There is no column {unknown[:80]!r}.", pointer=f"/kinds/{unknown[:80]}", received=unknown[:80]
        )
        raise TableRefused(problem.detail, problems=[problem])
    wanted |= kinds
    with store.scratch_folder(scratch) as folder:
        path = store.local_parquet(blobs, parent, folder)
        table = ingest(path, UploadOptions(format="parquet", kinds=wanted), limits, folder)
        stored = blobs.put_file(table.parquet)
    options = {**parent.source.get("options", {})}
    options["kinds"] = {**options.get("kinds", {}), **kinds}
    source = {**parent.source, "options": options}
    return _commit(engine, parent, table, stored, parent.sha256, parent.bytes, source, parent.refused)


def _commit(
    engine: Engine,
    parent: Dataset,
    table: Any,
    stored: Any,
    sha256: str,
    size: int,
    source: dict[str, Any],
    refused: dict[str, Any] | None,
) -> Dataset:
    row = Dataset(
        owner=parent.owner,
        sha256=sha256,
        blob=stored.sha256,
        parent_id=parent.id,
        rows=table.rows,
        bytes=size,
        source=source,
        columns=table.columns,
        profile=table.profile,
        refused=refused,
        shared=parent.shared,
    )
    return store.insert_version(engine, row, stored.bytes, parent.name)


def _readable(parent: Dataset) -> dict[str, Kind]:
    """The kinds that the appended part must be read as: text-like ones keep leading zeros, others their numbers."""
    same: dict[str, Kind] = {}
    for column in parent.columns:
        if column["storage"] == "string":
            same[column["name"]] = "categorical"
        elif column["storage"] == "timestamp":
            same[column["name"]] = "datetime"
        elif column["storage"] in ("int64", "float64"):
            same[column["name"]] = "numeric"
    return same


def _only_known(
    options: UploadOptions, received: Received, limits: Limits, folder: Path, parent: Dataset
) -> UploadOptions:
    """The options, once the upload's header is known to be the parent's. Raises TableRefused."""
    bare = options.model_copy(update={"kinds": {}})
    peek = folder / "peek"
    peek.mkdir()
    reader, _, _ = make_reader(open_source(received.path, bare, limits, peek), bare, limits, peek)
    expected = [column["name"] for column in parent.columns]
    extra, lacking = set(reader.names) - set(expected), set(expected) - set(reader.names)
    if extra or lacking:
        problems = [Problem(f"{name!r} is no column of the dataset.", column=name) for name in sorted(extra)]
        problems += [Problem(f"The column {name!r} is missing.", column=name) for name in sorted(lacking)]
        raise TableRefused(
            f"Rows of {parent.name} have other columns.",
            received=list(reader.names)[:50],
            expected=", ".join(expected[:50]),
            problems=problems[:20],
        )
    return options


def _join(before: pq.ParquetFile, part: pq.ParquetFile, target: Path) -> None:
    """Both tables, one after the other, under types that hold both."""
    kinds = {field.name: field.type for field in part.schema_arrow}
    schema = pa.schema([(field.name, _common(field.type, kinds[field.name])) for field in before.schema_arrow])
    with disk_full_is_507(), pq.ParquetWriter(target, schema) as writer:
        for file in (before, part):
            for batch in file.iter_batches(ROWS, columns=schema.names):
                columns = [_cast(batch.column(field.name), field.type) for field in schema]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if all(any(is_kind(kind) for is_kind in numbers) for kind in (one, other)):
        return pa.int64() if all(pa.types.is_integer(kind) for kind in (one, other)) else pa.float64()
    if all(pa.types.is_timestamp(kind) or pa.types.is_date(kind) for kind in (one, other)):
        return pa.timestamp("us", getattr(one, "tz", None))
    return pa.string()


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if kind == pa.string():
        codes, labels = labels_of(column)
        indices = pa.array(codes, pa.int64(), mask=codes < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(labels, pa.string())).dictionary_decode()
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type) and kind.tz != column.type.tz:
        column = column.cast(pa.int64()).cast(pa.timestamp(column.type.unit, kind.tz))
    return pc.cast(column, kind, safe=False)
