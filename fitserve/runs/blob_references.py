"""Blobs: rows for those that are referred to, removal of those that nothing refers to.

A writer stores bytes, then refers to them in a transaction; the collector may come in between. So both take
one lock: the writer looks in its transaction whether the bytes are still there, and the collector removes
bytes within its own.
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
from fitserve.states import TERMINAL, TRIAL
from fitserve.tables import Blob, Dataset, Idempotency, Label, Run, Version

_LOCK = 0x66697473  # an arbitrary number, the same in every process
IDEMPOTENCY_DAYS = 7  # an Idempotency-Key is remembered so long


class BlobVanished(Unavailable):
    """A blob was collected before anything referred to it; store it again."""


def keep(session: Session, blobs: BlobStore, stored: Mapping[str, StoredBlob], at: Any) -> None:
    """Adds rows of durable blobs, in the transaction that refers to them. Raises BlobVanished.

    They go by their kind; where there are several of a kind, by the kind and what tells them apart: `onnx 12`.
    """
    _lock(session, "pg_advisory_xact_lock_shared")
    for blob in stored.values():
        if not blobs.exists(blob.sha256):
            raise BlobVanished(f"Blob {blob.sha256} was collected before it was referred to.")
    add_blob_rows(session, [(blob.sha256, blob.bytes, name.split()[0]) for name, blob in stored.items()], at)


def _lock(session: Session, function: str) -> None:
    if session.get_bind().dialect.name == "postgresql":  # on SQLite a writing transaction is alone already
        session.execute(text(f"SELECT {function}({_LOCK})"))


def discard(engine: Engine, blobs: BlobStore, sha256: str) -> bool:
    """Removes one blob at once (a superseded checkpoint), unless something refers to it."""
    with db.transaction(engine) as session:
        _lock(session, "pg_advisory_xact_lock")
        if _referred_to(session, sha256):
            return False
        session.execute(delete(Blob).where(Blob.sha256 == sha256))
        blobs.delete(sha256)
        return True


def collect(engine: Engine, blobs: BlobStore, *, age_seconds: float, limit: int = 10_000) -> int:
    """Removes blobs older than `age_seconds` that nothing refers to. Returns how many.

    Storing a blob again makes it young again, so whatever a transaction is about to refer to is spared.
    """
    oldest_kept = time.time() - age_seconds
    candidates = [sha256 for sha256, written in blobs.listing() if written < oldest_kept][:limit]
    if not candidates:
        return 0
    with db.reading(engine) as session:
        live = set(references(session, blobs))
    removed = 0
    for sha256 in candidates:
        if sha256 not in live:
            removed += _collect_one(engine, blobs, sha256, oldest_kept)
    return removed


def _collect_one(engine: Engine, blobs: BlobStore, sha256: str, oldest_kept: float) -> int:
    with db.transaction(engine) as session:
        _lock(session, "pg_advisory_xact_lock")
        if _referred_to(session, sha256) or blobs.written_at(sha256) >= oldest_kept:
            return 0
        session.execute(delete(Blob).where(Blob.sha256 == sha256))
        blobs.delete(sha256)
        return 1


def _referred_to(session: Session, sha256: str) -> bool:
    """Whether a row names it. Files that only a manifest names are found by `references`."""
    for column in (Dataset.blob, Run.checkpoint, Version.artifact, Label.artifact):
        if session.scalar(select(column).where(column == sha256).limit(1)):
            return True
    named = cast(Run.result, String).contains(sha256)
    recent = db.now(session) - timedelta(hours=1)
    return session.scalar(select(Run.id).where(Run.finished_at > recent, named, _wanted()).limit(1)) is not None


def _wanted() -> ColumnElement[bool]:
    """Whether a run's result is still of use: that of a trial is to its run alone, until that one has ended."""
    whole = aliased(Run)
    return not_((Run.kind == TRIAL) & exists().where(whole.id == Run.parent_id, whole.state.in_(TERMINAL)))


def references(session: Session, blobs: BlobStore) -> Iterator[str]:
    """The SHA-256 of every blob that a row names, or that an artifact's manifest names."""
    for column in (Dataset.blob, Run.checkpoint):
        yield from session.scalars(select(column).where(column.is_not(None)).distinct())  # type: ignore[misc]
    manifests: set[str] = set()
    for column in (Version.artifact, Label.artifact):
        manifests.update(session.scalars(select(column).where(column.is_not(None)).distinct()))
    results = select(Run.result).where(Run.result.is_not(None), _wanted())
    for result in session.scalars(results.execution_options(yield_per=500)):
        yield from digests(result)
        if isinstance(result, dict) and isinstance(result.get("artifact"), str):
            manifests.add(result["artifact"])
            manifests.update((result.get("kept_epochs") or {}).values())
    for sha256 in manifests:
        yield sha256
        try:
            yield from digests(json.loads(blobs.read(sha256)))
        except (NotFound, Corrupt):
            continue  # `fitserve doctor` reports these; the files it named cannot be loaded anyway


def digests(value: Any) -> Iterator[str]:
    """Every string in a JSON value that looks like a SHA-256."""
    if isinstance(value, str):
        if len(value) == 64 and set(value) <= set("0123456789abcdef"):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from digests(item)
    elif isinstance(value, list):
        for item in value:
            yield from digests(item)


def forget_old_keys(engine: Engine) -> int:
    """Drops idempotency keys older than IDEMPOTENCY_DAYS."""
    with db.transaction(engine) as session:
        old = db.now(session) - timedelta(days=IDEMPOTENCY_DAYS)
        result = session.execute(delete(Idempotency).where(Idempotency.created_at < old))
        return int(result.rowcount)  # type: ignore[attr-defined]
