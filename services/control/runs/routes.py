"""Runs: submit, get, cancel, retry, reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from sqlalchemy.orm import Session

from fitserve import db, telemetry
from fitserve.datasets import store
from fitserve.errors import Conflict, Forbidden, NotFound
from fitserve.runs import create, finish, queries
from fitserve.runs.create import NewRun, RequestKey
from fitserve.runs.remaining import outlook, phase_of
from fitserve.settings import Settings
from fitserve.spec.decode import decode
from fitserve.spec.resolve_search import search_of, trial_spec
from fitserve.states import INTERNAL_KINDS, WHOLE_TRAININGS, RunKind, RunState
from fitserve.submission import check_submission
from fitserve.tables import Run
from fitserve.wire import Page
from fitserve.wire.runs import (
    EpochDifference,
    Progress,
    QueuePlace,
    Reproduction,
    RunInfo,
    RunName,
    RunTag,
    TrialInfo,
    Validation,
)
from services.control.deps import Context, Ctx, IdempotencyKey, NumberCursor, Reader, Trainer
from services.control.models.access import check_batch_prediction
from services.http import Caller, Router

router = Router(tags=["runs"])

SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "description": "A spec; see /api/v1/schemas/spec"}},
            "application/yaml": {"schema": {"type": "object", "description": "The same as YAML"}},
        },
    }
}
LOAD_SECONDS = 1.0  # upper bound for loading a version in the prediction service, unless it is huge
TrialNumber = Annotated[int, Path(ge=0, lt=2**31, description="From 0")]


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that creates runs, and the response to it."""

    ctx: Context
    caller: Caller
    request: Request
    response: Response
    idempotency_key: str | None

    def key(self, *content: bytes, suffix: str = "") -> RequestKey | None:
        """Return the Idempotency-Key with a hash of the request's method, URL and `content`. Raises BadInput."""
        header = self.idempotency_key
        if header is not None and suffix:
            header = header[:240] + suffix
        url = self.request.url
        return create.idempotency_key(
            header, self.request.method.encode(), url.path.encode(), str(url.query).encode(), *content
        )

    def replay(self, key: RequestKey | None) -> RunInfo | None:
        """Return the run created by an identical earlier request, before any check of its data. Raises KeyReused."""
        if key is None:
            return None
        with db.reading(self.ctx.engine) as session:
            run = create.existing_run(session, self.caller.owner, key)
        return None if run is None else self._respond(run, is_new=False)

    def accept(self, new: NewRun, key: RequestKey | None) -> RunInfo:
        """Create and publish a run, and respond with it. Raises TooMany, KeyReused."""
        run, is_new = create_and_publish(self.ctx, new, key)
        return self._respond(run, is_new)

    def _respond(self, run: Run, is_new: bool) -> RunInfo:
        self.response.status_code = 202
        self.response.headers["Location"] = f"/api/v1/runs/{run.id}"
        if not is_new:
            self.response.headers["Idempotency-Replayed"] = "true"
        return read_run_info(self.ctx, run.id)


def make_submission(
    request: Request, response: Response, caller: Trainer, ctx: Ctx, idempotency_key: IdempotencyKey = None
) -> Submission:
    return Submission(ctx, caller, request, response, idempotency_key)


Submitting = Annotated[Submission, Depends(make_submission)]


async def raw_body(request: Request) -> bytes:
    """Read the body on the event loop, because handlers run in threads."""
    return await request.body()


def create_and_publish(ctx: Context, new: NewRun, key: RequestKey | None) -> tuple[Run, bool]:
    """Create a run (T1) and wake a worker. Returns the run and whether it is new. Raises TooMany, KeyReused.

    The run is durable before the message is sent: if that fails, T10 publishes it again.
    """
    run, is_new = create.create_run(ctx.engine, new, ctx.settings.limits, key, ctx.blobs)
    if is_new:
        telemetry.RUNS_CREATED.inc()
        ctx.queue.publish(run.id)
    return run, is_new


