"""Dataset rows: the one place that makes, finds and removes them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from sqlalchemy import Engine, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from fitserve import db
from fitserve.blobs import BlobStore, sha256_of
from fitserve.dataset_facts import DatasetFacts
from fitserve.datasets.ingest import Ingested, ingest
from fitserve.datasets.summary import facts_only
from fitserve.errors import BadInput, Conflict, NotFound, Problem
from fitserve.ids import new_id
from fitserve.settings import Limits
from fitserve.tables import Blob, Dataset, Run
from fitserve.wire.datasets import NAME, UploadOptions

_NAME = re.compile(NAME)
RESERVED = frozenset({"samples"})  # a path of the API


@dataclass(frozen=True)
class Received:
    """An upload on local disk, whole: its SHA-256 and size as they were counted."""

    path: Path
    sha256: str
    bytes: int
    filename: str | None = None


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """A folder of one's own, gone afterwards whatever happens."""
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dataset-", dir=scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_name(name: str) -> str:
    """The name itself. Raises BadInput where it is not one."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        problem = Problem(
            f"{name[:80]!r} is no name for a dataset.",
            pointer="/name",
            received=name[:80],
            expected="1 to 63 of a-z, 0-9, dot, underscore and hyphen, beginning with a letter or digit",
        )
        raise BadInput(problem.detail, problems=[problem])
    return name


def name_of_file(filename: str | None, sha256: str) -> str:
    """A dataset's name after its file's name."""
    stem = (filename or "").replace("\\", "/").rsplit("/", 1)[-1].lower()
    stem = re.sub(r"\.(gz|zst|zstd)$", "", stem)
    stem = re.sub(r"\.(csv|tsv|txt|jsonl|ndjson|json|parquet|pq|arrow|feather|ipc)$", "", stem)
    stem = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:55]
    return stem if _NAME.fullmatch(stem) and stem not in RESERVED else f"dataset-{sha256[:8]}"


def create(
    engine: Engine,
    blobs: BlobStore,
    received: Received,
    *,
    owner: str,
    options: UploadOptions,
    limits: Limits,
    scratch: Path,
    name: str | None = None,
    parent: Dataset | None = None,
    as_version: bool = False,
    described: dict[str, Any] | None = None,
) -> tuple[Dataset, bool]:
    """Makes a dataset of an upload; False where the same content, read the same way, was there already.

    `as_version` lets an existing name of the owner's take a new version. Raises BadInput and its subclasses with
    row and column, Conflict for a name that is taken, StorageFull.
    """
    if name is not None:
        check_name(name)
    asked = options.model_dump(mode="json", exclude_defaults=True)
    with db.reading(engine) as session:
        found = same_content(session, owner, received.sha256, asked, name)
        if found is not None:
            return found, False
        if name is not None:
            refuse_taken(session, name, owner, as_version)
    with scratch_folder(scratch) as folder:
        table = ingest(received.path, options, limits, folder)
        stored = blobs.put_file(table.parquet)
    row = Dataset(
        owner=owner,
        sha256=received.sha256,
        blob=stored.sha256,
        parent_id=parent.id if parent else None,
        rows=table.rows,
        bytes=received.bytes,
        source={**table.source, "options": asked, "filename": received.filename, **(described or {})},
        columns=table.columns,
        profile=table.profile,
        refused=table.refused,
        shared=parent.shared if parent else False,
    )
    wanted = name or name_of_file(received.filename, received.sha256)
    return _insert(engine, row, stored.bytes, wanted, fixed=name is not None, as_version=as_version)


def _insert(
    engine: Engine, row: Dataset, size: int, name: str, *, fixed: bool, as_version: bool
) -> tuple[Dataset, bool]:
    """Commits a row under its name and the next version; a name that was not asked for gives way to a taken one."""
    for attempt in range(20):
        try:
            with db.transaction(engine) as session:
                found = same_content(session, row.owner, row.sha256, row.source["options"], name if fixed else None)
                if found is not None:
                    return found, False
                if fixed:
                    refuse_taken(session, name, row.owner, as_version)
                if not fixed and latest(session, name) is not None:
                    name = _another_name(name, row.sha256, attempt)
                    continue
                _add(session, row, size, name)
            return row, True
        except IntegrityError:
            row = _again(row)
    raise Conflict(f"The name {name!r} is in use by many uploads at once.", received=name)


def insert_version(engine: Engine, row: Dataset, size: int, name: str) -> Dataset:
    """Commits a row as the next version under a name of its owner's. Raises Conflict."""
    for _ in range(20):
        try:
            with db.transaction(engine) as session:
                refuse_taken(session, name, row.owner, as_version=True)
                _add(session, row, size, name)
            return row
        except IntegrityError:
            row = _again(row)
    raise Conflict(f"The name {name!r} is in use by many uploads at once.", received=name)


def _add(session: Session, row: Dataset, size: int, name: str) -> None:
    newest, moment = latest(session, name), db.now(session)
    if session.get(Blob, row.blob) is None:
        session.add(Blob(sha256=row.blob, bytes=size, kind="dataset", created_at=moment))
        session.flush()
    row.id, row.name, row.version = new_id("ds"), name, (newest.version if newest else 0) + 1
    row.parent_id = row.parent_id or (newest.id if newest else None)
    row.created_at = moment
    session.add(row)
    session.flush()
    session.expunge(row)


def _another_name(name: str, sha256: str, attempt: int) -> str:
    return (
        f"{name[:54]}-{sha256[attempt : attempt + 8]}" if attempt == 0 else f"{name[:50]}-{sha256[: 10 + attempt]}"[:63]
    )


