"""The prediction service's OpenAPI document. FastAPI does not route the protocols, so they describe themselves."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from services.predict.protocols.transport import WireProtocol

Schema = dict[str, Any]
VERSIONS: tuple[tuple[str, str], ...] = (  # path after the model's, and what it means
    ("", "by the champion, else the newest version"),
    ("/versions/{version}", "by a version"),
    ("/labels/{label}", "by a label's version"),
)
VALUE: Schema = {"description": "A value of any JSON type; null is missing"}


def object_schema(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


SCHEMAS: dict[str, Schema] = {
    "Error": object_schema(["error"], error={"type": "string"}),
    "Metadata": {"type": "object", "additionalProperties": True},
}


def path_parameters(suffix: str) -> tuple[str, ...]:
    """Return the parameters of `/v1/models/{model}` with one of VERSIONS after it."""
    return ("model", suffix.partition("{")[2].rstrip("}")) if suffix else ("model",)


def operation(
    name: str, summary: str, response: str, parameters: tuple[str, ...] = (), request: str | None = None
) -> dict[str, Any]:
    """Describe one operation; `response` and `request` are names of schemas."""
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    refusals = {"400": "Refused", "401": "No valid key", "403": "This key may not", "404": "Not found"}
    refusals |= {"503": "Too much at once, or being loaded; `Retry-After` says when to come back"}
    if request is not None:
        refusals |= {"409": "No model of that kind", "413": "Too large", "415": "This encoding is not understood"}
        refusals |= {"504": "No answer by the deadline of the request"}
    described: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": ["predictions"],
        "security": [{"key": []}],
        "parameters": [
            {
                "name": parameter,
                "in": "path",
                "required": True,
                "schema": {"type": "integer" if parameter == "version" else "string"},
            }
            for parameter in parameters
        ],
        "responses": {
            "200": {
                "description": "The answer; X-Model-Version says who answered" if parameters else "The answer",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{response}"}}},
            },
            **{status: {"description": text, **error} for status, text in refusals.items()},
        },
    }
    if request is not None:
        schema = {"$ref": f"#/components/schemas/{request}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def install(app: FastAPI, protocols: Sequence[WireProtocol]) -> None:
    """Add the protocols to the app's document."""
    build = app.openapi

    @functools.cache
    def document() -> dict[str, Any]:
        whole = build()
        paths = {path: item for protocol in protocols for path, item in protocol.openapi_paths.items()}
        whole["paths"] = {**paths, **whole["paths"]}
        whole["servers"] = [{"url": "/", "description": "This server"}]
        whole["info"]["license"] = {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
        components = whole.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for additional in (SCHEMAS, *(protocol.openapi_schemas for protocol in protocols)):
            schemas.update(additional)
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for item in whole["paths"].values():
            for described in item.values():
                described.setdefault("security", [])
        return whole

    app.openapi = document  # type: ignore[method-assign]
