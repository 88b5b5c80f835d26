"""How the server has been doing: its history, the alarms that fired, and what each owner stores."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query

from fitserve import db
from fitserve.operations import alarms, history, storage
from fitserve.wire import Page
from fitserve.wire.operations import AlarmInfo, ModelHistory, OwnerStorage, SystemHistory
from services.control.deps import Admin, Ctx, Cursor, Limit, ModelName, Reader
from services.control.models.access import visible_model
from services.http import Router

router = Router(tags=["operations"])

Window = Annotated[
    Literal["hour", "day"], Query(description="The last hour by minutes, or the last day by ten minutes")
]


@router.get("/system/history", summary="Queue, predictions, errors, latency and load of the last hour or day")
def get_history(_caller: Admin, ctx: Ctx, window: Window = "hour") -> SystemHistory:
    """Every process takes a sample each FITSERVE_SAMPLE_SECONDS; slots without samples have null values."""
    with db.reading(ctx.engine) as session:
        return history.of_system(session, window)


@router.get("/system/alarms", summary="List alarms, newest first")
def list_alarms(_caller: Admin, ctx: Ctx, limit: Limit = 100, cursor: Cursor = None) -> Page[AlarmInfo]:
    """Conditions that lasted for half a minute; `ended_at` is null while they last."""
    with db.reading(ctx.engine) as session:
        rows = alarms.latest(session, limit=limit + 1, before=cursor)
        items = [AlarmInfo.model_validate(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=items[-1].id if len(rows) > limit else None)


@router.get("/system/storage", summary="What each owner stores")
def get_storage(caller: Reader, ctx: Ctx) -> list[OwnerStorage]:
    """An admin sees every owner, the largest first; others see themselves."""
    with db.reading(ctx.engine) as session:
        return storage.by_owner(session, caller.owner_filter)


@router.get("/models/{name}/history", tags=["models"], summary="Requests, errors, latency and drift of a model")
def get_model_history(name: ModelName, caller: Reader, ctx: Ctx, window: Window = "hour") -> ModelHistory:
    """Summed over all prediction processes and protocols, with the latest fault, however old."""
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "inspect")
        return history.of_model(session, name, window)
