"""The prediction service's composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from fitserve import db, telemetry
from fitserve.blobs import open_store
from fitserve.operations.sampler import Sampler
from fitserve.settings import Settings
from services.http import make_app
from services.predict.protocols import PROTOCOLS
from services.predict.protocols.transport import describe
from services.predict.server.grpc_server import grpc_server
from services.predict.server.http_server import ProtocolMiddleware
from services.predict.server.processes import combined_exposition
from services.predict.serving.counters import Collector, sample_predictions
from services.predict.serving.prediction_service import PredictionService


def create_app(settings: Settings) -> FastAPI:
    """Build the app with /metrics, /livez and /readyz. Serve `app.state.protocol_app`, which adds the protocols.

    Requests of the protocols never reach the middleware: protocols have their own limits, telemetry and errors.
    """
    engine = db.make_engine(settings.resolved_database_url, pool_size=2)
    service = PredictionService(settings, engine, open_store(settings.resolved_blob_url))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        collector = Collector(service.counters, service.catalog, service.drift.samplers.values)
        telemetry.REGISTRY.register(collector)
        sampler = Sampler(
            engine,
            "predict",
            settings.sample_seconds,
            settings.home,
            lambda: sample_predictions(service.counters, service.catalog),
        )
        service.start()
        sampler.start()
        await service.updates.first_poll()  # before any socket listens
        try:
            async with grpc_server(service, settings) if settings.grpc_port else nullcontext():
                yield
        finally:
            service.stop()
            await run_in_threadpool(sampler.stop)
            telemetry.REGISTRY.unregister(collector)
            engine.dispose()

    app = make_app(
        settings,
        title="fitserve prediction service",
        identify=service.access.identify,
        readiness={"registry": service.updates.check_ready},
        exposition=combined_exposition(),
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.protocol_app = ProtocolMiddleware(app, service)
    describe(app, PROTOCOLS)
    return app
