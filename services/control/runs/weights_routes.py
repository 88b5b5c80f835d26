"""Weights that networks begin with: uploaded as arrays by layer, without code."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import anyio
from fastapi import Path, Request, Response
from starlette.requests import ClientDisconnect

from fitserve import db, uploaded_weights
from fitserve.blobs import disk_full_is_507
from fitserve.datasets.store import scratch_folder
from fitserve.errors import Malformed, TooLarge
from fitserve.tables import UploadedWeights
from fitserve.wire import Page
from fitserve.wire.weights import WeightsInfo, WeightsSummary
from services.control.datasets.upload_request import NO_BODY_LIMIT, BodyWriter
from services.control.deps import Context, Ctx, Cursor, Limit, Reader, Uploader
from services.http import Router

router = Router(tags=["weights"])

WeightsId = Annotated[str, Path(max_length=64)]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {status: {} for status in (400, 409, 413, 422, 507)}


@router.post(
    "/weights",
    status_code=201,
    summary="Upload weights",
    response_model=WeightsInfo,
    responses={200: {"model": WeightsInfo, "description": "You have these weights already"}, **_REFUSALS},
    openapi_extra=_BODY,
    max_body_size=NO_BODY_LIMIT,
)
async def upload_weights(request: Request, response: Response, caller: Uploader, ctx: Ctx) -> WeightsInfo:
    """The body is a safetensors file whose arrays are named by layer and position.

    `dense/0` is the kernel of `dense`, `dense/1` its bias. Every number must be finite, with 16, 32 or 64 bits.
    """
    limit = ctx.settings.limits.weights_bytes
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise TooLarge(
            "The weights are larger than the limit.", received=int(length), expected=f"at most {limit} bytes"
        )
    with scratch_folder(ctx.settings.scratch) as folder:
        path, digest = folder / "weights", hashlib.sha256()
        with disk_full_is_507(), path.open("xb") as file:
            writer = BodyWriter(file, limit, digest)
            try:
                await writer.receive(request)
            except ClientDisconnect:
                raise Malformed("The upload was cut off.", fix="Send it again.") from None
            finally:
                await writer.finish()

        def keep() -> tuple[WeightsInfo, bool]:
            row, created = uploaded_weights.create(
                ctx.engine, ctx.blobs, path, digest.hexdigest(), owner=caller.owner, limits=ctx.settings.limits
            )
            return _info(ctx, row), created

        info, created = await anyio.to_thread.run_sync(keep)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/api/v1/weights/{info.id}"
    return info


@router.get("/weights", summary="List uploaded weights, newest first")
def list_weights(caller: Reader, ctx: Ctx, limit: Limit = 100, cursor: Cursor = None) -> Page[WeightsSummary]:
    """An admin sees all, others their own."""
    with db.reading(ctx.engine) as session:
        rows = uploaded_weights.listing(session, caller.owner_filter, before=cursor, limit=limit + 1)
        items = [WeightsSummary.model_validate(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=items[-1].id if len(rows) > limit else None)


@router.get("/weights/{weights_id}", summary="Get uploaded weights: the shapes of their arrays")
def get_weights(weights_id: WeightsId, caller: Reader, ctx: Ctx) -> WeightsInfo:
    with db.reading(ctx.engine) as session:
        row = uploaded_weights.get(session, weights_id, caller.owner_filter)
        return _info(ctx, row)


@router.delete("/weights/{weights_id}", status_code=204, summary="Delete uploaded weights")
def delete_weights(weights_id: WeightsId, caller: Uploader, ctx: Ctx) -> None:
    """Runs that started from them keep their copy."""
    with db.transaction(ctx.engine) as session:
        uploaded_weights.delete(session, weights_id, caller.owner_filter)


def _info(ctx: Context, row: UploadedWeights) -> WeightsInfo:
    summary = WeightsSummary.model_validate(row)
    return WeightsInfo(**summary.model_dump(), tensors=dict(uploaded_weights.tensors_of(ctx.blobs, row)))
