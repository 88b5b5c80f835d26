"""tus 1.0.0 on the wire: its headers, what they may hold, and its refusals.

https://tus.io/protocols/resumable-upload
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from fastapi import Request, Response

from fitserve.errors import FitserveError, Malformed

VERSION = "1.0.0"


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


def answer_headers(response: Response, **others: Any) -> None:
    """What every answer carries, and `others`: `Upload_Offset=7` is `Upload-Offset: 7`."""
    response.headers["Tus-Resumable"] = VERSION
    response.headers["Cache-Control"] = "no-store"
    for name, value in others.items():
        response.headers[name.replace("_", "-")] = str(value)


def check_version(request: Request) -> None:
    """Raises WrongTusVersion where the client names another version."""
    if request.headers.get("tus-resumable", VERSION) != VERSION:
        raise WrongTusVersion(received=request.headers["tus-resumable"][:20], expected=VERSION)


def number_of(request: Request, name: str) -> int:
    """A header that counts bytes. Raises Malformed."""
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Malformed(f"The header {name} is missing or no number.", received=text[:40], expected="bytes, from 0")
    return int(text)


def metadata_of(header: str) -> dict[str, str]:
    """`name base64, other base64`. Raises Malformed."""
    found: dict[str, str] = {}
    for pair in header.split(","):
        name, _, value = pair.strip().partition(" ")
        if not name:
            continue
        try:
            found[name] = base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            raise Malformed(f"Upload-Metadata's {name[:40]!r} is not base 64 of UTF-8.") from None
    return found


# What the OpenAPI document says of the headers.


def _header(name: str, schema: dict[str, Any], what: str, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": schema, "description": what}


_BYTES = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_PAIR = r"[a-z]+( [A-Za-z0-9+/]+=*)?"
TUS_RESUMABLE = _header("Tus-Resumable", {"type": "string", "enum": [VERSION]}, "The version of tus that is spoken")
UPLOAD_LENGTH = _header("Upload-Length", _BYTES, "Bytes of the whole file", required=True)
UPLOAD_OFFSET = _header("Upload-Offset", _BYTES, "Where these bytes begin", required=True)
UPLOAD_METADATA = _header(
    "Upload-Metadata",
    {"type": "string", "pattern": f"^({_PAIR}(,{_PAIR})*)?$"},
    "`name base64,filename base64`, and any option of an upload",
)
