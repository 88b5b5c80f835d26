"""Progress of a run: its epochs as a list, its events as a list or as a stream of server-sent events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from anyio import CapacityLimiter
from fastapi import Header, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from fitserve import db
from fitserve.errors import BadInput, FitserveError, TooMany
from fitserve.runs import queries
from fitserve.states import TERMINAL
from fitserve.tables import Event, Run
from fitserve.wire import Page
from fitserve.wire.runs import EpochInfo, EventInfo
from services.control.deps import MAX_INTEGER, Context, Ctx, Limit, Reader
from services.http import Caller, Router
from services.http.auth import token_of

router = Router(tags=["runs"])

STREAM = "text/event-stream"
MAX_STREAMS = 1000  # streams open at the same time in one process
MAX_STREAMS_OF_KEY = 250  # of one key, which would leave the others none
POLL_SECONDS = (0.1, 1.0)  # pauses between queries: right after an event, and the longest
HEARTBEAT_SECONDS = 10.0  # between keep-alive comments, which stop proxies from closing a silent connection
CHECK_KEY_SECONDS = 5.0
_BATCH = 500
_MAX_ID = 2**63 - 1
_open_streams: Counter[str] = Counter()  # by key
_stream_threads = CapacityLimiter(8)  # separate, so that streams do not use up the threads of other routes


@router.get("/runs/{run_id}/epochs", summary="List epochs, by trial and epoch")
def list_epochs(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    trial: Annotated[int | None, Query(ge=0, le=MAX_INTEGER)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,10}\.[0-9]{1,10}$")] = None,
) -> Page[EpochInfo]:
    last_trial, last_epoch = map(int, cursor.split(".")) if cursor else (-1, 0)
    with db.reading(ctx.engine) as session:
        run = queries.get(session, run_id, caller.owner_filter)
        epochs = queries.epochs(session, run.id, after=(last_trial, last_epoch), trial=trial, limit=limit + 1)
        items = [EpochInfo.model_validate(epoch) for epoch in epochs[:limit]]
        rows = _rows_per_epoch(run)
    for item in items:
        item.rows_per_second = float(f"{rows / item.seconds:.4g}") if rows and item.seconds > 0 else None
    last = items[-1] if len(epochs) > limit else None
    return Page(items=items, next_cursor=f"{last.trial}.{last.epoch}" if last else None)


def _rows_per_epoch(run: Run) -> int:
    """Return the training rows of an epoch: counted once the split is known, estimated before."""
    training = run.resolved.get("training", {})  # absent for a batch prediction
    rows = int(((run.result or {}).get("rows") or {}).get("train") or run.estimates.get("training_rows") or 0)
    steps, size = training.get("steps_per_epoch"), training.get("batch_size")
    return min(rows, int(steps) * int(size)) if steps and isinstance(size, int) else rows


@router.get(
    "/runs/{run_id}/events",
    summary="List or stream events",
    response_model=Page[EventInfo],
    responses={
        200: {"content": {STREAM: {"schema": {"type": "string"}}}, "description": "A page, or a stream"},
        204: {"description": "For a stream: the run has ended and all its events have been received"},
    },
)
async def list_events(
    run_id: str,
    request: Request,
    caller: Reader,
    ctx: Ctx,
    accept: Annotated[str, Header()] = "*/*",
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    limit: Limit = 100,
    cursor: Annotated[int, Query(ge=0, le=_MAX_ID, description="Events after this id")] = 0,
) -> Response:
    """With `Accept: text/event-stream` a stream; resuming with `Last-Event-ID` misses and repeats no event."""
    owner = caller.owner_filter
    if STREAM not in accept:
        events, _ = await anyio.to_thread.run_sync(_read_events, ctx, run_id, owner, cursor, limit + 1)
        items = [EventInfo.model_validate(event) for event in events[:limit]]
        after = str(items[-1].id) if len(events) > limit else None
        return JSONResponse(Page(items=items, next_cursor=after).model_dump(mode="json"))
    after_id = _resume_after(last_event_id, cursor)
    events, ended = await anyio.to_thread.run_sync(_read_events, ctx, run_id, owner, after_id, 1)
    if ended and not events:
        return Response(status_code=204)  # makes a browser's EventSource stop reconnecting
    _check_room(caller.key_id)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(request, ctx, run_id, caller, after_id), media_type=STREAM, headers=headers)


def _check_room(key_id: str) -> None:
    """Raise TooMany unless another stream of this key may be opened."""
    if _open_streams.total() >= MAX_STREAMS:
        raise TooMany(f"{_open_streams.total()} event streams are open already.", retry_after=10)
    if _open_streams[key_id] >= MAX_STREAMS_OF_KEY:
        raise TooMany(
            f"This key has {_open_streams[key_id]} event streams open.",
            received=_open_streams[key_id],
            expected=f"fewer than {MAX_STREAMS_OF_KEY} in one process",
            fix="Close some, or list events.",
            retry_after=10,
        )


def _resume_after(header: str | None, cursor: int) -> int:
    if not header:
        return cursor
    if not header.isascii() or not header.isdigit() or len(header) > 19 or int(header) > _MAX_ID:
        raise BadInput("Invalid Last-Event-ID.", received=header[:80], expected="the `id` of an event")
    return int(header)


def _read_events(ctx: Context, run_id: str, owner: str | None, after: int, limit: int) -> tuple[list[Event], bool]:
    """Return events after an id, and whether the run has ended."""
    with db.reading(ctx.engine) as session:
        run = queries.get(session, run_id, owner)
        return queries.events_after(session, run.id, after, limit), run.state in TERMINAL


async def _stream(request: Request, ctx: Context, run_id: str, caller: Caller, after: int) -> AsyncIterator[str]:
    """Yield events as they are committed, until the run has ended, the key is revoked, or a peer goes away.

    A server that shuts down ends its streams: clients resume elsewhere, and it need not wait for them.
    """
    try:
        _check_room(caller.key_id)  # again: others may have begun since
    except TooMany:
        yield "retry: 10000\n\n"
        return
    _open_streams[caller.key_id] += 1
    min_pause, max_pause = POLL_SECONDS
    pause, sent_at, checked_at = min_pause, time.monotonic(), time.monotonic()
    try:
        yield "retry: 1000\n\n"
        while not request.app.state.stopping:
            events, _ = await anyio.to_thread.run_sync(
                _read_events, ctx, run_id, caller.owner_filter, after, _BATCH, limiter=_stream_threads
            )
            for event in events:
                yield _frame(event)
                after = event.id
                if event.type == "state" and event.data.get("state") in TERMINAL:
                    return
            now = time.monotonic()
            if events:
                pause, sent_at = min_pause, now
            elif now - sent_at > HEARTBEAT_SECONDS:
                yield ": still here\n\n"
                sent_at = now
            if now - checked_at > CHECK_KEY_SECONDS:
                checked_at = now
                await anyio.to_thread.run_sync(request.app.state.identify, token_of(request), limiter=_stream_threads)
            if len(events) < _BATCH:
                await anyio.sleep(pause)
                pause = min(max_pause, pause * 1.2)
    except FitserveError:
        return  # the database is unavailable or the key is revoked: a client that reconnects gets the error
    finally:
        _open_streams[caller.key_id] -= 1
        if not _open_streams[caller.key_id]:
            del _open_streams[caller.key_id]


def _frame(event: Event) -> str:
    """Format a server-sent event. JSON contains no raw line feed, so one `data` line is enough."""
    return f"id: {event.id}\nevent: {event.type}\ndata: {EventInfo.model_validate(event).model_dump_json()}\n\n"
