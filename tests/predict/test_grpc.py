"""gRPC itself: reflection, watched health, the fast lane's answers beside ordinary ones, calls without a message."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from fitserve.settings import Settings
from services.predict.protocols.proto import health_pb2 as health
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.protocols.transport import GrpcMethod
from services.predict.server import grpc_lane, grpc_server
from services.predict.server.grpc_connections import Connections, WaitingCalls
from services.predict.server.grpc_server import _streaming
from services.predict.serving.counters import Counters
from services.predict.serving.prediction_service import PredictionService
from tests.predict.toy_registry import RunningService, eventually, run_service
from tests.waiting import PATIENCE

INFER = "/inference.GRPCInferenceService/ModelInfer"
ROWS = [[1.5, -2.0, 3.25, 4.0, 5.0, 6.0], [0.0, 1.0, -1.0, 2.0, -2.0, 3.0]]


@pytest.fixture
def channel(served: RunningService) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as made:
        yield made


def request(rows: list[list[float]], dtype: str = "<f4", datatype: str = "FP32", **more: str) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="m1", **more)
    values = np.array(rows, dtype)
    made.inputs.add(name="instances", datatype=datatype, shape=values.shape)
    made.raw_input_contents.append(values.tobytes())
    return made


def test_reflection_names_services_and_messages(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "grpc.health.v1.Health",
    } <= services
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    assert "ModelInferRequest" in {message.name for message in file.message_type}


def test_health_is_watched(channel: grpc.Channel) -> None:
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch", response_deserializer=health.HealthCheckResponse.FromString
    )
    call = watch(health.HealthCheckRequest().SerializeToString(), timeout=PATIENCE)
    assert next(call).status == health.HealthCheckResponse.SERVING
    call.cancel()


def test_streams_without_a_key_are_few_and_their_messages_are_not_awaited(channel: grpc.Channel) -> None:
    gate = threading.Event()

    def silent(*messages: bytes) -> Iterator[bytes]:
        yield from messages
        gate.wait(PATIENCE)

    watch = channel.stream_stream("/grpc.health.v1.Health/Watch")
    reflect = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    kinds = (
        (lambda: watch(silent(), timeout=PATIENCE), grpc_server.MAX_WATCHING_OF_ADDRESS),
        (lambda: reflect(silent(question), timeout=PATIENCE), grpc_server.MAX_REFLECTING_OF_ADDRESS),
    )
    for begin, most in kinds:
        calls = [begin() for _ in range(most)]
        assert all(next(call) for call in calls)
        assert begin().code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()
        eventually(lambda begin=begin: _is_answered(begin()))  # their places are free again
    gate.set()


def _is_answered(call: Any) -> bool:
    try:
        return bool(next(call))
    except grpc.RpcError:
        return False
    finally:
        call.cancel()


def test_a_silent_stream_of_reflection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "REFLECTION_SECONDS", 0.01)

    async def silent() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.Event().wait()

    async def read() -> None:
        async for _ in grpc_server._prompt(silent()):
            pass

    with pytest.raises(TimeoutError):
        asyncio.run(read())


def test_the_fast_lane_answers_as_the_ordinary_way(channel: grpc.Channel, served: RunningService) -> None:
    infer = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)

    def ask(
        message: pb.ModelInferRequest | bytes, *more: tuple[str, str]
    ) -> tuple[pb.ModelInferResponse, dict[str, str]]:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        metadata = (("authorization", f"Bearer {served.toys.token}"), *more)
        answer, call = infer.with_call(data, metadata=metadata, timeout=PATIENCE)
        return answer, {key: value for key, value in call.trailing_metadata() if key.startswith("x-")}

    messages: list[Any] = [request(ROWS), request(ROWS[:1], id="a"), request(ROWS, "<f8", "FP64")]
    messages += [request(ROWS[::-1]), request([[0.5] * 6] * 2, "<f8", "FP64")]  # as before, but for the numbers
    # The numbers stand first, or what looks like them stands in the id.
    raw, rest = b"\x3a\x18", pb.ModelInferRequest(model_name="m1", inputs=messages[1].inputs).SerializeToString()
    for row in np.array(ROWS, "<f4"):
        messages.append(raw + row.tobytes() + rest)
        messages.append(raw + row.tobytes() + rest + b"\x1a\x1a" + raw + b"abcd" * 5 + b"%04d" % row[0])
    messages.append(request([[1e9] * 6]))
    # A further word in the metadata keeps a call on the ordinary way.
    ordinary = [ask(message, ("x-other", "y")) for message in messages]
    ask(messages[0])
    fast = served.telemetry("fitserve_predict_fast_lane_requests_total")
    assert [ask(message) for message in messages] == ordinary
    answered = served.telemetry("fitserve_predict_fast_lane_requests_total") - fast
    assert answered == len(messages) - 1  # the last one is warned of
    assert "x-model-warnings" in ordinary[-1][1]
    with pytest.raises(grpc.RpcError) as refused:
        infer(messages[0].SerializeToString(), metadata=(("authorization", "Bearer wrong.key"),), timeout=PATIENCE)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_what_the_fast_lane_remembers_is_small() -> None:
    form = grpc_lane.Form(SimpleNamespace(), struct.Struct("<f"), 1, b"", ())  # type: ignore[arg-type]
    caller, whole = grpc_lane.KnownCaller(), request(ROWS)
    numbers = whole.raw_input_contents[0]
    for junk in range(0, 200_000, 1_000):  # of a field that nobody knows, which is skipped
        head = b"\xa2\x06" + grpc_lane._varint(junk) + bytes(junk)
        caller.learn(head + whole.SerializeToString(), form, numbers)
    assert [len(head) < 2_048 for head in caller.forms] == [True]
    for rows in range(1, 300):
        message = request(ROWS[:1] * rows)
        caller.learn(message.SerializeToString(), form, message.raw_input_contents[0])
    assert len(caller.forms) <= grpc_lane.MAX_FORMS
    assert len(caller.numbers) <= grpc_lane.MAX_FORMS


def test_calls_without_a_message_keep_nobody_waiting(channel: grpc.Channel, served: RunningService) -> None:
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait(120)
        yield b""

    metadata = (("authorization", f"Bearer {served.toys.token}"),)
    open_calls = [channel.stream_unary(INFER).future(nothing(), metadata=metadata) for _ in range(30)]
    try:
        infer = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
        assert infer(request(ROWS).SerializeToString(), metadata=metadata, timeout=PATIENCE).outputs[0].shape == [2, 2]
    finally:
        gate.set()
        for call in open_calls:
            call.cancel()


def test_settings_say_how_long_and_how_many_calls_wait_for_a_message(served: RunningService) -> None:
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait(120)
        yield b""

    metadata = (("authorization", f"Bearer {served.toys.token}"),)
    limits = {"FITSERVE_GRPC_MESSAGE_SECONDS": "2", "FITSERVE_GRPC_WAITING_CALLS": "2"}
    with (
        run_service(served.toys, **limits) as strict,
        grpc.insecure_channel(f"127.0.0.1:{strict.grpc_port}") as channel,
    ):
        calls = [channel.stream_unary(INFER).future(nothing(), metadata=metadata, timeout=PATIENCE) for _ in range(5)]
        codes = sorted(call.code().name for call in calls)
        gate.set()
    assert codes == ["DEADLINE_EXCEEDED"] * 2 + ["RESOURCE_EXHAUSTED"] * 3


def test_a_streams_message_that_cannot_be_read_takes_no_place_from_others() -> None:
    waiting = WaitingCalls(Settings(), Connections(Settings()))
    context: Any = SimpleNamespace(invocation_metadata=lambda: (), time_remaining=lambda: None)

    async def answered() -> tuple[list[str], int]:
        service: Any = SimpleNamespace(loop=asyncio.get_running_loop(), counters=Counters())
        service.access = SimpleNamespace(identify_header=lambda header: SimpleNamespace(key_id="one"))
        service.admit = lambda: PredictionService.admit(service)

        async def messages() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"\xff\xff"

        async def unasked(request: Any, message: Any) -> None:
            raise AssertionError("nothing was read")

        method = GrpcMethod("infer", pb.ModelInferRequest, unasked)
        respond = _streaming(service, "oip_grpc", method, lambda answer, error: error, waiting)
        return [error async for error in respond(messages(), context)], service.counters.in_flight

    errors, in_flight = asyncio.run(answered())
    assert len(errors) == 3
    assert all("ModelInferRequest" in error for error in errors)
    assert in_flight == 0


def h2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def connected(port: int) -> socket.socket:
    """Connect as a client of HTTP/2."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(4, 0, 0))
    return connection


