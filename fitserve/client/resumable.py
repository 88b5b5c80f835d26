"""Uploads in pieces that go on after a lost connection where they stopped (tus 1.0.0)."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from fitserve.client.connection import Connection, ask, ask_json
from fitserve.client.effects import Answer, Call, Operation, Send, Sleep
from fitserve.client.errors import error_of
from fitserve.client.retry import worth_repeating
from fitserve.client.upload_body import Upload
from fitserve.errors import BadInput, FitserveError

_PATH = "/api/v1/uploads"
_PIECE = 8 * 1024 * 1024  # bytes of one request: what a lost connection costs at most
_TUS = {"Tus-Resumable": "1.0.0"}
_ELSEWHERE = (409, 423)  # the server stands at another offset, or still writes what a broken request brought


def send(connection: Connection, upload: Upload, metadata: Mapping[str, str], timeout: float) -> Operation[Any]:
    """Sends a file piece by piece and returns the dataset that it became.

    A lost connection costs one piece: the server is asked how much has arrived, as often as `patience` allows in a
    row. Raises BadInput for what cannot be read again or has no known length, and what an upload raises.
    """
    if upload.size is None or not upload.repeatable:
        raise BadInput("A resumable upload needs a file whose length is known.", expected="a path, bytes or a frame")
    location = yield from _begin(connection, upload.size, metadata)
    offset, attempt = 0, 0
    while True:
        piece = upload.piece(offset, _PIECE)
        headers = {**_TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        call = Call("PATCH", location, headers=headers, content=piece, timeout=timeout)
        try:
            answer: Answer = yield Send(call)
            if answer.status >= 400:
                raise error_of(answer)
        except FitserveError as error:
            patience = connection.patience
            again = error.status in _ELSEWHERE or worth_repeating(error, call, patience)
            if attempt >= patience.retries or not again:
                raise
            yield Sleep(patience.pause(attempt, error.retry_after))
            attempt += 1
            answer = yield from ask(connection, Call("HEAD", location, headers=_TUS))
        else:
            attempt = 0
        offset = int(answer.headers["upload-offset"])
        upload.told(offset)
        made = answer.headers.get("content-location")
        if made:
            return (yield from ask_json(connection, "GET", made))


def _begin(connection: Connection, size: int, metadata: Mapping[str, str]) -> Operation[str]:
    """The new upload's path, on the address that the client was given."""
    said = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in metadata.items())
    headers = {**_TUS, "Upload-Length": str(size), "Upload-Metadata": said}
    answer = yield from ask(connection, Call("POST", _PATH, headers=headers))
    return re.sub(r"^https?://[^/]+", "", answer.headers["location"])
