"""Import datasets from external sources, refresh them, and list the connections for sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
from anyio.lowlevel import RunVar
from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from fitserve import db, strictjson
from fitserve.datasets import store
from fitserve.datasets.sources import Importer, connections
from fitserve.datasets.sources.fetched import Fetched, Unchanged
from fitserve.errors import BadInput, TooLarge
from fitserve.runs import create
from fitserve.runs.create import NewRun
from fitserve.states import RunKind
from fitserve.tables import Dataset
from fitserve.validation import problems_from
from fitserve.wire import Page
from fitserve.wire.datasets import DatasetDetail, UploadOptions
from fitserve.wire.runs import RunInfo
from fitserve.wire.sources import WAIT, ConnectionInfo, ImportRequest, Source
from services.control.datasets.access import answer_dataset, owned_dataset
from services.control.datasets.upload_request import run_ingest
from services.control.deps import Context, Ctx, IdempotencyKey, Reader, Uploader
from services.control.runs.routes import create_and_publish, read_run_info
from services.http import Caller, Router

router = Router(tags=["datasets"])
T = TypeVar("T")
MAX_FETCHES = 4  # sources fetched at the same time; each mostly waits for another server


@router.get("/connections", summary="List the connections that a source can name")
def list_connections(caller: Reader, ctx: Ctx) -> Page[ConnectionInfo]:
    """The operator's connections that you may use, without their addresses."""
    return Page(items=connections.visible(ctx.settings, caller.owner_filter), next_cursor=None)


@router.post(
    "/datasets/{ref}/refresh",
    status_code=201,
    summary="Import again from its source",
    response_model=DatasetDetail,
    responses={
        200: {"model": DatasetDetail, "description": "The source has not changed"},
        201: {"model": DatasetDetail, "description": "A new version"},
        202: {"model": RunInfo, "description": "A run imports it"},
        404: {},
        422: {},
        503: {"description": "The source is away"},
    },
)
async def refresh(
    ref: str,
    request: Request,
    response: Response,
    caller: Uploader,
    ctx: Ctx,
    wait: Annotated[bool | None, Query(description=WAIT)] = None,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Reads the newest version's source again. Changed content becomes the next version; the same content does not."""
    row = await anyio.to_thread.run_sync(_newest_owned, ctx, caller, ref)
    importer = Importer(ctx.settings, ctx.engine, ctx.blobs, row.owner)
    source, options, snapshot = importer.imported_from(row)
    body = ImportRequest(name=row.name, source=source, options=options, wait=wait)
    url = request.url
    key = create.idempotency_key(idempotency_key, b"POST", url.path.encode(), str(url.query).encode())
    if (known := await anyio.to_thread.run_sync(_queued_before, ctx, row.owner, key)) is not None:
        return known
    if await _goes_to_workers(importer, body):
        return await anyio.to_thread.run_sync(_queue, ctx, caller, body, row, key)
    made, created = await _import(importer, row.name, source, options, snapshot, row)
    return answer_dataset(response, made, created)


async def import_dataset(
    request: Request, response: Response, caller: Caller, ctx: Context, idempotency_key: str | None
) -> DatasetDetail | Response:
    """Import the JSON body's source, or queue a run for it. Raises BadInput with pointers, SourceAway, TooLarge.

    With an Idempotency-Key, a request that is repeated gets the same run.
    """
    body = await _read_import(request, ctx)
    store.check_name(body.name)
    importer = Importer(ctx.settings, ctx.engine, ctx.blobs, caller.owner)
    key = create.idempotency_key(idempotency_key, b"POST", request.url.path.encode(), body.model_dump_json().encode())
    if (known := await anyio.to_thread.run_sync(_queued_before, ctx, caller.owner, key)) is not None:
        return known
    if await _goes_to_workers(importer, body):
        return await anyio.to_thread.run_sync(_queue, ctx, caller, body, None, key)
    newest = await anyio.to_thread.run_sync(importer.newest, body.name)
    made, created = await _import(importer, body.name, body.source, body.options, None, newest)
    return answer_dataset(response, made, created)


async def _goes_to_workers(importer: Importer, body: ImportRequest) -> bool:
    """Return whether workers import a source. Raises at once for errors visible in its list of objects."""
    if body.wait:
        return False

    def look() -> bool:
        with importer.counted(body.source):
            listing = importer.listing(body.source)
        return body.wait is False or (listing is not None and importer.is_large(listing))

    return await _run_fetch(look)


def _queue(
    ctx: Context, caller: Caller, body: ImportRequest, refreshed: Dataset | None, key: create.RequestKey | None
) -> Response:
    """Queue an import run. Raises Conflict (another owner has the name), TooMany, KeyReused."""
    owner = caller.owner if refreshed is None else refreshed.owner
    with db.reading(ctx.engine) as session:
        store.check_name_is_free(body.name, store.latest_version(session, body.name), owner, as_version=True)
    written = body.model_dump(mode="json", exclude_unset=True)
    new = NewRun(
        owner=owner,
        dataset_id=None,
        spec=written,
        resolved={
            "name": body.name,
            "source": body.source.model_dump(mode="json", exclude_unset=True),
            "options": body.options.model_dump(mode="json", exclude_defaults=True),
            "known": None if refreshed is None else refreshed.id,
        },
        estimates={},
        kind=RunKind.import_,
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    run, is_new = create_and_publish(ctx, new, key)
    return _answer_run(ctx, run.id, is_new)


def _queued_before(ctx: Context, owner: str, key: create.RequestKey | None) -> Response | None:
    """Return the response to a repeated request without contacting its source again. Raises KeyReused."""
    if key is None:
        return None
    with db.reading(ctx.engine) as session:
        run = create.existing_run(session, owner, key)
    return None if run is None else _answer_run(ctx, run.id, is_new=False)


def _answer_run(ctx: Context, run_id: str, is_new: bool) -> Response:
    headers = {"Location": f"/api/v1/runs/{run_id}"} | ({} if is_new else {"Idempotency-Replayed": "true"})
    return JSONResponse(read_run_info(ctx, run_id).model_dump(mode="json"), 202, headers)


async def _read_import(request: Request, ctx: Context) -> ImportRequest:
    """Return the JSON body of an import. Raises BadInput, TooLarge."""
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
    """Run `work` on one of a few threads reserved for waiting on sources."""
    try:
        limiter = _fetch_limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_FETCHES)
        _fetch_limiter.set(limiter)
    return await anyio.to_thread.run_sync(work, limiter=limiter)


_fetch_limiter: RunVar[anyio.CapacityLimiter] = RunVar("fetch_limiter")  # one limiter per event loop


def _newest_owned(ctx: Context, caller: Caller, ref: str) -> Dataset:
    """Return the newest version of a dataset's name, which the caller may change."""
    row = owned_dataset(ctx, caller, ref)
    return Importer(ctx.settings, ctx.engine, ctx.blobs, row.owner).newest(row.name) or row
