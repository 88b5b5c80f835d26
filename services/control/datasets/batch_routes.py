"""Small batches of rows: they wait, and become one version together."""

from __future__ import annotations

from typing import Any

import anyio
from fastapi import Request, Response

from fitserve.datasets.staging import Stage
from fitserve.tables import Dataset
from fitserve.wire.datasets import DatasetDetail, StagedInfo
from services.control.datasets.access import answer_dataset, owned_dataset
from services.control.datasets.upload_request import NO_BODY_LIMIT, RAW_BODY, receive_upload, run_ingest
from services.control.deps import Context, Ctx, IdempotencyKey, Uploader
from services.http import Router

router = Router(tags=["datasets"])
_REFUSALS: dict[int | str, dict[str, Any]] = {status: {} for status in (404, 409, 413, 415, 422, 507)}


def _stage(ctx: Context) -> Stage:
    return Stage(ctx.settings, ctx.engine, ctx.blobs)


@router.post(
    "/datasets/{ref}/batches",
    status_code=202,
    summary="Stage rows, to be appended with others",
    responses=_REFUSALS,
    openapi_extra=RAW_BODY,
    max_body_size=NO_BODY_LIMIT,
)
async def stage_rows(
    ref: str, request: Request, caller: Uploader, ctx: Ctx, batch: IdempotencyKey = None
) -> StagedInfo:
    """A small table with the same columns. It is checked now, and waits until a commit is requested or due by a rule.

    With an `Idempotency-Key` a batch is added once, however often it is sent. The rules are
    `FITSERVE_APPEND_COMMIT_ROWS` and `FITSERVE_APPEND_COMMIT_SECONDS`.
    """
    parent: Dataset = await anyio.to_thread.run_sync(owned_dataset, ctx, caller, ref)
    stage = _stage(ctx)
    async with receive_upload(request, ctx) as upload:
        waiting = await run_ingest(lambda: stage.add(parent, upload.file, upload.options, batch))
    if stage.is_due(waiting):
        await run_ingest(lambda: stage.commit(parent.name))
        return await anyio.to_thread.run_sync(stage.info, parent)
    return waiting


@router.get("/datasets/{ref}/batches", summary="Staged rows that wait", responses={404: {}})
def get_staged(ref: str, caller: Uploader, ctx: Ctx) -> StagedInfo:
    """The batches that were sent and not yet appended."""
    return _stage(ctx).info(owned_dataset(ctx, caller, ref))


@router.post(
    "/datasets/{ref}/batches/commit",
    status_code=201,
    summary="Append all staged rows as one version",
    response_model=DatasetDetail,
    responses={200: {"model": DatasetDetail, "description": "Nothing waits: the newest version"}, 404: {}, 409: {}},
)
async def commit_staged(ref: str, response: Response, caller: Uploader, ctx: Ctx) -> Any:
    """The new version has the newest version's rows, then those of all batches in the order in which they came."""
    parent: Dataset = await anyio.to_thread.run_sync(owned_dataset, ctx, caller, ref)
    done = await run_ingest(lambda: _stage(ctx).commit(parent.name))
    if done is None:
        newest = await anyio.to_thread.run_sync(owned_dataset, ctx, caller, parent.name)
        return answer_dataset(response, newest, False)
    return answer_dataset(response, *done)
