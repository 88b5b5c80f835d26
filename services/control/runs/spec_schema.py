"""JSON Schemas of what clients write by hand."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from fitserve.spec.schema import json_schema
from services.shell import Router

router = Router(tags=["schemas"])


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
    """Open to all: editors send no key. A spec points to it with a `$schema` member."""
    return SchemaResponse(json_schema(), headers={"Cache-Control": "public, max-age=3600"})
