"""T1: a run is made, once for each Idempotency-Key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.crash import crash_point
from fitserve.errors import BadInput, Conflict, TooMany
from fitserve.ids import new_id
from fitserve.runs.journal import CREATED, say
from fitserve.settings import Limits
from fitserve.states import RunState
from fitserve.tables import Idempotency, Run

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


def create(engine: Engine, new: NewRun, limits: Limits, key: Key | None = None) -> tuple[Run, bool]:
    """T1, in one transaction: the key, the run, its first event. Returns the run and whether it is new.

    Raises TooMany (429) where the owner has `limits.queued_runs` queued already, KeyReused (409).
    """
    with db.transaction(engine) as session:
        _lock_owner(session, new.owner)
        if (known := replay(session, new.owner, key)) is not None:
            session.expunge(known)
            return known, False
        _check_quota(session, new.owner, limits.queued_runs)
        at = db.now(session)
        run = Run(
            id=new_id("run"),
            kind=new.kind,
            owner=new.owner,
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
            dispatched_at=at,  # published right after the commit; T10 sees to it where that fails
            created_at=at,
        )
        session.add(run)
        session.flush()
        say(session, run.id, 0, CREATED, at, RunState.queued, "Queued")
        if key is not None:
            row = Idempotency(owner=new.owner, key=key.text, body_sha256=key.request_sha256, run_id=run.id)
            row.created_at = at
            session.add(row)
        session.flush()
        session.expunge(run)
        crash_point("api.before_commit")
    crash_point("api.after_commit")
    return run, True


def _lock_owner(session: Session, owner: str) -> None:
    """The same key twice at once, or two runs for the last place in a quota: one after the other."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext('runs:' || :owner))"), {"owner": owner})


def _check_quota(session: Session, owner: str, limit: int) -> None:
    count = session.scalar(select(func.count()).where(Run.owner == owner, Run.state == RunState.queued))
    if (count or 0) >= limit:
        raise TooMany(
            f"{count} runs of yours are queued already.",
            received=count,
            expected=f"fewer than {limit} queued runs",
            fix="Wait until some have started, or cancel some.",
            retry_after=30,
        )
