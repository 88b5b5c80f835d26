"""All protocols' gRPC services on one port, in the event loop that the HTTP server runs in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection

from fitserve.errors import DeadlineExceeded, FitserveError, Malformed, TooMany
from fitserve.settings import Settings
from services.predict.protocols import PROTOCOLS
from services.predict.protocols.proto import POOL
from services.predict.protocols.proto.inference_pb2 import ModelInferRequest
from services.predict.protocols.transport import (
    GRPC_CODES,
    GrpcMethod,
    GrpcRequest,
    WireProtocol,
    error_line,
    prediction_headers,
)
from services.predict.server.grpc_lane import GrpcLane
from services.predict.serving.prediction_service import PredictionService

MAX_CALLS = 65_536  # at once in a process, most of them waiting for their messages
MAX_WATCHING, WATCH_SECONDS = 256, 1.0


async def start_grpc_server(service: PredictionService, settings: Settings) -> grpc.aio.Server:
    """Start the server. Raises RuntimeError where the port is taken."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.limits.predict_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(settings.predict_processes > 1)),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.server_handshake_timeout_ms", int(settings.head_seconds * 1000)),
            ("grpc.max_connection_idle_ms", 300_000),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ],
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    lane = GrpcLane(service)
    waiting = WaitingCalls(settings.grpc_waiting_calls, settings.grpc_message_seconds)
    names = [name for protocol in PROTOCOLS for name in protocol.grpc_services]
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                name, {method: _method_handler(service, protocol, methods[method], lane, waiting) for method in methods}
            )
            for protocol in PROTOCOLS
            for name, methods in protocol.grpc_services.items()
        )
    )
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server, POOL)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    if settings.tls_certificate is not None and settings.tls_key is not None:
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    await server.start()
    return server


class WaitingCalls:
    """Calls whose message has not come yet, by caller: at most `most` of each, for `seconds`."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._counts: Counter[Hashable] = Counter()
        self._until: dict[asyncio.Task[Any], float] = {}  # rising
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None  # one for all calls: each of its own costs more than a row

    async def message(self, caller: Hashable, context: Any) -> bytes:
        """Return a call's message as bytes. Raises TooMany, Malformed, DeadlineExceeded."""
        if self._counts[caller] >= self.most:
            raise TooMany("Too many calls of this caller wait for their messages.", retry_after=1)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._counts[caller] += 1
        self._until[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._expire, loop)
        try:
            data = await context.read()
        except asyncio.CancelledError:
            if task not in self._expired:  # the client has left, or the server stops
                raise
            task.uncancel()
            raise DeadlineExceeded(f"The message did not come within {self.seconds:g} s.") from None
        finally:
            del self._until[task]
            self._expired.discard(task)
            self._counts[caller] -= 1
            if not self._counts[caller]:
                del self._counts[caller]
        if data is grpc.aio.EOF:
            raise Malformed("The call has no message.")
        return bytes(data)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the calls whose time is over, and come back for the next one."""
        self._timer = None
        for task, until in self._until.items():
            if until > loop.time():
                self._timer = loop.call_at(until, self._expire, loop)
                return
            self._expired.add(task)
            task.cancel()


def _decoded(method: GrpcMethod, data: bytes) -> Any:
    try:
        return method.request_type.FromString(data)
    except DecodeError:
        raise Malformed(f"The message is not a {method.request_type.DESCRIPTOR.full_name}.") from None


def _method_handler(
    service: PredictionService, protocol: WireProtocol, method: GrpcMethod, lane: GrpcLane, waiting: WaitingCalls
) -> grpc.RpcMethodHandler:
    if method.watch:
        return grpc.unary_stream_rpc_method_handler(
            _watching(service, f"{protocol.name}_grpc", method),
            request_deserializer=None,
            response_serializer=lambda message: message.SerializeToString(),
        )
    if method.stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _streaming(service, f"{protocol.name}_grpc", method, method.stream),
            request_deserializer=None,
            response_serializer=lambda message: message.SerializeToString(),
        )
    return grpc.stream_unary_rpc_method_handler(  # on the wire a unary call; its message is not received unasked
        _unary(service, f"{protocol.name}_grpc", method, lane, waiting),
        request_deserializer=None,
        response_serializer=None,
    )


def _streaming(
    service: PredictionService, protocol: str, method: GrpcMethod, respond: Callable[[Any, str], Any]
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Answer each message of a stream as a call of its own, in order; an error is an answer, and ends nothing."""

    async def answers(messages: Any, context: Any) -> AsyncIterator[Any]:
        try:
            GrpcRequest(service, context).identify()  # the key first, then bytes
        except FitserveError as error:
            await context.abort(GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL), error_line(error))
        async for data in messages:
            request, answer, message, code = GrpcRequest(service, context), None, "", grpc.StatusCode.OK
            try:
                request.admit()
                answer = await request.run(method.handle, method.request_type.FromString(data))
            except DecodeError:
                message, code = "The message cannot be read.", grpc.StatusCode.INVALID_ARGUMENT
            except FitserveError as error:
                service.counters.count_refusal(method.operation, error)
                message, code = error_line(error), GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL)
            request.count(protocol, method.operation, code.name)
            yield respond(answer, message)

    return answers


