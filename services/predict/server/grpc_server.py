"""All protocols' gRPC services on one port, in the event loop that the HTTP server runs in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from fitserve.errors import FitserveError, Malformed
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
from services.predict.server.grpc_connections import Connections, Places, WaitingCalls
from services.predict.server.grpc_lane import GrpcLane
from services.predict.serving.prediction_service import PredictionService

MAX_CALLS = 65_536  # calls at once in a process, most of them waiting for their messages
WATCH_SECONDS = 1.0
# Streams at once in a process for which no key is asked: in all, and of one address.
MAX_WATCHING, MAX_WATCHING_OF_ADDRESS = 256, 64
MAX_REFLECTING, MAX_REFLECTING_OF_ADDRESS = 16, 8
REFLECTION_SECONDS = 30.0  # between two questions

STOP_SECONDS = 5.0  # grace period for calls at shutdown


@asynccontextmanager
async def grpc_server(service: PredictionService, settings: Settings) -> AsyncIterator[None]:
    """Serve within the block. Raises RuntimeError where the port is taken."""
    waiting = WaitingCalls(settings, Connections(settings))
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_departure)
    server = _make_server(service, settings, waiting)
    await server.start()
    watching = asyncio.create_task(waiting.watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await server.stop(grace=STOP_SECONDS)


def _is_no_departure(record: logging.LogRecord) -> bool:
    """Filter out the tracebacks that gRPC logs for clients that left before their answer could be sent."""
    return "ExecuteBatchError" not in record.getMessage()


def _make_server(service: PredictionService, settings: Settings, waiting: WaitingCalls) -> grpc.aio.Server:
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
    reflector = _Reflection([*names, reflection.SERVICE_NAME])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflector, server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    if settings.tls_certificate is not None and settings.tls_key is not None:
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    return server


class _Reflection(reflection.aio.ReflectionServicer):
    """Server reflection, for which no key is asked: few streams at once, which end when nothing is asked for long."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names, pool=POOL)
        self._places = Places(MAX_REFLECTING, MAX_REFLECTING_OF_ADDRESS)

    async def ServerReflectionInfo(  # noqa: N802 - the library names it
        self, request_iterator: AsyncIterator[Any], unused_context: Any
    ) -> AsyncIterator[Any]:
        """Answer the requests of one reflection stream."""
        context = unused_context  # the library's name
        if (place := self._places.take(context)) is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many streams of server reflection are open.")
            return
        try:
            async for answer in super().ServerReflectionInfo(_prompt(request_iterator), context):
                yield answer
        except TimeoutError:
            message = f"Nothing was asked for {REFLECTION_SECONDS:g} s."
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, message)
        finally:
            self._places.give_back(place)


async def _prompt(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Yield messages. Raises TimeoutError when the next one does not come for REFLECTION_SECONDS."""
    iterator = aiter(messages)
    with suppress(StopAsyncIteration):
        while True:
            async with asyncio.timeout(REFLECTION_SECONDS):
                message = await anext(iterator)
            yield message


def _decoded(method: GrpcMethod, data: bytes) -> Any:
    try:
        return method.request_type.FromString(data)
    except DecodeError:
        raise Malformed(f"The message is not a {method.request_type.DESCRIPTOR.full_name}.") from None


def _method_handler(
    service: PredictionService, protocol: WireProtocol, method: GrpcMethod, lane: GrpcLane, waiting: WaitingCalls
) -> grpc.RpcMethodHandler:
    if method.watch:
        # On the wire one message is sent, but as for any call without a key, we do not read it.
        return grpc.stream_stream_rpc_method_handler(
            _watching(service, f"{protocol.name}_grpc", method),
            request_deserializer=None,
            response_serializer=lambda message: message.SerializeToString(),
        )
    if method.stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _streaming(service, f"{protocol.name}_grpc", method, method.stream, waiting),
            request_deserializer=None,
            response_serializer=lambda message: message.SerializeToString(),
        )
    # A unary call on the wire, but registered as a stream so that its message is received only when we ask for it.
    return grpc.stream_unary_rpc_method_handler(
        _unary(service, f"{protocol.name}_grpc", method, lane, waiting),
        request_deserializer=None,
        response_serializer=None,
    )


def _streaming(
    service: PredictionService,
    protocol: str,
    method: GrpcMethod,
    respond: Callable[[Any, str], Any],
    waiting: WaitingCalls,
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Answer each message of a stream as a separate call, in order; an error is an answer and does not end the stream.

    A stream may pause between messages for any length of time, so only the number of streams is limited.
    """

    async def answered(context: Any, data: bytes) -> Any:
        request, answer, message, code = GrpcRequest(service, context), None, "", grpc.StatusCode.OK
        try:
            decoded = _decoded(method, data)  # not counted as in flight yet; `run` counts it out at the end
            request.admit()
            answer = await request.run(method.handle, decoded)
        except FitserveError as error:
            service.counters.count_refusal(method.operation, error)
            message, code = error_line(error), GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL)
        request.count(protocol, method.operation, code.name)
        return respond(answer, message)

    async def answers(messages: Any, context: Any) -> AsyncIterator[Any]:
        try:
            caller = GrpcRequest(service, context).identify()  # the key first, then bytes
            waiting.enter(caller.key_id)
        except FitserveError as error:
            await context.abort(GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL), error_line(error))
        try:
            async for data in messages:
                yield await answered(context, data)
        finally:
            waiting.leave(caller.key_id)

    return answers


def _watching(
    service: PredictionService, protocol: str, method: GrpcMethod
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    """Answer at once, and again whenever the answer has changed, until the client leaves."""
    places = Places(MAX_WATCHING, MAX_WATCHING_OF_ADDRESS)

    async def answers(_messages: Any, context: Any) -> AsyncIterator[Any]:
        if (place := places.take(context)) is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls watch the health. Use Check.")
            return
        request, last = GrpcRequest(service, context), None
        request.count(protocol, method.operation, "OK")
        try:
            while True:
                answer = await request.run(method.handle, method.request_type())
                if answer != last:
                    last = answer
                    yield answer
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            places.give_back(place)

    return answers


def _unary(
    service: PredictionService, protocol: str, method: GrpcMethod, lane: GrpcLane, waiting: WaitingCalls
) -> Callable[[Any, Any], Awaitable[bytes | None]]:
    may_be_fast = method.request_type is ModelInferRequest

    async def respond(messages: Any, context: Any) -> bytes | None:
        metadata, data = context.invocation_metadata() if may_be_fast else (), None
        error: FitserveError | None = None
        response = message = None
        known = lane.caller(metadata) if may_be_fast else None
        if known is not None:
            try:
                data = await waiting.message(known, context)
            except FitserveError as refusal:
                error = refusal
            else:
                left = context.time_remaining()
                answered = lane.answer(known, data) if left is None or left > 0 else None
                if answered is not None:
                    response, form = answered
                    context.set_trailing_metadata(form.trailing)
                    return response
        request = GrpcRequest(service, context)
        try:
            if error is not None:
                raise error
            if not method.needs_key:
                message = method.request_type()  # its fields do not matter, so its message is not read
            else:
                caller = request.identify()  # the key first, then bytes
                data = data or await waiting.message(caller.key_id, context)
                message = _decoded(method, data)
            if method.needs_key:  # health checks are answered even at the limit
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
