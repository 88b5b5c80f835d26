"""Errors as RFC 9457 problem details: typed, with a request id, and nothing of our insides."""

from __future__ import annotations

import json
import logging
import math
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fitserve.errors import FitserveError, TooLarge
from services.shell.observe import SECURITY_HEADERS

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
_LONGEST_ECHO = 200

_PARAMETER = re.compile(r"\{[^}]*\}")
_TITLES = {404: "Not found", 405: "Method not allowed", 413: "Too large"}
_SLUGS = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}


def install(app: FastAPI) -> None:
    """Every error of the app leaves as problem details."""
    app.add_exception_handler(FitserveError, on_fitserve_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_unexpected)


def respond(request: Request, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """Problem details with the request's id and path."""
    body = {**body, "instance": request.url.path[:500], "request_id": request.scope.get("request_id", "")}
    text = json.dumps(_bounded(body), ensure_ascii=True, allow_nan=False)
    return Response(text, body["status"], headers, MEDIA_TYPE)


def on_fitserve_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FitserveError)
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="fitserve"'
    if error.status >= 500:
        log.error("request failed", exc_info=error, extra={"request_id": request.scope.get("request_id")})
    return respond(request, error.as_problem(), headers)


def on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [_validation_problem(item) for item in error.errors()[:20]]
    body = {
        "type": "urn:fitserve:problem:bad-input",
        "title": "Bad input",
        "status": 422,
        "detail": problems[0]["detail"] if problems else "The request is not valid.",
        "errors": problems,
    }
    return respond(request, body)


def _validation_problem(item: Any) -> dict[str, Any]:
    """One of Pydantic's errors: `loc` becomes a JSON Pointer, or a parameter's name."""
    where, *path = item["loc"] or ("body",)
    found: dict[str, Any] = {"detail": item["msg"]}
    if where == "body":
        found["pointer"] = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
    else:
        found["parameter"] = ".".join(str(part) for part in path)
        found["in"] = where
    if item["type"] != "missing" and "token" not in path and not isinstance(item.get("input"), bytes):
        found["received"] = item.get("input")
    return found


def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, FitserveError):  # FastAPI wraps what reading a body raises
        return on_fitserve_error(request, error.__cause__)
    slug = _SLUGS.get(error.status_code, "http-error")
    body = {
        "type": f"urn:fitserve:problem:{slug}",
        "title": _TITLES.get(error.status_code, "Request refused"),
        "status": error.status_code,
        "detail": str(error.detail),
    }
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(sorted(methods_of(request)))
    return respond(request, body, headers)


def methods_of(request: Request) -> set[str]:
    """What this path takes, of all routes of its shape: Starlette names the first route's methods alone."""
    found: set[str] = set()
    shape = None
    for context in iter_route_contexts(request.app.routes):
        if context.path and context.methods and compile_path(context.path)[0].match(request.scope["path"]):
            own = _PARAMETER.sub("{}", context.path)
            shape = shape or own
            found |= context.methods if own == shape else set()
    return found


class TypedTooLarge:
    """Pure ASGI: FastAPI's limit of a body answers in plain text; this says the same as problem details."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def typed(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == 413:
                replaced = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/plain")
                if replaced:
                    answer = respond(Request(scope), TooLarge("The request is too large.").as_problem())
                    await answer(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, typed)


def on_unexpected(request: Request, error: Exception) -> Response:
    """Our own fault: logged whole, answered with an id to ask about."""
    log.error("unexpected error", exc_info=error, extra={"request_id": request.scope.get("request_id")})
    # Starlette answers these outside our middleware, so the headers are set here.
    headers = {**SECURITY_HEADERS, "X-Request-ID": request.scope.get("request_id", "")}
    return respond(request, FitserveError("Something went wrong on our side.").as_problem(), headers)


def _bounded(value: Any) -> Any:
    """What came from outside is echoed short, and always as JSON."""
    if isinstance(value, dict):
        return {str(key)[:_LONGEST_ECHO]: _bounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_bounded(item) for item in list(value)[:50]]
    if isinstance(value, str):
        # A lone surrogate is no text: it would break whoever reads the answer.
        short = value if len(value) <= 2_000 else value[:_LONGEST_ECHO] + "..."
        return short.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)[:_LONGEST_ECHO]
