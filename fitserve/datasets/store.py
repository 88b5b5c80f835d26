"""Store datasets as database rows and Parquet blobs: create, find, share, delete; `appends` adds rows."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
from sqlalchemy import Engine, func, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from fitserve import db, events
from fitserve.blobs import BlobStore, StoredBlob, sha256_of
from fitserve.dataset_facts import ColumnFacts, DatasetFacts, Kind
from fitserve.datasets import TableRefused
from fitserve.datasets.ingest import IngestedTable, ingest
from fitserve.errors import BadInput, Conflict, NotFound, Problem
from fitserve.ids import NAME, new_id
from fitserve.settings import Limits
from fitserve.tables import PLAYGROUND, Blob, Dataset, Run, StagedRows
from fitserve.visibility import sees, visible_to
from fitserve.wire.datasets import COMPRESSION_SUFFIXES, SUFFIXES, UploadOptions
from fitserve.wire.notices import Notice

RESERVED_NAMES = frozenset({"samples"})  # a path of the API
COMMIT_ATTEMPTS = 20
_NAME = re.compile(NAME)


@dataclass(frozen=True)
class ReceivedFile:
    """A whole upload on local disk, its SHA-256 and size."""

    path: Path
    sha256: str
    bytes: int
    filename: str | None = None


@dataclass(frozen=True)
class NewVersion:
    """A dataset to commit as the next version of its name. `source` records its origin and reading options."""

    name: str
    owner: str
    table: IngestedTable
    blob: StoredBlob  # the table's Parquet file
    sha256: str  # hash of the body as sent
    bytes: int  # size of the body as sent
    source: dict[str, Any]
    refused: dict[str, Any] | None  # lenient uploads: how many rows were left out, and the first of them
    notices: list[dict[str, Any]]
    shared: bool = False
    parent_id: str | None = None  # None means the previous version

    @classmethod
    def of_parent(cls, parent: Dataset, table: IngestedTable, blob: StoredBlob, **values: Any) -> NewVersion:
        """Return a version with its parent's name, owner and sharing."""
        return cls(parent.name, parent.owner, table, blob, shared=parent.shared, parent_id=parent.id, **values)

    def insert(self, session: Session, name: str, newest: Dataset | None) -> Dataset:
        """Insert the rows for its file and the dataset, after the newest version of `name`."""
        moment, table = db.now(session), self.table
        file = {"sha256": self.blob.sha256, "bytes": self.blob.bytes, "kind": "dataset", "created_at": moment}
        db.insert_new(session, Blob, [file])
        row = Dataset(
            id=new_id("ds"),
            name=name,
            version=(newest.version if newest else 0) + 1,
            owner=self.owner,
            shared=self.shared,
            parent_id=self.parent_id or (newest.id if newest else None),
            blob=self.blob.sha256,
            sha256=self.sha256,
            bytes=self.bytes,
            source=self.source,
            refused=self.refused,
            notices=self.notices,
            rows=table.rows,
            columns=table.columns,
            profile=table.profile,
            created_at=moment,
        )
        session.add(row)
        return row


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """Yield a new folder under `scratch`; it is removed when the block ends, whatever happens."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dataset-", dir=scratch, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


# --- names ---------------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """Return the name. Raises BadInput where it is not valid for a dataset."""
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        problem = Problem(
            f"{name[:80]!r} is not a valid dataset name.",
            pointer="/name",
            received=name[:80],
            expected="1 to 63 of a-z, 0-9, dot, underscore and hyphen, beginning with a letter or digit",
        )
        raise BadInput(problem.detail, problems=[problem])
    return name


def _name_from_file(filename: str | None, sha256: str) -> str:
    suffixes = "|".join(suffix for of_format in SUFFIXES.values() for suffix in of_format)
    stem = (filename or "").replace("\\", "/").rsplit("/", 1)[-1].lower()
    stem = re.sub(rf"\.({'|'.join(COMPRESSION_SUFFIXES)})$", "", stem)
    stem = re.sub(rf"\.({suffixes})$", "", stem)
    stem = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:55]
    return stem if _NAME.fullmatch(stem) and stem not in RESERVED_NAMES else f"dataset-{sha256[:8]}"


def _alternative_name(name: str, sha256: str, attempt: int) -> str:
    return f"{name[:54]}-{sha256[:8]}" if attempt == 0 else f"{name[:50]}-{sha256[: 10 + attempt]}"[:63]


def check_name_is_free(name: str, newest: Dataset | None, owner: str, as_version: bool) -> None:
    """Raise Conflict if a name's newest version is another owner's, or if no new version was requested."""
    if newest is None:
        return
    if newest.owner != owner:
        raise Conflict(f"The name {name!r} is taken.", received=name, fix="Choose another name.")
    if not as_version:
        fix = f"PUT /api/v1/datasets/{name} makes version {newest.version + 1} of it."
        raise Conflict(f"You have a dataset {name!r} already.", received=name, fix=fix)


# --- create, correct -----------------------------------------------------------------------------------------------


def create(
    engine: Engine,
    blobs: BlobStore,
    received: ReceivedFile,
    *,
    owner: str,
    options: UploadOptions,
    limits: Limits,
    scratch: Path,
    name: str | None = None,
    as_version: bool = False,
    origin: Mapping[str, Any] | None = None,
    notices: Sequence[Notice] = (),
    reading: UploadOptions | None = None,
) -> tuple[Dataset, bool]:
    """Create a dataset from an upload; False if the owner already has the same content, read with the same options.

    Without `name` it is named after its file. `as_version` allows a new version of an existing name. `origin` is added
    to the dataset's `source`, `notices` to the notices from parsing. `reading` overrides `options` for parsing the
    file: an import of joined parts records the parts' options but parses the joined file.

    Raises BadInput and its subclasses with row and column, Conflict for a name that is taken, StorageFull.
    """
    if name is not None:
        check_name(name)
    stated = options.model_dump(mode="json", exclude_defaults=True)
    with db.reading(engine) as session:
        existing = _find_same_content(session, owner, received.sha256, stated, name)
        if existing is not None:
            return existing, False
        if name is not None:
            check_name_is_free(name, latest_version(session, name), owner, as_version)
    version = parse(
        blobs,
        received,
        owner=owner,
        options=options,
        limits=limits,
        scratch=scratch,
        name=name,
        origin=origin,
        notices=notices,
        reading=reading,
    )
    return commit(engine, version, name_is_fixed=name is not None, as_version=as_version, return_same_content=True)


def parse(
    blobs: BlobStore,
    received: ReceivedFile,
    *,
    owner: str,
    options: UploadOptions,
    limits: Limits,
    scratch: Path,
    name: str | None = None,
    origin: Mapping[str, Any] | None = None,
    notices: Sequence[Notice] = (),
    reading: UploadOptions | None = None,
    raise_if_stopped: Callable[[], None] | None = None,
) -> NewVersion:
    """Parse an upload and store its Parquet file, to which no row refers yet. Raises BadInput, StorageFull.

    `raise_if_stopped` is called repeatedly; what it raises ends the parsing.
    """
    with scratch_folder(scratch) as folder:
        table = ingest(received.path, reading or options, limits, folder, raise_if_stopped)
        stored = blobs.put_file(table.parquet)
    stated = options.model_dump(mode="json", exclude_defaults=True)
    return NewVersion(
        name=name or _name_from_file(received.filename, received.sha256),
        owner=owner,
        table=table,
        blob=stored,
        sha256=received.sha256,
        bytes=received.bytes,
        source={**table.source, "options": stated, "filename": received.filename, **(origin or {})},
        refused=table.refused,
        notices=[*(notice.model_dump(mode="json") for notice in notices), *table.notices],
    )


def add_version(session: Session, new: NewVersion) -> tuple[Dataset, bool]:
    """Add the next version of a name, within the caller's transaction.

    False if the owner's newest version has the same content, read with the same options. Raises Conflict;
    IntegrityError if another transaction has taken the version's number.
    """
    newest = latest_version(session, new.name)
    check_name_is_free(new.name, newest, new.owner, as_version=True)
    existing = _find_same_content(session, new.owner, new.sha256, new.source["options"], new.name)
    if existing is not None:
        return existing, False
    return _insert(session, new, new.name, newest), True


def _insert(session: Session, new: NewVersion, name: str, newest: Dataset | None) -> Dataset:
    """Insert the version after `newest`, with its event."""
    row = new.insert(session, name, newest)
    session.flush()
    _record_version(session, row, newest)
    return row


def correct_kinds(
    engine: Engine, blobs: BlobStore, parent: Dataset, kinds: dict[str, Kind], *, limits: Limits, scratch: Path
) -> Dataset:
    """Create a version with other column kinds, parsing values again if a kind needs it.

    Raises BadInput.
    """
    wanted: dict[str, Kind] = {column["name"]: column["kind"] for column in parent.columns}
    unknown = next((name[:80] for name in kinds if name not in wanted), None)
    if unknown is not None:
        problem = Problem(f"There is no column {unknown!r}.", pointer=f"/kinds/{unknown}", received=unknown)
        raise TableRefused(problem.detail, problems=[problem])
    with scratch_folder(scratch) as folder:
        options = UploadOptions(format="parquet", kinds={**wanted, **kinds})
        table = with_formats(ingest(local_parquet(blobs, parent, folder, again=True), options, limits, folder), parent)
        stored = blobs.put_file(table.parquet)
    stated = parent.source.get("options", {})
    version = NewVersion.of_parent(
        parent,
        table,
        stored,
        sha256=parent.sha256,
        bytes=parent.bytes,
        source={**parent.source, "options": {**stated, "kinds": {**stated.get("kinds", {}), **kinds}}},
        refused=parent.refused,
        notices=[notice for notice in parent.notices if notice["column"] not in kinds] + table.notices,
    )
    return commit(engine, version)[0]


def with_formats(table: IngestedTable, parent: Dataset) -> IngestedTable:
    """Return the table with its parent's text formats, for columns whose storage has not changed."""
    before = {column["name"]: column for column in parent.columns}
    columns = [
        {**column, "format": before[column["name"]].get("format", {})}
        if column["name"] in before and before[column["name"]]["storage"] == column["storage"]
        else column
        for column in table.columns
    ]
    return replace(table, columns=columns)


