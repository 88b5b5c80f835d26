"""Parameters that the control API's handlers share: the application's resources, the caller, names, cursors, headers.

A handler names them in its signature (`caller: Reader, ctx: Ctx`) and FastAPI supplies and validates them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from sqlalchemy import Engine

from fitserve.blobs import BlobStore
from fitserve.queue import Publisher
from fitserve.settings import Settings
from fitserve.wire.runs import PRINTABLE
from services.http.auth import Caller, caller_of, require


@dataclass(frozen=True, slots=True)
class Context:
    """Resources of the application, made once in `create_app`."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    queue: Publisher


def context(request: Request) -> Context:
    """Return the application's resources."""
    ctx: Context = request.app.state.context
    return ctx


Ctx = Annotated[Context, Depends(context)]

# Callers by the scope that their key must have. A query for what a caller may read takes `caller.owner_filter`.
AnyCaller = Annotated[Caller, Depends(caller_of)]
Reader = Annotated[Caller, Depends(require("read"))]
Uploader = Annotated[Caller, Depends(require("upload"))]
Trainer = Annotated[Caller, Depends(require("train"))]
Predictor = Annotated[Caller, Depends(require("predict"))]
KeyManager = Annotated[Caller, Depends(require("keys"))]
Admin = Annotated[Caller, Depends(require("admin"))]

# Path parameters
ModelName = Annotated[str, Path(max_length=100)]
MAX_INTEGER = 2**31 - 1  # largest value of an integer column in the database
VersionNumber = Annotated[int, Path(ge=1, le=MAX_INTEGER)]

# Query parameters
Limit = Annotated[int, Query(ge=1, le=1000)]
# One line of printable text each, because PostgreSQL refuses NUL.
Cursor = Annotated[str | None, Query(max_length=40, pattern=PRINTABLE)]
# The id of a row that the database numbers; 18 digits fit its integers.
NumberCursor = Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")]
TargetName = Annotated[str | None, Query(max_length=1000, description="The first target if omitted")]
Label = Annotated[str | None, Query(max_length=63, pattern=PRINTABLE)]

# Headers
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A request repeated with the same key returns the same result",
        max_length=255,
    ),
]
IfNoneMatch = Annotated[str | None, Header()]


def has_already(etag: str, if_none_match: str | None) -> bool:
    """Return whether a client has this content; a compressed answer's tag is weak (RFC 9110, 13.1.2)."""
    tags = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return bool(tags & {etag, "*"})
