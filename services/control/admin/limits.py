"""What this server refuses for its size, said beforehand; and where its prediction service is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import Field, create_model

from fitserve.settings import Limits
from services.control.deps import Context, context
from services.shell import Caller, Router, require

router = Router(tags=["limits"])

_FIELDS: dict[str, Any] = {name: (field.annotation, field) for name, field in Limits.model_fields.items()}
LimitsInfo = create_model(
    "LimitsInfo",
    __doc__="The limits in force, and the prediction service's address.",
    predict_url=(str, Field(description="Where the prediction service is; this address forwards to it too")),
    **_FIELDS,
)


@router.get("/limits", summary="The limits in force", response_model=LimitsInfo)
def limits(
    request: Request, _caller: Annotated[Caller, Depends(require("read"))], ctx: Annotated[Context, Depends(context)]
) -> dict[str, Any]:
    """Bytes, rows, columns, parameters and quotas: each is a setting, FITSERVE_LIMIT_*."""
    settings = ctx.settings
    host = request.url.hostname or "127.0.0.1"
    here = f"[{host}]" if ":" in host else host
    predict_url = settings.predict_url or f"{request.url.scheme}://{here}:{settings.predict_port}"
    return {**settings.limits.model_dump(), "predict_url": predict_url}