def commit(
    engine: Engine,
    new: NewVersion,
    *,
    name_is_fixed: bool = True,
    as_version: bool = True,
    return_same_content: bool = False,
    find_existing: Callable[[Session, Dataset | None], Dataset | None] = lambda session, newest: None,
    after: Callable[[Session, Dataset], None] = lambda session, row: None,
) -> tuple[Dataset, bool]:
    """Insert a dataset as the next version of its name, and return its row.

    `find_existing` receives the newest version in the same transaction; if it returns a row, that row is returned with
    False. `after` receives the new row in that transaction. A name that is taken raises Conflict if `name_is_fixed`;
    else a similar free one is used. With `return_same_content`, a row with the same content that was committed
    meanwhile is returned with False. Raises Conflict.
    """
    name = new.name
    for attempt in range(COMMIT_ATTEMPTS):
        try:
            with db.transaction(engine) as session:
                if return_same_content:
                    same_name = name if name_is_fixed else None
                    existing = _find_same_content(session, new.owner, new.sha256, new.source["options"], same_name)
                    if existing is not None:
                        return existing, False
                newest = latest_version(session, name)
                if (known := find_existing(session, newest)) is not None:
                    return known, False
                if name_is_fixed:
                    check_name_is_free(name, newest, new.owner, as_version)
                elif newest is not None:
                    name = _alternative_name(name, new.sha256, attempt)
                    continue
                row = _insert(session, new, name, newest)
                after(session, row)
                session.expunge(row)
            return row, True
        except IntegrityError:  # another upload has committed this version number meanwhile
            continue
    raise Conflict(f"The name {name!r} is in use by many uploads at once.", received=name)


