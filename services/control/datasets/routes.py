"""Datasets over HTTP: upload, read, correct, append, share, delete."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import Field

from fitserve import db
from fitserve.dataset_facts import ColumnFacts
from fitserve.datasets import appends, preview, store
from fitserve.datasets.relations import relations
from fitserve.datasets.samples import SAMPLES, make_sample
from fitserve.errors import BadInput, NotFound, Problem
from fitserve.tables import Dataset
from fitserve.wire import Page
from fitserve.wire.datasets import (
    Column,
    DatasetDetail,
    DatasetInfo,
    DatasetPage,
    DatasetPatch,
    Profile,
    Relations,
    RowsPage,
    SampleInfo,
    SampleRequest,
    UploadOptions,
)
from fitserve.wire.runs import PRINTABLE, RunInfo
from services.control.datasets.access import answer_dataset, dataset_detail, owned_dataset, visible_dataset
from services.control.datasets.import_routes import import_dataset
from services.control.datasets.upload_request import (
    FORM_BODY,
    NO_BODY_LIMIT,
    RAW_BODY,
    UploadRequest,
    receive_upload,
    run_ingest,
)
from services.control.deps import (
    MAX_INTEGER,
    Context,
    Ctx,
    Cursor,
    IdempotencyKey,
    IfNoneMatch,
    Reader,
    Uploader,
    has_already,
)
from services.http import Caller, Router

router = Router(tags=["datasets"])
ColumnName = Annotated[str, Field(max_length=1_000)]

_UPLOAD_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": DatasetDetail, "description": "The same content exists already"},
    201: {"model": DatasetDetail, "description": "A new dataset or a new version"},
    **{status: {"description": what} for status, what in ((400, "Unreadable"), (413, "Too large"), (422, "Refused"))},
    409: {"description": "The name is taken"},
    415: {"description": "No table in a known format"},
    503: {"description": "The source is away"},
    507: {"description": "The disk is full"},
}


# --- upload --------------------------------------------------------------------------------------------------------


@router.post(
    "/datasets",
    status_code=201,
    summary="Upload a table, or import one",
    response_model=DatasetDetail,
    responses={**_UPLOAD_RESPONSES, 202: {"model": RunInfo, "description": "A run imports the table"}},
    openapi_extra=FORM_BODY,
    max_body_size=NO_BODY_LIMIT,
)
async def create(
    request: Request,
    response: Response,
    caller: Uploader,
    ctx: Ctx,
    name: Annotated[str | None, Query(description="Named after the file if omitted")] = None,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """A form with a part named `file` (options as fields or in the query), the bytes as they are, or a source in JSON.

    Format, compression, encoding, delimiter, header and kinds are recognised if omitted. The same content again is the
    same dataset (200). Errors name row, column, the value received and what was expected, up to 20 at once.
    With `Content-Type: application/json`, `{name, source}` is imported from a database, a store of files, an address or
    a Delta table; 202 is the answer where a run does that (`wait`), and an `Idempotency-Key` counts for that run alone.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        return await import_dataset(request, response, caller, ctx, idempotency_key)
    async with receive_upload(request, ctx, also=("name",)) as upload:
        return await _create_dataset(
            response, caller, ctx, upload, upload.other_fields.get("name", name), as_version=False
        )


