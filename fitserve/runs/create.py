"""T1: a run is made, once for each Idempotency-Key."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitserve import db, logs, tracing
from fitserve.crash import crash_point
from fitserve.errors import BadInput, Conflict
from fitserve.ids import new_id
from fitserve.runs import quotas
from fitserve.runs.history import CREATED, say
from fitserve.settings import Limits
from fitserve.states import RunState
from fitserve.tables import Idempotency, Run
from fitserve.wire.admin import NO_QUOTAS, Quotas

log = logging.getLogger(__name__)

LONGEST_KEY = 255


class KeyReused(Conflict):
    """This Idempotency-Key came with another request before."""

    slug = "idempotency-key-reused"


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a run starts from. `resolved` is the spec with every default written out."""

    owner: str
    dataset_id: str
    spec: dict[str, Any]
    resolved: dict[str, Any]
    estimates: dict[str, Any]
    model: str | None = None
    kind: str = "training"
    priority: int = 0
    parent_id: str | None = None
    key_id: str | None = None  # the key that asks, and what it may use
    quotas: Quotas = NO_QUOTAS


@dataclass(frozen=True, slots=True)
class Key:
    """An Idempotency-Key and the SHA-256 of the request that it came with."""

    text: str
    request_sha256: str


def key_of(header: str | None, *request: bytes) -> Key | None:
    """The key of a request (method, path, query, body). Raises BadInput where the header is no usable key."""
    if header is None:
        return None
    if not 1 <= len(header) <= LONGEST_KEY or not header.isprintable():
        raise BadInput(
            "That is no Idempotency-Key.", received=header[:80], expected=f"1 to {LONGEST_KEY} printable characters"
        )
    digest = hashlib.sha256()
    for part in request:
        digest.update(len(part).to_bytes(8, "big") + part)
    return Key(header, digest.hexdigest())


def replay(session: Session, owner: str, key: Key | None) -> Run | None:
    """The run that this key has made already. Raises KeyReused (409) where the request was another."""
    known = session.get(Idempotency, (owner, key.text)) if key else None
    if known is None or key is None:
        return None
    if known.body_sha256 != key.request_sha256:
        raise KeyReused(received=key.text, fix="Send a new key with a new request.")
    return session.get(Run, known.run_id)


def _origin() -> dict[str, Any] | None:
    """The request that makes a run, for the logs and traces of whoever works on it."""
    found = {"request_id": logs.bound_value("request_id"), "traceparent": tracing.traceparent()}
    return {name: value for name, value in found.items() if value is not None} or None


def add(session: Session, new: NewRun, run_id: str, at: datetime) -> Run:
    """The row of a queued run and its first event, within the caller's transaction."""
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
        origin=_origin(),
        dispatched_at=at,  # published right after the commit; T10 sees to it where that fails
        created_at=at,
    )
    session.add(run)
    session.flush()
    say(session, run.id, 0, CREATED, at, RunState.queued, "Queued")
    return run


def create(engine: Engine, new: NewRun, limits: Limits, key: Key | None = None) -> tuple[Run, bool]:
    """T1, in one transaction: the key, the run, its first event. Returns the run and whether it is new.

    Raises TooMany (429) where a quota of the owner or the key is used up, KeyReused (409).
    """
    with db.transaction(engine) as session:
        quotas.lock_owner(session, new.owner)  # the same key twice at once, too
        if (known := replay(session, new.owner, key)) is not None:
            session.expunge(known)
            return known, False
        quotas.check(session, new.owner, new.key_id, new.quotas, limits)
        at = db.now(session)
        run = add(session, new, new_id("run"), at)
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