def _record_version(session: Session, row: Dataset, newest: Dataset | None) -> None:
    """Record the event of a new version; its type depends on the version's origin."""
    data = {"dataset": row.id, "name": row.name, "version": row.version, "rows": row.rows}
    appended = row.source.get("appended")
    if newest is not None and appended is not None and appended["to"] == row.parent_id:
        data |= {"appended": appended["rows"], "previous": row.parent_id}
    type_ = "dataset.appended" if "appended" in data else "dataset.created"
    events.record(session, type_, owner=row.owner, data=data, at=row.created_at)


def _find_same_content(
    session: Session, owner: str, sha256: str, stated: Mapping[str, Any], name: str | None
) -> Dataset | None:
    """Return the owner's dataset with the same bytes and options; with a `name`, only its newest version."""
    query = select(Dataset).where(Dataset.owner == owner, Dataset.sha256 == sha256).order_by(Dataset.created_at)
    newest = latest_version(session, name) if name is not None else None
    alike = (row for row in session.scalars(query) if row.source.get("options") == stated)
    return next((row for row in alike if name is None or (newest is not None and newest.id == row.id)), None)


def latest_version(session: Session, name: str) -> Dataset | None:
    """Return the newest version of a name, of any owner."""
    return session.scalar(select(Dataset).where(Dataset.name == name).order_by(Dataset.version.desc()).limit(1))


# --- find, share, delete -------------------------------------------------------------------------------------------


def get(session: Session, owner: str | None, ref: str) -> Dataset:
    """Return a dataset by `name` (its newest version), `name@version` or id. Raises NotFound.

    An `owner` sees their own datasets and shared ones; None sees all.
    """
    query = select(Dataset).where(visible_to(Dataset, owner))
    name, _, version = ref.partition("@")
    if version:
        number = version.removeprefix("v")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise NotFound(f"No dataset {ref[:120]!r}.", fix="A version is a number: name@2.")
        query = query.where(Dataset.name == name, Dataset.version == int(number))
    elif ref.startswith("ds_"):
        query = query.where(or_(Dataset.id == ref, Dataset.name == ref))
    else:
        query = query.where(Dataset.name == name)
    row = session.scalar(query.order_by(Dataset.version.desc()).limit(1)) if ref.isprintable() else None
    if row is None:
        raise NotFound(f"No dataset {ref[:120]!r}.", received=ref[:120])
    return row


