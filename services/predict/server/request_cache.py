"""Request heads that were vetted once, and are then known by their bytes.

A head is a request's bytes up to and with the blank line. llhttp has parsed it before (as the first request that
bore it went uvicorn's ordinary way); what it found is checked here against a list of what the fast lane
understands. Equal bytes are parsed equally, so whoever knows the bytes need not parse them again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from fitserve.errors import FitserveError
from services.predict.catalog.loaded_model import Network
from services.predict.protocols.oip.tensors import MATRIX
from services.predict.server.access import check_predict
from services.predict.server.routes import Route, route
from services.predict.serving.prediction_service import Service

MOST_HEADS = 2048  # of each of two generations
LONGEST_HEAD = 2048  # bytes
LONGEST_BODY = 32_768  # bytes
MOST_ROWS = 64  # of a request; more are better off alone

_STRICT = re.compile(
    rb"POST (/v[12]/[A-Za-z0-9._/:-]+) HTTP/1\.1\r\n(?:[A-Za-z0-9-]+: ?[\x21-\x7e][\x20-\x7e]*\r\n)+\r\n"
)
_HARMLESS = frozenset(
    {b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"connection", b"content-type"}
    | {b"content-length", b"authorization", b"cache-control", b"pragma"}
)
_JSON_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})

_Scalar = str | int | float | bool | None


class _Mixed(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[dict[str, _Scalar] | list[_Scalar]]


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    shape: tuple[int, int]
    datatype: str
    data: list[float]


class _Infer(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    inputs: tuple[_Tensor]
    id: str | None = None


NUMBERS, MIXED, FP32, FP64 = "numbers", "mixed", "fp32", "fp64"  # how the rows of a request are given


@dataclass(slots=True, eq=False)
class Vetted:
    """A known head: where its requests go. `total` counts the head's and the body's bytes."""

    total: int
    network: Network
    protocol: str
    kind: str
    decode: Any
    width: int


class Heads:
    """Two generations: what is used moves to the young one; when that is full, the old one is forgotten."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.young: dict[bytes, Vetted] = {}
        self.old: dict[bytes, Vetted] = {}

    def forget(self) -> None:
        """A key, a label, a model changed: every head is vetted anew."""
        self.young.clear()
        self.old.clear()

    def revive(self, head: bytes) -> Vetted | None:
        """A head of the old generation."""
        vetted = self.old.pop(head, None)
        if vetted is not None:
            self._keep(head, vetted)
        return vetted

    def _keep(self, head: bytes, vetted: Vetted) -> None:
        if len(self.young) >= MOST_HEADS:
            self.old, self.young = self.young, {}
        self.young[head] = vetted

    def vet(self, head: bytes, body_bytes: int, method: str, headers: list[tuple[bytes, bytes]]) -> None:
        """Remembers a head where all is as the fast lane needs it. `headers` are llhttp's."""
        match = _STRICT.fullmatch(head)
        if match is None or len(head) > LONGEST_HEAD or not 0 < body_bytes <= LONGEST_BODY or method != "POST":
            return
        by_name = dict(headers)
        if len(by_name) != len(headers) or not by_name.keys() <= _HARMLESS:
            return
        if by_name.get(b"content-length") != str(body_bytes).encode():
            return
        if by_name.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return
        media_type = by_name.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if media_type not in _JSON_TYPES:
            return
        try:
            found = route("POST", match[1].decode())
            network = self._network(found, by_name.get(b"authorization"))
        except FitserveError:
            return
        if network is not None and (vetted := _vetted(found, network, len(head) + body_bytes)) is not None:
            self._keep(head, vetted)

    def _network(self, found: Route, authorization: bytes | None) -> Network | None:
        """The network that answers all requests of this route now. Raises what the ordinary way raises."""
        selector = found.selector
        if selector is None or found.operation not in ("predict", "infer"):
            return None
        identity = self.service.access.identify_header(
            None if authorization is None else authorization.decode("latin-1")
        )
        entry = self.service.entry(selector.model, identity)
        check_predict(identity, selector.model)
        if entry.shadows or entry.canaries:  # these are chosen, or copied, request by request
            return None
        slot = self.service.pointer(entry, selector).current
        network = slot.network if slot else None
        return network if network is not None and network.small and network.single else None


def _vetted(found: Route, network: Network, total: int) -> Vetted | None:
    columns = network.columns
    width = len(columns.names)
    if found.protocol == "oip":
        if columns.plain_numbers is None or set(MATRIX) & set(columns.names):
            return None
        return Vetted(total, network, "oip", FP64, msgspec.json.Decoder(_Infer).decode, width)
    if columns.read_numbers is not None:
        return Vetted(total, network, "tfserving", NUMBERS, msgspec.json.Decoder(columns.read_numbers).decode, width)
    return Vetted(total, network, "tfserving", MIXED, msgspec.json.Decoder(_Mixed).decode, width)
