"""The fast lane: uvicorn's httptools protocol with one short, guarded shortcut.

When one read from an idle connection contains exactly a known head (see `request_cache`) and its body, the request is
decoded at once and joined with the others of this iteration of the event loop: one inference call answers them all. At
any step, anything unusual takes uvicorn's ordinary path with the very same bytes: errors, warnings, unexpected missing
values, requests split over several reads, pipelining. So every answer except the plain one has a single implementation.
"""

from __future__ import annotations

import logging
import time
from array import array
from typing import Any

import msgspec
import numpy as np
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from fitserve.errors import FitserveError
from services.connections import LimitedProtocol, limited
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.catalog.row_buffer import RowBuffer
from services.predict.protocols.formats import MATRIX_NAMES
from services.predict.server.request_cache import FP32, FP64, MIXED, NUMBERS, CachedHead, RequestCache
from services.predict.serving.counters import DIRECT_ROWS
from services.predict.serving.prediction_service import PredictionService

log = logging.getLogger(__name__)

MEASURE_EVERY = 16  # one in this many flushes has each of its phases timed
MAX_PENDING_ROWS = 1024  # once this many rows are pending, they are flushed before the iteration ends
_FEW_ROWS = 32  # up to this many clean rows, plain Python encodes faster than NumPy
_LENGTHS = [str(number).encode() for number in range(4096)]
_encode_json = msgspec.json.Encoder().encode


class PendingRequest:
    """A decoded request that waits for the flush. `rows` are a list of rows, or for OIP the flat numbers."""

    __slots__ = ("connection", "count", "data", "id", "rows")

    def __init__(self, connection: FastLaneProtocol, data: bytes, rows: list[Any], count: int, id: str | None) -> None:
        self.connection, self.data, self.rows, self.count, self.id = connection, data, rows, count, id


