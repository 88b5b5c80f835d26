"""The OpenAPI document, finished: what FastAPI cannot know of it. Redocly's recommended rules pass without an error."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI

LICENSE = {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
METHODS = ("get", "put", "post", "patch", "delete", "head", "options")
_PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "Problem details (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:fitserve:problem:bad-input"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string"},
        "pointer": {"type": "string", "description": "JSON Pointer to what is wrong"},
        "received": {},
        "expected": {"type": "string"},
        "fix": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object"},
            "description": "Each problem, where there are several",
        },
    },
}


def install(app: FastAPI) -> None:
    """The app answers with the finished document."""
    made = app.openapi

    def finished() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = finish(made())
        return app.openapi_schema

    app.openapi = finished  # type: ignore[method-assign]


def finish(document: dict[str, Any]) -> dict[str, Any]:
    """The document with servers, license, security said for every operation, problems, and each path once."""
    document.setdefault("servers", [{"url": "/", "description": "This server"}])
    document["info"].setdefault("license", LICENSE)
    document.setdefault("components", {}).setdefault("schemas", {}).setdefault("Problem", _PROBLEM)
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                _finish_operation(path, method, item[method])
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours are problem details
        document["components"]["schemas"].pop(unused, None)
    document["paths"] = _each_once(document["paths"])
    _open_objects(document)
    return document


def _open_objects(value: Any) -> None:
    """An object of which nothing is said may hold anything: generators of clients would else take it for empty."""
    if isinstance(value, list):
        for item in value:
            _open_objects(item)
    elif isinstance(value, dict):
        if value.get("type") == "object" and not value.keys() & {"properties", "additionalProperties"}:
            value["additionalProperties"] = True
        for item in value.values():
            _open_objects(item)


def _finish_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    is_open = not operation.setdefault("security", [])  # FastAPI names the scheme where `caller_of` is asked
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers = operation.setdefault("responses", {})
    for status in refusals(path, method, operation, is_open):
        answers.setdefault(status, {})
    for status, answer in answers.items():
        if status[0] in "45" and not (path == "/readyz" and status == "503"):
            answer["content"] = content
            answer["description"] = _REFUSALS.get(status) or answer.get("description") or "Refused"


_REFUSALS = {
    "400": "The request cannot be read",
    "401": "No valid key",
    "403": "This key may not, or this is another owner's",
    "404": "There is nothing under this address that you see",
    "409": "This contradicts what is already there",
    "413": "Too large",
    "415": "This content type is not understood",
    "422": "Understood, and refused: `errors` say where and why",
    "429": "A quota or rate limit is used up; `Retry-After` says for how long",
    "503": "Something that this server rests on is away; try again",
}


def refusals(path: str, method: str, operation: dict[str, Any], is_open: bool) -> list[str]:
    """The statuses with which an operation may be refused, by what it takes: said here once for all of them."""
    found = []
    if not is_open:
        found += ["401", "403", "429", "503"]
    if "{" in path:
        found += ["404", "422"]
    if "requestBody" in operation or operation.get("parameters"):
        found += ["400", "422"]
    if "requestBody" in operation:
        found += ["413", "415"]
    changes = method in ("post", "put", "patch", "delete") and not is_open
    if changes or "/runs/{run_id}/" in path:  # a run that has not got that far
        found += ["409"]
    if path == "/api/v1/session" and method == "post":
        found += ["401", "403", "503"]
    return sorted({*found} - {*operation["responses"]})


def _each_once(paths: dict[str, Any]) -> dict[str, Any]:
    """Paths that differ in their parameters' names alone are one: the first one's names hold."""
    found: dict[str, Any] = {}
    by_shape: dict[str, str] = {}
    for path, item in paths.items():
        first = by_shape.setdefault(re.sub(r"\{[^}]*\}", "{}", path), path)
        if first == path:
            found[path] = item
            continue
        names = dict(zip(re.findall(r"\{([^}]*)\}", path), re.findall(r"\{([^}]*)\}", first), strict=True))
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter.get("in") == "path":
                    parameter["name"] = names[parameter["name"]]
        found[first] = {**found[first], **item}
    return found
