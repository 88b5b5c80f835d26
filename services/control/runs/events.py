"""What happened to a run: epochs as a list, events as a list or as a stream of server-sent events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from anyio import CapacityLimiter
from fastapi import Depends, Header, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fitserve import db
from fitserve.errors import BadInput, FitserveError, TooMany
from fitserve.runs import queries
from fitserve.states import TERMINAL
from fitserve.tables import Event, Run
from fitserve.wire import Page
from fitserve.wire.runs import EpochInfo, EventInfo
from services.control.deps import Context, context
from services.shell import Caller, Router, require
from services.shell.auth import token_of

router = Router(tags=["runs"])

STREAM = "text/event-stream"
MOST_STREAMS = 1000  # of one process
LOOK_SECONDS = (0.1, 1.0)  # between two looks: soon after an event, and at most
HEARTBEAT_SECONDS = 10.0  # a comment, so that nobody on the way closes a silent connection
CHECK_KEY_SECONDS = 5.0
_BATCH = 500
_LARGEST_ID = 2**63 - 1
_streams = 0
_threads: list[CapacityLimiter] = []  # of streams: they must not take the threads of the other routes


@router.get("/runs/{run_id}/epochs", summary="Epochs, by trial and epoch")
def list_epochs(
    run_id: str,
    caller: Annotated[Caller, Depends(require("read"))],
    ctx: Annotated[Context, Depends(context)],
    trial: Annotated[int | None, Query(ge=0, le=2**31)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,10}\.[0-9]{1,10}$")] = None,
) -> Page[EpochInfo]:
    last_trial, last_epoch = map(int, cursor.split(".")) if cursor else (-1, 0)
    with db.reading(ctx.engine) as session:
        run = queries.get(session, run_id, caller.owner_filter)
        found = queries.epochs(session, run.id, after=(last_trial, last_epoch), trial=trial, limit=limit + 1)
        items = [EpochInfo.model_validate(epoch) for epoch in found[:limit]]
        rows = _rows_an_epoch(run)
    for item in items:
        item.rows_per_second = float(f"{rows / item.seconds:.4g}") if rows and item.seconds > 0 else None
    last = items[-1] if len(found) > limit else None
    return Page(items=items, next_cursor=f"{last.trial}.{last.epoch}" if last else None)


def _rows_an_epoch(run: Run) -> int:
    """How many training rows an epoch passes, as they were divided; before that, as they were estimated."""
    training = run.resolved.get("training", {})  # a batch prediction has none
    rows = int(((run.result or {}).get("rows") or {}).get("train") or run.estimates.get("training_rows") or 0)
    steps, size = training.get("steps_per_epoch"), training.get("batch_size")
    return min(rows, int(steps) * int(size)) if steps and isinstance(size, int) else rows


@router.get(
    "/runs/{run_id}/events",
    summary="Events, as a list or a stream",
    response_model=Page[EventInfo],
    responses={
        200: {"content": {STREAM: {"schema": {"type": "string"}}}, "description": "A page, or a stream"},
        204: {"description": "A stream: the run is over and all its events have been received"},
    },
)
async def list_events(
    run_id: str,
    request: Request,
    caller: Annotated[Caller, Depends(require("read"))],
    ctx: Annotated[Context, Depends(context)],
    accept: Annotated[str, Header()] = "*/*",
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=0, le=_LARGEST_ID, description="Events after this id")] = 0,
) -> Response:
    """With `Accept: text/event-stream` a stream, resumed by `Last-Event-ID`: nothing missed, nothing twice."""
    owner = caller.owner_filter
    if STREAM not in accept:
        found = await anyio.to_thread.run_sync(_events, ctx, run_id, owner, cursor, limit + 1)
        items = [EventInfo.model_validate(event) for event in found[:limit]]
        after = str(items[-1].id) if len(found) > limit else None
        return JSONResponse(Page(items=items, next_cursor=after).model_dump(mode="json"))
    after_id = _resume_after(last_event_id, cursor)
    if await anyio.to_thread.run_sync(_all_received, ctx, run_id, owner, after_id):
        return Response(status_code=204)  # tells a browser's EventSource not to come back
    if _streams >= MOST_STREAMS:
        raise TooMany(f"{_streams} event streams are open already.", retry_after=10)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(request, ctx, run_id, owner, after_id), media_type=STREAM, headers=headers)


def _resume_after(header: str | None, cursor: int) -> int:
    if not header:
        return cursor
    if not header.isascii() or not header.isdigit() or int(header[:20]) > _LARGEST_ID:
        raise BadInput("That is no Last-Event-ID.", received=header[:80], expected="the `id` of an event")
    return int(header)


def _events(ctx: Context, run_id: str, owner: str | None, after: int, limit: int) -> list[Event]:
    with db.reading(ctx.engine) as session:
        run = queries.get(session, run_id, owner)
        return queries.events_after(session, run.id, after, limit)


def _all_received(ctx: Context, run_id: str, owner: str | None, after: int) -> bool:
    with db.reading(ctx.engine) as session:
        run = queries.get(session, run_id, owner)
        return run.state in TERMINAL and not queries.events_after(session, run.id, after, 1)


async def _stream(request: Request, ctx: Context, run_id: str, owner: str | None, after: int) -> AsyncIterator[str]:
    """Events as they are committed, until the run is over, the key is revoked, or the client has gone."""
    global _streams
    if not _threads:
        _threads.append(CapacityLimiter(8))
    _streams += 1
    soon, late = LOOK_SECONDS
    pause, sent_at, checked_at = soon, time.monotonic(), time.monotonic()
    try:
        yield "retry: 1000\n\n"
        while True:
            found = await anyio.to_thread.run_sync(_events, ctx, run_id, owner, after, _BATCH, limiter=_threads[0])
            for event in found:
                yield _frame(event)
                after = event.id
                if event.type == "state" and event.data.get("state") in TERMINAL:
                    return
            now = time.monotonic()
            if found:
                pause, sent_at = soon, now
            elif now - sent_at > HEARTBEAT_SECONDS:
                yield ": still here\n\n"
                sent_at = now
            if now - checked_at > CHECK_KEY_SECONDS:
                checked_at = now
                await anyio.to_thread.run_sync(request.app.state.identify, token_of(request), limiter=_threads[0])
            if len(found) < _BATCH:
                await anyio.sleep(pause)
                pause = min(late, pause * 1.2)
    except FitserveError:
        return  # the database is away, or the key is revoked: a client that comes back is told
    finally:
        _streams -= 1


def _frame(event: Event) -> str:
    """JSON holds no raw line feed, so one `data` line is enough."""
    return f"id: {event.id}\nevent: {event.type}\ndata: {EventInfo.model_validate(event).model_dump_json()}\n\n"