def begun_call(port: int, token: str) -> socket.socket:
    """Connect, and send all of a call but its message."""
    connection = connected(port)
    connection.sendall(h2_frame(1, 4, 1, h2_head(INFER, authorization=f"Bearer {token}")))
    return connection


def h2_head(path: str, **more: str) -> bytes:
    """A call's header fields, with new names, none of them indexed."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "a", "te": "trailers"}
    headers |= {"content-type": "application/grpc", **more}
    return b"".join(
        b"\0" + b"".join(bytes((len(text),)) + text for text in (name.encode(), value.encode()))
        for name, value in headers.items()
    )


def test_a_watcher_that_leaves_while_its_answer_waits_gives_back_its_place(
    channel: grpc.Channel, served: RunningService
) -> None:
    """The stream's generator ends after gRPC has freed the call; asking that call for its peer killed the process."""
    nothing_may_be_sent = h2_frame(4, 0, 0, (4).to_bytes(2, "big") + (0).to_bytes(4, "big"))
    head = h2_head("/grpc.health.v1.Health/Watch")
    for _ in range(3):
        with connected(served.grpc_port) as connection:
            connection.sendall(nothing_may_be_sent)
            streams = range(1, 2 * grpc_server.MAX_WATCHING_OF_ADDRESS, 2)
            connection.sendall(b"".join(h2_frame(1, 4, stream, head) for stream in streams))
            read_until_closed(connection, b"application/grpc")
            time.sleep(0.2)
        watch = channel.stream_stream("/grpc.health.v1.Health/Watch")
        eventually(lambda watch=watch: _is_answered(watch(iter(()), timeout=PATIENCE)))
    logged = (served.toys.home / f"services.predict-{served.port}.log").read_text()
    assert "Health/Watch" not in logged, logged


