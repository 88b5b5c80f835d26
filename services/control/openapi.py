"""The API's description for machines: FastAPI's OpenAPI document, completed, and the JSON Schema of a spec.

The OpenAPI document passes Redocly's recommended rules without an error.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from fitserve.spec.schema import json_schema
from fitserve.wire.sources import ImportRequest
from services.http import Router

router = Router(tags=["schemas"])

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
        "pointer": {"type": "string", "description": "JSON Pointer to the invalid value"},
        "received": {},
        "expected": {"type": "string"},
        "fix": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {"type": "object"},
            "description": "All problems, if there are several",
        },
    },
}
_REFUSALS = {
    "400": "The request cannot be parsed",
    "401": "No valid key",
    "403": "The key lacks the scope, or the resource belongs to another owner",
    "404": "No such resource, or none that this key can read",
    "409": "The request conflicts with the current state",
    "413": "Too large",
    "415": "Unsupported content type",
    "422": "The request is invalid; `errors` lists the problems",
    "429": "A quota or rate limit is exhausted; see `Retry-After`",
    "503": "A dependency of this server is unavailable; try again",
}


class SchemaResponse(JSONResponse):
    """A JSON Schema."""

    media_type = "application/schema+json"


@router.get(
    "/schemas/spec",
    summary="The JSON Schema of a spec, for editors",
    response_model=dict[str, Any],
    response_class=SchemaResponse,
)
def spec() -> Response:
    """Needs no key, because editors send none. A spec refers to it by a `$schema` member."""
    return SchemaResponse(json_schema(), headers={"Cache-Control": "public, max-age=3600"})


def install(app: FastAPI) -> None:
    """Make the app serve the completed document."""
    generate = app.openapi

    def completed() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete(generate())
        return app.openapi_schema

    app.openapi = completed  # type: ignore[method-assign]


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Add servers, license, security and refusals to a document, and merge paths that differ only in names."""
    document.setdefault("servers", [{"url": "/", "description": "This server"}])
    document["info"].setdefault("license", LICENSE)
    document.setdefault("components", {}).setdefault("schemas", {}).setdefault("Problem", _PROBLEM)
    _add_import(document["components"]["schemas"])
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                _complete_operation(path, method, item[method])
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's error schemas; ours are problem details
        document["components"]["schemas"].pop(unused, None)
    document["paths"] = _merge_paths(document["paths"])
    _allow_any_members(document)
    return document


def _add_import(schemas: dict[str, Any]) -> None:
    """Add the body of an import, which its route reads itself: the same path takes uploads."""
    schema = ImportRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, one in {**schema.pop("$defs", {}), "ImportRequest": schema}.items():
        schemas.setdefault(name, one)


def _allow_any_members(value: Any) -> None:
    """Mark objects without declared properties as open, or client generators would take them for empty ones."""
    if isinstance(value, list):
        for item in value:
            _allow_any_members(item)
    elif isinstance(value, dict):
        if value.get("type") == "object" and not value.keys() & {"properties", "additionalProperties"}:
            value["additionalProperties"] = True
        for item in value.values():
            _allow_any_members(item)


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    is_open = not operation.setdefault("security", [])  # FastAPI sets it for routes that depend on `caller_of`
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses = operation.setdefault("responses", {})
    for status in refusals(path, method, operation, is_open):
        responses.setdefault(status, {})
    for status, response in responses.items():
        if status[0] in "45" and not (path == "/readyz" and status == "503"):
            response["content"] = content
            response["description"] = _REFUSALS.get(status) or response.get("description") or "Refused"


def refusals(path: str, method: str, operation: dict[str, Any], is_open: bool) -> list[str]:
    """Return the error statuses of an operation that follow from its parameters, body and security."""
    statuses = set()
    if not is_open:
        statuses |= {"401", "403", "429", "503"}
    if "{" in path:
        statuses |= {"404", "422"}
    if "requestBody" in operation or operation.get("parameters"):
        statuses |= {"400", "422"}
    if "requestBody" in operation:
        statuses |= {"413", "415"}
    changes = method in ("post", "put", "patch", "delete") and not is_open
    if changes or "/runs/{run_id}/" in path:  # 409: the run is not in the required state
        statuses |= {"409"}
    if path == "/api/v1/session" and method == "post":
        statuses |= {"401", "403", "503"}
    return sorted(statuses - {*operation["responses"]})


def _merge_paths(paths: dict[str, Any]) -> dict[str, Any]:
    """Merge paths that differ only in parameter names, keeping the names of the first."""
    merged: dict[str, Any] = {}
    by_shape: dict[str, str] = {}
    for path, item in paths.items():
        first = by_shape.setdefault(re.sub(r"\{[^{}]*+\}", "{}", path), path)
        if first == path:
            merged[path] = item
            continue
        names = dict(zip(re.findall(r"\{([^{}]*+)\}", path), re.findall(r"\{([^{}]*+)\}", first), strict=True))
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter.get("in") == "path":
                    parameter["name"] = names[parameter["name"]]
        merged[first] = {**merged[first], **item}
    return merged
