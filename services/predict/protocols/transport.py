"""Building blocks of wire protocols: requests and responses over HTTP and gRPC, errors, routes, OpenAPI.

A protocol is a package beside this module whose `__init__.py` declares a `WireProtocol`.
"""

from __future__ import annotations

import codecs
import functools
import json
import math
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from fastapi import FastAPI

from fitserve.errors import BadInput, FitserveError, Malformed, NotFound, TooLarge, UnsupportedMedia
from services.http.compression import accepted, compressed
from services.predict.catalog.catalog import OPEN, Selector
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.protocols.formats import write_json
from services.predict.serving.prediction_service import PredictionService
from services.predict.serving.protocol_request import LARGE_BODY_BYTES, ProtocolRequest

JSON = b"application/json"
READ, POST = ("GET", "HEAD"), ("POST",)
COMPRESSED_BYTES = 8 * 1024  # sending a smaller answer takes less time than compressing it
GREATEST_RATIO = 1032  # of zlib and gzip: no more bytes come out of one byte
FIRST_PIECE_BYTES = 1024  # of a compressed body; further pieces are longer
MAX_HEADER_WARNINGS = 20
MAX_HEADER_BYTES = 4000  # most bytes of warnings in a response's headers
GRPC_CODES = {  # by HTTP status
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
LONGEST_DEADLINE = 1e9  # seconds; gRPC says that more are left where a call has no deadline
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PADDING = re.compile(rb"\0*+")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(FitserveError):
    """The client closed the connection before its request was complete."""

    status = 499  # as in nginx's logs


class MethodNotAllowed(NotFound):
    """This path does not allow this method."""

    status = 405
    slug = "method-not-allowed"
    title = "Method not allowed"


class HttpRequest(ProtocolRequest):
    """An HTTP request. `path` is decoded; header names are lower case."""

    def __init__(self, service: PredictionService, scope: Mapping[str, Any], receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.selector = OPEN
        self._receive = receive
        self._max_bytes = service.settings.limits.predict_bytes
        super().__init__(service, self.header(b"authorization"), self.header(b"x-prediction-id"))
        self.interval = self.header(b"x-interval")

    def header(self, name: bytes) -> str | None:
        """Return a header's text."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def sticky_key(self) -> str | None:
        return self.header(b"x-sticky-key")

    @property
    def media_type(self) -> str:
        return (self.header(b"content-type") or "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str | None:
        """The encoding that the content type declares for the body; None for none."""
        match = re.search(r"charset\s*=\s*\"?([\w.:-]{1,40})", self.header(b"content-type") or "", re.IGNORECASE)
        return match[1] if match else None

    @property
    def answer_encoding(self) -> str | None:
        """The compression that the client accepts for its answer; None for none."""
        asked = self.headers.get(b"accept-encoding")
        return None if asked is None else accepted(asked.decode("latin-1"))

    def read_deadline(self) -> float | None:
        """Read the client's deadline, in the event loop's time. Raises Malformed.

        `X-Request-Timeout-Ms` in milliseconds, or gRPC's `grpc-timeout` (`100m` is 100 milliseconds).
        """
        text, unit = self.header(b"x-request-timeout-ms"), 1e-3
        if text is None:
            text = self.header(b"grpc-timeout")
            if text is None:
                return None
            unit = _TIMEOUT_UNITS.get(text[-1:], math.nan)
            text = text[:-1]
        if not text.isdecimal() or len(text) > 12 or math.isnan(unit):
            raise Malformed("The timeout cannot be read.", received=text[:40], expected="X-Request-Timeout-Ms: 250")
        return self.arrived_at + int(text) * unit

    async def body(self) -> bytes:
        """Read the whole body and decompress it. Raises TooLarge, Malformed, UnsupportedMedia, ClientGone."""
        self.identify()  # authenticate before reading the body
        length = self.headers.get(b"content-length")
        if length is not None and int(length) > self._max_bytes:
            raise self._too_large()
        parts, count, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            count += len(parts[-1])
            if count > self._max_bytes:
                raise self._too_large()
            more = message.get("more_body", False)
        body = b"".join(parts)
        self.admit()
        encoding = (self.header(b"content-encoding") or "").strip().lower()
        if encoding in ("", "identity"):
            pass
        elif len(body) * GREATEST_RATIO > LARGE_BODY_BYTES:
            body = await self.service.loop.run_in_executor(self.service.executor, self._decompressed, body, encoding)
        else:
            body = self._decompressed(body, encoding)
        return body.removeprefix(codecs.BOM_UTF8)

    def _decompressed(self, body: bytes, encoding: str) -> bytes:
        """Decompress a body: all members of a gzip file, as for uploads, and zeros after them.

        It is read in pieces, short ones first: what follows a member in its last piece is copied, and a body of a
        million empty members would take minutes if that were all the rest.
        """
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise UnsupportedMedia(
                "This content encoding is not understood.", received=encoding[:40], expected="gzip, deflate or none"
            )
        parts: list[bytes] = []
        room, place = self._max_bytes + 1, 0
        while place < len(body) or not parts:
            decompressor = zlib.decompressobj(47)  # gzip or zlib, recognised by its first bytes
            piece_bytes = FIRST_PIECE_BYTES
            while not decompressor.eof:
                piece = body[place : place + piece_bytes]
                if not piece:
                    raise Malformed(f"The {encoding} body is cut short.")
                try:
                    parts.append(decompressor.decompress(piece, room))
                except zlib.error:
                    raise Malformed(f"The body is not {encoding}.") from None
                place += len(piece) - len(decompressor.unused_data)
                room -= len(parts[-1])
                if room <= 0:
                    raise self._too_large()
                piece_bytes *= 2
            padding = _PADDING.match(body, place)
            assert padding is not None  # it may match nothing
            place = padding.end()
        return b"".join(parts)

    def _too_large(self) -> TooLarge:
        return TooLarge("The request is too large.", expected=f"at most {self._max_bytes} bytes")


@dataclass(slots=True)
class HttpResponse:
    """A response. Content-Type and Content-Length are sent first, then `headers`."""

    body: bytes
    status: int = 200
    media_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @classmethod
    def json(cls, value: Any, status: int = 200, model: LoadedModel | None = None) -> HttpResponse:
        """Build a JSON response; with `model`, its headers name the model's version."""
        headers = [] if model is None else [(b"x-model-version", model.version_text.encode())]
        return cls(write_json(value), status, headers=headers)

    @classmethod
    def error(cls, error: FitserveError) -> HttpResponse:
        """Build `{"error": message}`, as the protocols define it, with status 400 for refused input."""
        status = 400 if type(error).status == 422 or isinstance(error, BadInput) else error.status
        headers: list[tuple[bytes, bytes]] = []
        if error.retry_after is not None:
            headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="fitserve"'))
        if status == 405:
            headers.append((b"allow", str(error.expected or "").encode()))
        text = json.dumps({"error": error_line(error)}, ensure_ascii=True)
        return cls(text.encode(), status, headers=headers)

    def encode(self, encoding: str) -> None:
        """Compress the body."""
        self.body = compressed(self.body, encoding)
        self.headers = [*self.headers, (b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]

    async def send(self, send: Send, head_only: bool = False) -> None:
        """Send it as ASGI messages."""
        headers = [(b"content-type", self.media_type), (b"content-length", str(len(self.body)).encode())]
        start = {"type": "http.response.start", "status": self.status, "headers": headers + self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"" if head_only else self.body})


def error_line(error: FitserveError) -> str:
    """Return an error in one line: what is wrong, what was received, what was expected, how to fix it."""
    parts = [error.detail]
    if error.received is not None and not error.problems:
        parts.append(f"Received: {str(error.received)[:200]}.")
    if error.expected:
        parts.append(f"Expected: {error.expected}.")
    said = error.expected
    for index, problem in enumerate(error.problems[:20]):
        if index:
            parts.append(problem.detail)
        if problem.expected and problem.expected != said and problem.expected not in problem.detail:
            said = problem.expected
            parts.append(f"Expected: {said}.")
    if error.fix:
        parts.append(error.fix)
    return " ".join(parts).encode("utf-8", "backslashreplace").decode()


def prediction_headers(request: ProtocolRequest) -> list[tuple[bytes, bytes]]:
    """Return the headers, or gRPC metadata, that name the version that predicted, its warnings, and the stored id."""
    prediction = request.prediction
    if prediction is None:
        return []
    model = prediction.model
    headers = [(b"x-model-version", model.version_text.encode())]
    if model.label:
        headers.append((b"x-model-label", model.label.encode()))
    if prediction.warnings is not None or request.left_out:
        warnings = [*left_out_warnings(request.left_out), *prediction.flat_warnings(MAX_HEADER_WARNINGS)]
        while len(text := json.dumps(warnings, ensure_ascii=True)) > MAX_HEADER_BYTES:
            warnings.pop()
        headers.append((b"x-model-warnings", text.encode()))
        count = (prediction.warnings.total if prediction.warnings else 0) + bool(request.left_out)
        headers.append((b"x-model-warnings-count", str(count).encode()))
    if request.prediction_id is not None:
        headers.append((b"x-prediction-id", request.prediction_id.encode()))
    return headers


def left_out_warnings(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return one warning about all columns that are not inputs of the model; none if there are no such columns."""
    if not counts:
        return []
    names = [name[:63] for name in sorted(counts)[:MAX_HEADER_WARNINGS]]
    message = f"{len(counts)} columns are no inputs of the model and were left out: {', '.join(names)}"
    return [{"code": "column_left_out", "message": message, "columns": names, "values": sum(counts.values())}]


async def list_models(request: HttpRequest) -> HttpResponse:
    """List the models that the caller can see. The body is the same in every protocol."""
    entries = request.service.visible_entries(request.identify())
    return HttpResponse.json({"models": [entry.facts.name for entry in entries]})


async def explain_response(request: HttpRequest, model: LoadedModel, rows: InputRows) -> HttpResponse:
    """Explain rows in a thread. The body is the same in every protocol."""
    request.require_inspect()
    service = request.service
    explanation = await service.loop.run_in_executor(service.executor, model.explain, rows)
    columns = model.columns.names
    body = {
        "model_name": model.name,
        "model_version": model.version_text,
        "method": "shapley",
        "baseline": {
            "row": dict(zip(columns, model.columns.baseline, strict=True)),
            "outputs": {name: values.tolist() for name, values in explanation.baseline.items()},
        },
        "explanations": [
            {
                name: {column: values[row, place].tolist() for place, column in enumerate(columns)}
                for name, values in explanation.contributions.items()
            }
            for row in range(rows.count)
        ],
    }
    return HttpResponse.json(body, model=model)


class GrpcRequest(ProtocolRequest):
    """A gRPC call, or one message of a stream. `context` is the `grpc.ServicerContext`."""

    def __init__(self, service: PredictionService, context: Any) -> None:
        metadata = dict(context.invocation_metadata() or ())
        super().__init__(service, metadata.get("authorization"), metadata.get("x-prediction-id"))
        self.interval = metadata.get("x-interval")
        self._sticky_key = metadata.get("x-sticky-key")
        left = context.time_remaining()
        self._seconds_left: float | None = None if left is None or left > LONGEST_DEADLINE else left

    @property
    def sticky_key(self) -> str | None:
        return self._sticky_key

    def read_deadline(self) -> float | None:
        return None if self._seconds_left is None else self.arrived_at + self._seconds_left


@dataclass(frozen=True, slots=True)
class Route:
    """The handler of a path. `operation` is a telemetry label."""

    operation: str
    methods: tuple[str, ...]
    handle: Callable[[HttpRequest], Awaitable[HttpResponse]]
    selector: Selector = OPEN
    instead: str | None = None  # advice in the error for other methods


@dataclass(frozen=True, slots=True)
class GrpcMethod:
    """A unary method: its telemetry label, its request's message type, its handler."""

    operation: str
    request_type: Any
    handle: Callable[[GrpcRequest, Any], Awaitable[Any]]
    needs_key: bool = True  # without one, the handler gets an empty message
    watch: bool = False  # a stream: answered again whenever the answer changes
    # A bidirectional stream: builds a response from an answer, or from an error's text.
    stream: Callable[[Any, str], Any] | None = None


@dataclass(frozen=True)
class WireProtocol:
    """A protocol that predictions are served over. `name` is a telemetry label, with `_grpc` added for gRPC.

    Its paths begin with `/v` and a number, as `/v1/models`: these are what the API and nginx forward.
    """

    name: str
    paths: re.Pattern[str]  # matches the start of every path of the protocol
    find_route: Callable[[str], Route]  # by path; raises NotFound, Malformed
    grpc_services: Mapping[str, Mapping[str, GrpcMethod]]  # by full name of the service, then by method
    openapi_paths: Mapping[str, Any]
    openapi_schemas: Mapping[str, Any]


# OpenAPI: FastAPI does not route the protocols, so they describe themselves

Schema = dict[str, Any]
VERSIONS: tuple[tuple[str, str], ...] = (  # path after the model's, and its meaning
    ("", "by the champion, else the newest version"),
    ("/versions/{version}", "by a version"),
    ("/labels/{label}", "by a label's version"),
)
VALUE: Schema = {"description": "A value of any JSON type; null is missing"}


def object_schema(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


SCHEMAS: dict[str, Schema] = {
    "Error": object_schema(["error"], error={"type": "string"}),
    "Metadata": {"type": "object", "additionalProperties": True},
}


_STICKY_KEY: Schema = {
    "name": "X-Sticky-Key",
    "in": "header",
    "required": False,
    "description": "Requests of one key are answered by one version while canaries or rollouts share the traffic",
    "schema": {"type": "string"},
}


def path_parameters(suffix: str) -> tuple[str, ...]:
    """Return the parameters of `/v1/models/{model}` with one of VERSIONS after it."""
    return ("model", suffix.partition("{")[2].rstrip("}")) if suffix else ("model",)


def operation(
    name: str, summary: str, response: str, parameters: tuple[str, ...] = (), request: str | None = None
) -> dict[str, Any]:
    """Describe one operation; `response` and `request` are names of schemas."""
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    refusals = {"400": "Refused", "401": "No valid key", "403": "This key may not", "404": "Not found"}
    refusals |= {"503": "Too much at once, or being loaded; `Retry-After` says when to come back"}
    if request is not None:
        refusals |= {"409": "No model of that kind", "413": "Too large", "415": "This encoding is not understood"}
        refusals |= {"504": "No answer by the deadline of the request"}
    described: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": ["predictions"],
        "security": [{"key": []}],
        "parameters": [
            {
                "name": parameter,
                "in": "path",
                "required": True,
                "schema": {"type": "integer" if parameter == "version" else "string"},
            }
            for parameter in parameters
        ],
        "responses": {
            "200": {
                "description": "The answer; X-Model-Version says who answered" if parameters else "The answer",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{response}"}}},
            },
            **{status: {"description": text, **error} for status, text in refusals.items()},
        },
    }
    if request is not None:
        described["parameters"].append(_STICKY_KEY)
        schema = {"$ref": f"#/components/schemas/{request}"}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def describe(app: FastAPI, protocols: Sequence[WireProtocol]) -> None:
    """Add the protocols to the app's OpenAPI document."""
    build = app.openapi

    @functools.cache
    def document() -> dict[str, Any]:
        whole = build()
        paths = {path: item for protocol in protocols for path, item in protocol.openapi_paths.items()}
        whole["paths"] = {**paths, **whole["paths"]}
        whole["servers"] = [{"url": "/", "description": "This server"}]
        whole["info"]["license"] = {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
        components = whole.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for additional in (SCHEMAS, *(protocol.openapi_schemas for protocol in protocols)):
            schemas.update(additional)
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for item in whole["paths"].values():
            for described in item.values():
                described.setdefault("security", [])
        return whole

    app.openapi = document  # type: ignore[method-assign]
