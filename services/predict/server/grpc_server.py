"""All protocols' gRPC services on one port, in threads.

The fast lane answers in the thread that has read the message. Everything else is answered in the event loop that the
HTTP server runs in, which the thread waits for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from fitserve.errors import DeadlineExceeded, FitserveError, Malformed
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
from services.predict.server.grpc_connections import Connections, Places, WaitingCall, WaitingCalls
from services.predict.server.grpc_lane import GrpcLane
from services.predict.server.grpc_threads import FREE, Threads
from services.predict.serving.prediction_service import MAX_IN_FLIGHT, PredictionService

MAX_CALLS = 65_536  # calls of a process that wait for a thread at once
MAX_PENDING = 16_384  # and calls that gRPC has not handed over yet
WATCH_SECONDS = 1.0
# Streams at once in a process for which no key is asked: in all, and of one address.
MAX_WATCHING, MAX_WATCHING_OF_ADDRESS = 256, 64
MAX_REFLECTING, MAX_REFLECTING_OF_ADDRESS = 16, 8
REFLECTION_SECONDS = 30.0  # between two questions

STOP_SECONDS = 5.0  # grace period for calls at shutdown

T = TypeVar("T")


@asynccontextmanager
async def grpc_server(service: PredictionService, settings: Settings) -> AsyncIterator[None]:
    """Serve within the block. Raises RuntimeError where the port is taken."""
    waiting = WaitingCalls(settings, Connections(settings))
    # As many as can be held up at once, and a few that never are.
    threads = Threads(waiting.places + MAX_WATCHING + MAX_REFLECTING + MAX_IN_FLIGHT + FREE, MAX_CALLS)
    try:
        server = _make_server(service, settings, waiting, threads)
        server.start()
        watching = asyncio.create_task(waiting.watch(threads.trim))
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await asyncio.to_thread(server.stop(grace=STOP_SECONDS).wait, 2 * STOP_SECONDS)
    finally:
        threads.stop()


def _names_no_key(record: logging.LogRecord) -> bool:
    """Return False for what gRPC logs about metadata that are not UTF-8: their bytes, which may hold a key."""
    return not record.getMessage().startswith("Invalid encoding on ")


logging.getLogger("grpc._cython.cygrpc").addFilter(_names_no_key)


def _make_server(
    service: PredictionService, settings: Settings, waiting: WaitingCalls, threads: Threads
) -> grpc.Server:
    server = grpc.server(
        threads,
        options=[
            ("grpc.max_receive_message_length", settings.limits.predict_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(settings.predict_processes > 1)),
            ("grpc.max_metadata_size", 16 * 1024),
            # By default, gRPC cancels some calls, whoever's they are, once a thousand have come at once.
            ("grpc.server.max_pending_requests", MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
            ("grpc.server_handshake_timeout_ms", int(settings.head_seconds * 1000)),
            ("grpc.max_connection_idle_ms", 300_000),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ],
    )
    lane = GrpcLane(service)
    handlers = {
        f"/{name}/{method}": _method_handler(_Calls(service, protocol, methods[method], waiting, threads), lane)
        for protocol in PROTOCOLS
        for name, methods in protocol.grpc_services.items()
        for method in methods
    }
    names = [*(name for protocol in PROTOCOLS for name in protocol.grpc_services), reflection.SERVICE_NAME]
    handlers[f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"] = grpc.stream_stream_rpc_method_handler(
        _Reflection(names, waiting, threads).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((_Methods(handlers, threads),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    if settings.tls_certificate is not None and settings.tls_key is not None:
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    return server


class _Methods(grpc.GenericRpcHandler):
    """The handlers of all methods, and of calls that find too many others before them."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler], threads: Threads) -> None:
        self._find, self._is_full = handlers.get, threads.is_full
        self._refusal = grpc.stream_unary_rpc_method_handler(_refuse)

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call; None if there is no such method."""
        return self._refusal if self._is_full() else self._find(handler_call_details.method)


def _refuse(_messages: Iterator[bytes], context: Any) -> bytes:
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls at once.")
    return b""


class _Reflection(reflection.ReflectionServicer):
    """Server reflection, for which no key is asked: few streams at once, which end when nothing is asked for long."""

    def __init__(self, names: list[str], waiting: WaitingCalls, threads: Threads) -> None:
        super().__init__(names, pool=POOL)
        self._places = Places(MAX_REFLECTING, MAX_REFLECTING_OF_ADDRESS)
        self._waiting, self._threads = waiting, threads

    def ServerReflectionInfo(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        """Answer the requests of one reflection stream."""
        if (place := self._places.take(context)) is None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many streams of server reflection are open.")
            return
        try:
            with self._threads.held_up():
                yield from super().ServerReflectionInfo(self._asked(request_iterator, context), context)
        except DeadlineExceeded as error:
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, error_line(error))
        finally:
            self._places.give_back(place)

    def _asked(self, messages: Iterator[Any], context: Any) -> Iterator[Any]:
        """Yield messages. Raises DeadlineExceeded when the next one does not come for REFLECTION_SECONDS."""
        while True:
            call = WaitingCall(context, context, REFLECTION_SECONDS, time.monotonic())
            if (message := self._waiting.next_of(messages, call)) is None:
                return
            yield message


def _method_handler(calls: _Calls, lane: GrpcLane) -> grpc.RpcMethodHandler:
    method = calls.method
    if method.watch:
        # On the wire one message is sent, but as for any call without a key, we do not read it.
        return grpc.stream_stream_rpc_method_handler(
            _watching(calls), response_serializer=lambda message: message.SerializeToString()
        )
    if method.stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _streaming(calls, method.stream), response_serializer=lambda message: message.SerializeToString()
        )
    # A unary call on the wire, but registered as a stream so that its message is received only when we ask for it.
    return grpc.stream_unary_rpc_method_handler(
        _fast(calls, lane) if method.request_type is ModelInferRequest else calls.respond
    )


class _LoopWork:
    """What the event loop does for one call, one thing at a time; it is cancelled when the call ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: Threads, context: Any) -> None:
        self._loop, self._threads, self._context = loop, threads, context
        self._future: Future[Any] | None = None
        self._has_ended = False
        if not context.add_callback(self._end):
            self._has_ended = True

    def _end(self) -> None:
        self._has_ended = True
        if self._future is not None:
            self._future.cancel()

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Run a coroutine in the event loop. Raises what it raises, and gRPC's own exception if the call has ended."""
        wait = self._threads.wait()

        async def work() -> T:
            # Only this: while the loop is busy with others, further threads would bring it still more to do.
            wait.begin()
            try:
                return await function(*arguments)
            finally:
                wait.end()

        self._future = future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        if self._has_ended:
            future.cancel()
        try:
            return future.result()
        except CancelledError:
            self._context.abort(grpc.StatusCode.CANCELLED, "The call has ended.")
            raise
        finally:
            wait.end()


