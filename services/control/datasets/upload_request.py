"""Receive an upload: parse its options, and write its bytes to local disk while hashing and counting them.

The size limit is enforced here, before any parser runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import anyio
import python_multipart
from anyio.lowlevel import RunVar
from fastapi import Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from fitserve import telemetry
from fitserve.blobs import disk_full_is_507
from fitserve.datasets.store import ReceivedFile, scratch_folder
from fitserve.errors import BadInput, FitserveError, Malformed, Problem, TooLarge, UnsupportedMedia
from fitserve.parsing import ColumnFormat
from fitserve.settings import MB
from fitserve.validation import problems_from
from fitserve.wire.datasets import UploadOptions
from services.control.deps import Context
from services.http.memory import release_memory

PIECE_BYTES = MB  # bytes hashed and written at a time, on a thread
FIELD_BYTES = 256 * 1024  # all text fields of a form together
PREAMBLE_BYTES = 64 * 1024  # bytes before a form's first part
MAX_PARTS = 100
MAX_INGESTS = 2  # uploads parsed at the same time
T = TypeVar("T")


# --- options -------------------------------------------------------------------------------------------------------


def parse_options(
    pairs: Iterable[tuple[str, str]], also: tuple[str, ...] = (), base: UploadOptions | None = None
) -> tuple[UploadOptions, dict[str, str]]:
    """Parse options from named texts: a query, a form's fields or tus metadata.

    `kinds` is a JSON object, or `kinds.age=numeric` for each column; `formats` is one too, or `formats.price.decimal=,`
    for each column and member; `missing` is a JSON array, or repeated. Returns
    the options, added to those of `base`, and the texts under the names in `also`. Raises BadInput.
    """
    values: dict[str, Any] = base.model_dump(exclude_unset=True) if base else {}
    other_fields: dict[str, str] = {}
    missing: list[str] = list(values.get("missing") or ())
    for name, text in pairs:
        if name in also:
            other_fields[name] = text
        elif name.startswith("kinds.") and len(name) > 6:
            values.setdefault("kinds", {})[name[6:]] = text
        elif name == "kinds":
            values.setdefault("kinds", {}).update(_json_object(text))
        elif name == "formats":
            values.setdefault("formats", {}).update(_json_object(text))
        elif name.startswith("formats.") and len(name) > 8:
            _add_format(values.setdefault("formats", {}), name[8:], text)
        elif name == "missing":
            missing += _text_list(text)
            values["missing"] = missing
        elif name in UploadOptions.model_fields:
            values[name] = text
        else:
            known = ", ".join((*also, *UploadOptions.model_fields))
            problem = Problem(f"There is no option {name[:80]!r}.", received=name[:80], expected=f"one of {known}")
            raise BadInput(problem.detail, problems=[problem])
    try:
        return UploadOptions.model_validate(values), other_fields
    except ValidationError as error:
        problems = problems_from(error.errors()[:20], UploadOptions)
        raise BadInput(problems[0].detail, problems=problems) from None


def _add_format(formats: dict[str, Any], name: str, text: str) -> None:
    """Add `price.decimal=,` or `price={"decimal": ","}`; a list or an object is written as JSON."""
    column, _, member = name.rpartition(".")
    if not column or member not in ColumnFormat.model_fields:
        formats[name] = {**formats.get(name, {}), **_json_object(text)}
        return
    value = _json(text) if text[:1] in ("[", "{") else text
    formats[column] = {**formats.get(column, {}), member: value}


def _json_object(text: str) -> dict[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise BadInput("This option is a JSON object.", received=text[:80], expected='{"age": "numeric"}')
    return value


def _text_list(text: str) -> list[str]:
    if not text.startswith("["):
        return [text]
    value = _json(text)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadInput("`missing` is a list of texts.", received=text[:80], expected='["-999", "none"]')
    return value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("An option's JSON cannot be read.", received=text[:80]) from None


# --- bytes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UploadRequest:
    """A received upload. `other_fields` are not options, such as `name`; `seconds` is the transfer time."""

    file: ReceivedFile
    options: UploadOptions
    other_fields: dict[str, str]
    seconds: float


@asynccontextmanager
async def receive_upload(
    request: Request, ctx: Context, *, filename: str | None = None, also: tuple[str, ...] = ()
) -> AsyncIterator[UploadRequest]:
    """Receive a body, raw or the file of a multipart form; its bytes are deleted when the block ends.

    Options come from the query and from a form's fields, with texts named in `also` among them; the charset of the
    content type is the encoding where no option names one.

    Raises BadInput, TooLarge, Malformed, StorageFull, UnsupportedMedia.
    """
    options, other_fields = parse_options(request.query_params.multi_items(), also)
    limit = ctx.settings.limits.upload_bytes
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit + MB:
        raise TooLarge("The upload is larger than the limit.", received=int(length), expected=f"at most {limit} bytes")
    if request.headers.get("content-encoding", "identity").lower() not in ("identity", "gzip", "zstd"):
        raise UnsupportedMedia("This content encoding is not supported.", expected="gzip, zstd or none")
    content_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    with scratch_folder(ctx.settings.scratch) as folder:
        path = folder / "body"
        begun = time.perf_counter()
        digest = hashlib.sha256()
        with disk_full_is_507(), path.open("xb") as file:
            writer = BodyWriter(file, limit, digest)
            try:
                if content_type == b"multipart/form-data":
                    form = _FormReader(parameters.get(b"boundary", b""), writer)
                    await form.receive(request)
                    filename = form.filename or filename
                    parameters = form.file_parameters
                    options, fields = parse_options(form.fields, also, options)
                    other_fields |= fields
                else:
                    await writer.receive(request)
            except ClientDisconnect:
                raise Malformed("The upload was cut off.", fix="Send it again, or use a resumable upload.") from None
            finally:
                await writer.finish()
        telemetry.UPLOAD_BYTES.inc(writer.bytes)
        if options.encoding is None and (charset := parameters.get(b"charset", b"").decode("latin-1")):
            options, _ = parse_options([("encoding", charset)], base=options)
        received = ReceivedFile(path, digest.hexdigest(), writer.bytes, filename)
        yield UploadRequest(received, options, other_fields, time.perf_counter() - begun)


class BodyWriter:
    """Writes (and hashes) a body's bytes on a thread, while the next ones arrive."""

    def __init__(self, file: IO[bytes], limit: int, digest: hashlib._Hash | None = None) -> None:
        self.file, self.limit, self.digest = file, limit, digest
        self.bytes = 0
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._writing: asyncio.Future[None] | None = None

    async def receive(self, request: Request) -> None:
        """Write a whole body; call `finish` afterwards. Raises TooLarge, StorageFull, ClientDisconnect."""
        async for chunk in request.stream():
            self.add(chunk)
            await self.write_if_full()

    def add(self, data: bytes) -> None:
        """Count and gather bytes. Raises TooLarge."""
        if self.bytes + len(data) > self.limit:
            raise TooLarge("The upload is larger than the limit.", expected=f"at most {self.limit} bytes")
        self.bytes += len(data)
        self._pieces.append(data)
        self._gathered += len(data)

    async def write_if_full(self, least: int = PIECE_BYTES) -> None:
        """Pass gathered bytes to the thread once it has written the previous ones. Raises StorageFull."""
        if self._gathered < least or not self._pieces:
            return
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        await self._wait()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, pieces))

    def _write(self, pieces: list[bytes]) -> None:
        with disk_full_is_507():
            for piece in pieces:
                if self.digest is not None:
                    self.digest.update(piece)
                self.file.write(piece)
            self.file.flush()

    async def _wait(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    async def finish(self) -> None:
        """Write the rest; no thread uses the file afterwards. Raises StorageFull."""
        await self.write_if_full(0)
        await self._wait()


class _FormReader:
    """Reads multipart/form-data as a stream: one file, and small text fields."""

    def __init__(self, boundary: bytes, writer: BodyWriter) -> None:
        if not boundary or len(boundary) > 256:
            raise Malformed("The form has no boundary.", expected="multipart/form-data; boundary=...")
        self.writer = writer
        self.filename: str | None = None
        self.file_parameters: dict[bytes, bytes] = {}  # parameters of the file's content type
        self.fields: list[tuple[str, str]] = []
        self._has_file = self._in_file = self._ended = False
        self._parts = self._field_bytes = 0
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = "", bytearray()
        events = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
        callbacks: Any = {
            f"on_{event}": getattr(self, f"_on_{event}") for event in (*events, "headers_finished", "end")
        }
        self._parser = python_multipart.MultipartParser(boundary, callbacks)

    async def receive(self, request: Request) -> None:
        """Read the whole form. Raises Malformed, TooLarge."""
        arrived = 0
        limit = self.writer.limit + FIELD_BYTES + PREAMBLE_BYTES
        try:
            async for chunk in request.stream():
                arrived += len(chunk)
                if arrived > limit:
                    expected = f"at most {self.writer.limit} bytes"
                    raise TooLarge("The upload is larger than the limit.", expected=expected)
                for index in range(0, len(chunk), PIECE_BYTES):
                    self._parser.write(chunk[index : index + PIECE_BYTES])
                    await self.writer.write_if_full()
                if not self._parts and arrived > PREAMBLE_BYTES:
                    raise Malformed("The form does not begin with its boundary.")
        except FormParserError as error:
            raise Malformed(f"The form cannot be read: {error}") from None
        if not self._ended:
            raise Malformed("The form is cut off: its last boundary is missing.", fix="Send it again.")
        if not self._has_file:
            raise Malformed("The form has no part named `file`.", expected="a part named file, with a filename")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Malformed("The form has too many parts.", expected=f"at most {MAX_PARTS}")
        self._headers, self._header_name, self._header_value, self._value = {}, b"", b"", bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = parameters.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = b"filename" in parameters or self._name == "file"
        if self._in_file:
            if self._has_file:
                raise Malformed("The form has two files.", fix="Upload one file at a time.")
            self._has_file = True
            self.filename = parameters.get(b"filename", b"").decode("utf-8", "replace") or None
            self.file_parameters = parse_options_header(self._headers.get(b"content-type", b""))[1]

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.writer.add(data[start:end])
            return
        self._field_bytes += end - start
        if self._field_bytes > FIELD_BYTES:
            raise TooLarge("The form's fields are too long.", expected=f"at most {FIELD_BYTES} bytes")
        self._value += data[start:end]

    def _on_part_end(self) -> None:
        if not self._in_file:
            self.fields.append((self._name, self._value.decode("utf-8", "replace")))
        self._in_file = False

    def _on_end(self) -> None:
        self._ended = True


async def run_ingest(work: Callable[[], T]) -> T:
    """Run `work` on a thread, at most MAX_INGESTS at a time, and count how it ended."""
    try:
        limiter = _ingest_limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_INGESTS)
        _ingest_limiter.set(limiter)
    try:
        result = await anyio.to_thread.run_sync(work, limiter=limiter)
    except FitserveError as error:
        telemetry.UPLOADS.labels("refused" if error.status < 500 else "failed").inc()
        raise
    finally:
        await anyio.to_thread.run_sync(release_memory)
    telemetry.UPLOADS.labels("stored").inc()
    return result


_ingest_limiter: RunVar[anyio.CapacityLimiter] = RunVar("ingest_limiter")  # one limiter per event loop


# --- in the OpenAPI document ---------------------------------------------------------------------------------------

NO_BODY_LIMIT = 1 << 62  # bytes: an upload's limit is a setting, enforced by `receive_upload`
_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": field.description or "",
        "schema": {"type": "string"} if name != "missing" else {"type": "array", "items": {"type": "string"}},
    }
    for name, field in UploadOptions.model_fields.items()
]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "name": {"type": "string"},
            **{parameter["name"]: parameter["schema"] for parameter in _PARAMETERS},
        },
    }
}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": _PARAMETERS, "requestBody": {"required": True, "content": content}}


RAW_BODY = _body(dict.fromkeys(("application/octet-stream", "text/csv", "application/x-ndjson"), _BINARY))
_IMPORT = {"schema": {"$ref": "#/components/schemas/ImportRequest"}}
FORM_BODY = _body(
    {
        "multipart/form-data": _FORM,
        "application/octet-stream": _BINARY,
        "text/csv": _BINARY,
        "application/json": _IMPORT,
    }
)
