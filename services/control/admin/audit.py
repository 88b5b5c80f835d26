"""The audit log: one row for each request that changes something, with its key, action, target, status and address."""

from __future__ import annotations

import logging
import threading
from typing import Annotated

from fastapi import Query
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fitserve import db
from fitserve.errors import BadInput, FitserveError
from fitserve.tables import Audit
from fitserve.wire import Page
from fitserve.wire.admin import AuditEntry
from services.control.deps import Admin, Ctx, Limit
from services.shell import Router
from services.shell.instrumentation import route_template

log = logging.getLogger(__name__)
router = Router(tags=["keys"])
_CHANGING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@router.get("/audit", summary="The audit log, newest first")
def entries(
    caller: Admin,
    ctx: Ctx,
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(max_length=20)] = None,
) -> Page[AuditEntry]:
    query = select(Audit).order_by(Audit.id.desc()).limit(limit + 1)
    if cursor is not None:
        if not cursor.isascii() or not cursor.isdigit():
            raise BadInput("Invalid cursor.", received=cursor, expected="`next_cursor` of a page")
        query = query.where(Audit.id < int(cursor))
    with db.reading(ctx.engine) as session:
        rows = [AuditEntry.model_validate(row) for row in session.scalars(query)]
    return Page(items=rows[:limit], next_cursor=str(rows[limit - 1].id) if len(rows) > limit else None)


class AuditMiddleware:
    """Pure ASGI middleware: records each changing request of an authenticated caller, refused ones too.

    A request without a valid key leaves no row, or anybody could fill the disk; telemetry counts those.
    """

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _CHANGING_METHODS:
            await self.app(scope, receive, send)
            return
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        entry = _Entry(scope)
        before = db.COMMITTED_WITH.set(entry.add)
        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            db.COMMITTED_WITH.reset(before)
            if scope.get("caller") is not None:
                await run_in_threadpool(self._write, entry, status)

    def _write(self, entry: _Entry, status: int) -> None:
        try:
            entry.finish(self.engine, status)
        except FitserveError as error:
            log.error("the audit log could not be written", extra={"error": error.detail})


class _Entry:
    """The row of one request. It is committed with the request's first change: there is neither without the other.

    Its status is then the route's usual one. The log is only added to, so an error that is answered after a change
    has a row of its own.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._id: int | None = None  # once it is committed
        self._status = 0
        self._is_over = False
        self._lock = threading.Lock()

    def add(self, session: Session) -> None:
        """Add the row to a transaction, unless an earlier one has committed it."""
        if self._scope.get("caller") is None:
            return  # what is written before the caller is known changes nothing that is audited
        with self._lock:
            if self._id is not None or self._is_over:
                return
        status = getattr(self._scope.get("route"), "status_code", None) or 200
        row = _row(session, self._scope, status)
        session.add(row)
        session.flush()
        id = row.id

        def committed(_session: Session) -> None:
            with self._lock:
                self._id, self._status = id, status

        event.listen(session, "after_commit", committed, once=True)

    def finish(self, engine: Engine, status: int) -> None:
        """Write the row if nothing was changed, or if the answer is an error all the same."""
        with self._lock:
            self._is_over = True
        if self._id is not None and (status == self._status or status < 400):
            return
        with db.transaction(engine) as session:
            session.add(_row(session, self._scope, status))


def _row(session: Session, scope: Scope, status: int) -> Audit:
    caller, client = scope["caller"], scope.get("client")
    return Audit(
        key_id=caller.key_id,
        owner=caller.owner,
        action=f"{scope['method']} {route_template(scope)}"[:128],
        target=scope["path"].encode("utf-8", "backslashreplace").decode()[:256],
        status=status,
        address=(client[0] if client else "")[:64],
        request_id=scope.get("request_id", ""),
        created_at=db.now(session),
    )