class FastLane:
    """What the connections of a process share: the request cache, and this iteration's requests.

    Requests are grouped by model, kind, and the level of the intervals that they ask for.
    """

    def __init__(self, service: PredictionService) -> None:
        self.service = service
        self.cache = RequestCache(service)
        service.updates.on_change.append(self.cache.clear)
        self.pending: dict[tuple[LoadedModel, str, float | None], list[PendingRequest]] = {}
        self.pending_rows = 0
        self.started_at = 0.0
        self.flushes = 0
        self.measuring = False  # whether the phases of the next flush are timed
        self.read_at = 0.0
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._head_start = b""

    def accept(self, cached: CachedHead, connection: FastLaneProtocol, data: bytes, body_start: int) -> bool:
        """Decode a request and add it to the pending ones; False if it must take the ordinary path."""
        if self.measuring and not self.pending:
            self.read_at = time.perf_counter()
        try:
            body = cached.decode(data[body_start:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        row_form, id, level = cached.row_form, None, None
        if cached.protocol == "tfserving":
            rows = body.instances
            count = len(rows)
            try:
                level = cached.model.level_of(body.interval)
            except ValueError:  # the ordinary path reports the error
                return False
        else:
            tensor = body.inputs[0]
            count, width = tensor.shape
            rows, id = tensor.data, body.id
            if tensor.datatype == "FP32":
                row_form = FP32
            elif tensor.datatype != "FP64":
                return False
            if tensor.name not in MATRIX_NAMES or width != cached.width or count * width != len(rows):
                return False
        if not 0 < count <= cached.most_rows:
            return False
        if not self.pending:
            self.started_at = time.perf_counter()
            connection.loop.call_soon(self.flush)
        key = (cached.model, row_form, level)
        request = PendingRequest(connection, data, rows, count, id)
        if key in self.pending:
            self.pending[key].append(request)
        else:
            self.pending[key] = [request]
        connection.pending = True
        self.pending_rows += count
        if self.pending_rows >= MAX_PENDING_ROWS:
            self.flush()
        return True

    def flush(self) -> None:
        """Answer the pending requests."""
        pending, self.pending, self.pending_rows = self.pending, {}, 0
        if self.measuring and pending:
            self._observe("decode", self.started_at - self.read_at)
            self._observe("queue", time.perf_counter() - self.started_at)
        for (model, row_form, level), requests in pending.items():
            try:
                self._answer(model, row_form, level, requests)
            except Exception as error:
                if not isinstance(error, FitserveError):
                    log.error("the fast lane handed a batch to the ordinary path", exc_info=error)
                for request in requests:
                    request.connection.take_ordinary_path(request.data)
        if pending:
            self.flushes += 1
            self.measuring = not self.flushes % MEASURE_EVERY

    def _observe(self, phase: str, seconds: float) -> None:
        self.service.counters.phases["fast", phase].observe(seconds)

    def _answer(self, model: LoadedModel, row_form: str, level: float | None, requests: list[PendingRequest]) -> None:
        buffer = model.take_buffer() if len(requests) <= _FEW_ROWS else None
        if buffer is None:
            self._answer_in(None, model, row_form, level, requests)
            return
        try:
            self._answer_in(buffer, model, row_form, level, requests)
        finally:
            model.return_buffer(buffer)

    def _answer_in(
        self,
        buffer: RowBuffer | None,
        model: LoadedModel,
        row_form: str,
        level: float | None,
        requests: list[PendingRequest],
    ) -> None:
        """Answer requests of one kind, in the model's buffer if it has one and the rows are few and clean."""
        measuring = self.measuring
        begun = time.perf_counter() if measuring else 0.0
        few = None if buffer is None else _infer_few(buffer, model, row_form, level, requests)
        if few is not None:
            values, feeds, encoded_at = few
        else:
            feeds, clean = _encode(model, row_form, requests)
            if not clean.all():
                requests = _hand_over_unclean(requests, clean)
                if not requests:
                    return
                feeds, _ = _encode(model, row_form, requests)
            encoded_at = time.perf_counter() if measuring else 0.0
            values = model.session.run(model.output_names, feeds)[0]
        inferred_at = time.perf_counter() if measuring else 0.0
        count = len(values)
        if level is None:
            rows = _encode_json(values.tolist())[2:-2].split(b"],[")
            plain = b"null" not in rows[0] and (count == 1 or bool(np.isfinite(values).all()))
        else:
            rows = _with_bounds(model, row_form, level, requests, feeds, values)
            # "null" stands for NaN or infinity, or is part of a label
            plain = b"null" not in (rows[0] if len(rows) == 1 else b"".join(rows))
        if not plain:
            for request in requests:  # the ordinary path writes NaN and Infinity
                request.connection.take_ordinary_path(request.data)
            return
        if level is not None:
            self._write_bounds(model, requests, rows)
        elif row_form in (NUMBERS, MIXED):
            self._write_tfserving(model, requests, rows)
        else:
            self._write_oip(model, requests, rows, values.shape[1])
        now = self._count(model, "tfserving" if row_form in (NUMBERS, MIXED) else "oip", len(requests), count)
        sampler = model.sampler
        if sampler is not None and now > sampler.next_sample_at:
            sampler.sample(now, [request.rows for request in requests], row_form in (FP32, FP64), count, [values])
        if measuring:
            self._observe("encode", encoded_at - begun)
            self._observe("infer", inferred_at - encoded_at)
            self._observe("answer", now - inferred_at)

    def _write_tfserving(self, model: LoadedModel, requests: list[PendingRequest], rows: list[bytes]) -> None:
        prefix, suffix = self._head(requests[0].connection, model)
        start = 0
        for request in requests:
            text = rows[start] if request.count == 1 else b"],[".join(rows[start : start + request.count])
            start += request.count
            size = len(text) + 20
            length = _LENGTHS[size] if size < 4096 else str(size).encode()
            request.connection.respond(b"".join((prefix, length, suffix, b'{"predictions":[[', text, b"]]}")))

    def _write_bounds(self, model: LoadedModel, requests: list[PendingRequest], texts: list[bytes]) -> None:
        prefix, suffix = self._head(requests[0].connection, model)
        for request, text in zip(requests, texts, strict=True):
            size = len(text) + 16
            length = _LENGTHS[size] if size < 4096 else str(size).encode()
            request.connection.respond(b"".join((prefix, length, suffix, b'{"predictions":', text, b"}")))

    def _write_oip(self, model: LoadedModel, requests: list[PendingRequest], rows: list[bytes], units: int) -> None:
        prefix, suffix = self._head(requests[0].connection, model)
        start = 0
        first = b'{"model_name":' + _encode_json(model.name) + b',"model_version":' + _encode_json(model.version_text)
        label = b"" if not model.label else b',"parameters":{"label":' + _encode_json(model.label) + b"}"
        datatype = model.outputs[0].datatype.encode()
        output = label + b',"outputs":[{"name":' + _encode_json(model.output_names[0]) + b',"shape":['
        for request in requests:
            text = b",".join(rows[start : start + request.count])
            start += request.count
            id_part = b"" if request.id is None else b',"id":' + _encode_json(request.id)
            shape = b'%d,%d],"datatype":"%s","data":[' % (request.count, units, datatype)
            body = b"".join((first, id_part, output, shape, text, b"]}]}"))
            request.connection.respond(b"".join((prefix, str(len(body)).encode(), suffix, body)))

    def _head(self, connection: FastLaneProtocol, model: LoadedModel) -> tuple[bytes, bytes]:
        """Return a response's head, before and after its length, as uvicorn writes it for `HttpResponse.send`."""
        defaults = connection.server_state.default_headers
        if defaults is not self._default_headers:  # uvicorn replaces them each second, for the date
            self._default_headers = defaults
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in defaults)
            self._head_start = STATUS_LINE[200] + lines + b"content-type: application/json\r\ncontent-length: "
        return self._head_start, model.response_head_end

    def _count(self, model: LoadedModel, protocol: str, requests: int, rows: int) -> float:
        counters = model.counters.get(protocol) or self.service.counters.of_version(model, protocol)
        now = time.perf_counter()
        counters.requests += requests
        counters.rows += rows
        counters.batches += 1
        counters.durations.observe(now - self.started_at, requests)
        if rows < DIRECT_ROWS:
            counters.sizes.direct[rows] += 1
        else:
            counters.sizes.observe(rows)
        model.last_used = time.monotonic()
        return now


def _hand_over_unclean(requests: list[PendingRequest], clean: Any) -> list[PendingRequest]:
    """Send requests with a row that needs a warning or a refusal down the ordinary path; return the others."""
    remaining, start = [], 0
    for request in requests:
        if clean[start : start + request.count].all():
            remaining.append(request)
        else:
            request.connection.take_ordinary_path(request.data)
        start += request.count
    return remaining


def _with_bounds(
    model: LoadedModel, row_form: str, level: float, requests: list[PendingRequest], feeds: dict[str, Any], values: Any
) -> list[bytes]:
    """Return each request's predictions and bounds as JSON; non-finite numbers become null. Raises BadInput."""
    groups = None
    if model.conformal.coverage_by is not None:
        asked = [row for request in requests for row in request.rows]
        input_rows = InputRows(asked if row_form == MIXED else model.columns.matrix_of(asked))
        groups = model.columns.labels_in(model.conformal.coverage_by, input_rows)
    listed = values.tolist() if values.ndim == 2 else [[value] for value in values.tolist()]
    rows = model.conformal.few_rows(level, listed, groups, feeds)
    if len(requests) == 1:
        return [_encode_json(rows)]
    texts, start = [], 0
    for request in requests:
        texts.append(_encode_json(rows[start : start + request.count]))
        start += request.count
    return texts


def _infer_few(
    buffer: RowBuffer, model: LoadedModel, row_form: str, level: float | None, requests: list[PendingRequest]
) -> tuple[Any, dict[str, Any], float] | None:
    """Return the outputs of a few rows, the tensors that their bounds need, and the time at which they were encoded.

    The tensors are the buffer's own memory. None if not all rows are clean, or if there are too many.
    """
    count = _write_few(buffer, model, row_form, requests)
    if not count:
        return None
    encoded_at = time.perf_counter()
    values = buffer.infer(count)[model.output_names[0]].copy()
    needs_feeds = level is not None and model.conformal.needs_feeds
    return values, buffer.views(count) if needs_feeds else {}, encoded_at


def _write_few(buffer: RowBuffer, model: LoadedModel, row_form: str, requests: list[PendingRequest]) -> int:
    """Write a few rows into the buffer. Return their number; 0 if not all are clean, or if there are too many."""
    if row_form == MIXED:
        rows = _joined_rows(requests)
        return len(rows) if len(rows) <= _FEW_ROWS and buffer.write(rows) else 0
    count = sum(request.count for request in requests)
    if not buffer.takes_numbers(count):
        return count if count <= _FEW_ROWS and buffer.encode(_matrix_of(model, row_form, requests)) else 0
    flat: list[float] = []
    for request in requests:
        if row_form == NUMBERS:
            for row in request.rows:
                flat += row if type(row) is tuple else msgspec.structs.astuple(row)
        else:
            flat += request.rows
    if row_form == FP32:
        flat = array("f", flat).tolist()  # rounded as float32; too large a number becomes infinite
    return count if buffer.write_numbers(flat) else 0


def _encode(model: LoadedModel, row_form: str, requests: list[PendingRequest]) -> tuple[dict[str, Any], Any]:
    """Return the tensors of all rows, and for each row whether it is clean: without a warning or an error."""
    if row_form == MIXED:
        rows = _joined_rows(requests)
        feeds, warnings = model.columns.encode(InputRows(rows))
        clean = np.ones(len(rows), np.bool_)
        if warnings is not None:
            clean[warnings.warned_rows()] = False
        return feeds, clean
    matrix = model.columns.plain_numbers
    assert matrix is not None
    values = _matrix_of(model, row_form, requests)
    encoded = matrix.encode(values)
    if encoded is None:
        return {}, np.zeros(len(values), np.bool_)
    return {matrix.input: encoded}, matrix.clean_rows(values)


def _matrix_of(model: LoadedModel, row_form: str, requests: list[PendingRequest]) -> Any:
    """Return rows that are all numbers as float64 (rows, columns)."""
    if row_form == NUMBERS:
        return model.columns.matrix_of(_joined_rows(requests))
    values = np.array(_joined_rows(requests), np.float64).reshape(-1, len(model.columns.names))
    if row_form == FP32:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32).astype(np.float64)
    return values


