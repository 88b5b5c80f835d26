"""Create and publish runs: T1 creates a run, once per Idempotency-Key; T10 publishes it again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, delete, or_, select, update
from sqlalchemy.orm import Session

from fitserve import db, logs, tracing
from fitserve.blobs import BlobStore
from fitserve.crash_points import crash_point
from fitserve.errors import BadInput, Conflict
from fitserve.ids import new_id
from fitserve.runs import blob_references, quotas
from fitserve.runs.history import CREATED, add_event
from fitserve.settings import Limits
from fitserve.states import RunKind, RunState
from fitserve.tables import Idempotency, Run
from fitserve.wire.admin import NO_QUOTAS, Quotas

log = logging.getLogger(__name__)

MAX_KEY = 255  # characters of an Idempotency-Key
KEY_DAYS = 7  # how long an Idempotency-Key is remembered


class KeyReused(Conflict):
    """This Idempotency-Key was sent with another request before."""

    slug = "idempotency-key-reused"


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created. `resolved` is the spec with every default filled in."""

    owner: str
    dataset_id: str | None
    spec: dict[str, Any]
    resolved: dict[str, Any]
    estimates: dict[str, Any]
    model: str | None = None
    kind: str = RunKind.training
    priority: int = 0
    parent_id: str | None = None
    key_id: str | None = None  # id of the API key that submits it
    quotas: Quotas = NO_QUOTAS
    name: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key and the SHA-256 of its request."""

    text: str
    request_sha256: str


def idempotency_key(header: str | None, *request: bytes) -> RequestKey | None:
    """Return the key of a request (method, path, query, body). Raises BadInput for an unusable header."""
    if header is None:
        return None
    if not 1 <= len(header) <= MAX_KEY or not header.isprintable():
        raise BadInput(
            "This is not an Idempotency-Key.", received=header[:80], expected=f"1 to {MAX_KEY} printable characters"
        )
    digest = hashlib.sha256()
    for part in request:
        digest.update(len(part).to_bytes(8, "big") + part)
    return RequestKey(header, digest.hexdigest())


def existing_run(session: Session, owner: str, key: RequestKey | None) -> Run | None:
    """Return the run that this key has created. Raises KeyReused (409) for another request."""
    known = session.get(Idempotency, (owner, key.text)) if key else None
    if known is None or key is None:
        return None
    if known.body_sha256 != key.request_sha256:
        raise KeyReused(received=key.text, fix="Send a new key with a new request.")
    return session.get(Run, known.run_id)


def _origin() -> dict[str, Any] | None:
    """Return the current request's ids, for the logs and traces of the workers."""
    ids = {"request_id": logs.bound_value("request_id"), "traceparent": tracing.traceparent()}
    return {name: value for name, value in ids.items() if value is not None} or None


def add_run(session: Session, new: NewRun, run_id: str, at: datetime) -> Run:
    """Add a queued run and its first event, within the caller's transaction."""
    run = Run(
        id=run_id,
        kind=new.kind,
        owner=new.owner,
        key_id=new.key_id,
        shared=False,
        dataset_id=new.dataset_id,
        model=new.model,
        spec=new.spec,
        resolved=new.resolved,
        estimates=new.estimates,
        state=RunState.queued,
        priority=new.priority,
        attempt=0,
        spent_attempts=0,
        parent_id=new.parent_id,
        initial_weights=initial_artifact(new.resolved),
        name=new.name,
        tags=list(new.tags),
        origin=_origin(),
        dispatched_at=at,  # the caller publishes right after the commit; T10 repairs a failure
        created_at=at,
    )
    session.add(run)
    session.flush()
    add_event(session, run.id, 0, CREATED, at, RunState.queued, "Queued")
    return run


def initial_artifact(resolved: dict[str, Any]) -> str | None:
    """Return the artifact that supplies a resolved spec's initial weights; it is kept as long as the run."""
    initial = resolved.get("initial_weights")
    return initial.get("artifact") if isinstance(initial, dict) else None


def create_run(
    engine: Engine, new: NewRun, limits: Limits, key: RequestKey | None = None, blobs: BlobStore | None = None
) -> tuple[Run, bool]:
    """T1, in one transaction: the key, the run, its first event. Returns the run and whether it is new.

    Initial weights must exist in `blobs`. Raises TooMany (429) if a quota of the owner or the key is used up,
    KeyReused (409).
    """
    with db.transaction(engine) as session:
        quotas.lock_owner(session, new.owner)  # also serialises concurrent requests with the same Idempotency-Key
        if (known := existing_run(session, new.owner, key)) is not None:
            session.expunge(known)
            return known, False
        quotas.check(session, new.owner, new.key_id, new.quotas, limits)
        if blobs is not None and (artifact := initial_artifact(new.resolved)) is not None:
            blob_references.check_initial_weights(session, blobs, artifact)
        at = db.now(session)
        run = add_run(session, new, new_id("run"), at)
        if key is not None:
            row = Idempotency(owner=new.owner, key=key.text, body_sha256=key.request_sha256, run_id=run.id)
            row.created_at = at
            session.add(row)
        session.flush()
        session.expunge(run)
        crash_point("api.before_commit")
    crash_point("api.after_commit")
    log.info("run queued", extra={"run": run.id, "model": run.model})
    return run, True


def undelivered_runs(engine: Engine, older_than: float, limit: int) -> list[str]:
    """T10: return queued runs never published, or last published over `older_than` seconds ago, in queue order.

    The run's row is the outbox: its message may never have reached a worker.
    """
    with db.reading(engine) as session:
        before = db.now(session) - timedelta(seconds=older_than)
        late = or_(Run.dispatched_at.is_(None), Run.dispatched_at < before)
        order = (Run.priority.desc(), Run.created_at, Run.id)
        query = select(Run.id).where(Run.state == RunState.queued, late).order_by(*order).limit(limit)
        return list(session.scalars(query))


def mark_published(engine: Engine, ids: Sequence[str]) -> None:
    """Record that these runs have been published now."""
    with db.transaction(engine) as session:
        session.execute(
            update(Run)
            .where(Run.id.in_(ids), Run.state == RunState.queued)
            .values(dispatched_at=db.now(session))
            .execution_options(synchronize_session=False)
        )


def delete_old_idempotency_keys(engine: Engine) -> int:
    """Delete Idempotency-Keys older than KEY_DAYS. Return how many."""
    with db.transaction(engine) as session:
        old = db.now(session) - timedelta(days=KEY_DAYS)
        result = session.execute(delete(Idempotency).where(Idempotency.created_at < old))
        return int(result.rowcount)  # type: ignore[attr-defined]
