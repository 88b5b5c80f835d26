"""List runs, and change or delete one or many of them: name, tags, notes, sharing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query, Request
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.errors import BadInput
from fitserve.runs import bulk, change, listing
from fitserve.runs.listing import Order, RunFilter, SortKey
from fitserve.states import RunState
from fitserve.wire import Page
from fitserve.wire.runs import (
    MOST_IDS,
    PRINTABLE,
    BulkChange,
    BulkOutcome,
    BulkRefusal,
    ListedRun,
    RunId,
    RunInfo,
    RunList,
    RunPatch,
    RunSummary,
    RunTag,
)
from services.control.admin import audit
from services.control.deps import MAX_INTEGER, Context, Ctx, Cursor, Reader, Trainer
from services.control.runs.routes import read_run_info, run_info
from services.http import Router

router = Router(tags=["runs"])
MAX_RUNS = 100  # most whole runs in one response


def run_filter(
    caller: Reader,
    state: Annotated[list[RunState] | None, Query(description="One or more states")] = None,
    model: Annotated[str | None, Query(max_length=63, pattern=PRINTABLE)] = None,
    dataset_id: Annotated[str | None, Query(max_length=40, pattern=PRINTABLE)] = None,
    dataset: Annotated[
        str | None, Query(max_length=63, pattern=PRINTABLE, description="A dataset's name: all its versions")
    ] = None,
    tag: Annotated[list[RunTag] | None, Query(max_length=20, description="Runs that have all of these tags")] = None,
    q: Annotated[str, Query(max_length=200, pattern=PRINTABLE, description="Words in any text that a list shows")] = "",
    since: Annotated[datetime | None, Query(description="Created at or after this time")] = None,
    playground: Annotated[bool, Query(description="Whether to list the runs of the pages' playground")] = True,
) -> RunFilter:
    """Build the filter of a request's runs: readable by the caller, and matching every condition."""
    return RunFilter(
        owner=caller.owner_filter,
        states=state or (),
        model=model,
        dataset_id=dataset_id,
        dataset=dataset,
        tags=tag or (),
        text=q,
        playground=playground,
        since=since,
    )


Wanted = Annotated[RunFilter, Depends(run_filter)]


@router.get("/runs", summary="List runs, newest first unless asked otherwise")
def list_runs(
    ctx: Ctx,
    wanted: Wanted,
    sort: Annotated[SortKey, Query(description="Runs without such a value come last")] = "created",
    descending: Annotated[bool, Query()] = True,
    metric: Annotated[
        str, Query(max_length=200, pattern=PRINTABLE, description="For `sort=metric`: a name in `scores`")
    ] = "",
    changes: Annotated[bool, Query(description="Whether to say what each spec changes of the one before it")] = False,
    count: Annotated[bool, Query(description="Whether to count all runs that the filter lets through")] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Runs to skip, instead of `cursor`")] = 0,
    cursor: Cursor = None,
) -> RunList:
    """An admin sees every run, others their own and shared ones. A `cursor` goes with the usual order alone."""
    order = Order(sort, descending, metric)
    if sort == "metric" and not metric:
        raise BadInput("No metric is named.", received="sort=metric", fix="Add `metric=`, a name in `scores`.")
    if cursor is not None and (offset or order != Order(metric=metric)):
        raise BadInput("A cursor goes with the usual order.", received=f"sort={sort}", fix="Page with `offset`.")
    if sort == "created" and descending:
        order = Order()
    with db.reading(ctx.engine) as session:
        runs = listing.list_runs(session, wanted, order, before=cursor, offset=offset, limit=limit + 1)
        items = [_item(one) for one in listing.describe(session, runs[:limit], changes=changes)]
        total = listing.count_runs(session, wanted) if count else None
    more = len(runs) > limit and order == Order()
    return RunList(items=items, next_cursor=items[-1].id if more else None, total=total)


@router.get("/run-ids", summary="List the ids of runs, newest first")
def list_ids(
    ctx: Ctx, wanted: Wanted, limit: Annotated[int, Query(ge=1, le=MOST_IDS)] = MOST_IDS, cursor: Cursor = None
) -> Page[str]:
    """The ids of all runs that the list's filters match, for bulk actions."""
    with db.reading(ctx.engine) as session:
        ids = listing.list_ids(session, wanted, before=cursor, limit=limit + 1)
    return Page(items=ids[:limit], next_cursor=ids[limit - 1] if len(ids) > limit else None)


