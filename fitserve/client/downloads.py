"""A file from the server, whole and verified or not at all."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from fitserve.client.connection import Connection
from fitserve.client.effects import Answer, Call, Open, Operation, Read, Sleep
from fitserve.client.errors import Unreachable, error_of
from fitserve.client.retry import worth_repeating
from fitserve.client.upload_body import Progress
from fitserve.errors import FitserveError, Unavailable


def save(connection: Connection, call: Call, path: Path, progress: Progress | None = None) -> Operation[None]:
    """Writes an answer's bytes to a file, beginning again after a lost connection.

    The ETag of an immutable file is its SHA-256: bytes that differ raise Unavailable, and no file appears.
    """
    attempt = 0
    while True:
        try:
            yield from _save(call, path, progress)
            return
        except FitserveError as error:
            if attempt >= connection.patience.retries or not worth_repeating(error, call, connection.patience):
                raise
            pause = connection.patience.pause(attempt, error.retry_after)
        yield Sleep(pause)
        attempt += 1


def _save(call: Call, path: Path, progress: Progress | None) -> Operation[None]:
    answer: Answer = yield Open(call)
    if answer.status >= 400:
        raise error_of(answer)
    length = answer.headers.get("content-length", "")
    size = int(length) if length.isdecimal() else None
    digest, received = hashlib.sha256(), 0
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            while chunk := (yield Read()):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(received, size)
        if size is not None and received != size:
            raise Unreachable("The download ended early.")
        wanted = answer.headers.get("etag", "").strip('"')
        if len(wanted) == 64 and wanted != digest.hexdigest():
            raise Unavailable("The bytes that came are not those of the artifact.", expected=wanted)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
