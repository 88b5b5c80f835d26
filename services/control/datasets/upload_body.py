"""An upload's bytes to local disk as they arrive: hashed, counted, the limit enforced ahead of any parser."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import python_multipart
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from fitserve import telemetry
from fitserve.blobs import disk_full_is_507
from fitserve.datasets.store import ReceivedFile, scratch_folder
from fitserve.errors import Malformed, TooLarge, UnsupportedMedia
from fitserve.settings import MB
from services.control.deps import Context

PIECE = MB  # bytes gathered before they are hashed and written, on a thread
FIELD_BYTES = 256 * 1024  # of all text fields of a form together
PREAMBLE = 64 * 1024  # bytes before the first part
PARTS = 100


@dataclass
class Upload:
    """A body that was received whole. `fields` are the form's other fields."""

    received: ReceivedFile
    seconds: float
    fields: list[tuple[str, str]] = field(default_factory=list)


class _Spool:
    """Hashes and writes pieces on a thread, one ahead of the network."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file, self.limit = file, limit
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.pieces: list[bytes] = []
        self.gathered = 0
        self.busy: asyncio.Future[None] | None = None

    def take(self, data: bytes) -> None:
        """Counts a piece. Raises TooLarge."""
        self.bytes += len(data)
        if self.bytes > self.limit:
            raise TooLarge("The upload is larger than the limit.", expected=f"at most {self.limit} bytes")
        self.pieces.append(data)
        self.gathered += len(data)

    async def flow(self, least: int = PIECE) -> None:
        """Hands what was gathered to the thread; waits while that is busy with the piece before."""
        if self.gathered < least or not self.pieces:
            return
        pieces, self.pieces, self.gathered = self.pieces, [], 0
        await self.settle()
        self.busy = asyncio.ensure_future(asyncio.to_thread(self._store, pieces))

    async def settle(self) -> None:
        """Waits for the thread. Raises StorageFull."""
        busy, self.busy = self.busy, None
        if busy is not None:
            await asyncio.shield(busy)

    def _store(self, pieces: list[bytes]) -> None:
        with disk_full_is_507():
            for piece in pieces:
                self.digest.update(piece)
                self.file.write(piece)

    async def finish(self) -> None:
        """The last piece."""
        await self.flow(0)
        await self.settle()
        with disk_full_is_507():
            await asyncio.to_thread(self.file.flush)
        telemetry.UPLOAD_BYTES.inc(self.bytes)


@asynccontextmanager
async def received(request: Request, ctx: Context, filename: str | None = None) -> AsyncIterator[Upload]:
    """The request's body on disk: raw, or the file of a multipart form. The file is gone when the block ends.

    Raises TooLarge, Malformed, StorageFull, UnsupportedMedia.
    """
    limit = ctx.settings.limits.upload_bytes
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit + MB:
        raise TooLarge("The upload is larger than the limit.", received=int(length), expected=f"at most {limit} bytes")
    if request.headers.get("content-encoding", "identity").lower() not in ("identity", "gzip", "zstd"):
        raise UnsupportedMedia("This content encoding is not understood.", expected="gzip, zstd or none")
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    with scratch_folder(ctx.settings.scratch) as folder:
        path = folder / "body"
        begun = time.perf_counter()
        with disk_full_is_507(), path.open("xb") as file:
            spool = _Spool(file, limit)
            try:
                if kind == b"multipart/form-data":
                    form = _Form(options.get(b"boundary", b""), spool)
                    await form.receive(request)
                    filename, fields = form.filename or filename, form.fields
                else:
                    fields = []
                    async for chunk in request.stream():
                        spool.take(chunk)
                        await spool.flow()
            except ClientDisconnect:
                raise Malformed("The upload was cut off.", fix="Send it again, or use a resumable upload.") from None
            finally:
                if spool.busy is not None:
                    await asyncio.wait([spool.busy])
            await spool.finish()
        whole = ReceivedFile(path, spool.digest.hexdigest(), spool.bytes, filename)
        yield Upload(whole, time.perf_counter() - begun, fields)


class _Form:
    """multipart/form-data, read as a stream: one part named `file`, and small text fields."""

    def __init__(self, boundary: bytes, spool: _Spool) -> None:
        if not boundary or len(boundary) > 256:
            raise Malformed("The form has no boundary.", expected="multipart/form-data; boundary=...")
        self.spool = spool
        self.filename: str | None = None
        self.fields: list[tuple[str, str]] = []
        self.has_file = self.in_file = self.done = False
        self.parts = self.field_bytes = 0
        self.header_name = self.header_value = b""
        self.headers: dict[bytes, bytes] = {}
        self.name, self.value = "", bytearray()
        callbacks: Any = {
            "on_part_begin": self._part_begin,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._end,
        }
        self.parser = python_multipart.MultipartParser(boundary, callbacks)

    async def receive(self, request: Request) -> None:
        """Reads the whole form. Raises Malformed, TooLarge."""
        arrived = 0
        limit = self.spool.limit + FIELD_BYTES + PREAMBLE
        try:
            async for chunk in request.stream():
                arrived += len(chunk)
                if arrived > limit:
                    raise TooLarge("The upload is larger than the limit.", expected=f"at most {self.spool.limit} bytes")
                for at in range(0, len(chunk), PIECE):
                    self.parser.write(chunk[at : at + PIECE])
                    await self.spool.flow()
                if not self.parts and arrived > PREAMBLE:
                    raise Malformed("The form does not begin with its boundary.")
        except FormParserError as error:
            raise Malformed(f"The form cannot be read: {error}") from None
        if not self.done:
            raise Malformed("The form is cut off: its last boundary is missing.", fix="Send it again.")
        if not self.has_file:
            raise Malformed("The form has no part named `file`.", expected="a part named file, with a filename")

    def _part_begin(self) -> None:
        self.parts += 1
        if self.parts > PARTS:
            raise Malformed("The form has too many parts.", expected=f"at most {PARTS}")
        self.headers, self.header_name, self.header_value, self.value = {}, b"", b"", bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.header_value += data[start:end]

    def _header_end(self) -> None:
        self.headers[self.header_name.lower()] = self.header_value
        self.header_name = self.header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        self.name = options.get(b"name", b"").decode("utf-8", "replace")
        self.in_file = b"filename" in options or self.name == "file"
        if self.in_file:
            if self.has_file:
                raise Malformed("The form has two files.", fix="Upload one file at a time.")
            self.has_file = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace") or None

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self.in_file:
            self.spool.take(data[start:end])
            return
        self.field_bytes += end - start
        if self.field_bytes > FIELD_BYTES:
            raise TooLarge("The form's fields are too long.", expected=f"at most {FIELD_BYTES} bytes")
        self.value += data[start:end]

    def _part_end(self) -> None:
        if not self.in_file:
            self.fields.append((self.name, self.value.decode("utf-8", "replace")))
        self.in_file = False

    def _end(self) -> None:
        self.done = True


def folder_of_uploads(ctx: Context) -> Path:
    """Where resumable uploads gather, made if need be."""
    folder = ctx.settings.scratch / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
