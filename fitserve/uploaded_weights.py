"""Uploaded weights as rows and blobs: the only module that creates, finds and deletes them.

An upload is an artifact whose only file is its weights, so that a run holds it as it holds another run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from fitserve import artifacts, db, weights_file
from fitserve.blobs import BlobStore
from fitserve.errors import Conflict, NotFound
from fitserve.ids import new_id
from fitserve.runs import blob_references, quotas
from fitserve.settings import Limits
from fitserve.spec.initial_weights import UPLOAD
from fitserve.tables import UploadedWeights
from fitserve.visibility import owned_by, owns

WEIGHTS_BLOB = "weights"  # the file's name in an artifact


def create(
    engine: Engine, blobs: BlobStore, path: Path, sha256: str, *, owner: str, limits: Limits
) -> tuple[UploadedWeights, bool]:
    """Check a file of weights, and keep it; False where the owner has the same one already.

    Raises BadInput and Malformed naming the array, Conflict where the owner keeps too much, StorageFull.
    """
    with db.reading(engine) as session:
        known = _same(session, owner, sha256)
    if known is not None:
        return known, False
    tensors = weights_file.check(path)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    artifact, stored = artifacts.write(blobs, {WEIGHTS_BLOB: path}, {WEIGHTS_BLOB: {"members": 1, "tensors": shapes}})
    with db.transaction(engine) as session:
        quotas.lock_owner(session, owner)  # also for the same file twice at once
        known = _same(session, owner, sha256)
        if known is not None:
            return known, False
        _check_room(session, owner, path.stat().st_size, limits)
        at = db.now(session)
        blob_references.add_references(session, blobs, stored, at)
        row = UploadedWeights(
            id=new_id(UPLOAD.rstrip("_")),
            owner=owner,
            sha256=sha256,
            artifact=artifact.sha256,
            bytes=path.stat().st_size,
            parameters=sum(tensor.size for tensor in tensors.values()),
            created_at=at,
        )
        session.add(row)
        session.flush()
        session.expunge(row)
    return row, True


def _same(session: Session, owner: str, sha256: str) -> UploadedWeights | None:
    row = session.scalar(
        select(UploadedWeights).where(UploadedWeights.owner == owner, UploadedWeights.sha256 == sha256)
    )
    if row is not None:
        session.expunge(row)
    return row


def _check_room(session: Session, owner: str, size: int, limits: Limits) -> None:
    stored_bytes = select(func.coalesce(func.sum(UploadedWeights.bytes), 0)).where(UploadedWeights.owner == owner)
    used = int(session.scalar(stored_bytes) or 0)
    if used + size > limits.stored_weights_bytes:
        raise Conflict(
            f"You keep {used} bytes of uploaded weights.",
            received=used + size,
            expected=f"at most {limits.stored_weights_bytes} bytes together",
            fix="Delete some: runs that began with them keep theirs.",
        )


def get(session: Session, weights_id: str, owner: str | None) -> UploadedWeights:
    """Return uploaded weights of an owner (None: of any). Raises NotFound."""
    row = session.get(UploadedWeights, weights_id) if len(weights_id) <= 40 and weights_id.isprintable() else None
    if row is None or not owns(owner, row):
        raise NotFound(f"No uploaded weights {weights_id[:64]}.", received=weights_id[:64])
    return row


def listing(session: Session, owner: str | None, *, before: str | None, limit: int) -> list[UploadedWeights]:
    """Return uploaded weights, newest first, those before an id."""
    query = select(UploadedWeights).where(owned_by(UploadedWeights, owner))
    query = query.order_by(UploadedWeights.id.desc()).limit(limit)
    if before is not None:
        query = query.where(UploadedWeights.id < before)
    return list(session.scalars(query))


def tensors_of(blobs: BlobStore, row: UploadedWeights) -> Mapping[str, list[int]]:
    """Return the shapes of the arrays, by layer and place."""
    tensors: dict[str, list[int]] = artifacts.read(blobs, row.artifact).manifest[WEIGHTS_BLOB]["tensors"]
    return tensors


def delete(session: Session, weights_id: str, owner: str | None) -> None:
    """Delete uploaded weights; runs that began with them keep the file. Raises NotFound."""
    session.delete(get(session, weights_id, owner))
