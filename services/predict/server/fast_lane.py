"""The fast lane: uvicorn's httptools protocol with one short, guarded shortcut.

When a read from an idle connection holds exactly a vetted head (see `heads`) and its body, the request is
decoded at once and joined with the others of this turn of the event loop: one inference call answers them all.
Whatever is unusual, at any step, goes uvicorn's ordinary way with the very same bytes: errors, warnings, missing
values, several reads, pipelining. So there is one place where each answer but the plain one is made.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fitserve.errors import FitserveError
from services.predict.catalog.loaded_model import Network
from services.predict.protocols.oip.tensors import MATRIX
from services.predict.server.request_cache import FP32, FP64, MIXED, MOST_ROWS, NUMBERS, Heads, Vetted
from services.predict.serving.counters import FEW
from services.predict.serving.prediction_service import Service
from services.predict.serving.rows import Rows

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_LENGTHS = [str(number).encode() for number in range(4096)]
_FEW, _FEW_VALUES = 8, 64  # requests, and numbers, up to which plain Python encodes quicker than NumPy
PHASES_EVERY = 16  # turns: in one of so many it is measured where the time goes
_TURN_ROWS = 1024  # a turn with more rows than this is answered at once


class Item:
    """One request of this turn. `given` are its decoded rows: rows, or for OIP the flat numbers."""

    __slots__ = ("connection", "count", "data", "given", "id")

    def __init__(self, connection: FastLaneProtocol, data: bytes, given: list[Any], count: int, id: str | None) -> None:
        self.connection, self.data, self.given, self.count, self.id = connection, data, given, count, id


class Lane:
    """What the connections of one process share: the heads, and this turn's requests by network and kind."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.heads = Heads(service)
        service.on_change.append(self.heads.forget)
        self.turn: dict[tuple[Network, str], list[Item]] = {}
        self.turn_rows = 0
        self.started = 0.0
        self.turns = 0
        self.sampled = False  # whether the phases of this turn are measured
        self.read_at = 0.0
        self.call_soon: Callable[..., Any] | None = None
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._prefix = b""

    def read(self, vetted: Vetted, connection: FastLaneProtocol, data: bytes, end: int) -> bool:
        """Decodes a request and joins it to this turn's; False where it must go the ordinary way."""
        if self.sampled and not self.turn:
            self.read_at = time.perf_counter()
        try:
            body = vetted.decode(data[end:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        kind, given_id = vetted.kind, None
        if vetted.protocol == "tfserving":
            given = body.instances
            count = len(given)
        else:
            tensor = body.inputs[0]
            count, width = tensor.shape
            given, given_id = tensor.data, body.id
            if tensor.datatype == "FP32":
                kind = FP32
            elif tensor.datatype != "FP64":
                return False
            if tensor.name not in MATRIX or width != vetted.width or count * width != len(given):
                return False
        if not 0 < count <= MOST_ROWS:
            return False
        if not self.turn:
            self.started = time.perf_counter()
            connection.loop.call_soon(self.flush)
        key = (vetted.network, kind)
        item = Item(connection, data, given, count, given_id)
        if key in self.turn:
            self.turn[key].append(item)
        else:
            self.turn[key] = [item]
        connection.pending = True
        self.turn_rows += count
        if self.turn_rows >= _TURN_ROWS:
            self.flush()
        return True

    def flush(self) -> None:
        """Answers this turn's requests."""
        turn, self.turn, self.turn_rows = self.turn, {}, 0
        if self.sampled and turn:
            self._observe("decode", self.started - self.read_at)
            self._observe("queue", time.perf_counter() - self.started)
        for (network, kind), items in turn.items():
            try:
                self._answer(network, kind, items)
            except Exception as error:
                if not isinstance(error, FitserveError):
                    log.error("the fast lane gave a turn back", exc_info=error)
                for item in items:
                    item.connection.take_ordinary(item.data)
        if turn:
            self.turns += 1
            self.sampled = not self.turns % PHASES_EVERY

    def _observe(self, phase: str, seconds: float) -> None:
        self.service.counters.phases["fast", phase].observe(seconds)

    def _answer(self, network: Network, kind: str, items: list[Item]) -> None:
        sampled = self.sampled
        begun = time.perf_counter() if sampled else 0.0
        feeds = _encoded_few(network, kind, items) if len(items) <= _FEW else None
        if feeds is None:
            feeds, clean = _encoded(network, kind, items)
            if not clean.all():
                items = self._give_back(items, clean)
                if not items:
                    return
                feeds, _ = _encoded(network, kind, items)
        encoded_at = time.perf_counter() if sampled else 0.0
        values = network.session.run(network.names, feeds)[0]
        inferred_at = time.perf_counter() if sampled else 0.0
        rows = _encode(values.tolist())[2:-2].split(b"],[")
        if b"null" in rows[0] or (len(rows) > 1 and not np.isfinite(values).all()):
            for item in items:  # NaN and Infinity are written elsewhere
                item.connection.take_ordinary(item.data)
            return
        if kind in (NUMBERS, MIXED):
            self._write_tfserving(network, items, rows)
        else:
            self._write_oip(network, items, rows, values.shape[1])
        now = self._count(network, "tfserving" if kind in (NUMBERS, MIXED) else "oip", len(items), len(rows))
        watched = network.watched
        if watched is not None and now > watched.due:
            watched.take(now, [item.given for item in items], kind in (FP32, FP64), len(rows), [values])
        if sampled:
            self._observe("encode", encoded_at - begun)
            self._observe("infer", inferred_at - encoded_at)
            self._observe("answer", now - inferred_at)

    def _give_back(self, items: list[Item], clean: Any) -> list[Item]:
        """Requests with a row to be warned of, or refused, go the ordinary way."""
        kept, start = [], 0
        for item in items:
            if clean[start : start + item.count].all():
                kept.append(item)
            else:
                item.connection.take_ordinary(item.data)
            start += item.count
        return kept

    def _write_tfserving(self, network: Network, items: list[Item], rows: list[bytes]) -> None:
        prefix, suffix = self._head(items[0].connection, network)
        start = 0
        for item in items:
            text = rows[start] if item.count == 1 else b"],[".join(rows[start : start + item.count])
            start += item.count
            size = len(text) + 20
            length = _LENGTHS[size] if size < 4096 else str(size).encode()
            item.connection.answer(b"".join((prefix, length, suffix, b'{"predictions":[[', text, b"]]}")))

    def _write_oip(self, network: Network, items: list[Item], rows: list[bytes], units: int) -> None:
        prefix, suffix = self._head(items[0].connection, network)
        start = 0
        first = b'{"model_name":' + _encode(network.model) + b',"model_version":' + _encode(network.version_text)
        label = b"" if not network.label else b',"parameters":{"label":' + _encode(network.label) + b"}"
        output = label + b',"outputs":[{"name":' + _encode(network.names[0]) + b',"shape":['
        for item in items:
            text = b",".join(rows[start : start + item.count])
            start += item.count
            id_part = b"" if item.id is None else b',"id":' + _encode(item.id)
            shape = b'%d,%d],"datatype":"FP32","data":[' % (item.count, units)
            body = b"".join((first, id_part, output, shape, text, b"]}]}"))
            item.connection.answer(b"".join((prefix, str(len(body)).encode(), suffix, body)))

    def _head(self, connection: FastLaneProtocol, network: Network) -> tuple[bytes, bytes]:
        """The answer's head before and after its length, as uvicorn writes what `Answer.send` sends."""
        defaults = connection.server_state.default_headers
        if defaults is not self._default_headers:
            self._default_headers = defaults
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in defaults)
            self._prefix = STATUS_LINE[200] + lines + b"content-type: application/json\r\ncontent-length: "
        return self._prefix, network.head_suffix

    def _count(self, network: Network, protocol: str, requests: int, rows: int) -> float:
        tally = network.tallies.get(protocol) or self.service.counters.tally(network, protocol)
        now = time.perf_counter()
        tally.fast += requests
        tally.rows += rows
        tally.turns += 1
        tally.times.observe(now - self.started, requests)
        if rows < FEW:
            tally.sizes.few[rows] += 1
        else:
            tally.sizes.observe(rows)
        network.last_used = time.monotonic()
        return now


def _encoded_few(network: Network, kind: str, items: list[Item]) -> dict[str, Any] | None:
    """Tensors of a turn's rows where they are few and all clean; else None."""
    matrix = network.columns.plain_numbers
    if matrix is None or kind == MIXED:
        return None
    flat: list[float] = []
    for item in items:
        if kind == NUMBERS:
            for row in item.given:
                flat += row if type(row) is tuple else msgspec.structs.astuple(row)
        else:
            flat += item.given
    if len(flat) > _FEW_VALUES:
        return None
    if kind == FP32:
        flat = array("f", flat).tolist()  # rounded as float32; too large a number becomes infinite
    encoded = matrix.encode_few(flat)
    return None if encoded is None else {matrix.input: encoded}


def _encoded(network: Network, kind: str, items: list[Item]) -> tuple[dict[str, Any], Any]:
    """Tensors of a turn's rows, and for each row whether it is free of anything to be warned of."""
    columns = network.columns
    given = items[0].given if len(items) == 1 else [value for item in items for value in item.given]
    if kind == MIXED:
        feeds, warnings = columns.encode(Rows(given))
        return feeds, np.array([not row for row in warnings]) if warnings else np.ones(len(given), np.bool_)
    matrix = columns.plain_numbers
    assert matrix is not None
    if kind == NUMBERS:
        values = columns.matrix_of(given)
    else:
        values = np.array(given, np.float64).reshape(-1, len(columns.names))
        if kind == FP32:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32).astype(np.float64)
    return {matrix.input: matrix.encode(values)}, matrix.clean_rows(values)