def _joined_rows(requests: list[PendingRequest]) -> list[Any]:
    """Return the rows of all requests: each by name or by position, or for OIP the flat numbers."""
    return requests[0].rows if len(requests) == 1 else [row for request in requests for row in request.rows]


class FastLaneProtocol(LimitedProtocol):
    """One connection: uvicorn's protocol with the fast lane. `protocol_class` makes a subclass with its `lane`."""

    lane: FastLane

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pending = False  # a request of this connection waits for the flush
        self.at_boundary = True  # llhttp is between two messages
        self.messages = 0  # messages completed by this read
        self.answered_at = 0.0
        self.usable = not self.access_log and self.limit_concurrency is None

    def data_received(self, data: bytes) -> None:
        if self.pending:  # answers must be sent in the order of their requests
            self.lane.flush()
        end = 0
        if self.at_boundary and self.usable and self._is_idle():
            end = data.find(b"\r\n\r\n") + 4
            if end > 3:
                head = data[:end]
                cache = self.lane.cache
                cached = cache.recent.get(head) or cache.promote(head)
                if cached is not None:
                    if len(data) == cached.request_bytes and self.lane.accept(cached, self, data, end):
                        return
                    end = 0
        self.messages = 0
        super().data_received(data)
        if end > 3 and self.messages == 1 and self.at_boundary and self.parser is not None:
            self.lane.cache.add_if_eligible(data[:end], len(data) - end, str(self.scope["method"]), self.headers)

    def _is_idle(self) -> bool:
        cycle = self.cycle
        if cycle is not None and not (cycle.response_complete and cycle.keep_alive):
            return False
        return not (self.pipeline or self.flow.write_paused or self.transport.is_closing())

    def on_message_begin(self) -> None:
        self.at_boundary = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if not self.in_body:
            self.at_boundary = True
            self.messages += 1

    def respond(self, response: bytes) -> None:
        """Write a whole response of the fast lane."""
        self.pending = False
        if self.transport.is_closing():
            return
        self.head_began = 0.0
        self.transport.write(response)
        self.server_state.total_requests += 1
        self.answered_at = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def take_ordinary_path(self, data: bytes) -> None:
        """Hand a pending request to uvicorn."""
        self.pending = False
        if self.parser is not None and not self.transport.is_closing():
            super().data_received(data)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection. The fast lane does not reset the timer for each request, so it may fire early."""
        left = self.answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0 and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self.pending:
            self.lane.flush()
        super().shutdown()


def protocol_class(service: PredictionService) -> type[LimitedProtocol]:
    """Return the protocol class for uvicorn, with a lane for this process."""
    return limited(service.settings, type("FastLane", (FastLaneProtocol,), {"lane": FastLane(service)}))
