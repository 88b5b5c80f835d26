"""The base FastAPI application of every web process, and the uvicorn server that runs it."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fitserve import __version__, strictjson, telemetry
from fitserve.api_keys import Identity
from fitserve.errors import TooLarge
from fitserve.readiness import BoundedCheck, ReadinessCheck
from fitserve.settings import Settings
from services.connections import SweepingServer, limited
from services.http import problems
from services.http.auth import Caller, LocalPagesOnly, caller_of
from services.http.compression import ClientEncoding
from services.http.instrumentation import RequestInstrumentation

DRAIN_SECONDS = 0.25
PARSED_AT_ONCE = 64 * 1024  # bytes of JSON

# FastAPI silences this warning only while it declares a body, but a `DataModel` is built later, at its first request.
warnings.filterwarnings("ignore", category=UnsupportedFieldAttributeWarning)


class StrictRequest(Request):
    """A request whose JSON body is parsed by `fitserve.strictjson`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            limits = self.app.state.settings.limits
            body = await self.body()
            if len(body) > PARSED_AT_ONCE:  # parse on a thread, so that the event loop can serve other requests
                self._json = await run_in_threadpool(strictjson.loads, body, limits.json_depth)
            else:
                self._json = strictjson.loads(body, limits.json_depth)
        return self._json


class StrictRoute(APIRoute):
    """A route that parses JSON bodies strictly."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()
        checks = list(_caller_checks(self.dependant))

        async def strict(request: Request) -> Response:
            if checks:  # check the key before reading a body of any size
                caller = await run_in_threadpool(caller_of, request)
                for check in checks:
                    if check is not caller_of:
                        check(caller)
            response: Response = await handler(StrictRequest(request.scope, request.receive))
            return response

        return strict


def _caller_checks(dependant: Any) -> Iterator[Callable[..., Any]]:
    """Yield `caller_of` and what `require` returned, wherever a route depends on them."""
    if dependant.call is caller_of or hasattr(dependant.call, "required_scope"):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from _caller_checks(inner)


def make_app(
    settings: Settings,
    *,
    title: str,
    identify: Callable[[str | None], Identity],
    readiness: Mapping[str, ReadinessCheck],
    exposition: Callable[[], bytes] = telemetry.exposition,
    limit: Callable[[Request, Caller], None] = lambda _request, _caller: None,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    **options: Any,
) -> FastAPI:
    """Return an application with problem details, request ids, telemetry, /metrics, /livez and /readyz.

    `identify` turns a token (or None) into an Identity, or raises Unauthenticated. `limit` may raise TooMany for
    an identified caller. `/readyz` runs the checks of `readiness`, which it reports by name.
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
    app.state.stopping = False  # true once the server shuts down, so that endless streams stop
    problems.install(app)
    checks = {name: BoundedCheck(name, check) for name, check in readiness.items()}
    inner = app.build_middleware_stack
    # Outermost, because FastAPI's own body limit responds before any middleware added with `add_middleware`.
    guarded = (lambda stack: stack) if settings.auth else LocalPagesOnly
    app.build_middleware_stack = lambda: RequestInstrumentation(  # type: ignore[method-assign]
        guarded(ClientEncoding(TypedTooLarge(inner())))
    )

    @app.get("/metrics", tags=["operations"], response_class=Response, summary="Telemetry for Prometheus")
    def metrics() -> Response:
        return Response(exposition(), media_type=telemetry.CONTENT_TYPE)

    @app.get("/livez", tags=["operations"], summary="Liveness: the process answers")
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["operations"], summary="Readiness: its dependencies are available", responses={503: {}})
    def readyz() -> JSONResponse:
        outcomes = {name: check.outcome() for name, check in checks.items()}
        ready = all(outcome == "ok" for outcome in outcomes.values())
        body = {"status": "ready" if ready else "not ready", "checks": outcomes}
        return JSONResponse(body, 200 if ready else 503)

    return app


class TypedTooLarge:
    """ASGI middleware: replace the plain text of FastAPI's body limit (413) with problem details."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def typed(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                replaced = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/plain")
                if replaced:
                    answer = problems.respond(Request(scope), TooLarge("The request is too large.").as_problem())
                    await answer(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, typed)


class Server(SweepingServer):
    """A uvicorn server that shuts down gently: it stops listening, then serves open connections for `DRAIN_SECONDS`.

    Plain uvicorn closes both at once. A request that a proxy has sent but uvicorn has not yet read is then lost, and
    the proxy may retry it elsewhere only if its method is idempotent.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Excludes the 120,000 objects of the start-up, which live forever, from full collections: that saves 60 to 100
        # ms each.
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if hasattr(self.config.app, "state"):
            self.config.app.state.stopping = True
        await asyncio.sleep(DRAIN_SECONDS)
        await super().shutdown(sockets)


def make_server(app: Any, settings: Settings, **options: Any) -> Server:
    """Return the server of an ASGI application; `options` are uvicorn's, and override those set here."""
    common: dict[str, Any] = {
        "host": settings.host,
        "loop": "uvloop",
        "http": limited(settings),
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "ssl_certfile": settings.tls_certificate,
        "ssl_keyfile": settings.tls_key,
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": settings.trusted_proxies,
        "timeout_graceful_shutdown": 10,
        "timeout_keep_alive": 30,
    }
    return Server(uvicorn.Config(app, **{**common, **options}))