@router.post(
    "/runs",
    status_code=202,
    summary="Submit a spec",
    openapi_extra=SPEC_BODY,
    response_model=RunInfo | Validation,
    responses={200: {"model": Validation, "description": "With `validate_only`: what would be trained"}},
)
def submit(
    submission: Submitting,
    body: Annotated[bytes, Depends(raw_body)],
    validate_only: Annotated[bool, Query(description="Check the spec without queueing a run")] = False,
    priority: Annotated[int, Query(ge=-100, le=100, description="Higher runs first")] = 0,
    name: Annotated[RunName | None, Query(description="As you call the run")] = None,
    tag: Annotated[list[RunTag] | None, Query(max_length=20)] = None,
) -> RunInfo | Validation:
    """The body is the spec, as JSON or YAML."""
    key = submission.key(body)
    if not validate_only and (replayed := submission.replay(key)) is not None:
        return replayed
    caller = submission.caller
    content_type = submission.request.headers.get("content-type", "")
    ctx = submission.ctx
    written = decode(body, content_type, ctx.settings.limits)
    checked = check_submission(
        ctx.engine, ctx.blobs, ctx.settings, written, owner=caller.owner, sees=caller.owner_filter
    )
    if validate_only:
        submission.response.status_code = 200
        return checked.validation
    new = NewRun(
        owner=caller.owner,
        dataset_id=checked.dataset_id,
        spec=checked.written,
        resolved=checked.validation.resolved,
        estimates=checked.estimates,
        model=checked.model,
        priority=priority,
        key_id=caller.key_id,
        quotas=caller.quotas,
        name=name,
        tags=tuple(dict.fromkeys(tag or ())),
    )
    return submission.accept(new, key)


@router.get("/runs/{run_id}", summary="Get a run")
def get_run(run_id: str, caller: Reader, ctx: Ctx) -> RunInfo:
    return read_run_info(ctx, run_id, caller.owner_filter)


@router.get("/runs/{run_id}/trials", summary="List the trials of a search")
def list_trials(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    cursor: NumberCursor = None,
) -> Page[TrialInfo]:
    """In the order in which they were begun. Of a run with restarts: its networks, once it has ended."""
    after = int(cursor) if cursor is not None else -1
    with db.reading(ctx.engine) as session:
        run = queries.get(session, run_id, caller.owner_filter)
        rows = queries.trials(session, run.id, after=after, limit=limit + 1)
        names = set(TrialInfo.model_fields) - {"values"}
        items = [TrialInfo(values=row.chosen, **{name: getattr(row, name) for name in names}) for row in rows]
        if not rows and not run.resolved.get("search"):
            listed = [one for one in (run.result or {}).get("trials") or [] if one["index"] > after]
            items = [_as_trial(one) for one in listed[: limit + 1]]
    return Page(items=items[:limit], next_cursor=str(items[limit - 1].trial) if len(items) > limit else None)


def _as_trial(one: dict[str, Any]) -> TrialInfo:
    """Return a restart as a trial."""
    return TrialInfo(
        trial=one["index"],
        state=one["state"],
        values={"seed": one["seed"]},
        value=one.get("score"),
        epochs=one.get("epochs"),
        best_epoch=one.get("best_epoch"),
        seconds=one.get("seconds") or 0.0,
        reason=(one.get("failure") or {}).get("message"),
        created_at=None,
        finished_at=None,
    )


@router.get("/runs/{run_id}/trials/{trial}/spec", summary="Get the spec of a search's trial")
def get_trial_spec(run_id: str, trial: TrialNumber, caller: Reader, ctx: Ctx) -> dict[str, Any]:
    """Resolved: submit it to train this trial as a run of its own, with the same weights to the bit."""
    with db.reading(ctx.engine) as session:
        run = queries.get(session, run_id, caller.owner_filter)
        row = next(iter(queries.trials(session, run.id, after=trial - 1, limit=1)), None)
        if row is None or row.trial != trial:
            raise NotFound(f"The run has no trial {trial} of a search.", received=trial)
        facts = store.facts_of(store.get(session, None, run.input_dataset))
        stacked = queries.stack_of(session, run.id, trial)
    search = search_of(run.resolved)
    assert search is not None
    pace = float(run.estimates.get("pace") or 1.0)
    spec = trial_spec(search, row.point, facts, ctx.settings.limits, pace).spec.to_json()
    spec["training"]["stacked"] = stacked
    return spec


@router.post("/runs/{run_id}/cancel", summary="Cancel a run", responses={202: {"model": RunInfo}})
def cancel_run(run_id: str, response: Response, caller: Trainer, ctx: Ctx) -> RunInfo:
    """200: it is cancelled. 202: its worker has been asked to stop, and does so within 6 seconds."""
    run = finish.cancel(ctx.engine, run_id, caller.owner_filter)
    response.status_code = 200 if run.state == RunState.cancelled else 202
    return read_run_info(ctx, run_id)


@router.post("/runs/{run_id}/retry", status_code=202, summary="Run it again")
def retry_run(run_id: str, submission: Submitting) -> RunInfo:
    """A new run with the same resolved spec, for a run that failed or was cancelled."""
    return _repeat(submission, run_id, (RunState.failed, RunState.cancelled))


@router.post("/runs/{run_id}/reproduce", status_code=202, summary="Repeat it exactly")
def reproduce_run(run_id: str, submission: Submitting) -> RunInfo:
    """A new run that registers no version; its `reproduction` names the first epoch that differs."""
    return _repeat(submission, run_id, (RunState.succeeded,), reproduce=True)


