"""Pages for people: the dashboard at `/`, and Swagger UI over our OpenAPI document at `/docs`.

The dashboard is written in TypeScript in `services/dashboard`; `make dashboard` builds it into a folder that is not
committed. Without it the API runs all the same, and `/` says how to build it. Swagger UI comes from files of an
installed package, so that it works offline.
"""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from services.http.compression import accepted

DASHBOARD = Path(__file__).resolve().parents[1] / "dashboard" / "build"

router = APIRouter(include_in_schema=False)

_NOT_BUILT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>fitserve</title></head>
<body><h1>The API is running; the dashboard is not built.</h1>
<p>Build it with <code>make dashboard</code> (or <code>make run</code>, which does), then restart fitserve.</p>
<p>The API is described at <a href="/docs">/docs</a>.</p></body></html>
"""

_SWAGGER = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>fitserve API</title><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body>
</html>
"""

# A file of its own, because the content security policy forbids inline scripts.
_SWAGGER_START = """SwaggerUIBundle({
  url: "/api/v1/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""


class Assets(StaticFiles):
    """Static files with content hashes in their names: cached by browsers forever, sent as compressed by the build."""

    _SUFFIXES: ClassVar = {"gzip": ".gz", "br": ".br"}

    async def get_response(self, path: str, scope: Scope) -> Response:
        there = await run_in_threadpool(self._packed, path)
        encoding = accepted(Headers(scope=scope).get("accept-encoding", ""), there) if there else None
        response = await super().get_response(path + self._SUFFIXES[encoding] if encoding else path, scope)
        if encoding:
            response.headers["Content-Type"] = mimetypes.guess_type(path)[0] or "application/octet-stream"
            response.headers["Content-Encoding"] = encoding
        response.headers["Vary"] = "Accept-Encoding"
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    def _packed(self, path: str) -> tuple[str, ...]:
        return tuple(name for name, suffix in self._SUFFIXES.items() if self.lookup_path(path + suffix)[1] is not None)


def mount_dashboard(app: FastAPI, build: Path = DASHBOARD) -> None:
    """Serve the dashboard under `/`. Paths that no route matches get its page, so that deep links work."""
    if (build / "index.html").is_file():
        if (build / "assets").is_dir():
            app.mount("/assets", Assets(directory=build / "assets"))
        app.frontend("/", directory=build, fallback="index.html", check_dir=True)
    else:
        app.add_api_route("/", lambda: HTMLResponse(_NOT_BUILT), include_in_schema=False)


@router.get("/docs")
def swagger() -> Response:
    return HTMLResponse(_SWAGGER)


@router.get("/docs/start.js")
def swagger_start() -> Response:
    return Response(_SWAGGER_START, media_type="text/javascript")


@router.get("/docs/swagger-ui.css")
def swagger_style() -> Response:
    return _package_file("swagger-ui.css", "text/css")


@router.get("/docs/swagger-ui-bundle.js")
def swagger_script() -> Response:
    return _package_file("swagger-ui-bundle.js", "text/javascript")


def _package_file(name: str, media_type: str) -> Response:
    data = files("fastapi_offline").joinpath("static", name).read_bytes()
    return Response(data, media_type=media_type, headers={"Cache-Control": "public, max-age=86400"})
