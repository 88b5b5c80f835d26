"""Small batches of rows that wait in the database, until one version appends all of them.

A batch is parsed when it arrives, so that its sender gets the errors. It waits until a commit is requested, or until
the waiting rows are many or old enough. One transaction creates the version and marks its batches as committed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, defer

from fitserve import db
from fitserve.blobs import BlobStore
from fitserve.datasets import appends, staged_batches, store
from fitserve.errors import Conflict, TooLarge
from fitserve.ids import new_id
from fitserve.settings import MB, Settings
from fitserve.tables import Dataset, StagedRows
from fitserve.wire.datasets import StagedInfo, UploadOptions

MAX_BYTES = MB  # parsed size of a batch; a larger one is appended at once
MAX_BATCHES = 10_000  # batches in one version


@dataclass(frozen=True)
class Stage:
    """Stages batches of rows for datasets, in this process."""

    settings: Settings
    engine: Engine
    blobs: BlobStore

    def add(
        self, parent: Dataset, received: store.ReceivedFile, options: UploadOptions, batch: str | None
    ) -> StagedInfo:
        """Store a batch until the next commit; repeated requests store it once. Raises BadInput, TooLarge, Conflict."""
        with db.reading(self.engine) as session:
            if self._is_known(session, parent, batch, received.sha256):
                return self._info(session, parent)
        with store.scratch_folder(self.settings.scratch) as folder:
            part = appends.parse_part(parent, received, options, self.settings.limits, folder)
            if part.parquet.stat().st_size > MAX_BYTES:
                raise TooLarge(
                    "The batch is too large to wait.",
                    received=part.parquet.stat().st_size,
                    expected=f"at most {MAX_BYTES} bytes",
                    fix="Append it at once: POST .../rows.",
                )
            data = part.parquet.read_bytes()
        values: dict[str, Any] = {"owner": parent.owner, "name": parent.name, "batch": batch, "rows": part.rows}
        try:
            with db.transaction(self.engine) as session:
                moment = db.now(session)
                values |= {"sha256": received.sha256, "size": received.bytes, "parquet": data, "created_at": moment}
                session.add(StagedRows(id=new_id("sr"), **values))
        except IntegrityError:  # another request has just stored the same batch
            with db.reading(self.engine) as session:
                self._is_known(session, parent, batch, received.sha256)  # raises Conflict if it had other rows
        return self.info(parent)

    def info(self, parent: Dataset) -> StagedInfo:
        """Return the state of the batches that wait for a dataset's name."""
        with db.reading(self.engine) as session:
            return self._info(session, parent)

    def is_due(self, waiting: StagedInfo) -> bool:
        """Return whether enough rows or batches wait for a commit now."""
        return waiting.rows >= self.settings.append_commit_rows or waiting.batches >= MAX_BATCHES

    def commit(self, name: str) -> tuple[Dataset, bool] | None:
        """Append all waiting batches of a name as one version; None if there are none. Raises Conflict."""
        for _ in range(store.COMMIT_ATTEMPTS):
            with db.reading(self.engine) as session:
                newest = store.latest_version(session, name)
                waiting = list(session.scalars(_waiting(name).order_by(StagedRows.id).limit(MAX_BATCHES)))
            waiting = [one for one in waiting if newest is not None and one.owner == newest.owner]
            if newest is None or not waiting:
                return None
            try:
                return self._append(newest, waiting)
            except appends.Outdated:
                continue
        raise Conflict(f"The name {name!r} is in use by many uploads at once.", received=name)

    def commit_due(self) -> int:
        """Commit batches that have waited long enough, for every name. Returns the number of new versions."""
        names = staged_batches.names_due(self.engine, self.settings.append_commit_seconds)
        return sum(self.commit(name) is not None for name in names)

    def _append(self, parent: Dataset, waiting: list[StagedRows]) -> tuple[Dataset, bool]:
        ids = [one.id for one in waiting]
        with store.scratch_folder(self.settings.scratch) as folder:
            parts = []
            for index, one in enumerate(waiting):
                path = folder / f"batch-{index}.parquet"
                path.write_bytes(self._parquet(one.id))
                parts.append(path)
            whole = hashlib.sha256("+".join(one.sha256 for one in waiting).encode()).hexdigest()
            appended = {
                "to": parent.id,
                "rows": sum(one.rows for one in waiting),
                "sha256": whole,
                "batches": len(waiting),
            }

            def find_existing(session: Session, newest: Dataset | None) -> Dataset | None:
                if newest is None or newest.id != parent.id:
                    raise appends.Outdated
                still = select(func.count()).where(StagedRows.id.in_(ids), StagedRows.dataset_id.is_(None))
                if session.scalar(still) != len(ids):  # another process has committed some of them
                    raise appends.Outdated
                return None

            def mark(session: Session, row: Dataset) -> None:
                done = update(StagedRows).where(StagedRows.id.in_(ids)).values(dataset_id=row.id, parquet=None)
                session.execute(done)

            return appends.append_parts(
                self.engine,
                self.blobs,
                parent,
                parts,
                appended,
                received_bytes=sum(one.size for one in waiting),
                limits=self.settings.limits,
                folder=folder,
                find_existing=find_existing,
                after=mark,
            )

    def _parquet(self, id: str) -> bytes:
        """Return one batch's rows as Parquet; read one by one, because all batches together may exceed memory."""
        with db.reading(self.engine) as session:
            return session.scalar(select(StagedRows.parquet).where(StagedRows.id == id)) or b""

    def _is_known(self, session: Session, parent: Dataset, batch: str | None, sha256: str) -> bool:
        """Return whether a batch was sent before. Raises Conflict if it had other rows."""
        if batch is None:
            return False
        same = select(StagedRows).where(StagedRows.name == parent.name, StagedRows.batch == batch)
        row = session.scalar(same.options(defer(StagedRows.parquet)))
        if row is None:
            return appends.find_batch(session, parent, batch, sha256) is not None
        if row.sha256 != sha256:
            raise appends.other_rows(batch)
        return True

    def _info(self, session: Session, parent: Dataset) -> StagedInfo:
        counted = select(func.count(), func.sum(StagedRows.rows), func.min(StagedRows.created_at))
        where = (StagedRows.name == parent.name, StagedRows.dataset_id.is_(None))
        batches, rows, oldest = session.execute(counted.where(*where)).one()
        return StagedInfo(name=parent.name, batches=batches, rows=int(rows or 0), oldest_at=oldest)


def _waiting(name: str) -> Any:
    waiting = select(StagedRows).where(StagedRows.name == name, StagedRows.dataset_id.is_(None))
    return waiting.options(defer(StagedRows.parquet))
