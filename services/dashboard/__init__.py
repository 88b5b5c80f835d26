"""The dashboard: web pages on top of the public API alone.

Written in TypeScript, built by `make dashboard` into `services/dashboard/build`, which is not committed. The control
API serves that folder on its own address; where it is missing the API runs all the same, and `/` says how to make it.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

BUILD = Path(__file__).resolve().parent / "build"

_MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>fitserve</title></head>
<body><h1>The API runs; its pages are not built.</h1>
<p>Build them with <code>make dashboard</code> (or <code>make run</code>, which does), then start fitserve again.</p>
<p>The API is described at <a href="/docs">/docs</a>.</p></body></html>
"""


def mount(app: FastAPI, build: Path = BUILD) -> None:
    """Serves the pages under `/`; addresses that no route takes get the page, so that deep links work."""
    if (build / "index.html").is_file():
        app.frontend("/", directory=build, fallback="index.html", check_dir=True)
    else:
        app.add_api_route("/", _missing, include_in_schema=False)


def _missing(_request: Request) -> Response:
    return HTMLResponse(_MISSING)
