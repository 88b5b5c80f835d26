"""Cache of request heads: checked once, then recognised by their bytes.

A head is a request's bytes up to and including the blank line. llhttp parses it when the first request with this head
takes uvicorn's ordinary path; its result is checked here against what the fast lane supports. Equal bytes parse
equally, so a known head need not be parsed again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from fitserve.errors import FitserveError
from services.http.auth import is_local_host
from services.http.compression import accepted
from services.predict.catalog.access import require_predict
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.catalog.row_bodies import ScalarRows
from services.predict.protocols import find_protocol
from services.predict.protocols.formats import MATRIX_NAMES
from services.predict.protocols.transport import COMPRESSED_BYTES, Route
from services.predict.serving.prediction_service import PredictionService

MAX_HEADS = 2048  # most heads in each of two generations
MAX_HEAD_BYTES = 2048
MAX_BODY_BYTES = 32_768
NUMBER_BYTES = 25  # most bytes of a number in an answer
MAX_ROWS = 64  # most rows of a request; one with more gains nothing from sharing an inference call

_STRICT_HEAD = re.compile(
    rb"POST (/v\d++/[A-Za-z0-9._/:-]++) HTTP/1\.1\r\n(?>(?:[A-Za-z0-9-]++: ?[\x21-\x7e][\x20-\x7e]*+\r\n)+)\r\n"
)
_HARMLESS_HEADERS = frozenset(
    {b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection", b"content-type"}
    | {b"content-length", b"authorization", b"cache-control", b"pragma"}
    | {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-real-ip"}  # a proxy's
)
_JSON_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    shape: tuple[int, int]
    datatype: str
    data: list[float]


class _InferBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    inputs: tuple[_Tensor]
    id: str | None = None


NUMBERS, MIXED, FP32, FP64 = "numbers", "mixed", "fp32", "fp64"  # the form of a request's rows


@dataclass(slots=True, eq=False)
class CachedHead:
    """A known head, and where its requests go. `request_bytes` is the length of head and body."""

    request_bytes: int
    model: LoadedModel
    protocol: str
    row_form: str
    decode: Any
    width: int
    most_rows: int  # most rows of a request; answers to more might be compressed


class RequestCache:
    """Two generations: a used head moves to the recent one; when that is full, the old one is dropped."""

    def __init__(self, service: PredictionService) -> None:
        self.service = service
        self.recent: dict[bytes, CachedHead] = {}
        self.old: dict[bytes, CachedHead] = {}

    def clear(self) -> None:
        """Drop every head, because a key, a label or a model has changed."""
        self.recent.clear()
        self.old.clear()

    def promote(self, head: bytes) -> CachedHead | None:
        """Move a head from the old generation to the recent one, and return it."""
        cached = self.old.pop(head, None)
        if cached is not None:
            self._add(head, cached)
        return cached

    def _add(self, head: bytes, cached: CachedHead) -> None:
        if len(self.recent) >= MAX_HEADS:
            self.old, self.recent = self.recent, {}
        self.recent[head] = cached

    def add_if_eligible(self, head: bytes, body_bytes: int, method: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Remember a head if the fast lane can answer its requests. `method` and `headers` are llhttp's results."""
        match = _STRICT_HEAD.fullmatch(head)
        if match is None or len(head) > MAX_HEAD_BYTES or not 0 < body_bytes <= MAX_BODY_BYTES or method != "POST":
            return
        by_name = dict(headers)
        if len(by_name) != len(headers) or not by_name.keys() <= _HARMLESS_HEADERS:
            return
        if by_name.get(b"content-length") != str(body_bytes).encode():
            return
        if by_name.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return
        if not self.service.access.required and not is_local_host(by_name.get(b"host", b"").decode("latin-1")):
            return
        media_type = by_name.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        protocol = find_protocol(match[1].decode())
        if media_type not in _JSON_TYPES or protocol is None:
            return
        try:
            model = self._model(protocol.find_route(match[1].decode()), by_name.get(b"authorization", b""))
        except FitserveError:
            return
        if model is not None and (cached := _cached_head(protocol.name, model, len(head) + body_bytes)) is not None:
            if accepted(by_name.get(b"accept-encoding", b"").decode("latin-1")) is not None:
                cached.most_rows = min(MAX_ROWS, COMPRESSED_BYTES // (NUMBER_BYTES * model.outputs[0].units) - 1)
            self._add(head, cached)

    def _model(self, route: Route, authorization: bytes) -> LoadedModel | None:
        """Return the model that currently answers every request of this route. Raises the ordinary path's errors."""
        selector = route.selector
        if route.operation not in ("predict", "infer"):
            return None
        identity = self.service.access.identify_header(authorization.decode("latin-1"))
        entry = self.service.find_entry(selector.model, identity)
        require_predict(identity, selector.model)
        if entry.shadows or entry.canaries:  # a rollout chooses a version, or copies to a shadow, for each request
            return None
        servable = self.service.find_pointer(entry, selector).current
        model = servable.loaded_model if servable else None
        return model if model is not None and model.runs_inline and model.single_output else None


def _cached_head(protocol: str, model: LoadedModel, request_bytes: int) -> CachedHead | None:
    columns = model.columns
    decode: Any
    if protocol == "oip":
        if columns.plain_numbers is None or set(MATRIX_NAMES) & set(columns.names) or model.level is not None:
            return None
        row_form, decode = FP64, _decode_infer
    elif protocol != "tfserving":
        return None
    elif columns.read_numbers is not None:
        row_form, decode = NUMBERS, columns.read_numbers
    else:
        row_form, decode = MIXED, _decode_scalars
    return CachedHead(request_bytes, model, protocol, row_form, decode, len(columns.names), MAX_ROWS)


_decode_infer = msgspec.json.Decoder(_InferBody).decode
_decode_scalars = msgspec.json.Decoder(ScalarRows).decode
