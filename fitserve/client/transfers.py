"""Large files on the wire: verified downloads, and uploads in pieces that resume (tus 1.0.0)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from fitserve.client.connection import Connection, RequestOptions, chunks, pause
from fitserve.client.errors import Unreachable
from fitserve.client.upload_body import Progress, UploadBody
from fitserve.errors import BadInput, FitserveError, Unavailable

_UPLOADS = "/api/v1/uploads"
_PIECE = 8 * 1024 * 1024  # bytes per request, which is the most that a lost connection can cost
_TUS = {"Tus-Resumable": "1.0.0"}
_AT_ANOTHER_OFFSET = (409, 423)  # the server has another offset, or is still writing a broken request's data


def download(
    connection: Connection,
    path: str,
    target: str | PathLike[str],
    name: str,
    progress: Progress | None = None,
    **options: Unpack[RequestOptions],
) -> Path:
    """Write an answer's bytes to a file, or under a name in a folder. Starts again after a lost connection.

    The file appears only once it is complete. Returns its path. Raises Unavailable if the bytes do not match the ETag,
    which for immutable files is their SHA-256.
    """
    target = Path(target)
    if target.is_dir():
        target /= name
    connection.with_retries(lambda: _download_once(connection, path, target, progress, options))
    return target


def _download_once(
    connection: Connection, path: str, target: Path, progress: Progress | None, options: RequestOptions
) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    digest, received = hashlib.sha256(), 0
    # Without compression, so that length and hash are the file's.
    options = {**options, "headers": {**options.get("headers", {}), "Accept-Encoding": "identity"}}
    try:
        with connection.stream("GET", path, **options) as response, temporary.open("wb") as file:
            length = response.headers.get("content-length", "")
            size = int(length) if length.isdecimal() else None
            for chunk in chunks(response):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(received, size)
        if size is not None and received != size:
            raise Unreachable("The download ended early.")
        expected = response.headers.get("etag", "").strip('"')
        if len(expected) == 64 and expected != digest.hexdigest():
            raise Unavailable("The downloaded bytes are not those of the artifact.", expected=expected)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def upload_in_pieces(connection: Connection, upload: UploadBody, metadata: Mapping[str, str], timeout: float) -> Any:
    """Send a file piece by piece and return the dataset that it became.

    A lost connection costs one piece: the client asks the server how much has arrived, retrying as often as the retry
    policy allows. Raises BadInput for data that cannot be read again or has no known length, and the errors of an
    upload.
    """
    if upload.size is None or not upload.repeatable:
        raise BadInput("A resumable upload needs a file of known length.", expected="a path, bytes or a frame")
    location = _create_upload(connection, upload.size, metadata)
    offset = retry = 0
    while True:
        headers = {**_TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        piece = upload.piece(offset, _PIECE)
        try:
            answer = connection.send_once("PATCH", location, headers=headers, content=piece, timeout=timeout)
            retry = 0
        except FitserveError as error:
            policy = connection.policy
            again = error.status in _AT_ANOTHER_OFFSET or policy.covers(error, repeatable=True)
            if retry >= policy.retries or not again:
                raise
            pause(policy.pause_before(retry, error.retry_after))
            retry += 1
            answer = connection.send("HEAD", location, headers=_TUS)
        offset = int(answer.headers["upload-offset"])
        upload.report(offset)
        if dataset := answer.headers.get("content-location"):
            return connection.get(dataset)


def _create_upload(connection: Connection, size: int, metadata: Mapping[str, str]) -> str:
    """Create an upload and return its path, without the host: ours may differ from the server's."""
    encoded = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in metadata.items())
    headers = {**_TUS, "Upload-Length": str(size), "Upload-Metadata": encoded}
    answer = connection.send("POST", _UPLOADS, headers=headers)
    return re.sub(r"^https?://[^/]+", "", answer.headers["location"])
