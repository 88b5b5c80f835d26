"""The audit log: one row for each request that changes something, with its key, action, target, status and address.

A request that changes many things has one for each of them besides.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import AwareDatetime, ConfigDict, Field, field_validator
from sqlalchemy import ColumnElement, Engine, and_, event, func, insert, or_, select
from sqlalchemy.orm import Session, aliased
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fitserve import db
from fitserve.data_model import DataModel
from fitserve.errors import FitserveError
from fitserve.tables import Audit
from fitserve.wire import Page
from fitserve.wire.admin import AuditEntry
from services.control.deps import Admin, Ctx
from services.http import Router
from services.http.instrumentation import route_template

log = logging.getLogger(__name__)
router = Router(tags=["keys"])
SEARCHED_ROWS = 100_000  # most rows searched by one request
_CHANGING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class AuditFilters(DataModel):
    """The filters of a page of the audit log."""

    model_config = ConfigDict(extra="forbid")

    owner: str | None = Field(None, max_length=63, description="Only changes with this owner's keys")
    key_id: str | None = Field(None, max_length=40, description="Only changes with this key")
    method: Literal["POST", "PUT", "PATCH", "DELETE"] | None = None
    outcome: Literal["done", "refused", "failed"] | None = Field(
        None, description="`done`: below 400; `refused`: 4xx; `failed`: 5xx"
    )
    search: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Only entries whose action, target, owner, address or request id contains this",
    )
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=18, pattern=r"^[0-9]+$", description="`next_cursor` of a page")

    @field_validator("since", "until")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        try:
            return None if value is None else value.astimezone(UTC)
        except OverflowError:
            raise ValueError("This time is out of range in UTC.") from None

    @field_validator("owner", "key_id", "search")
    @classmethod
    def _is_text(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError("A text without NUL characters.")
        return value

    @property
    def matches(self) -> Callable[[Any], ColumnElement[bool]] | None:
        """The conditions that no index covers; None if there are none."""
        conditions: list[Callable[[Any], ColumnElement[bool]]] = []
        if self.method is not None:
            conditions.append(lambda row: row.action.startswith(f"{self.method} "))
        if self.outcome is not None:
            low, high = {"done": (0, 400), "refused": (400, 500), "failed": (500, 1000)}[self.outcome]
            conditions.append(lambda row: and_(row.status >= low, row.status < high))
        if (text := self.search) is not None:
            conditions.append(
                lambda row: or_(
                    *(
                        column.icontains(text, autoescape=True)
                        for column in (row.action, row.target, row.owner, row.address, row.request_id)
                    )
                )
            )
        return (lambda row: and_(*(one(row) for one in conditions))) if conditions else None


@router.get("/audit", summary="The audit log, newest first")
def entries(
    caller: Admin,
    ctx: Ctx,
    filters: Annotated[AuditFilters, Query()],
) -> Page[AuditEntry]:
    """Filters are combined. One request searches a part of a long log, so a short page may have a `next_cursor`."""
    query = select(Audit).order_by(Audit.id.desc())
    for column, value in ((Audit.owner, filters.owner), (Audit.key_id, filters.key_id)):
        if value is not None:
            query = query.where(column == value)
    if filters.since is not None:
        query = query.where(Audit.created_at >= filters.since)
    if filters.until is not None:
        query = query.where(Audit.created_at < filters.until)
    if filters.cursor is not None:
        query = query.where(Audit.id < int(filters.cursor))
    limit = filters.limit
    with db.reading(ctx.engine) as session:
        if filters.matches is None:
            rows = list(session.scalars(query.limit(limit + 1)))
            return _page(rows[:limit], rows[limit - 1].id if len(rows) > limit else None)
        part = query.limit(SEARCHED_ROWS).subquery()
        of_part = aliased(Audit, part)
        rows = list(
            session.scalars(
                select(of_part).where(filters.matches(of_part)).order_by(of_part.id.desc()).limit(limit + 1)
            )
        )
        if len(rows) > limit:
            return _page(rows[:limit], rows[limit - 1].id)
        searched, last = session.execute(select(func.count(), func.min(part.c.id))).one()
    return _page(rows, last if searched == SEARCHED_ROWS else None)


def _page(rows: Sequence[Audit], last: int | None) -> Page[AuditEntry]:
    items = [AuditEntry.model_validate(row) for row in rows]
    return Page(items=items, next_cursor=None if last is None else str(last))


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
    """The row of one request, committed together with the request's first change.

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
            return  # writes before the caller is known are not audited changes
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
        """Write the row if the request changed nothing, or if it ended in an error after a change."""
        with self._lock:
            self._is_over = True
        if self._id is not None and (status == self._status or status < 400):
            return
        with db.transaction(engine) as session:
            session.add(_row(session, self._scope, status))


@dataclass(frozen=True, slots=True)
class AuditedChange:
    """A bulk request's change of one object, logged as if the object's own route had made it."""

    action: str
    target: str
    status: int


def add_changes(session: Session, scope: Scope, parts: Sequence[AuditedChange]) -> None:
    """Add a row for each change to the transaction that makes them, besides the request's own row."""
    if scope.get("caller") is not None and parts:
        values, at = _values(scope), db.now(session)
        rows = [{**values, "created_at": at, **asdict(part)} for part in parts]
        session.execute(insert(Audit), rows)


def _row(session: Session, scope: Scope, status: int) -> Audit:
    return Audit(
        action=f"{scope['method']} {route_template(scope)}"[:128],
        target=scope["path"].encode("utf-8", "backslashreplace").decode()[:256],
        status=status,
        created_at=db.now(session),
        **_values(scope),
    )


def _values(scope: Scope) -> dict[str, Any]:
    """Return the columns that identify the caller and its address."""
    caller, client = scope["caller"], scope.get("client")
    return {
        "key_id": caller.key_id,
        "owner": caller.owner,
        "address": (client[0] if client else "")[:64],
        "request_id": scope.get("request_id", ""),
    }
