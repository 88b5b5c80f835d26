"""The composition root of the control API: everything is created here, nothing at import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from fastapi import APIRouter, FastAPI
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute

from fitserve import blobs, db, telemetry
from fitserve.operations.alarms import AlarmWatch
from fitserve.operations.sampler import Sampler
from fitserve.queue import Publisher
from fitserve.settings import Settings
from services.control import openapi, pages
from services.control.admin import api_keys, audit, operations, system
from services.control.admin.audit import AuditMiddleware
from services.control.admin.callers import Authenticator, Limiter, ensure_root_key, has_live_key
from services.control.admin.request_sample import sample_requests
from services.control.datasets import batch_routes, import_routes, resumable
from services.control.datasets import routes as datasets
from services.control.deps import Context
from services.control.events import automation_routes, webhook_routes
from services.control.insight import fork_routes, plot_routes, slice_routes, walk_routes
from services.control.insight import routes as insight
from services.control.models import (
    card_routes,
    decision_routes,
    export_routes,
    monitoring_routes,
    predict_proxy,
    rollout_routes,
)
from services.control.models import routes as models
from services.control.pages import mount_dashboard
from services.control.runs import events, list_routes, weights_routes
from services.control.runs import routes as runs
from services.http import make_app
from services.http.auth import refuse_unprotected_address

ROUTERS = (
    *(
        datasets,
        import_routes,
        batch_routes,
        resumable,
        openapi,
        runs,
        list_routes,
        weights_routes,
        events,
        insight,
        fork_routes,
        plot_routes,
        slice_routes,
        walk_routes,
    ),
    *(models, card_routes, decision_routes, export_routes, rollout_routes, monitoring_routes),
    *(webhook_routes, automation_routes, system, operations, api_keys, audit),
)

DESCRIPTION = """
Upload a table, submit a network spec, watch it train, and query its predictions.

Errors are RFC 9457 problem details (`application/problem+json`). Lists are paged by `limit` and `cursor`.
Creating POSTs take an `Idempotency-Key`. Predictions are served by the prediction service under `/v1`
(TensorFlow Serving's REST API) and `/v2` (the Open Inference Protocol).
"""


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return the routes of every app of this process: FastAPI analyses them for 0.13 s of an app's first request."""
    router = APIRouter()
    for module in ROUTERS:  # each at once: of a router that includes others FastAPI analyses every route twice
        router.include_router(module.router, prefix="/api/v1")
    router.include_router(pages.router)
    router.include_router(predict_proxy.router)
    return tuple(router.routes)


def create_app(settings: Settings) -> FastAPI:
    """Return the control API on a migrated database. Raises SystemExit if it would be reachable without any key."""
    telemetry.watch_disk(settings.home)
    engine = db.make_engine(settings.resolved_database_url)
    publisher = Publisher(settings)
    authenticator = Authenticator(settings, engine)
    ensure_root_key(settings, engine)
    refuse_unprotected_address(settings, has_live_key(engine))

    def check_database() -> None:
        with db.reading(engine) as session:
            session.execute(text("SELECT 1"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watchers = (
            Sampler(engine, "api", settings.sample_seconds, settings.home, sample_requests),
            AlarmWatch(settings, engine),
        )
        for thread in watchers:
            thread.start()
        expiry = asyncio.create_task(resumable.delete_expired_regularly(app.state.context))
        yield
        expiry.cancel()
        for thread in watchers:
            await run_in_threadpool(thread.stop)
        await app.state.predict_client.aclose()
        publisher.close()
        engine.dispose()

    limiter = Limiter(settings)
    app = make_app(
        settings,
        title="fitserve",
        description=DESCRIPTION,
        identify=authenticator.identify,
        readiness={"database": check_database},
        limit=limiter.limit,
        lifespan=lifespan,
        openapi_url="/api/v1/openapi.json",
    )
    app.add_middleware(AuditMiddleware, engine=engine)
    app.state.authenticator = authenticator
    app.state.limiter = limiter
    app.state.predict_client = predict_proxy.make_client(settings)
    app.state.context = Context(settings, engine, blobs.open_store(settings.resolved_blob_url), publisher)
    app.router.routes.extend(_routes())
    openapi.install(app)
    mount_dashboard(app)
    return app
