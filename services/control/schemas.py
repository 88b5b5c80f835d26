"""JSON Schemas of what clients write by hand."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from fitserve.spec import json_schema
from fitserve.spec.schema import PATH
from services.shell import Router

router = Router(tags=["schemas"])


@router.get("/schemas/spec", summary="The JSON Schema of a spec, for editors", response_model=dict[str, Any])
def spec(request: Request) -> Response:
    """Open to all: editors send no key. `$id` is the address it was read from."""
    schema = json_schema()
    schema["$id"] = str(request.url.replace(path=PATH, query=""))
    return JSONResponse(schema, media_type="application/schema+json", headers={"Cache-Control": "max-age=3600"})
