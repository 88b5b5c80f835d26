"""Datasets from where they live: import, refresh, and the connections that a source can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import RunVar
from fastapi import Request, Response
from pydantic import ValidationError

from fitserve import strictjson
from fitserve.datasets import store
from fitserve.datasets.sources import Importer, connections
from fitserve.datasets.sources.fetched import Fetched, Unchanged
from fitserve.errors import BadInput, TooLarge
from fitserve.tables import Dataset
from fitserve.validation import problems_from
from fitserve.wire import Page
from fitserve.wire.datasets import DatasetDetail, UploadOptions
from fitserve.wire.sources import ConnectionInfo, ImportRequest, Source
from services.control.datasets.access import answer_dataset, owned_dataset
from services.control.datasets.upload_request import run_ingest
from services.control.deps import Context, Ctx, Reader, Uploader
from services.http import Caller, Router

router = Router(tags=["datasets"])
T = TypeVar("T")
MAX_FETCHES = 4  # sources fetched at the same time; each waits for another server most of the time


@router.get("/connections", summary="List the connections that a source can name")
def list_connections(caller: Reader, ctx: Ctx) -> Page[ConnectionInfo]:
    """Those that the operator has named and that you may use, without their addresses."""
    return Page(items=connections.visible(ctx.settings, caller.owner_filter), next_cursor=None)


@router.post(
    "/datasets/{ref}/refresh",
    status_code=201,
    summary="Import again from its source",
    response_model=DatasetDetail,
    responses={
        200: {"model": DatasetDetail, "description": "The source has not changed"},
        201: {"model": DatasetDetail, "description": "A new version"},
        404: {},
        422: {},
        503: {"description": "The source is away"},
    },
)
async def refresh(ref: str, response: Response, caller: Uploader, ctx: Ctx) -> Any:
    """The newest version's source is read again. Other content is the next version; the same content makes none."""
    row = await anyio.to_thread.run_sync(_newest_owned, ctx, caller, ref)
    importer = Importer(ctx.settings, ctx.engine, ctx.blobs, row.owner)
    source, options, snapshot = importer.imported_from(row)
    made, created = await _import(importer, row.name, source, options, snapshot, row)
    return answer_dataset(response, made, created)


async def import_dataset(request: Request, response: Response, caller: Caller, ctx: Context) -> DatasetDetail:
    """Import what a JSON body asks for. Raises BadInput with pointers, SourceAway, TooLarge."""
    body = await _read_import(request, ctx)
    store.check_name(body.name)
    importer = Importer(ctx.settings, ctx.engine, ctx.blobs, caller.owner)
    newest = await anyio.to_thread.run_sync(importer.newest, body.name)
    made, created = await _import(importer, body.name, body.source, body.options, None, newest)
    return answer_dataset(response, made, created)


async def _read_import(request: Request, ctx: Context) -> ImportRequest:
    most, data = ctx.settings.limits.json_bytes, bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise TooLarge("The body is larger than the limit.", expected=f"at most {most} bytes")
    value = strictjson.loads(bytes(data), ctx.settings.limits.json_depth)
    try:
        return ImportRequest.model_validate(value)
    except ValidationError as error:
        problems = problems_from(error.errors()[:20], ImportRequest)
        raise BadInput(problems[0].detail, problems=problems) from None


async def _import(
    importer: Importer,
    name: str,
    source: Source,
    options: UploadOptions,
    known: dict[str, Any] | None,
    newest: Dataset | None,
) -> tuple[Dataset, bool]:
    """Fetch a source on a thread, then parse it where uploads are parsed."""
    with store.scratch_folder(importer.settings.scratch) as folder:
        try:
            fetched: Fetched = await _run_fetch(lambda: importer.fetch(source, folder, options, known))
        except Unchanged:
            assert newest is not None
            return newest, False
        return await run_ingest(lambda: importer.store(name, source, options, fetched))


async def _run_fetch(work: Callable[[], T]) -> T:
    try:
        limiter = _fetch_limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_FETCHES)
        _fetch_limiter.set(limiter)
    return await anyio.to_thread.run_sync(work, limiter=limiter)


_fetch_limiter: RunVar[anyio.CapacityLimiter] = RunVar("fetch_limiter")  # of the event loop


def _newest_owned(ctx: Context, caller: Caller, ref: str) -> Dataset:
    """Return the newest version of a dataset's name, which the caller may change."""
    row = owned_dataset(ctx, caller, ref)
    return Importer(ctx.settings, ctx.engine, ctx.blobs, row.owner).newest(row.name) or row
