"""Runs: create, list, get, cancel, retry, reproduce."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Response
from sqlalchemy.orm import Session

from fitserve import db, telemetry
from fitserve.errors import Conflict
from fitserve.runs import create, finish, queries, share
from fitserve.runs.create import Key, NewRun
from fitserve.states import TRIAL, RunState
from fitserve.tables import Run
from fitserve.wire import Page
from fitserve.wire.runs import (
    EpochDifference,
    Progress,
    QueuePlace,
    Reproduction,
    RunInfo,
    RunPatch,
    RunSummary,
    Validation,
)
from services.control.deps import Context, context
from services.control.runs import check_spec
from services.shell import Caller, Router, require

router = Router(tags=["runs"])

SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "description": "A spec; see /api/v1/schemas/spec"}},
            "application/yaml": {"schema": {"type": "object", "description": "The same, as YAML"}},
        },
    }
}
Idempotent = Annotated[
    str | None, Header(alias="Idempotency-Key", description="The same key again gets the same run", max_length=255)
]
Priority = Annotated[int, Query(ge=-100, le=100, description="Higher goes first")]


async def body_of(request: Request) -> bytes:
    """The raw body; the handler runs in a thread."""
    return await request.body()


@router.post(
    "/runs",
    status_code=202,
    summary="Submit a spec",
    openapi_extra=SPEC_BODY,
    response_model=RunInfo | Validation,
    responses={200: {"model": Validation, "description": "With `validate_only`: what would be trained"}},
)
def submit(
    request: Request,
    response: Response,
    body: Annotated[bytes, Depends(body_of)],
    caller: Annotated[Caller, Depends(require("train"))],
    ctx: Annotated[Context, Depends(context)],
    validate_only: Annotated[bool, Query(description="Check, and queue nothing")] = False,
    priority: Priority = 0,
    idempotency_key: Idempotent = None,
) -> RunInfo | Validation:
    """The body is the spec, as JSON or YAML."""
    key = create.key_of(idempotency_key, *_identity_of(request), body)
    if not validate_only and (known := _replayed(ctx, caller, key, response)) is not None:
        return known
    checked = check_spec.check(ctx, caller, body, request.headers.get("content-type", ""))
    resolved = checked.resolved
    if validate_only:
        response.status_code = 200
        return Validation(
            resolved=resolved.spec.to_json(),
            summary=resolved.summary,
            estimates=resolved.estimates,
            warnings=resolved.warnings,
        )
    new = NewRun(
        owner=caller.owner,
        dataset_id=checked.dataset_id,
        spec=checked.asked.model_dump(mode="json", exclude_unset=True),
        resolved=resolved.spec.to_json(),
        estimates={
            **resolved.estimates.model_dump(mode="json"),
            "warnings": [warning.model_dump(mode="json") for warning in resolved.warnings],
        },
        model=checked.asked.model,
        priority=priority,
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    return _accept(ctx, response, new, key)


def _identity_of(request: Request) -> tuple[bytes, bytes, bytes]:
    """What makes two requests the same one, but for the body."""
    return request.method.encode(), request.url.path.encode(), str(request.url.query).encode()


def _replayed(ctx: Context, caller: Caller, key: Key | None, response: Response) -> RunInfo | None:
    """The answer to a request that was answered before: its data may have changed since. Raises KeyReused."""
    if key is None:
        return None
    with db.reading(ctx.engine) as session:
        known = create.replay(session, caller.owner, key)
        return None if known is None else _accepted(session, response, known, new=False)


def _accept(ctx: Context, response: Response, new: NewRun, key: Key | None) -> RunInfo:
    """T1, then the message. The run stands whether or not a worker hears of it now."""
    run, is_new = create.create(ctx.engine, new, ctx.settings.limits, key)
    if is_new:
        telemetry.RUNS_CREATED.inc()
        ctx.queue.publish(run.id)
    with db.reading(ctx.engine) as session:
        return _accepted(session, response, run, new=is_new)


def _accepted(session: Session, response: Response, run: Run, *, new: bool) -> RunInfo:
    response.status_code = 202
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    if not new:
        response.headers["Idempotency-Replayed"] = "true"
    return whole(session, queries.get(session, run.id))


@router.get("/runs", summary="Runs, newest first")
def list_runs(
    caller: Annotated[Caller, Depends(require("read"))],
    ctx: Annotated[Context, Depends(context)],
    state: Annotated[list[RunState] | None, Query(description="One state or several")] = None,
    model: Annotated[str | None, Query(max_length=63)] = None,
    dataset_id: Annotated[str | None, Query(max_length=40)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=40)] = None,
) -> Page[RunSummary]:
    """An admin sees all of them, others their own and what is shared."""
    with db.reading(ctx.engine) as session:
        found = queries.listing(
            session,
            owner=_owner(caller),
            states=state or (),
            model=model,
            dataset_id=dataset_id,
            before=cursor,
            limit=limit + 1,
        )
        items = [RunSummary.model_validate(run) for run in found[:limit]]
    return Page(items=items, next_cursor=items[-1].id if len(found) > limit else None)


@router.get("/runs/{run_id}", summary="A run, whole")
def get_run(
    run_id: str,
    caller: Annotated[Caller, Depends(require("read"))],
    ctx: Annotated[Context, Depends(context)],
) -> RunInfo:
    with db.reading(ctx.engine) as session:
        return whole(session, queries.get(session, run_id, _owner(caller)))


@router.patch("/runs/{run_id}", summary="Share a run")
def patch_run(
    run_id: str,
    body: RunPatch,
    caller: Annotated[Caller, Depends(require("train"))],
    ctx: Annotated[Context, Depends(context)],
) -> RunInfo:
    """Sharing lets every owner look at it: its epochs, events, findings and networks. Nobody else may change it."""
    share.share(ctx.engine, run_id, body.shared, _owner(caller))
    with db.reading(ctx.engine) as session:
        return whole(session, queries.get(session, run_id))


@router.post("/runs/{run_id}/cancel", summary="Cancel a run", responses={202: {"model": RunInfo}})
def cancel_run(
    run_id: str,
    response: Response,
    caller: Annotated[Caller, Depends(require("train"))],
    ctx: Annotated[Context, Depends(context)],
) -> RunInfo:
    """200: it is cancelled. 202: its worker has been asked, and obeys within 6 seconds."""
    run = finish.cancel(ctx.engine, run_id, _owner(caller))
    response.status_code = 200 if run.state == RunState.cancelled else 202
    with db.reading(ctx.engine) as session:
        return whole(session, queries.get(session, run_id))


@router.post("/runs/{run_id}/retry", status_code=202, summary="Run it again")
def retry_run(
    run_id: str,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Depends(require("train"))],
    ctx: Annotated[Context, Depends(context)],
    idempotency_key: Idempotent = None,
) -> RunInfo:
    """A new run with the same resolved spec, of a run that failed or was cancelled."""
    states = (RunState.failed, RunState.cancelled)
    return _again(ctx, caller, request, response, run_id, idempotency_key, states, kind=None)


@router.post("/runs/{run_id}/reproduce", status_code=202, summary="Train it again, to the letter")
def reproduce_run(
    run_id: str,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Depends(require("train"))],
    ctx: Annotated[Context, Depends(context)],
    idempotency_key: Idempotent = None,
) -> RunInfo:
    """A new run that registers no version; its `reproduction` names the first epoch that differs."""
    states = (RunState.succeeded,)
    return _again(ctx, caller, request, response, run_id, idempotency_key, states, kind="reproduction")


def _again(
    ctx: Context,
    caller: Caller,
    request: Request,
    response: Response,
    run_id: str,
    header: str | None,
    states: tuple[RunState, ...],
    kind: str | None,
) -> RunInfo:
    key = create.key_of(header, *_identity_of(request))
    if (known := _replayed(ctx, caller, key, response)) is not None:
        return known
    with db.reading(ctx.engine) as session:
        run = queries.own(session, run_id, _owner(caller))
    if run.kind == TRIAL:
        raise Conflict("The run is a trial of another.", received=run.kind, fix=f"Ask for its run: {run.parent_id}.")
    if run.state not in states:
        raise Conflict(f"The run is {run.state}.", received=run.state, expected=" or ".join(states))
    new = NewRun(
        owner=run.owner,
        dataset_id=run.dataset_id,
        spec=run.spec,
        resolved=run.resolved,
        estimates=run.estimates,
        model=None if kind else run.model,
        kind=kind or run.kind,
        priority=run.priority,
        parent_id=run.id,
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    return _accept(ctx, response, new, key)


def _owner(caller: Caller) -> str | None:
    return caller.owner_filter


def whole(session: Session, run: Run) -> RunInfo:
    """Everything that is known of a run now."""
    place = queries.place(session, run)
    brief = RunSummary.model_validate(run)
    return RunInfo(
        **brief.model_dump(),
        spec=run.spec,
        resolved=run.resolved,
        estimates=run.estimates,
        spent_attempts=run.spent_attempts,
        checkpoint_epoch=run.checkpoint_epoch,
        queue=QueuePlace(position=place.position, estimated_start=place.estimated_start) if place else None,
        progress=_progress(session, run),
        reproduction=_reproduction(session, run),
    )


def _progress(session: Session, run: Run) -> Progress | None:
    last = queries.latest_epoch(session, run.id)
    if last is None:
        return None
    training: dict[str, Any] = run.resolved.get("training", {})
    epochs, trials = int(training.get("epochs", last.epoch)), int(training.get("restarts") or 1)
    done, total = last.trial * epochs + last.epoch, epochs * trials
    if run.kind == TRIAL:
        done, total = last.epoch, epochs
    return Progress(
        trial=last.trial,
        epoch=last.epoch,
        trials=max(trials, last.trial + 1),
        epochs=epochs,
        logs=last.logs,
        estimated_finish=_estimated_finish(run, done, total),
    )


def _estimated_finish(run: Run, done: int, total: int) -> datetime | None:
    """If the rest goes as what this attempt has done; None where it is not running."""
    if run.state != RunState.running or run.started_at is None or run.progress_at is None:
        return None
    seconds = (run.progress_at - run.started_at).total_seconds() / max(1, done - (run.checkpoint_epoch or 0))
    return run.progress_at + timedelta(seconds=min(seconds * max(0, total - done), 10 * 365 * 86_400))


def _reproduction(session: Session, run: Run) -> Reproduction | None:
    if run.kind != "reproduction" or run.parent_id is None:
        return None
    compared, (theirs, ours) = queries.first_difference(session, run.parent_id, run.id)
    either = theirs or ours
    difference = None
    if either is not None:
        difference = EpochDifference(
            trial=either.trial,
            epoch=either.epoch,
            expected=theirs.logs if theirs else None,
            received=ours.logs if ours else None,
        )
    return Reproduction(epochs_compared=compared, equal=difference is None, first_difference=difference)