def _watching(
    service: PredictionService, protocol: str, method: GrpcMethod
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Answer at once, and again whenever the answer has changed, until the client leaves."""
    watching: set[object] = set()

    async def answers(data: bytes, context: Any) -> AsyncIterator[Any]:
        if len(watching) >= MAX_WATCHING:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many watch at once.")
        own, last = object(), None
        watching.add(own)
        request = GrpcRequest(service, context)
        request.count(protocol, method.operation, "OK")
        try:
            while True:
                answer = await request.run(method.handle, method.request_type())
                if answer != last:
                    last = answer
                    yield answer
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            watching.discard(own)

    return answers


def _unary(
    service: PredictionService, protocol: str, method: GrpcMethod, lane: GrpcLane, waiting: WaitingCalls
) -> Callable[[Any, Any], Awaitable[bytes | None]]:
    may_be_fast = method.request_type is ModelInferRequest

    async def respond(messages: Any, context: Any) -> bytes | None:
        metadata, data = context.invocation_metadata() if may_be_fast else (), None
        error: FitserveError | None = None
        response = message = None
        if may_be_fast and lane.knows(metadata):
            try:
                data = await waiting.message(metadata, context)
            except FitserveError as refusal:
                error = refusal
            else:
                left = context.time_remaining()
                answered = lane.answer(metadata, data) if left is None or left > 0 else None
                if answered is not None:
                    response, model = answered
                    context.set_trailing_metadata((("x-model-version", model.version_text),))
                    return response
        request = GrpcRequest(service, context)
        try:
            if error is not None:
                raise error
            if not method.needs_key:
                message = method.request_type()  # it has no fields that matter: whatever is sent is not received
            else:
                caller = request.identify()  # the key first, then bytes
                data = data or await waiting.message(caller.key_id, context)
                message = _decoded(method, data)
            if method.needs_key:  # health checks are answered even where there is no room
                request.admit()
            response = (await request.run(method.handle, message)).SerializeToString()
            if may_be_fast:
                lane.remember(metadata, request, message)
            trailing = [(name.decode(), value.decode()) for name, value in prediction_headers(request)]
        except FitserveError as refusal:
            error = refusal
            service.counters.count_refusal(method.operation, error)
            trailing = []
            if error.retry_after is not None:
                trailing.append(("retry-after", str(max(1, round(error.retry_after)))))
        code = grpc.StatusCode.OK if error is None else GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL)
        request.count(protocol, method.operation, code.name)
        if error is not None:
            await context.abort(code, error_line(error), tuple(trailing))
        if trailing:
            context.set_trailing_metadata(tuple(trailing))
        return response

    return respond
