"""Resumable uploads: tus 1.0.0 with creation, termination and expiration (https://tus.io/protocols/resumable-upload).

The bytes received so far are a file in this machine's scratch folder, and its length is the offset: whatever dies,
what is on disk is what a client resumes from. Where there are several machines, what a PATCH brought is shared with
them when it ends (`upload_parts`). The last PATCH parses the table and answers with its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import IO, Annotated, Any

import anyio
from fastapi import Depends, Request, Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from fitserve import blobs, db, telemetry
from fitserve.blobs import disk_full_is_507
from fitserve.datasets import store
from fitserve.datasets.store import ReceivedFile
from fitserve.errors import BadInput, Conflict, FitserveError, Malformed, NotFound, TooLarge, UnsupportedMedia
from fitserve.ids import new_id
from fitserve.settings import MB
from fitserve.tables import Upload
from services.control.datasets.ingest_pool import ingesting
from services.control.datasets.tus import (
    TUS_RESUMABLE,
    UPLOAD_LENGTH,
    UPLOAD_METADATA,
    UPLOAD_OFFSET,
    VERSION,
    UploadBusy,
    UploadGone,
    answer_headers,
    check_version,
    metadata_of,
    number_of,
)
from services.control.datasets.upload_body import folder_of_uploads
from services.control.datasets.upload_options import BODY, options_of
from services.control.datasets.upload_parts import gather, share, without_parts
from services.control.deps import Context, context
from services.shell import Caller, Router, require

router = Router(tags=["uploads"])
LIFETIME = timedelta(hours=24)
_GONE: dict[int | str, dict[str, Any]] = {status: {} for status in (404, 410, 412, 423)}


Uploader = Annotated[Caller, Depends(require("upload"))]
Ctx = Annotated[Context, Depends(context)]


class UploadInfo(BaseModel):
    """Where a resumable upload stands; `dataset_id` once it is finished."""

    id: str
    offset: int
    length: int
    expires_at: datetime
    dataset_id: str | None


@router.options("/uploads", status_code=204, summary="What of tus is spoken")
def capabilities(response: Response, ctx: Ctx) -> None:
    answer_headers(
        response,
        Tus_Version=VERSION,
        Tus_Extension="creation,termination,expiration",
        Tus_Max_Size=ctx.settings.limits.upload_bytes,
    )


@router.post(
    "/uploads",
    status_code=201,
    summary="Begin a resumable upload",
    response_class=Response,
    response_model=None,
    responses={status: {} for status in (412, 413, 507)},
    openapi_extra={"parameters": [UPLOAD_LENGTH, UPLOAD_METADATA, TUS_RESUMABLE]},
)
def begin(request: Request, response: Response, caller: Uploader, ctx: Ctx) -> Response:
    """`Upload-Length`, and in `Upload-Metadata` `filename`, `name` and any option of an upload, in base 64."""
    check_version(request)
    length = number_of(request, "Upload-Length")
    if length > ctx.settings.limits.upload_bytes:
        raise TooLarge(
            "The upload is larger than the limit.", received=length, expected=f"{ctx.settings.limits.upload_bytes}"
        )
    metadata = metadata_of(request.headers.get("upload-metadata", ""))
    _, others = options_of(metadata.items(), ("name", "filename", "filetype"))
    if "name" in others:
        store.check_name(others["name"])
    folder = folder_of_uploads(ctx)
    with db.transaction(ctx.engine) as session:
        _sweep(session, folder)
        moment = db.now(session)
        row = Upload(
            id=new_id("up"),
            owner=caller.owner,
            length=length,
            offset=0,
            metadata_=metadata,
            created_at=moment,
            expires_at=moment + LIFETIME,
        )
        session.add(row)
    with disk_full_is_507():
        (folder / row.id).touch()
    expires = format_datetime(row.expires_at, usegmt=True)
    made = Response(status_code=201)
    answer_headers(made, Location=f"/api/v1/uploads/{row.id}", Upload_Expires=expires, Upload_Offset=0)
    return made


def _sweep(session: Session, folder: Path) -> None:
    """Forgets what has expired."""
    for row in session.scalars(select(Upload).where(Upload.expires_at < db.now(session)).limit(100)):
        (folder / row.id).unlink(missing_ok=True)
        session.delete(row)
    oldest = time.time() - LIFETIME.total_seconds()
    for path in folder.iterdir():  # what other machines have finished or forgotten
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _row(ctx: Context, caller: Caller, upload_id: str) -> tuple[Upload, Path]:
    """Raises NotFound, UploadGone."""
    with db.reading(ctx.engine) as session:
        row = session.get(Upload, upload_id)
        if row is None or not caller.sees(row.owner):
            raise NotFound(f"No upload {upload_id[:64]!r}.")
        if row.expires_at < db.now(session):
            raise UploadGone(fix="Begin again: POST /api/v1/uploads.")
    return row, folder_of_uploads(ctx) / row.id


def _offset(row: Upload, path: Path) -> int:
    if row.dataset_id is not None:
        return int(row.length or 0)
    return max(row.offset, path.stat().st_size if path.is_file() else 0)


def _info(row: Upload, path: Path) -> UploadInfo:
    return UploadInfo(
        id=row.id,
        offset=_offset(row, path),
        length=int(row.length or 0),
        expires_at=row.expires_at,
        dataset_id=row.dataset_id,
    )


@router.head(
    "/uploads/{upload_id}",
    summary="How much has arrived",
    responses=_GONE,
    openapi_extra={"parameters": [TUS_RESUMABLE]},
)
def head(upload_id: str, request: Request, response: Response, caller: Uploader, ctx: Ctx) -> None:
    check_version(request)
    row, path = _row(ctx, caller, upload_id)
    info = _info(row, path)
    answer_headers(response, Upload_Offset=info.offset, Upload_Length=info.length)
    response.headers["Upload-Expires"] = format_datetime(row.expires_at, usegmt=True)
    if row.dataset_id:
        response.headers["Content-Location"] = f"/api/v1/datasets/{row.dataset_id}"


@router.get("/uploads/{upload_id}", summary="Where an upload stands", responses={404: {}, 410: {}})
def get(upload_id: str, caller: Uploader, ctx: Ctx) -> UploadInfo:
    return _info(*_row(ctx, caller, upload_id))


@router.patch(
    "/uploads/{upload_id}",
    status_code=204,
    summary="Send the next bytes",
    max_body_size=BODY,
    response_model=None,
    responses={status: {} for status in (400, 404, 409, 410, 412, 415, 422, 423, 507)},
    openapi_extra={
        "parameters": [UPLOAD_OFFSET, TUS_RESUMABLE],
        "requestBody": {
            "required": True,
            "content": {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
async def patch(upload_id: str, request: Request, caller: Uploader, ctx: Ctx) -> Response:
    """The last bytes make the dataset: then `Content-Location` is its address, or the answer says what is wrong.

    An upload whose table is refused is gone; a connection that breaks leaves it as it is, to be resumed.
    """
    check_version(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/offset+octet-stream":
        raise UnsupportedMedia("A PATCH carries bytes.", expected="Content-Type: application/offset+octet-stream")
    claimed = number_of(request, "Upload-Offset")
    row, path = await anyio.to_thread.run_sync(lambda: _row(ctx, caller, upload_id))
    lock = _locks.setdefault(row.id, asyncio.Lock())
    if lock.locked():
        raise UploadBusy(retry_after=1)
    async with lock:
        try:
            return await _continue(request, ctx, row, path, claimed)
        finally:
            _locks.pop(row.id, None)


_locks: dict[str, asyncio.Lock] = {}  # of this process; an upload's file is on this machine


async def _continue(request: Request, ctx: Context, row: Upload, path: Path, claimed: int) -> Response:
    if row.dataset_id is not None:
        raise Conflict("This upload is finished.", received=claimed, expected=f"offset {row.length}")
    try:
        await anyio.to_thread.run_sync(lambda: gather(row, path, ctx.blobs, ctx.settings.scratch / "blobs"))
    except NotFound as error:
        raise UploadGone(fix="Begin again: POST /api/v1/uploads.") from error
    offset, length = _offset(row, path), int(row.length or 0)
    if claimed != offset:
        raise Conflict("The offset is not where this upload stands.", received=claimed, expected=str(offset))
    try:
        offset = await _write(request, path, offset, length)
    finally:
        if ctx.settings.blob_url is not None and _offset(row, path) < length:
            await anyio.to_thread.run_sync(lambda: share(ctx.engine, ctx.blobs, row, path))
    done = Response(status_code=204)
    if offset == length:
        dataset_id = await _finish(ctx, row, path)
        done.headers["Content-Location"] = f"/api/v1/datasets/{dataset_id}"
    answer_headers(done, Upload_Offset=offset, Upload_Expires=format_datetime(row.expires_at, usegmt=True))
    return done


async def _write(request: Request, path: Path, offset: int, length: int) -> int:
    """Appends the body; what arrived before a break stays. Raises TooLarge, StorageFull, Malformed."""
    pieces: list[bytes] = []
    gathered, begun = 0, offset
    with disk_full_is_507():
        file = path.open("ab")
    with file:

        async def flush() -> None:
            nonlocal gathered
            data, gathered = b"".join(pieces), 0
            pieces.clear()
            with disk_full_is_507():
                await asyncio.to_thread(_append, file, data)

        try:
            async for chunk in request.stream():
                if offset + len(chunk) > length:
                    raise TooLarge("More bytes than Upload-Length said.", expected=f"{length} bytes in all")
                pieces.append(chunk)
                offset += len(chunk)
                gathered += len(chunk)
                if gathered >= MB:
                    await flush()
        except ClientDisconnect:
            raise Malformed("The connection broke; the upload can be resumed.") from None
        finally:
            await flush()
    telemetry.UPLOAD_BYTES.inc(offset - begun)
    return offset


async def _finish(ctx: Context, row: Upload, path: Path) -> str:
    """Makes the dataset and forgets the bytes. Raises what `store.create` raises."""
    options, others = options_of(without_parts(row.metadata_).items(), ("name", "filename", "filetype"))

    def work() -> str:
        received = ReceivedFile(path, blobs.sha256_of(path), path.stat().st_size, others.get("filename"))
        made, _ = store.create(
            ctx.engine,
            ctx.blobs,
            received,
            owner=row.owner,
            options=options,
            limits=ctx.settings.limits,
            scratch=ctx.settings.scratch,
            name=others.get("name"),
            as_version=True,
        )
        return made.id

    try:
        dataset_id = await ingesting(work)
    except BadInput:
        await anyio.to_thread.run_sync(lambda: _forget(ctx, row, path))
        raise
    except FitserveError as error:
        if error.status < 500:
            await anyio.to_thread.run_sync(lambda: _forget(ctx, row, path))
        raise
    await anyio.to_thread.run_sync(lambda: _keep_result(ctx, row, path, dataset_id))
    return dataset_id


def _append(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()  # what is on disk is the offset


def _keep_result(ctx: Context, row: Upload, path: Path, dataset_id: str) -> None:
    with db.transaction(ctx.engine) as session:
        stored = session.get(Upload, row.id)
        if stored is not None:
            stored.dataset_id, stored.offset = dataset_id, int(row.length or 0)
    path.unlink(missing_ok=True)


def _forget(ctx: Context, row: Upload, path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    with db.transaction(ctx.engine) as session:
        stored = session.get(Upload, row.id)
        if stored is not None:
            session.delete(stored)


@router.delete(
    "/uploads/{upload_id}",
    status_code=204,
    summary="Give an upload up",
    responses=_GONE,
    openapi_extra={"parameters": [TUS_RESUMABLE]},
)
def terminate(upload_id: str, request: Request, response: Response, caller: Uploader, ctx: Ctx) -> None:
    check_version(request)
    row, path = _row(ctx, caller, upload_id)
    if row.id in _locks:
        raise UploadBusy(retry_after=1)
    _forget(ctx, row, path)
    answer_headers(response)
