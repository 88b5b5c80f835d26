"""Both protocols' gRPC services on one port, in the event loop that the REST protocols run in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from fitserve.api_keys import Identity
from fitserve.errors import FitserveError
from fitserve.settings import Settings
from services.predict.catalog.catalog import Entry
from services.predict.catalog.loaded_model import Network, Prediction
from services.predict.protocols.answers import message_of, version_headers
from services.predict.server.access import check_predict
from services.predict.serving.prediction_ids import HEADER, keep
from services.predict.serving.prediction_service import Selector, Service
from services.predict.serving.timing import TIMING, Timing

log = logging.getLogger(__name__)

CODES = {
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


@dataclass(slots=True)
class GrpcCall:
    """What a step may know of its call, and the metadata that it leaves."""

    service: Service
    context: Any
    deadline: float | None  # the event loop's time
    trailing: list[tuple[str, str]]

    def identity(self) -> Identity:
        """Who calls, by the metadata key `authorization`. Raises Unauthenticated."""
        metadata = dict(self.context.invocation_metadata() or ())
        value = metadata.get("authorization")
        return self.service.access.identify_header(value if isinstance(value, str) else None)

    def entry(self, model: str) -> Entry:
        """A model that the caller sees. Raises NotFound, Unauthenticated."""
        return self.service.entry(model, self.identity())

    async def target(self, selector: Selector) -> tuple[Entry, Network]:
        """Who answers a prediction, with the caller's right checked."""
        identity = self.identity()
        entry = self.service.entry(selector.model, identity)
        check_predict(identity, selector.model)
        return entry, await self.service.network(self.service.pointer(entry, selector), self.deadline)

    def told(self, prediction: Prediction) -> None:
        """Leaves the version and the warnings as trailing metadata."""
        self.trailing += [(name.decode(), value.decode()) for name, value in version_headers(prediction)]


Step = Callable[[GrpcCall, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """One unary method: its message types and its step."""

    operation: str
    request: Any
    step: Step


def handler(service: Service, protocol: str, methods: dict[str, Method], name: str) -> grpc.GenericRpcHandler:
    """A generic handler of the service `name`."""
    return grpc.method_handlers_generic_handler(
        name,
        {
            method_name: grpc.unary_unary_rpc_method_handler(
                _unary(service, protocol, method),
                request_deserializer=method.request.FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for method_name, method in methods.items()
        },
    )


def _unary(service: Service, protocol: str, method: Method) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: Any) -> Any:
        timing = Timing()
        TIMING.set(timing)
        remaining = context.time_remaining()
        deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
        call = GrpcCall(service, context, deadline, [])
        error: FitserveError | None = None
        response, admitted = None, False
        try:
            service.admit()
            admitted = True
            response = await method.step(call, request)
            metadata = dict(context.invocation_metadata() or ())
            id = keep(service, metadata.get(HEADER), metadata.get("authorization"), timing)
            if id is not None:
                call.trailing.append((HEADER, id))
        except FitserveError as refused:
            error = refused
        except Exception as unexpected:
            log.error("unexpected error", exc_info=unexpected)
            error = FitserveError("Something went wrong on our side.")
        finally:
            if admitted:
                service.counters.in_flight -= 1
        code = grpc.StatusCode.OK if error is None else CODES.get(error.status, grpc.StatusCode.INTERNAL)
        seconds = time.perf_counter() - timing.begun
        service.counters.answered(protocol, method.operation, code.name, seconds, timing)
        if error is not None:
            service.counters.refuse(method.operation, error)
            if error.retry_after is not None:
                call.trailing.append(("retry-after", str(max(1, round(error.retry_after)))))
            await context.abort(code, message_of(error), tuple(call.trailing))
        if call.trailing:
            context.set_trailing_metadata(tuple(call.trailing))
        return response

    return answer


async def start_grpc(service: Service, settings: Settings) -> grpc.aio.Server:
    """Starts the server. Raises RuntimeError where the port is taken."""
    from services.predict.protocols.oip import grpc as oip_grpc
    from services.predict.protocols.tfserving import grpc as tfserving_grpc

    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.limits.predict_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(settings.predict_processes > 1)),
            ("grpc.max_metadata_size", 16 * 1024),
        ],
        maximum_concurrent_rpcs=4096,
    )
    server.add_generic_rpc_handlers((*tfserving_grpc.handlers(service), *oip_grpc.handlers(service)))
    address = (
        f"[{settings.host}]:{settings.grpc_port}" if ":" in settings.host else f"{settings.host}:{settings.grpc_port}"
    )
    if settings.tls_certificate is not None and settings.tls_key is not None:
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    await server.start()
    return server
