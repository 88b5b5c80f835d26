"""What this server refuses for its size, said beforehand."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from fitserve.settings import Limits
from services.control.context import Context, context
from services.shell import Caller, Router, require

router = Router(tags=["limits"])


@router.get("/limits", summary="The limits in force", response_model=Limits)
def limits(_caller: Annotated[Caller, Depends(require("read"))], ctx: Annotated[Context, Depends(context)]) -> Limits:
    """Bytes, rows, columns, parameters and quotas: each is a setting, FITSERVE_LIMIT_*."""
    return ctx.settings.limits