def _item(one: listing.ListEntry) -> ListedRun:
    return ListedRun(
        **RunSummary.model_validate(one.run).model_dump(),
        dataset=one.dataset,
        targets=one.targets,
        scores=one.scores,
        changes=one.changes,
        compared_with=one.compared_with,
    )


@router.get("/run-details", summary="Get several runs")
def get_runs(
    caller: Reader,
    ctx: Ctx,
    run: Annotated[list[RunId], Query(min_length=1, max_length=MAX_RUNS, description="Their ids")],
) -> list[RunInfo]:
    """In the requested order. Runs that do not exist, or that you cannot read, are left out.

    413 where they are more than 50 MB together.
    """
    with db.reading(ctx.engine) as session:
        runs = listing.get_several(session, run, caller.owner_filter)
        return [run_info(session, runs[run_id], ctx.settings) for run_id in dict.fromkeys(run) if run_id in runs]


@router.get("/run-tags", summary="List the tags of runs")
def list_tags(caller: Reader, ctx: Ctx) -> list[str]:
    """Those of the newest runs that you can read, by name."""
    with db.reading(ctx.engine) as session:
        return listing.tags_in_use(session, caller.owner_filter)


@router.patch("/runs/{run_id}", summary="Name, tag, annotate or share a run")
def patch_run(run_id: str, body: RunPatch, caller: Trainer, ctx: Ctx) -> RunInfo:
    """Sharing lets every owner read it, with its epochs, events, findings and networks. Nobody else may change it."""
    values = body.model_dump(exclude_unset=True)
    if values.get("shared", False) is None or values.get("tags", []) is None:
        raise BadInput("`shared` and `tags` cannot be null.", fix="Leave them out, or send false or [].")
    if values.get("shared"):
        caller.check_may_share()
    if "tags" in values:
        values["tags"] = list(dict.fromkeys(values["tags"]))
    change.change_run(ctx.engine, run_id, caller.owner_filter, values)
    return read_run_info(ctx, run_id)


@router.delete("/runs/{run_id}", status_code=204, summary="Delete an ended run with its history")
def delete_run(run_id: str, caller: Trainer, ctx: Ctx) -> None:
    """409 where it has not ended, or where a version of a model was trained by it."""
    change.delete_run(ctx.engine, run_id, caller.owner_filter)


@router.post("/runs/bulk", summary="Cancel, delete or tag many runs")
def change_many(body: BulkChange, request: Request, caller: Trainer, ctx: Ctx) -> BulkOutcome:
    """Changes each run as its own route would; a refused run does not stop the others.

    The audit log has a row for each changed run. After a 503, repeat the request: completed changes are kept.
    """
    if body.action in ("tag", "untag") and body.tag is None:
        raise BadInput("No tag is given.", pointer="/tag", expected="a tag to add or remove")
    target = str(request.scope["path"]).removesuffix("/bulk")
    method, rest, status = _OF_ONE[body.action]

    def note(session: Session, ids: Sequence[str]) -> None:
        action = f"{method} /api/v1/runs/{{run_id}}{rest}"
        audit.add_changes(
            session, request.scope, [audit.AuditedChange(action, f"{target}/{id}{rest}", status) for id in ids]
        )

    refused = _change_all(ctx, caller.owner_filter, body, note)
    wanted = list(dict.fromkeys(body.runs))
    return BulkOutcome(
        done=[run_id for run_id in wanted if run_id not in refused],
        refused=[
            BulkRefusal(run=run_id, status=error.status, detail=error.detail, fix=error.fix)
            for run_id in wanted
            if (error := refused.get(run_id)) is not None
        ],
    )


# How the audit log records each action on one run: method, rest of the path, status.
_OF_ONE = {"cancel": ("POST", "/cancel", 200), "delete": ("DELETE", "", 204)}
_OF_ONE |= dict.fromkeys(("tag", "untag"), ("PATCH", "", 200))


def _change_all(ctx: Context, owner: str | None, body: BulkChange, note: bulk.Note) -> bulk.Refusals:
    """Apply an action to all runs. Return the errors of refused runs, by id. Raises Unavailable, StorageFull."""
    if body.action == "cancel":
        return bulk.cancel_runs(ctx.engine, body.runs, owner, note)
    if body.action == "delete":
        return bulk.delete_runs(ctx.engine, body.runs, owner, note)
    names = {"add" if body.action == "tag" else "remove": body.tag or ""}
    return bulk.tag_runs(ctx.engine, body.runs, owner, note, **names)
