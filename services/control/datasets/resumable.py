"""Resumable uploads: tus 1.0.0 with creation, termination and expiration (https://tus.io/protocols/resumable-upload).

The bytes received so far are a file in this machine's scratch folder, and its length is the offset: whatever crashes,
a client resumes from what is on disk. With several machines, each PATCH shares the bytes it received as a blob when it
ends (`_share_bytes`). The PATCH with the last bytes parses the table and answers with its address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import shutil
import time
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
from fastapi import Request, Response
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from fitserve import db, telemetry
from fitserve.blobs import disk_full_is_507, sha256_of
from fitserve.data_model import DataModel
from fitserve.datasets import store
from fitserve.errors import Conflict, FitserveError, Malformed, NotFound, TooLarge, TooMany, UnsupportedMedia
from fitserve.ids import new_id
from fitserve.runs import quotas
from fitserve.settings import MB, Limits
from fitserve.tables import Upload
from services.control.datasets.upload_request import NO_BODY_LIMIT, BodyWriter, parse_options, run_ingest
from services.control.deps import Context, Ctx, Uploader
from services.http import Caller, Router

router = Router(tags=["uploads"])
TUS_VERSION = "1.0.0"
LIFETIME = timedelta(hours=24)
EXPIRY_SECONDS = 600.0  # between two rounds that delete what has expired
BYTES_TYPE = "application/offset+octet-stream"
_METADATA_NAMES = ("name", "filename", "filetype")  # metadata that is not an upload option
_PARTS = ""  # key in `Upload.metadata_` of the shared parts' blobs; no client can set it: tus has no empty names
_locks: dict[str, asyncio.Lock] = {}  # by upload; guards against concurrent requests within this process


class WrongTusVersion(FitserveError):
    """This server speaks tus 1.0.0."""

    status = 412
    slug = "tus-version"
    title = "Precondition failed"


class UploadBusy(FitserveError):
    """Another request is writing to this upload."""

    status = 423
    slug = "upload-busy"
    title = "Locked"


class UploadGone(FitserveError):
    """This upload has expired."""

    status = 410
    slug = "upload-gone"
    title = "Gone"


class UploadInfo(DataModel):
    """The state of a resumable upload; `dataset_id` once it is finished."""

    id: str
    offset: int
    length: int
    expires_at: datetime
    dataset_id: str | None


# --- tus's headers, and how the OpenAPI document describes them ----------------------------------------------------


def _header(name: str, schema: dict[str, Any], description: str, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema, "description": description}


_BYTES = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_PAIR = r"[a-z]+( [A-Za-z0-9+/]+=*)?"
TUS_RESUMABLE = _header("Tus-Resumable", {"type": "string", "enum": [TUS_VERSION]}, "The version of tus")
UPLOAD_LENGTH = _header("Upload-Length", _BYTES, "Bytes of the whole file", required=True)
UPLOAD_OFFSET = _header("Upload-Offset", _BYTES, "Where these bytes begin", required=True)
UPLOAD_METADATA = _header(
    "Upload-Metadata",
    {"type": "string", "pattern": f"^({_PAIR}(,{_PAIR})*)?$"},
    "`name base64,filename base64`, and any option of an upload",
)
_REFUSALS: dict[int | str, dict[str, Any]] = {status: {} for status in (404, 410, 412, 423)}


def _set_headers(response: Response, row: Upload | None = None, **others: Any) -> Response:
    """Set the headers of every answer, when `row` expires, and `others`: `Upload_Offset=7` is `Upload-Offset: 7`."""
    if row is not None:
        others["Upload_Expires"] = format_datetime(row.expires_at, usegmt=True)
    for name, value in {"Tus_Resumable": TUS_VERSION, "Cache_Control": "no-store", **others}.items():
        response.headers[name.replace("_", "-")] = str(value)
    return response


def _check_version(request: Request) -> None:
    if request.headers.get("tus-resumable", TUS_VERSION) != TUS_VERSION:
        raise WrongTusVersion(received=request.headers["tus-resumable"][:20], expected=TUS_VERSION)


def _bytes_header(request: Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Malformed(f"The header {name} is missing or not a number.", received=text[:40], expected="bytes, from 0")
    return int(text)


def _metadata_header(request: Request) -> dict[str, str]:
    """Parse Upload-Metadata: `name base64, other base64`. Raises Malformed."""
    metadata: dict[str, str] = {}
    for pair in request.headers.get("upload-metadata", "").split(","):
        name, _, value = pair.strip().partition(" ")
        if not name:
            continue
        try:
            metadata[name] = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise Malformed(f"Upload-Metadata's {name[:40]!r} is not base 64 of UTF-8.") from None
    return metadata


# --- requests ------------------------------------------------------------------------------------------------------


@router.options("/uploads", status_code=204, summary="What of tus is supported")
def capabilities(response: Response, ctx: Ctx) -> None:
    most = _most_bytes(ctx.settings.limits)
    _set_headers(response, Tus_Version=TUS_VERSION, Tus_Extension="creation,termination,expiration", Tus_Max_Size=most)


@router.post(
    "/uploads",
    status_code=201,
    summary="Begin a resumable upload",
    response_class=Response,
    response_model=None,
    responses={status: {} for status in (412, 413, 429, 507)},
    openapi_extra={"parameters": [UPLOAD_LENGTH, UPLOAD_METADATA, TUS_RESUMABLE]},
)
def begin(request: Request, response: Response, caller: Uploader, ctx: Ctx) -> Response:
    """`Upload-Length`, and in `Upload-Metadata` `filename`, `name` and any option of an upload, in base 64."""
    _check_version(request)
    length, most = _bytes_header(request, "Upload-Length"), _most_bytes(ctx.settings.limits)
    if length > most:
        raise TooLarge("The upload is larger than the limit.", received=length, expected=f"{most}")
    metadata = _metadata_header(request)
    # refuse bad options now rather than after the last byte
    _, others = parse_options(metadata.items(), _METADATA_NAMES)
    if "name" in others:
        store.check_name(others["name"])
    folder = _folder(ctx)
    with db.transaction(ctx.engine) as session:
        quotas.lock_owner(session, caller.owner)
        _delete_expired(session, folder)
        _check_room(session, caller.owner, length, ctx.settings.limits)
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
    return _set_headers(Response(status_code=201), row, Location=f"/api/v1/uploads/{row.id}", Upload_Offset=0)


@router.head(
    "/uploads/{upload_id}",
    summary="How much has arrived",
    responses=_REFUSALS,
    openapi_extra={"parameters": [TUS_RESUMABLE]},
)
def head(upload_id: str, request: Request, response: Response, caller: Uploader, ctx: Ctx) -> None:
    _check_version(request)
    row, path = _find(ctx, caller, upload_id)
    _set_headers(response, row, Upload_Offset=_offset(row, path), Upload_Length=int(row.length or 0))
    if row.dataset_id:
        response.headers["Content-Location"] = f"/api/v1/datasets/{row.dataset_id}"


@router.get("/uploads/{upload_id}", summary="The state of an upload", responses={404: {}, 410: {}})
def get(upload_id: str, caller: Uploader, ctx: Ctx) -> UploadInfo:
    row, path = _find(ctx, caller, upload_id)
    return UploadInfo(
        id=row.id,
        offset=_offset(row, path),
        length=int(row.length or 0),
        expires_at=row.expires_at,
        dataset_id=row.dataset_id,
    )


@router.patch(
    "/uploads/{upload_id}",
    status_code=204,
    summary="Send the next bytes",
    max_body_size=NO_BODY_LIMIT,
    response_model=None,
    responses={status: {} for status in (400, 404, 409, 410, 412, 415, 422, 423, 507)},
    openapi_extra={
        "parameters": [UPLOAD_OFFSET, TUS_RESUMABLE],
        "requestBody": {
            "required": True,
            "content": {BYTES_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
async def patch(upload_id: str, request: Request, caller: Uploader, ctx: Ctx) -> Response:
    """The last bytes create the dataset: `Content-Location` is its address, or the response lists what is wrong.

    An upload whose table is refused is deleted; one whose connection breaks can be resumed.
    """
    _check_version(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != BYTES_TYPE:
        raise UnsupportedMedia("A PATCH carries bytes.", expected=f"Content-Type: {BYTES_TYPE}")
    claimed = _bytes_header(request, "Upload-Offset")
    row, path = await anyio.to_thread.run_sync(_find, ctx, caller, upload_id)
    lock = _locks.setdefault(row.id, asyncio.Lock())
    if lock.locked():
        raise UploadBusy(retry_after=1)
    async with lock:
        try:
            return await _receive(request, ctx, row, path, claimed)
        finally:
            _locks.pop(row.id, None)


@router.delete(
    "/uploads/{upload_id}",
    status_code=204,
    summary="Cancel an upload",
    responses=_REFUSALS,
    openapi_extra={"parameters": [TUS_RESUMABLE]},
)
def terminate(upload_id: str, request: Request, response: Response, caller: Uploader, ctx: Ctx) -> None:
    _check_version(request)
    row, path = _find(ctx, caller, upload_id)
    if row.id in _locks:
        raise UploadBusy(retry_after=1)
    _delete(ctx, row, path)
    _set_headers(response)


def _most_bytes(limits: Limits) -> int:
    """Return the most bytes of one upload."""
    return min(limits.upload_bytes, limits.unfinished_upload_bytes)


def _check_room(session: Session, owner: str, length: int, limits: Limits) -> None:
    """Raise TooMany where an owner's unfinished uploads, with one more of `length` bytes, exceed a limit."""
    moment = db.now(session)
    unfinished = session.execute(
        select(Upload.id, Upload.length, Upload.expires_at)
        .where(Upload.owner == owner, Upload.dataset_id.is_(None), Upload.expires_at >= moment)
        .order_by(Upload.expires_at)
    ).all()
    announced = sum(row.length or 0 for row in unfinished)
    if len(unfinished) >= limits.unfinished_uploads:
        received, expected = len(unfinished), f"fewer than {limits.unfinished_uploads} unfinished uploads"
    elif announced + length > limits.unfinished_upload_bytes:
        received, expected = announced + length, f"at most {limits.unfinished_upload_bytes} bytes together"
    else:
        return
    oldest = unfinished[0]
    raise TooMany(
        f"You have {len(unfinished)} unfinished uploads, of {announced} bytes together.",
        received=received,
        expected=expected,
        fix=f"Finish or cancel some: DELETE /api/v1/uploads/{oldest.id} cancels the oldest.",
        retry_after=(oldest.expires_at - moment).total_seconds(),
    )


