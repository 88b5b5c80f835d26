"""Errors as RFC 9457 problem details, with a request id and without internals."""

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
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import compile_path

from fitserve.errors import BadInput, FitserveError, Malformed
from fitserve.validation import problems_from
from services.http.instrumentation import SECURITY_HEADERS

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
MAX_PROBLEMS = 20  # problems listed for one invalid request
_MAX_ECHO = 200  # characters of a received value

_PARAMETER = re.compile(r"\{[^{}]*+\}")
_TITLES = {404: "Not found", 405: "Method not allowed", 413: "Too large"}
_SLUGS = {404: "not-found", 405: "method-not-allowed", 413: "too-large"}


def install(app: FastAPI) -> None:
    """Register handlers that turn every error of the app into problem details."""
    app.add_exception_handler(FitserveError, on_fitserve_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(Exception, on_unexpected)


def respond(request: Request, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """Return problem details with the request's id and path."""
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
    problems = [_request_problem(item) for item in error.errors()[:MAX_PROBLEMS]]
    refused = BadInput(problems[0]["detail"] if problems else "The request is not valid.")
    return respond(request, {**refused.as_problem(), "errors": problems})


def _request_problem(item: dict[str, Any]) -> dict[str, Any]:
    """Return the problem of one Pydantic error: with a JSON Pointer into the body, or a parameter's name and place."""
    where, *path = item["loc"] or ("body",)
    members = problems_from([{**item, "loc": path}])[0].as_dict()
    if where != "body":
        members |= {"parameter": ".".join(map(str, path)), "in": where}
        del members["pointer"]
    if "token" in path or isinstance(item.get("input"), bytes):  # never echo a secret
        members.pop("received", None)
    return members


def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, FitserveError):  # FastAPI wraps errors raised while reading a body
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


def on_disconnect(request: Request, error: Exception) -> Response:
    """Handle a client that disconnected while sending the body: nobody reads the response, and it is not our error."""
    return respond(request, Malformed("The connection ended before the body.").as_problem())


def methods_of(request: Request) -> set[str]:
    """Return the methods of all routes with this path; Starlette lists only the first route's."""
    methods: set[str] = set()
    shape = None
    for context in iter_route_contexts(request.app.routes):
        if context.path and context.methods and compile_path(context.path)[0].match(request.scope["path"]):
            own = _PARAMETER.sub("{}", context.path)
            shape = shape or own
            methods |= context.methods if own == shape else set()
    return methods


def on_unexpected(request: Request, error: Exception) -> Response:
    """Log the traceback of an unexpected error and answer with the request id."""
    log.error("unexpected error", exc_info=error, extra={"request_id": request.scope.get("request_id")})
    # Starlette sends this response outside our middleware, so the headers are set here.
    headers = {**SECURITY_HEADERS, "X-Request-ID": request.scope.get("request_id", "")}
    return respond(request, FitserveError().as_problem(), headers)


def _bounded(value: Any) -> Any:
    """Shorten a received value and make it valid JSON, without NaN and lone surrogates."""
    if isinstance(value, dict):
        return {str(key)[:_MAX_ECHO]: _bounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_bounded(item) for item in list(value)[:50]]
    if isinstance(value, str):
        # A lone surrogate cannot be encoded as UTF-8.
        short = value if len(value) <= 2_000 else value[:_MAX_ECHO] + "..."
        return short.encode("utf-8", "backslashreplace").decode()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)[:_MAX_ECHO]