class _Calls:
    """The calls of one method, on the ordinary path."""

    def __init__(
        self,
        service: PredictionService,
        protocol: WireProtocol,
        method: GrpcMethod,
        waiting: WaitingCalls,
        threads: Threads,
    ) -> None:
        self.service, self.protocol, self.method = service, f"{protocol.name}_grpc", method
        self.waiting, self.threads = waiting, threads

    def loop_work(self, context: Any) -> _LoopWork:
        """Return the means to run parts of a call in the event loop."""
        return _LoopWork(self.service.loop, self.threads, context)

    def decoded(self, data: bytes) -> Any:
        """Parse a message. Raises Malformed."""
        try:
            return self.method.request_type.FromString(data)
        except DecodeError:
            raise Malformed(f"The message is not a {self.method.request_type.DESCRIPTOR.full_name}.") from None

    async def answer(
        self, request: GrpcRequest, message: Any, error: FitserveError | None
    ) -> tuple[Any, FitserveError | None]:
        """Return a message's answer, or why there is none, and count it; `error` is why it could not be read."""
        answer = None
        try:
            if error is not None:
                raise error
            if self.method.needs_key:  # health checks are answered even at the limit
                request.admit()
            answer = await request.run(self.method.handle, message)
        except FitserveError as refusal:
            error = _without_frames(refusal)
            self.service.counters.count_refusal(self.method.operation, error)
        request.count(self.protocol, self.method.operation, _code(error).name)
        return answer, error

    def respond(
        self,
        messages: Iterator[bytes],
        context: Any,
        data: bytes | None = None,
        error: FitserveError | None = None,
        answered: Callable[[GrpcRequest, Any], None] = lambda request, message: None,
    ) -> bytes:
        """Answer a unary call. `data`: its message, `error`: why it has none, if it was read before.

        `answered` is called in the event loop's thread once there is an answer.
        """
        request, message = GrpcRequest(self.service, context), None
        try:
            if error is not None:
                raise error
            if not self.method.needs_key:
                message = self.method.request_type()  # its fields do not matter, so its message is not read
            else:
                caller = request.identify()  # the key first, then bytes
                if data is None:
                    data = self.waiting.message(caller.key_id, messages, context)
                message = self.decoded(data)
        except FitserveError as refusal:
            error = _without_frames(refusal)

        async def work() -> tuple[Any, FitserveError | None]:
            answer, refusal = await self.answer(request, message, error)
            if refusal is None:
                answered(request, message)
            return answer, refusal

        answer, error = self.loop_work(context).run(work)
        if error is not None:
            if error.retry_after is not None:
                context.set_trailing_metadata((("retry-after", str(max(1, round(error.retry_after)))),))
            context.abort(_code(error), error_line(error))
        trailing = tuple((name.decode(), value.decode()) for name, value in prediction_headers(request))
        if trailing:
            context.set_trailing_metadata(trailing)
        return bytes(answer.SerializeToString())