def _repeat(submission: Submission, run_id: str, states: tuple[RunState, ...], *, reproduce: bool = False) -> RunInfo:
    """Submit the resolved spec of a run that is in one of `states`. Raises NotFound, Forbidden, Conflict, TooMany."""
    ctx, caller = submission.ctx, submission.caller
    key = submission.key()
    if (replayed := submission.replay(key)) is not None:
        return replayed
    with db.reading(ctx.engine) as session:
        run = queries.get_owned(session, run_id, caller.owner_filter)
        store.check_visible(session, caller.owner_filter, run.dataset_id)
        if reproduce and run.kind not in (*WHOLE_TRAININGS, *INTERNAL_KINDS):
            fix = "Import again: refresh the dataset." if run.kind == RunKind.import_ else None
            raise Conflict("The run has trained nothing.", received=run.kind, expected="a run that trains", fix=fix)
        if run.kind == RunKind.prediction:
            check_batch_prediction(session, caller, str(run.resolved["model"]))
        if run.kind == RunKind.import_ and not caller.may("upload"):
            raise Forbidden(
                "An import creates a dataset, which this key may not.",
                expected="a key with the scopes train and upload",
            )
    if run.kind in INTERNAL_KINDS:
        raise Conflict(
            f"The run is a {run.kind} of another.", received=run.kind, fix=f"Use its parent: {run.parent_id}."
        )
    if run.state not in states:
        raise Conflict(f"The run is {run.state}.", received=run.state, expected=" or ".join(states))
    new = NewRun(
        owner=run.owner,
        dataset_id=run.dataset_id,
        spec=run.spec,
        resolved=run.resolved,
        estimates=run.estimates,
        model=None if reproduce else run.model,
        kind=RunKind.reproduction if reproduce else run.kind,
        priority=run.priority,
        parent_id=run.id,
        key_id=caller.key_id,
        quotas=caller.quotas,
        name=run.name,
        tags=tuple(run.tags),
    )
    return submission.accept(new, key)


def read_run_info(ctx: Context, run_id: str, owner: str | None = None) -> RunInfo:
    """Read a run with its queue position, progress and reproduction. Raises NotFound."""
    with db.reading(ctx.engine) as session:
        return run_info(session, queries.get(session, run_id, owner), ctx.settings)


def run_info(session: Session, run: Run, settings: Settings) -> RunInfo:
    """Return a run with its queue position, its progress, and the time at which its version is served."""
    place = queries.queue_position(session, run)
    columns = RunInfo.model_fields.keys() - {"queue", "phase", "progress", "reproduction", "serves_at"}
    return RunInfo(
        **{name: getattr(run, name) for name in columns},
        queue=QueuePlace(position=place.position, estimated_start=place.estimated_start) if place else None,
        phase=phase_of(session, run),
        progress=_progress(session, run),
        reproduction=_reproduction(session, run),
        serves_at=_serves_at(run, settings),
    )


def _serves_at(run: Run, settings: Settings) -> datetime | None:
    """Return when the prediction service will have loaded the run's version; None if it registered none."""
    if run.finished_at is None or "version" not in (run.result or {}):
        return None
    return run.finished_at + timedelta(seconds=settings.registry_poll_seconds + LOAD_SECONDS)


def _progress(session: Session, run: Run) -> Progress | None:
    last = queries.latest_epoch(session, run.id)
    if last is None:
        return None
    training: dict[str, Any] = run.resolved.get("training", {})
    epochs, trials = int(training.get("epochs", last.epoch)), int(training.get("restarts") or 1)
    trials = int((run.resolved.get("search") or {}).get("trials") or trials)
    # A search's trials are ended by their pruner, too: when they end at the earliest is not known.
    stopping = None if run.resolved.get("search") else training.get("early_stopping")
    ahead = outlook(session, run, epochs, 1 if run.kind in INTERNAL_KINDS else trials, stopping)
    return Progress(
        trial=last.trial,
        epoch=last.epoch,
        trials=max(trials, last.trial + 1),
        epochs=epochs,
        logs=last.logs,
        share=ahead.share if ahead else None,
        estimated_finish=ahead.finish if ahead else None,
        earliest_finish=ahead.earliest if ahead else None,
    )


def _reproduction(session: Session, run: Run) -> Reproduction | None:
    if run.kind != RunKind.reproduction or run.parent_id is None:
        return None
    compared, (expected, received) = queries.compare_epochs(session, run.parent_id, run.id)
    either = expected or received
    difference = None
    if either is not None:
        difference = EpochDifference(
            trial=either.trial,
            epoch=either.epoch,
            expected=expected.logs if expected else None,
            received=received.logs if received else None,
        )
    return Reproduction(epochs_compared=compared, equal=difference is None, first_difference=difference)