# --- bytes ---------------------------------------------------------------------------------------------------------


async def _receive(request: Request, ctx: Context, row: Upload, path: Path, claimed: int) -> Response:
    """Append a PATCH's bytes at the offset that it claims; with the last ones, create the dataset."""
    length = int(row.length or 0)
    if row.dataset_id is not None:
        raise Conflict("This upload is finished.", received=claimed, expected=f"offset {length}")
    await anyio.to_thread.run_sync(_restore_bytes, ctx, row, path)
    offset = _offset(row, path)
    if claimed != offset:
        raise Conflict("The offset is not the end of what has arrived.", received=claimed, expected=str(offset))
    try:
        offset = await _append_body(request, path, offset, length)
    finally:
        if ctx.settings.blob_url is not None and _offset(row, path) < length:
            await anyio.to_thread.run_sync(_share_bytes, ctx, row, path)
    response = _set_headers(Response(status_code=204), row, Upload_Offset=offset)
    if offset == length:
        dataset_id = await _create_dataset(ctx, row, path)
        response.headers["Content-Location"] = f"/api/v1/datasets/{dataset_id}"
    return response


async def _append_body(request: Request, path: Path, offset: int, length: int) -> int:
    """Append the body and return the new offset; bytes that arrived before a break stay.

    Raises TooLarge, StorageFull, Malformed.
    """
    with disk_full_is_507(), path.open("ab") as file:
        writer = BodyWriter(file, length - offset)
        try:
            await writer.receive(request)
        except TooLarge:
            expected = f"{length} bytes in all"
            raise TooLarge("More bytes than Upload-Length announced.", expected=expected) from None
        except ClientDisconnect:
            raise Malformed("The connection broke; the upload can be resumed.") from None
        finally:
            await writer.finish()
    telemetry.UPLOAD_BYTES.inc(writer.bytes)
    return offset + writer.bytes