def _again(row: Dataset) -> Dataset:
    """A fresh row with the same members: a failed flush leaves the old one in no usable state."""
    members = ("owner", "sha256", "blob", "parent_id", "rows", "bytes", "source", "columns", "profile", "refused")
    return Dataset(**{member: getattr(row, member) for member in members}, shared=row.shared)


def refuse_taken(session: Session, name: str, owner: str, as_version: bool) -> None:
    """Raises Conflict where the name is someone else's, or is taken and no new version was asked for."""
    newest = latest(session, name)
    if newest is None:
        return
    if newest.owner != owner:
        raise Conflict(f"The name {name!r} is taken.", received=name, fix="Choose another name.")
    if not as_version:
        fix = f"PUT /api/v1/datasets/{name} makes version {newest.version + 1} of it."
        raise Conflict(f"You have a dataset {name!r} already.", received=name, fix=fix)


def same_content(session: Session, owner: str, sha256: str, asked: dict[str, Any], name: str | None) -> Dataset | None:
    """The owner's dataset of the same bytes, read the same way; under a name, if one is asked for."""
    query = select(Dataset).where(Dataset.owner == owner, Dataset.sha256 == sha256).order_by(Dataset.created_at)
    for found in session.scalars(query):
        if found.source.get("options") != asked:
            continue
        if name is None:
            return found
        if found.name == name:
            newest = latest(session, name)
            if newest is not None and newest.id == found.id:
                return found
    return None


def latest(session: Session, name: str) -> Dataset | None:
    """The newest version under a name, whoever owns it."""
    return session.scalar(select(Dataset).where(Dataset.name == name).order_by(Dataset.version.desc()).limit(1))


def get(session: Session, owner: str | None, ref: str) -> Dataset:
    """By `name`, `name@version` or id. `owner` None sees all, others their own and what is shared. Raises NotFound."""
    query = select(Dataset)
    name, _, version = ref.partition("@")
    if ref.startswith("ds_") and not version:
        query = query.where(or_(Dataset.id == ref, Dataset.name == ref))
    else:
        query = query.where(Dataset.name == name)
    if version:
        number = version.removeprefix("v")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise NotFound(f"No dataset {ref[:120]!r}.", fix="A version is a number: name@2.")
        query = query.where(Dataset.version == int(number))
    if owner is not None:
        query = query.where(or_(Dataset.owner == owner, Dataset.shared.is_(True)))
    found = session.scalar(query.order_by(Dataset.version.desc()).limit(1))
    if found is None:
        raise NotFound(f"No dataset {ref[:120]!r}.", received=ref[:120])
    return found


def listing(
    session: Session, owner: str | None, *, limit: int, cursor: str | None, name: str | None = None
) -> tuple[Sequence[Dataset], str | None]:
    """Datasets that may be seen, the newest first, and the next cursor. Columns and profiles stay unread."""
    query = select(Dataset).options(defer(Dataset.columns), defer(Dataset.profile)).order_by(Dataset.id.desc())
    if owner is not None:
        query = query.where(or_(Dataset.owner == owner, Dataset.shared.is_(True)))
    if name is not None:
        query = query.where(Dataset.name == name)
    if cursor is not None:
        query = query.where(Dataset.id < cursor)
    found = session.scalars(query.limit(limit + 1)).all()
    return found[:limit], (found[limit - 1].id if len(found) > limit else None)


def delete(session: Session, dataset: Dataset) -> None:
    """Removes one version. Its bytes are garbage once nothing refers to them. Raises Conflict where runs do."""
    runs = session.scalar(select(func.count()).select_from(Run).where(Run.dataset_id == dataset.id)) or 0
    if runs:
        raise Conflict(
            f"{runs} runs were trained on {dataset.name}@{dataset.version}.",
            received=runs,
            fix="A run can be repeated only while its dataset is there: delete the runs first.",
        )
    session.execute(update(Dataset).where(Dataset.parent_id == dataset.id).values(parent_id=dataset.parent_id))
    session.delete(dataset)


def share(session: Session, dataset_id: str, shared: bool) -> Dataset:
    """Lets every owner read a version, or no longer. Raises NotFound."""
    found = session.get(Dataset, dataset_id)
    if found is None:
        raise NotFound(f"No dataset {dataset_id!r}.")
    found.shared = shared
    session.flush()
    return found


def received_table(table: pa.Table, folder: Path, name: str) -> Received:
    """A table that was made here, as if it had been uploaded."""
    path = folder / "made.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return Received(path, sha256_of(path), path.stat().st_size, f"{name}.arrow")


def facts_of(dataset: Dataset) -> DatasetFacts:
    """What a spec is checked against."""
    return DatasetFacts(
        name=dataset.name,
        version=dataset.version,
        sha256=dataset.sha256,
        rows=dataset.rows,
        columns=tuple(facts_only(column) for column in dataset.columns),
    )


_verified: dict[str, Path] = {}


def local_parquet(blobs: BlobStore, dataset: Dataset, cache: Path) -> Path:
    """The Parquet file on local disk; verified once in a process. Raises NotFound, Corrupt."""
    path = _verified.get(dataset.blob)
    if path is None or not path.is_file():
        path = blobs.local(dataset.blob, cache)
        if len(_verified) > 1_000:
            _verified.clear()
        _verified[dataset.blob] = path
    return path


def open_table(blobs: BlobStore, dataset: Dataset, cache: Path) -> pa.Table:
    """The whole table in memory. Raises NotFound, Corrupt."""
    return pq.read_table(local_parquet(blobs, dataset, cache), use_threads=True)


__all__ = ["Ingested", "Received", "create", "delete", "facts_of", "get", "listing", "open_table"]
