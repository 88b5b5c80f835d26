"""The server as a whole: its limits, for every client; its workers, queue and storage, for an operator."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import Request
from pydantic import Field, create_model
from sqlalchemy import func, select

from fitserve import __version__, db
from fitserve.operations import conditions
from fitserve.runs import queries, worker_registry
from fitserve.settings import Limits
from fitserve.tables import Blob, Worker
from fitserve.wire.admin import StorageInfo, SystemInfo, WorkerInfo
from fitserve.wire.operations import ConditionInfo
from services.control.deps import Admin, Ctx, Reader
from services.http import Router

router = Router()
_MAX_WORKERS = 500

_FIELDS: dict[str, Any] = {name: (field.annotation, field) for name, field in Limits.model_fields.items()}
LimitsInfo = create_model(
    "LimitsInfo",
    __doc__="Limits in force and the address of the prediction service.",
    predict_url=(str, Field(description="Address of the prediction service; this server forwards requests to it too")),
    **_FIELDS,
)


@router.get("/limits", tags=["limits"], summary="Limits in force", response_model=LimitsInfo)
def limits(request: Request, _caller: Reader, ctx: Ctx) -> dict[str, Any]:
    """Bytes, rows, columns, parameters and quotas: each is a setting, FITSERVE_LIMIT_*."""
    settings = ctx.settings
    host = request.url.hostname or "127.0.0.1"
    bracketed = f"[{host}]" if ":" in host else host
    predict_url = settings.predict_url or f"{request.url.scheme}://{bracketed}:{settings.predict_port}"
    return {**settings.limits.model_dump(), "predict_url": predict_url}


@router.get("/system", tags=["operations"], summary="Workers, queue, storage, and what is wrong")
def system(_caller: Admin, ctx: Ctx) -> SystemInfo:
    with db.reading(ctx.engine) as session:
        at = db.now(session)
        alive_since = at - timedelta(seconds=worker_registry.WORKER_TIMEOUT)
        workers = session.scalars(select(Worker).order_by(Worker.started_at).limit(_MAX_WORKERS)).all()
        kinds = session.execute(select(Blob.kind, func.count(), func.sum(Blob.bytes)).group_by(Blob.kind)).all()
        wrong = conditions.look(session, ctx.settings)
        return SystemInfo(
            version=__version__,
            now=at,
            status=conditions.worst(wrong),
            conditions=[ConditionInfo.model_validate(one) for one in wrong],
            workers=[
                WorkerInfo(
                    **{name: getattr(worker, name) for name in WorkerInfo.model_fields.keys() - {"alive"}},
                    alive=worker.heartbeat_at > alive_since,
                )
                for worker in workers
            ],
            runs=queries.count_by_state(session),
            oldest_queued_seconds=queries.oldest_queued_seconds(session),
            storage=[StorageInfo(kind=kind, blobs=count, bytes=int(size or 0)) for kind, count, size in kinds],
            grafana_url=ctx.settings.grafana_url,
        )