def _without_frames(error: FitserveError) -> FitserveError:
    """Return an error without its traceback, whose frames would keep the call's message until a garbage collection."""
    error.__traceback__ = None
    return error


def _code(error: FitserveError | None) -> grpc.StatusCode:
    return grpc.StatusCode.OK if error is None else GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL)


def _fast(calls: _Calls, lane: GrpcLane) -> Callable[[Iterator[bytes], Any], bytes]:
    """Answer calls of ModelInfer on the fast lane where it takes them."""
    message, respond = calls.waiting.message, calls.respond

    def answer(messages: Iterator[bytes], context: Any) -> bytes:
        generation, metadata = lane.generation, context.invocation_metadata()
        known = lane.caller(metadata)
        data = error = None
        if known is not None:
            try:
                data = message(known.key_id, messages, context)
            except FitserveError as refusal:
                error = _without_frames(refusal)
            else:
                left = context.time_remaining()
                answered = lane.answer(known, data) if left is None or left > 0 else None
                if answered is not None:
                    response, form = answered
                    context.set_trailing_metadata(form.trailing)
                    return response

        def remember(request: GrpcRequest, message: Any) -> None:
            lane.remember(generation, metadata, request, message)

        return respond(messages, context, data, error, remember)

    return answer


def _streaming(calls: _Calls, respond: Callable[[Any, str], Any]) -> Callable[[Iterator[bytes], Any], Iterator[Any]]:
    """Answer each message of a stream as a separate call, in order; an error is an answer and does not end the stream.

    A stream may pause between messages for any length of time, so only the number of streams is limited.
    """

    def answered(loop_work: _LoopWork, context: Any, data: bytes) -> Any:
        request, message, error = GrpcRequest(calls.service, context), None, None
        try:
            message = calls.decoded(data)
        except FitserveError as refusal:
            error = _without_frames(refusal)
        answer, error = loop_work.run(calls.answer, request, message, error)
        return respond(answer, "" if error is None else error_line(error))

    def answers(messages: Iterator[bytes], context: Any) -> Iterator[Any]:
        try:
            caller = GrpcRequest(calls.service, context).identify()  # the key first, then bytes
            stream = WaitingCall(caller.key_id, context, math.inf, time.monotonic())
            calls.waiting.enter(stream)
        except FitserveError as error:
            context.abort(_code(error), error_line(error))
            return
        try:
            loop_work = calls.loop_work(context)
            with calls.threads.held_up():
                for data in messages:
                    yield answered(loop_work, context, data)
        finally:
            calls.waiting.leave(stream)

    return answers


def _watching(calls: _Calls) -> Callable[[Iterator[bytes], Any], Iterator[Any]]:
    """Answer at once, and again whenever the answer has changed, until the client leaves."""
    places = Places(MAX_WATCHING, MAX_WATCHING_OF_ADDRESS)
    method = calls.method

    async def count(request: GrpcRequest) -> None:
        request.count(calls.protocol, method.operation, "OK")

    def answers(_messages: Iterator[bytes], context: Any) -> Iterator[Any]:
        if (place := places.take(context)) is None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls watch the health. Use Check.")
            return
        request, last, left = GrpcRequest(calls.service, context), None, threading.Event()
        try:
            if not context.add_callback(left.set):
                return
            loop_work = calls.loop_work(context)
            with calls.threads.held_up():
                loop_work.run(count, request)
                while not left.is_set():
                    answer = loop_work.run(request.run, method.handle, method.request_type())
                    if answer != last:
                        last = answer
                        yield answer
                    left.wait(WATCH_SECONDS)
        finally:
            places.give_back(place)

    return answers
