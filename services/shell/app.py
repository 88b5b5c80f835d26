"""The FastAPI application that every web process starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from fitserve import __version__, strictjson, telemetry
from fitserve.api_keys import Identity
from fitserve.errors import FitserveError
from fitserve.settings import Settings
from services.shell import problems
from services.shell.auth import Caller
from services.shell.observe import Observe

Probe = Callable[[], None]  # raises where the thing it looks at is away


class StrictRequest(Request):
    """A request whose JSON is read by `fitserve.strictjson`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            limits = self.app.state.settings.limits
            self._json = strictjson.loads(await self.body(), limits.json_depth)
        return self._json


class StrictRoute(APIRoute):
    """A route that reads JSON strictly."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            response: Response = await handler(StrictRequest(request.scope, request.receive))
            return response

        return strict


def make_app(
    settings: Settings,
    *,
    title: str,
    identify: Callable[[str | None], Identity],
    readiness: Mapping[str, Probe],
    exposition: Callable[[], bytes] = telemetry.exposition,
    limit: Callable[[Request, Caller], None] = lambda _request, _caller: None,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    **options: Any,
) -> FastAPI:
    """An app with problem details, request ids, telemetry and the three operator's routes.

    `identify` turns a token (or None) into an Identity, or raises Unauthenticated. `limit` may raise TooMany for
    an identified caller. `readiness` names what `/readyz` looks at.
    """
    app = FastAPI(
        title=title,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False},
        max_body_size=settings.limits.json_bytes,
        **options,
    )
    app.router.route_class = StrictRoute
    app.state.settings = settings
    app.state.identify = identify
    app.state.limit = limit
    problems.install(app)
    inner = app.build_middleware_stack
    # Outside of everything: FastAPI's own limit of a body answers before any middleware of ours.
    app.build_middleware_stack = lambda: Observe(problems.TypedTooLarge(inner()))  # type: ignore[method-assign]

    @app.get("/metrics", tags=["operations"], response_class=Response, summary="What Prometheus scrapes")
    def metrics() -> Response:
        return Response(exposition(), media_type=telemetry.CONTENT_TYPE)

    @app.get("/livez", tags=["operations"], summary="The process answers")
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["operations"], summary="The process can do its work", responses={503: {}})
    def readyz() -> JSONResponse:
        checks = {name: _outcome(probe) for name, probe in readiness.items()}
        ready = all(outcome == "ok" for outcome in checks.values())
        body = {"status": "ready" if ready else "not ready", "checks": checks}
        return JSONResponse(body, 200 if ready else 503)

    return app


def _outcome(probe: Probe) -> str:
    try:
        probe()
    except FitserveError as error:
        return error.detail
    except Exception as error:
        return type(error).__name__
    return "ok"
