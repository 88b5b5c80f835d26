"""Reference blobs from database rows, and garbage-collect unreferenced blobs.

A writer stores bytes, then references them in a transaction; garbage collection may run in between. Both therefore take
one lock: the writer checks in its transaction that the bytes still exist, and the collector deletes bytes within a
transaction of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, String, cast, delete, exists, not_, select, text
from sqlalchemy.orm import Session, aliased

from fitserve import db
from fitserve.blobs import BlobStore, Corrupt, StoredBlob
from fitserve.errors import NotFound, Unavailable
from fitserve.runs.history import add_blob_rows
from fitserve.states import INTERNAL_KINDS, TERMINAL
from fitserve.tables import Blob, Dataset, Label, Run, UploadedWeights, Version

# Columns that reference an artifact (whose manifest references further files), and all columns that reference a blob.
_MANIFESTS = (Version.artifact, Label.artifact, Run.initial_weights, UploadedWeights.artifact)
_COLUMNS = (Dataset.blob, Run.checkpoint, *_MANIFESTS)
_LOCK = 0x66697473  # an arbitrary number, the same in every process


class BlobVanished(Unavailable):
    """A blob was deleted before anything referred to it; store it again."""


def add_references(session: Session, blobs: BlobStore, stored: Mapping[str, StoredBlob], at: Any) -> None:
    """Add rows for durable blobs, in the transaction that references them. Raises BlobVanished.

    `stored` is keyed by kind; several blobs of one kind have a second word, such as `onnx 12`.
    """
    _lock(session, "pg_advisory_xact_lock_shared")
    for blob in stored.values():
        if not blobs.exists(blob.sha256):
            raise BlobVanished(f"Blob {blob.sha256} was deleted before anything referred to it.")
    add_blob_rows(session, [(blob.sha256, blob.bytes, name.split()[0]) for name, blob in stored.items()], at)


def check_initial_weights(session: Session, blobs: BlobStore, sha256: str) -> None:
    """Check that an artifact's weights still exist, in the transaction that creates a run starting from them.

    After that commit the collector keeps them. Raises BlobVanished.
    """
    _lock(session, "pg_advisory_xact_lock_shared")
    entry = _manifest(blobs, sha256).get("weights")
    if not isinstance(entry, dict) or not blobs.exists(entry["sha256"]):
        raise BlobVanished("The initial weights were deleted meanwhile.")


def _manifest(blobs: BlobStore, sha256: str) -> dict[str, Any]:
    """Return an artifact's manifest; empty if it is lost, which `fitserve doctor` reports."""
    try:
        manifest = json.loads(blobs.read(sha256))
    except (NotFound, Corrupt):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _recent_initial_weights(session: Session) -> Iterator[str]:
    """Yield artifacts from which runs of the last hour start: a collection may have begun before those runs."""
    recent = db.now(session) - timedelta(hours=1)
    held = select(Run.initial_weights).where(Run.created_at > recent, Run.initial_weights.is_not(None)).distinct()
    yield from (one for one in session.scalars(held) if one is not None)


def _lock(session: Session, function: str) -> None:
    if session.get_bind().dialect.name == "postgresql":  # SQLite's writing transactions exclude each other
        session.execute(text(f"SELECT {function}({_LOCK})"))


def delete_if_unreferenced(engine: Engine, blobs: BlobStore, sha256: str) -> bool:
    """Delete one blob at once (a superseded checkpoint), unless something refers to it. Return whether it did."""
    with db.transaction(engine) as session:
        _lock(session, "pg_advisory_xact_lock")
        if _is_referenced(session, sha256):
            return False
        session.execute(delete(Blob).where(Blob.sha256 == sha256))
        blobs.delete(sha256)
        return True


def delete_unreferenced(engine: Engine, blobs: BlobStore, *, age_seconds: float, limit: int = 10_000) -> int:
    """Delete blobs older than `age_seconds` that nothing refers to. Return how many.

    Storing a blob again resets its age, so a blob that a transaction is about to reference is kept.
    """
    cutoff = time.time() - age_seconds
    candidates = [sha256 for sha256, written in blobs.listing() if written < cutoff][:limit]
    if not candidates:
        return 0
    with db.reading(engine) as session:
        live = set(referenced_blobs(session, blobs))
    removed = 0
    for sha256 in candidates:
        if sha256 not in live:
            removed += _delete_unreferenced_one(engine, blobs, sha256, cutoff)
    return removed


def _delete_unreferenced_one(engine: Engine, blobs: BlobStore, sha256: str, cutoff: float) -> int:
    with db.transaction(engine) as session:
        _lock(session, "pg_advisory_xact_lock")
        if _is_referenced(session, sha256) or blobs.written_at(sha256) >= cutoff:
            return 0
        if any(sha256 in find_digests(_manifest(blobs, one)) for one in _recent_initial_weights(session)):
            return 0
        session.execute(delete(Blob).where(Blob.sha256 == sha256))
        blobs.delete(sha256)
        return 1


def _is_referenced(session: Session, sha256: str) -> bool:
    """Return whether a row references the blob. `referenced_blobs` finds files that only a manifest references."""
    for column in _COLUMNS:
        if session.scalar(select(column).where(column == sha256).limit(1)):
            return True
    in_result = cast(Run.result, String).contains(sha256)
    recent = db.now(session) - timedelta(hours=1)
    return session.scalar(select(Run.id).where(Run.finished_at > recent, in_result, _is_needed()).limit(1)) is not None


def _is_needed() -> ColumnElement[bool]:
    """Return the SQL condition that a run's result is still needed; a trial's is until its search has ended."""
    whole = aliased(Run)
    return not_(Run.kind.in_(INTERNAL_KINDS) & exists().where(whole.id == Run.parent_id, whole.state.in_(TERMINAL)))


def referenced_blobs(session: Session, blobs: BlobStore) -> Iterator[str]:
    """Yield the SHA-256 of every blob that a row names, or that an artifact's manifest names."""
    for column in (Dataset.blob, Run.checkpoint):
        yield from session.scalars(select(column).where(column.is_not(None)).distinct())  # type: ignore[misc]
    manifests: set[str] = set()
    for column in _MANIFESTS:
        manifests.update(session.scalars(select(column).where(column.is_not(None)).distinct()))
    results = select(Run.result).where(Run.result.is_not(None), _is_needed())
    for result in session.scalars(results.execution_options(yield_per=500)):
        yield from find_digests(result)
        if isinstance(result, dict) and isinstance(result.get("artifact"), str):
            manifests.add(result["artifact"])
            manifests.update((result.get("kept_epochs") or {}).values())
    for sha256 in manifests:
        yield sha256
        yield from find_digests(_manifest(blobs, sha256))  # the files of a lost manifest cannot be loaded anyway


def find_digests(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value that looks like a SHA-256."""
    if isinstance(value, str):
        if len(value) == 64 and set(value) <= set("0123456789abcdef"):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from find_digests(item)
    elif isinstance(value, list):
        for item in value:
            yield from find_digests(item)