async def _create_dataset(ctx: Context, row: Upload, path: Path) -> str:
    """Create the dataset and delete the bytes. Raises the errors of `store.create`.

    A refused table deletes the upload; after a server error, the last PATCH can be repeated.
    """
    metadata = {name: value for name, value in row.metadata_.items() if name != _PARTS}
    options, others = parse_options(metadata.items(), _METADATA_NAMES)

    def create() -> str:
        received = store.ReceivedFile(path, sha256_of(path), path.stat().st_size, others.get("filename"))
        dataset, _ = store.create(
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
        return dataset.id

    try:
        dataset_id = await run_ingest(create)
    except FitserveError as error:
        if error.status < 500:
            await anyio.to_thread.run_sync(_delete, ctx, row, path)
        raise
    await anyio.to_thread.run_sync(_record_dataset, ctx, row, path, dataset_id)
    return dataset_id


# --- rows and files ------------------------------------------------------------------------------------------------


def _folder(ctx: Context) -> Path:
    """Return the folder of this machine's files, created if needed."""
    folder = ctx.settings.scratch / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _find(ctx: Context, caller: Caller, upload_id: str) -> tuple[Upload, Path]:
    """Return an upload's row and file. Raises NotFound, UploadGone."""
    with db.reading(ctx.engine) as session:
        row = session.get(Upload, upload_id) if upload_id.isprintable() else None
        if row is None or not caller.owns(row):
            raise NotFound(f"No upload {upload_id[:64]!r}.")
        if row.expires_at < db.now(session):
            raise _gone()
    return row, _folder(ctx) / row.id


def _gone() -> UploadGone:
    return UploadGone(fix="Begin again: POST /api/v1/uploads.")


def _offset(row: Upload, path: Path) -> int:
    if row.dataset_id is not None:
        return int(row.length or 0)
    return max(row.offset, path.stat().st_size if path.is_file() else 0)


def _record_dataset(ctx: Context, row: Upload, path: Path, dataset_id: str) -> None:
    with db.transaction(ctx.engine) as session:
        session.execute(
            update(Upload).where(Upload.id == row.id).values(dataset_id=dataset_id, offset=int(row.length or 0))
        )
    path.unlink(missing_ok=True)


def _delete(ctx: Context, row: Upload, path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    with db.transaction(ctx.engine) as session:
        session.execute(delete(Upload).where(Upload.id == row.id))


async def delete_expired_regularly(ctx: Context) -> None:
    """Delete this machine's expired uploads every EXPIRY_SECONDS, until cancelled."""

    def delete() -> None:
        with db.transaction(ctx.engine) as session:
            _delete_expired(session, _folder(ctx))

    while True:
        with contextlib.suppress(FitserveError, OSError):  # tried again in the next round
            await anyio.to_thread.run_sync(delete)
        await asyncio.sleep(EXPIRY_SECONDS)


def _delete_expired(session: Session, folder: Path) -> None:
    for row in session.scalars(select(Upload).where(Upload.expires_at < db.now(session)).limit(100)):
        (folder / row.id).unlink(missing_ok=True)
        session.delete(row)
    oldest = time.time() - LIFETIME.total_seconds()
    for path in folder.iterdir():  # files of uploads that other machines have finished or deleted
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _restore_bytes(ctx: Context, row: Upload, path: Path) -> None:
    """Bring `path` up to the bytes shared by other machines. Raises UploadGone if a part is missing."""
    if path.is_file() and path.stat().st_size >= row.offset:
        return
    try:
        with disk_full_is_507(), path.open("wb") as whole:
            for sha256 in row.metadata_.get(_PARTS, []):
                with ctx.blobs.local(sha256, ctx.settings.scratch / "blobs").open("rb") as part:
                    shutil.copyfileobj(part, whole, MB)
    except NotFound as error:
        raise _gone() from error
    if path.stat().st_size != row.offset:
        raise _gone()


def _share_bytes(ctx: Context, row: Upload, path: Path) -> None:
    """Store the bytes received since the last part as a blob, because another machine may get the next PATCH.

    The row's offset moves by compare-and-set. A blob that no dataset names is collected after a day, which is as long
    as an upload lives. Raises Conflict where another machine was faster.
    """
    end = path.stat().st_size
    if end <= row.offset:
        return
    part = path.with_suffix(".part")
    try:
        with disk_full_is_507(), path.open("rb") as whole, part.open("wb") as file:
            whole.seek(row.offset)
            shutil.copyfileobj(whole, file, MB)
        stored = ctx.blobs.put_file(part)
    finally:
        part.unlink(missing_ok=True)
    parts = [*row.metadata_.get(_PARTS, []), stored.sha256]
    with db.transaction(ctx.engine) as session:
        changed = session.execute(
            update(Upload)
            .where(Upload.id == row.id, Upload.offset == row.offset, Upload.dataset_id.is_(None))
            .values(offset=end, metadata_={**row.metadata_, _PARTS: parts})
            .execution_options(synchronize_session=False)
        )
        if changed.rowcount != 1:  # type: ignore[attr-defined]
            path.unlink(missing_ok=True)
            raise Conflict("Another request has continued this upload.", fix="Ask for its offset: HEAD.")