class FastLaneProtocol(HttpToolsProtocol):
    """uvicorn's protocol; `lane` is set on the subclass that `protocol_class` makes."""

    lane: Lane

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pending = False  # a request of ours waits for the end of this turn
        self.at_boundary = True  # llhttp stands between two messages
        self.messages = 0  # that ended in this read
        self.answered_at = 0.0
        self.usable = not self.access_log and self.limit_concurrency is None

    def data_received(self, data: bytes) -> None:
        if self.pending:  # answers leave in the order of their requests
            self.lane.flush()
        end = 0
        if self.at_boundary and self.usable and self._is_idle():
            end = data.find(b"\r\n\r\n") + 4
            if end > 3:
                head = data[:end]
                heads = self.lane.heads
                vetted = heads.young.get(head) or heads.revive(head)
                if vetted is not None:
                    if len(data) == vetted.total and self.lane.read(vetted, self, data, end):
                        return
                    end = 0
        self.messages = 0
        super().data_received(data)
        if end > 3 and self.messages == 1 and self.at_boundary and self.parser is not None:
            self.lane.heads.vet(data[:end], len(data) - end, str(self.scope["method"]), self.headers)

    def _is_idle(self) -> bool:
        cycle = self.cycle
        if cycle is not None and not (cycle.response_complete and cycle.keep_alive):
            return False
        return not (self.pipeline or self.flow.write_paused or self.transport.is_closing())

    def on_message_begin(self) -> None:
        self.at_boundary = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self.at_boundary = True
        self.messages += 1
        super().on_message_complete()

    def answer(self, whole: bytes) -> None:
        """Writes a whole answer of the fast lane."""
        self.pending = False
        if self.transport.is_closing():
            return
        self.transport.write(whole)
        self.server_state.total_requests += 1
        self.answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def take_ordinary(self, data: bytes) -> None:
        """Hands a request that was held for this turn to uvicorn."""
        self.pending = False
        if self.parser is not None and not self.transport.is_closing():
            super().data_received(data)

    def timeout_keep_alive_handler(self) -> None:
        """The timer is not set anew for each request of the fast lane: what remains of the time is, when it ends."""
        left = self.answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0 and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self.pending:
            self.lane.flush()
        super().shutdown()


def protocol_class(service: Service) -> type[FastLaneProtocol]:
    """The protocol class that uvicorn is given."""
    return type("FastLane", (FastLaneProtocol,), {"lane": Lane(service)})


__all__ = ["FP32", "FP64", "FastLaneProtocol", "Lane", "protocol_class"]
