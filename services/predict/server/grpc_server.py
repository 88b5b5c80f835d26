"""All protocols' gRPC services on one port, in the event loop that the HTTP server runs in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from fitserve.errors import FitserveError, Malformed
from fitserve.settings import Settings
from services.predict.protocols import PROTOCOLS
from services.predict.protocols.transport import (
    GRPC_CODES,
    GrpcMethod,
    GrpcRequest,
    WireProtocol,
    error_line,
    prediction_headers,
)
from services.predict.serving.prediction_service import PredictionService


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
        maximum_concurrent_rpcs=4096,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(
                name, {method: _method_handler(service, protocol, methods[method]) for method in methods}
            )
            for protocol in PROTOCOLS
            for name, methods in protocol.grpc_services.items()
        )
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    if settings.tls_certificate is not None and settings.tls_key is not None:
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    await server.start()
    return server


async def _received(request: GrpcRequest, method: GrpcMethod, messages: Any) -> Any:
    """Return a call's message, received once the caller is known. Raises Unauthenticated, Malformed."""
    if not method.needs_key:
        return method.request_type()  # it has no fields that matter: whatever is sent is not received
    request.identify()
    async for data in messages:
        try:
            return method.request_type.FromString(data)
        except DecodeError:
            raise Malformed(f"The message is not a {method.request_type.DESCRIPTOR.full_name}.") from None
    raise Malformed("The call has no message.")


def _method_handler(service: PredictionService, protocol: WireProtocol, method: GrpcMethod) -> grpc.RpcMethodHandler:
    if method.stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _streaming(service, f"{protocol.name}_grpc", method, method.stream),
            request_deserializer=None,
            response_serializer=lambda message: message.SerializeToString(),
        )
    return grpc.stream_unary_rpc_method_handler(  # on the wire a unary call; its message is not received unasked
        _unary(service, f"{protocol.name}_grpc", method),
        request_deserializer=None,
        response_serializer=lambda message: message.SerializeToString(),
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
            request, answer, said, code = GrpcRequest(service, context), None, "", grpc.StatusCode.OK
            try:
                request.admit()
                answer = await request.run(method.handle, method.request_type.FromString(data))
            except DecodeError:
                said, code = "The message cannot be read.", grpc.StatusCode.INVALID_ARGUMENT
            except FitserveError as error:
                service.counters.count_refusal(method.operation, error)
                said, code = error_line(error), GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL)
            request.count(protocol, method.operation, code.name)
            yield respond(answer, said)

    return answers


def _unary(service: PredictionService, protocol: str, method: GrpcMethod) -> Callable[[Any, Any], Awaitable[Any]]:
    async def respond(messages: Any, context: Any) -> Any:
        request = GrpcRequest(service, context)
        error: FitserveError | None = None
        response = None
        try:
            message = await _received(request, method, messages)
            if method.needs_key:  # whether the server lives is told even where there is no room
                request.admit()
            response = await request.run(method.handle, message)
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
