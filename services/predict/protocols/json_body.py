"""JSON as the prediction protocols read and write it: bare NaN and Infinity are allowed both ways."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import msgspec

from fitserve.errors import Malformed

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_MOST_DEPTH = 64


def read(body: bytes) -> Any:
    """The value of a JSON text. Raises Malformed."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if b"NaN" in body or b"Infinity" in body:
            return _read_lenient(body)
        raise Malformed(f"The body is not JSON: {_said(error)}") from None


def _read_lenient(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The body is not JSON: {_said(error)}") from None


def _said(error: BaseException) -> str:
    return "it nests too deep." if isinstance(error, RecursionError) else f"{error}."


def write(value: Any, finite: bool = True) -> bytes:
    """A JSON text; with `finite` false, NaN and Infinity as bare tokens."""
    return _encoder.encode(value) if finite else json.dumps(value, separators=(",", ":")).encode()


def cell(value: Any) -> Any:
    """One value of a row: `{"b64": ...}` becomes text, a list of one becomes its element. Raises Malformed."""
    if type(value) is dict and len(value) == 1 and "b64" in value:
        try:
            return base64.b64decode(value["b64"], validate=True).decode()
        except (TypeError, ValueError, binascii.Error):
            raise Malformed("A b64 value is not base64 of UTF-8 text.", received=str(value["b64"])[:80]) from None
    if type(value) is list and len(value) == 1:
        return cell(value[0])
    return value