def check_visible(session: Session, owner: str | None, dataset_id: str | None) -> None:
    """Raise NotFound unless `owner` can still see the run's dataset; it may no longer be shared.

    An import run has no dataset.
    """
    if dataset_id is None:
        return
    row = session.get(Dataset, dataset_id)
    if row is None or not sees(owner, row):
        raise NotFound(
            "The dataset of this run is no longer shared with you.",
            received=dataset_id,
            fix="Ask its owner to share it again, or upload a copy.",
        )


def list_datasets(
    session: Session,
    owner: str | None,
    *,
    limit: int,
    cursor: str | None,
    name: str | None = None,
    playground: bool = True,
) -> tuple[Sequence[Dataset], str | None]:
    """Return the datasets that `owner` sees, the newest first, and the next cursor; columns and profiles deferred."""
    query = select(Dataset).where(visible_to(Dataset, owner))
    if name is not None:
        query = query.where(Dataset.name == name)
    if not playground:
        query = query.where(Dataset.name.not_like(f"{PLAYGROUND}%"))
    if cursor is not None:
        query = query.where(Dataset.id < cursor)
    query = query.options(defer(Dataset.columns), defer(Dataset.profile)).order_by(Dataset.id.desc())
    rows = session.scalars(query.limit(limit + 1)).all()
    return rows[:limit], (rows[limit - 1].id if len(rows) > limit else None)


def set_shared(session: Session, dataset_id: str, shared: bool) -> Dataset:
    """Share a version with every owner, or stop sharing it. Raises NotFound."""
    row = session.get(Dataset, dataset_id)
    if row is None:
        raise NotFound(f"No dataset {dataset_id!r}.")
    row.shared = shared
    session.flush()
    return row


def delete(session: Session, dataset: Dataset) -> None:
    """Delete one version; its bytes are garbage-collected once unreferenced. Raises Conflict if runs use it."""
    runs = session.scalar(select(func.count()).select_from(Run).where(Run.dataset_id == dataset.id)) or 0
    if runs:
        raise Conflict(
            f"{runs} runs were trained on {dataset.name}@{dataset.version}.",
            received=runs,
            fix="A run can be repeated only while its dataset exists: delete the runs first.",
        )
    session.execute(update(Dataset).where(Dataset.parent_id == dataset.id).values(parent_id=dataset.parent_id))
    session.delete(dataset)
    session.flush()
    if latest_version(session, dataset.name) is None:  # the name is free now; waiting batches belonged to this dataset
        session.execute(sql_delete(StagedRows).where(StagedRows.name == dataset.name))


# --- tables --------------------------------------------------------------------------------------------------------


def write_as_upload(table: pa.Table, folder: Path, name: str) -> ReceivedFile:
    """Write a generated table to a file as if it had been uploaded."""
    path = folder / "made.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return ReceivedFile(path, sha256_of(path), path.stat().st_size, f"{name}.arrow")


def facts_of(dataset: Dataset) -> DatasetFacts:
    """Return the dataset's facts, against which a spec is checked."""
    return DatasetFacts(
        name=dataset.name,
        version=dataset.version,
        sha256=dataset.sha256,
        rows=dataset.rows,
        columns=tuple(ColumnFacts.from_stored(column) for column in dataset.columns),
        csv={sign: dataset.source[sign] for sign in ("delimiter", "quote", "escape") if dataset.source.get(sign)},
    )


_verified: dict[str, tuple[Path, tuple[int, ...]]] = {}  # by blob, with its `_stamp`


def local_parquet(blobs: BlobStore, dataset: Dataset, cache: Path, *, again: bool = False) -> Path:
    """Return the Parquet file on local disk, its bytes verified. Raises NotFound, Corrupt.

    The file is hashed when a process first reads it and whenever it has changed. `again` hashes it now too, which also
    finds disk corruption: for jobs that take seconds or more, not for a page of rows.
    """
    known = _verified.get(dataset.blob)
    if again or known is None or _stamp(known[0]) != known[1]:
        _verified.pop(dataset.blob, None)
        path = blobs.local(dataset.blob, cache)
        if len(_verified) > 1_000:
            _verified.clear()
        known = _verified[dataset.blob] = path, _stamp(path)
    return known[0]


def _stamp(path: Path) -> tuple[int, ...]:
    """Return a stamp that changes whenever the file is written; empty if there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