@router.get("/datasets", summary="List datasets")
def list_datasets(
    caller: Reader,
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Cursor = None,
    name: Annotated[
        str | None, Query(max_length=63, pattern=PRINTABLE, description="Only versions of this name")
    ] = None,
    playground: Annotated[bool, Query(description="Whether to list what the pages' playground made")] = True,
) -> DatasetPage:
    """The newest first. An admin sees all, others their own and shared ones."""
    with db.reading(ctx.engine) as session:
        rows, next_cursor = store.list_datasets(
            session, caller.owner_filter, limit=limit, cursor=cursor, name=name, playground=playground
        )
        return DatasetPage(items=[DatasetInfo.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/datasets/samples", summary="List the built-in tables")
def list_samples(_caller: Reader) -> Page[SampleInfo]:
    """TensorFlow Playground's six, with noise and seed, scikit-learn's bundled tables, and the Titanic's."""
    return Page(items=[sample.info for sample in SAMPLES.values()], next_cursor=None)


@router.post(
    "/datasets/samples",
    status_code=201,
    summary="Create a dataset from a built-in table",
    response_model=DatasetDetail,
    responses={
        **_UPLOAD_RESPONSES,
        404: {"description": "No such sample"},
        503: {"description": "scikit-learn is missing"},
    },
)
def create_sample(body: SampleRequest, response: Response, caller: Uploader, ctx: Ctx) -> Any:
    """The same sample with the same noise, rows and seed is one dataset."""
    settings = body.model_dump(exclude={"sample", "name"})
    sample, table = make_sample(body.sample, **settings)
    if not sample.info.noise and any(settings.values()):
        raise BadInput("Noise, rows, seed and derived are for the Playground's samples.", received=body.sample)
    with store.scratch_folder(ctx.settings.scratch) as folder:
        row, created = store.create(
            ctx.engine,
            ctx.blobs,
            store.write_as_upload(table, folder, body.sample),
            owner=caller.owner,
            options=UploadOptions(kinds=sample.kinds),
            limits=ctx.settings.limits,
            scratch=ctx.settings.scratch,
            name=body.name,
            as_version=True,
            origin={"sample": body.model_dump(mode="json", exclude={"name"})},
        )
    return answer_dataset(response, row, created)


@router.get("/datasets/{ref}", summary="One dataset", response_model=DatasetDetail, responses={304: {}, 404: {}})
def get_dataset(ref: str, response: Response, caller: Reader, ctx: Ctx, if_none_match: IfNoneMatch = None) -> Any:
    """By name (its newest version), `name@version` or id. A version's data never changes; its ETag is strong."""
    row = visible_dataset(ctx, caller, ref)
    etag = f'"{row.id}-{int(row.shared)}"'
    if has_already(etag, if_none_match):
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return dataset_detail(row)


@router.put(
    "/datasets/{name}",
    summary="Upload a table under a name",
    response_model=DatasetDetail,
    responses=_UPLOAD_RESPONSES,
    openapi_extra=RAW_BODY,
    max_body_size=NO_BODY_LIMIT,
)
async def put_dataset(name: str, request: Request, response: Response, caller: Uploader, ctx: Ctx) -> Any:
    """The bytes as they are (`curl -T table.csv`). New content under an existing name creates its next version."""
    store.check_name(name)
    async with receive_upload(request, ctx, filename=name) as upload:
        return await _create_dataset(response, caller, ctx, upload, name, as_version=True)


async def _create_dataset(
    response: Response, caller: Caller, ctx: Context, upload: UploadRequest, name: str | None, *, as_version: bool
) -> DatasetDetail:
    begun = anyio.current_time()
    row, created = await run_ingest(
        lambda: store.create(
            ctx.engine,
            ctx.blobs,
            upload.file,
            owner=caller.owner,
            options=upload.options,
            limits=ctx.settings.limits,
            scratch=ctx.settings.scratch,
            name=name,
            as_version=as_version,
        )
    )
    _set_timing(response, upload, anyio.current_time() - begun)
    return answer_dataset(response, row, created)


def _set_timing(response: Response, upload: UploadRequest, ingest: float) -> None:
    response.headers["Server-Timing"] = f"receive;dur={upload.seconds * 1000:.1f}, ingest;dur={ingest * 1000:.1f}"


# --- change and delete ---------------------------------------------------------------------------------------------


@router.patch("/datasets/{ref}", summary="Correct kinds, or share", responses={404: {}, 422: {}})
def patch_dataset(ref: str, body: DatasetPatch, response: Response, caller: Uploader, ctx: Ctx) -> DatasetDetail:
    """Other kinds create a new version that names its parent; sharing lets every owner read the dataset."""
    row = owned_dataset(ctx, caller, ref)
    current = {column["name"]: column["kind"] for column in row.columns}
    if body.kinds and {**current, **body.kinds} != current:
        limits, scratch = ctx.settings.limits, ctx.settings.scratch
        row = store.correct_kinds(ctx.engine, ctx.blobs, row, body.kinds, limits=limits, scratch=scratch)
        response.status_code = 201
    if body.shared:
        caller.check_may_share()
    if body.shared is not None and body.shared != row.shared:
        with db.transaction(ctx.engine) as session:
            row = store.set_shared(session, row.id, body.shared)
    response.headers["Location"] = f"/api/v1/datasets/{row.id}"
    return dataset_detail(row)


@router.post(
    "/datasets/{ref}/rows",
    status_code=201,
    summary="Append rows",
    response_model=DatasetDetail,
    responses=_UPLOAD_RESPONSES,
    openapi_extra=RAW_BODY,
    max_body_size=NO_BODY_LIMIT,
)
async def append_rows(
    ref: str, request: Request, response: Response, caller: Uploader, ctx: Ctx, batch: IdempotencyKey = None
) -> Any:
    """A table with the same columns; a new version, which names its parent, has the old rows and then these.

    Rows sent to a name are added to its newest version, even if others append meanwhile; rows sent to `name@version` or
    an id, to that version. With an `Idempotency-Key` a batch is appended once: sent again, it returns its version
    (200).
    """
    parent = await anyio.to_thread.run_sync(owned_dataset, ctx, caller, ref)
    limits, scratch = ctx.settings.limits, ctx.settings.scratch
    async with receive_upload(request, ctx) as upload:
        begun = anyio.current_time()
        row, created = await run_ingest(
            lambda: appends.append_rows(
                ctx.engine,
                ctx.blobs,
                parent,
                upload.file,
                options=upload.options,
                limits=limits,
                scratch=scratch,
                batch=batch,
                follow=ref == parent.name,
            )
        )
        _set_timing(response, upload, anyio.current_time() - begun)
    return answer_dataset(response, row, created)


# --- read ----------------------------------------------------------------------------------------------------------


@router.get("/datasets/{ref}/rows", summary="Read rows, page by page", responses={404: {}})
def get_rows(
    ref: str,
    caller: Reader,
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    cursor: Cursor = None,
    offset: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Rows to skip; ignored with a cursor")] = 0,
) -> RowsPage:
    """In the table's order; null is missing."""
    row = visible_dataset(ctx, caller, ref)
    start = _offset_of_cursor(cursor, row.id) if cursor else offset
    names, rows = preview.read_rows(_local_table(ctx, row), start, limit)
    end = start + len(rows)
    next_cursor = _cursor_at(end, row.id) if rows and end < row.rows else None
    return RowsPage(columns=names, rows=rows, offset=start, total=row.rows, next_cursor=next_cursor)


def _cursor_at(offset: int, dataset_id: str) -> str:
    return base64.urlsafe_b64encode(f"{offset}.{dataset_id[-6:]}".encode()).decode()


def _offset_of_cursor(cursor: str, dataset_id: str) -> int:
    try:
        offset, _, suffix = base64.urlsafe_b64decode(cursor.encode("ascii")).decode("ascii").partition(".")
        if suffix == dataset_id[-6:] and 0 < len(offset) < 16 and offset.isdigit():
            return int(offset)
    except ValueError:
        pass
    raise BadInput("This cursor does not belong to this dataset.", received=cursor, fix="Begin without a cursor.")


@router.get("/datasets/{ref}/columns", summary="Columns with all their labels", responses={404: {}})
def get_columns(
    ref: str,
    caller: Reader,
    ctx: Ctx,
    name: Annotated[list[ColumnName] | None, Query(max_length=20, description="Only these columns")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Cursor = None,
) -> Page[Column]:
    """In the table's order."""
    row = visible_dataset(ctx, caller, ref)
    start = _offset_of_cursor(cursor, row.id) if cursor else 0
    for one in name or ():
        _check_column(row, one)
    columns = [column for column in row.columns if name is None or column["name"] in name]
    end = start + limit
    items = [Column.model_validate(column) for column in columns[start:end]]
    return Page(items=items, next_cursor=_cursor_at(end, row.id) if end < len(columns) else None)


def _check_column(row: Dataset, name: str) -> None:
    """Raise NotFound unless a dataset has a column of this name."""
    names = [column["name"] for column in row.columns]
    if name not in names:
        expected = ", ".join(names[:20])
        problem = Problem(f"There is no column {name[:80]!r}.", received=name[:80], expected=expected)
        raise NotFound(problem.detail, problems=[problem])


@router.get("/datasets/{ref}/profile", summary="Profile of the columns", responses={404: {}})
def get_profile(
    ref: str,
    caller: Reader,
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    cursor: Cursor = None,
    offset: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Columns to skip; ignored with a cursor")] = 0,
) -> Profile:
    """In the table's order, some columns at a time.

    Counts, moments and top values cover all rows; quantiles, histograms and tokens cover `sampled_rows`.
    """
    row = visible_dataset(ctx, caller, ref)
    start = _offset_of_cursor(cursor, row.id) if cursor else offset
    end = start + limit
    columns = {
        column["name"]: row.profile["columns"][column["name"]]
        for column in row.columns[start:end]
        if column["name"] in row.profile["columns"]
    }
    next_cursor = _cursor_at(end, row.id) if end < len(row.columns) else None
    return Profile.model_validate({**row.profile, "columns": columns, "next_cursor": next_cursor})


@router.get("/datasets/{ref}/relations", summary="How columns relate to a target", responses={404: {}, 422: {}})
def get_relations(ref: str, caller: Reader, ctx: Ctx, target: Annotated[ColumnName, Query()]) -> Relations:
    """The strongest first, with a warning for a column that predicts the target almost exactly."""
    row = visible_dataset(ctx, caller, ref)
    _check_column(row, target)
    facts = {column["name"]: ColumnFacts.from_stored(column) for column in row.columns}
    sample = preview.sample_rows(_local_table(ctx, row))
    items = relations(sample, facts, target)
    return Relations.model_validate({"target": target, "sampled_rows": sample.num_rows, "items": items})


@router.get(
    "/datasets/{ref}/download",
    summary="Download the table",
    response_class=Response,
    responses={200: {"content": {"application/vnd.apache.parquet": {}, "text/csv; charset=utf-8": {}}}, 404: {}},
)
def download(
    ref: str,
    caller: Reader,
    ctx: Ctx,
    format: Annotated[str, Query(pattern="^(parquet|csv)$")] = "parquet",
) -> Response:
    """Parquet is exact. In CSV a text that a spreadsheet would run as a formula gets an apostrophe in front."""
    row = visible_dataset(ctx, caller, ref)
    path, name = _local_table(ctx, row), f"{row.name}-v{row.version}.{format}"
    if format == "parquet":
        return FileResponse(path, media_type="application/vnd.apache.parquet", filename=name)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(preview.stream_csv(path), media_type="text/csv; charset=utf-8", headers=headers)


@router.delete("/datasets/{ref}", status_code=204, summary="Delete a version", responses={404: {}, 409: {}})
def delete_dataset(ref: str, caller: Uploader, ctx: Ctx) -> None:
    """One version: the newest of a name, unless `name@version` or an id is given. Refused while runs use it."""
    row = owned_dataset(ctx, caller, ref)
    with db.transaction(ctx.engine) as session:
        current = session.get(Dataset, row.id, with_for_update=True)
        if current is None:  # another request has deleted it meanwhile
            raise NotFound(f"No dataset {ref[:120]!r}.")
        store.delete(session, current)


def _local_table(ctx: Context, row: Dataset) -> Path:
    return store.local_parquet(ctx.blobs, row, ctx.settings.scratch / "blobs")
