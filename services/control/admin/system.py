"""The operator's view: workers, queue, storage."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends
from sqlalchemy import func, select

from fitserve import __version__, db
from fitserve.runs import queries
from fitserve.tables import Blob, Worker
from fitserve.wire.admin import StorageInfo, SystemInfo, WorkerInfo
from services.control.deps import Context, context
from services.shell import Caller, Router, require

router = Router(tags=["operations"])
_MOST_WORKERS = 500


@router.get("/system", summary="Workers, queue and storage")
def system(
    _caller: Annotated[Caller, Depends(require("admin"))], ctx: Annotated[Context, Depends(context)]
) -> SystemInfo:
    with db.reading(ctx.engine) as session:
        at = db.now(session)
        alive_since = at - timedelta(seconds=queries.WORKER_LIVES)
        workers = session.scalars(select(Worker).order_by(Worker.started_at).limit(_MOST_WORKERS)).all()
        kinds = session.execute(select(Blob.kind, func.count(), func.sum(Blob.bytes)).group_by(Blob.kind)).all()
        return SystemInfo(
            version=__version__,
            now=at,
            workers=[
                WorkerInfo(
                    id=worker.id,
                    hostname=worker.hostname,
                    pid=worker.pid,
                    run_id=worker.run_id,
                    started_at=worker.started_at,
                    heartbeat_at=worker.heartbeat_at,
                    alive=worker.heartbeat_at > alive_since,
                )
                for worker in workers
            ],
            runs=queries.counts(session),
            oldest_queued_seconds=queries.oldest_queued_seconds(session),
            storage=[StorageInfo(kind=kind, blobs=count, bytes=int(size or 0)) for kind, count, size in kinds],
            grafana_url=ctx.settings.grafana_url,
        )