def read_until_closed(connection: socket.socket, expected: bytes) -> bytes:
    """Read until these bytes have come, or the server has closed the connection."""
    connection.settimeout(PATIENCE)
    data = b""
    while expected not in data and (part := connection.recv(65_536)):
        data += part
    return data


def test_a_message_that_drips_is_cut_off_though_bytes_come(served: RunningService) -> None:
    limits = {"FITSERVE_HEAD_SECONDS": "2", "FITSERVE_BODY_BYTES_PER_SECOND": "2000"}
    with run_service(served.toys, **limits) as strict:
        with begun_call(strict.grpc_port, served.toys.token) as dripping:
            dripping.sendall(h2_frame(0, 0, 1, b"\x00" + (1_000_000).to_bytes(4, "big")))
            stop = threading.Event()

            def drip() -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(0.05):
                        dripping.sendall(h2_frame(0, 0, 1, bytes(20)))

            thread = threading.Thread(target=drip)
            thread.start()
            answer = read_until_closed(dripping, b"more slowly than 2000 bytes a second")
            stop.set()
            thread.join()
        assert b"more slowly than 2000 bytes a second" in answer, answer
        with begun_call(strict.grpc_port, served.toys.token) as brisk:  # for longer than a head may take
            whole = request(ROWS * 1_000).SerializeToString()
            message = b"\x00" + len(whole).to_bytes(4, "big") + whole
            for at in range(0, len(message), 8_000):
                brisk.sendall(h2_frame(0, int(at + 8_000 >= len(message)), 1, message[at : at + 8_000]))
                time.sleep(0.5)
            assert b"m1" in read_until_closed(brisk, b"m1")


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection."""
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_an_address_has_so_many_connections_and_a_caller_so_many_streams(served: RunningService) -> None:
    limits = {"FITSERVE_CONNECTIONS_PER_ADDRESS": "3", "FITSERVE_GRPC_WAITING_CALLS": "2"}
    metadata = (("authorization", f"Bearer {served.toys.token}"),)
    gate = threading.Event()
    with run_service(served.toys, **limits) as strict, contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{strict.grpc_port}"))
        infer = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
        infer(request(ROWS).SerializeToString(), metadata=metadata, timeout=PATIENCE)
        others = [stack.enter_context(connected(strict.grpc_port)) for _ in range(8)]
        eventually(lambda: sum(map(is_closed, others)) == 6)
        assert infer(request(ROWS).SerializeToString(), metadata=metadata, timeout=PATIENCE).model_name == "m1"

        def silent() -> Iterator[bytes]:
            yield request(ROWS).SerializeToString()
            gate.wait(120)

        stream = channel.stream_stream(INFER.replace("ModelInfer", "ModelStreamInfer"))
        first, second, third = (stream(silent(), metadata=metadata, timeout=PATIENCE) for _ in range(3))
        assert all(next(answered) for answered in (first, second))
        assert third.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        gate.set()
