"""gRPC itself: reflection, watched health, the fast lane's answers beside ordinary ones, calls without a message."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from fitserve import api_keys
from fitserve.errors import TooMany
from fitserve.settings import Settings
from services.predict.protocols.proto import health_pb2 as health
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.server import grpc_connections, grpc_lane, grpc_server
from services.predict.server.grpc_connections import Connections, WaitingCall, WaitingCalls
from services.predict.server.grpc_threads import Threads
from tests.predict.toy_registry import RunningService, eventually, numeric, run_service
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
    monkeypatch.setattr(grpc_server, "REFLECTION_SECONDS", 0.0)
    monkeypatch.setattr(grpc_connections, "LOOK_SECONDS", 0.01)
    waiting = WaitingCalls(Settings(), Connections(Settings()))
    reflector = grpc_server._Reflection(["inference.GRPCInferenceService"], waiting, Threads(20, 20))
    gate = threading.Event()

    def silent() -> Iterator[bytes]:
        yield reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        gate.wait(PATIENCE)

    def end_of(call: Any) -> grpc.StatusCode:
        with contextlib.suppress(grpc.RpcError):
            list(call)
        return call.code()

    async def code() -> grpc.StatusCode:
        watching = asyncio.create_task(waiting.watch(lambda: None))
        try:
            return await asyncio.to_thread(lambda: end_of(ask(silent(), timeout=PATIENCE)))
        finally:
            watching.cancel()

    handler = grpc.stream_stream_rpc_method_handler(
        reflector.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    with own_server({"/any/method": handler}) as channel:
        ask = channel.stream_stream("/any/method")
        assert asyncio.run(code()) == grpc.StatusCode.DEADLINE_EXCEEDED
        gate.set()


@contextlib.contextmanager
def own_server(handlers: dict[str, grpc.RpcMethodHandler]) -> Iterator[grpc.Channel]:
    """Serve some methods in this process."""
    threads = Threads(20, 20)
    server = grpc.server(threads)
    server.add_generic_rpc_handlers((grpc_server._Methods(handlers, threads),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait(PATIENCE)
    threads.stop()


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
    form = grpc_lane.Form(SimpleNamespace(), struct.Struct("<f"), 1, b"", (), SimpleNamespace())  # type: ignore[arg-type]
    caller, whole = grpc_lane.KnownCaller(None, None), request(ROWS)
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


def test_a_large_message_is_not_parsed_where_others_wait() -> None:
    lane = grpc_lane.GrpcLane(SimpleNamespace(counters=None, updates=SimpleNamespace(on_change=[])))  # type: ignore[arg-type]
    caller = grpc_lane.KnownCaller(None, lane.generation)
    caller.models["m1", ""] = SimpleNamespace(columns=SimpleNamespace(names=["x"] * 6))  # type: ignore[assignment]
    with lane._lock:
        assert lane.answer(caller, request(ROWS * 1_000).SerializeToString()) is None


def test_metadata_that_is_not_utf_8_is_not_logged(served: RunningService) -> None:
    log = served.toys.home / f"services.predict-{served.port}.log"
    before = len(log.read_text())
    with connected(served.grpc_port) as connection:
        head = h2_head(INFER, authorization="Bearer secret \xff\xfe")
        connection.sendall(h2_frame(1, 4, 1, head))
        answer = read_until_closed(connection, b"not an API key")
    assert b"not an API key" in answer
    logged = log.read_text()[before:]
    assert "secret" not in logged, logged


@pytest.mark.long  # the short form: test_calls_at_once_get_their_own_answers_and_each_is_counted
def test_thousands_of_calls_at_once_are_all_answered_by_few_threads(
    channel: grpc.Channel, served: RunningService
) -> None:
    infer = channel.unary_unary(INFER)
    whole, token = request(ROWS).SerializeToString(), ("authorization", f"Bearer {served.toys.token}")
    for metadata in ((token,), (token, ("x-other", "y")), ()):  # the fast lane, the ordinary path, refused
        calls = [infer.future(whole, metadata=metadata, timeout=PATIENCE) for _ in range(6_000)]
        codes = {call.code() for call in calls}
        assert codes == {grpc.StatusCode.OK if metadata else grpc.StatusCode.UNAUTHENTICATED}
        assert len(list(Path(f"/proc/{served.process.pid}/task").iterdir())) < 1_000


def test_calls_that_wait_keep_nobody_else_waiting(channel: grpc.Channel, served: RunningService) -> None:
    """Each holds a thread: calls without a message, streams that pause, watches."""
    log = served.toys.home / f"services.predict-{served.port}.log"
    gate, before = threading.Event(), len(log.read_text())

    def silent(*messages: bytes) -> Iterator[bytes]:
        yield from messages
        gate.wait(PATIENCE)

    metadata = (("authorization", f"Bearer {served.toys.token}"),)
    whole = request(ROWS).SerializeToString()
    infer = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
    infer(whole, metadata=metadata, timeout=PATIENCE)  # the fast lane knows the caller of half of the calls
    half = channel.stream_unary(INFER)
    more = (*metadata, ("x-other", "y"))
    waiting = [half.future(silent(), metadata=data, timeout=PATIENCE) for data in (metadata, more) for _ in range(20)]
    stream = channel.stream_stream(INFER.replace("ModelInfer", "ModelStreamInfer"))
    streams = [stream(silent(whole), metadata=metadata, timeout=PATIENCE) for _ in range(20)]
    watch = channel.stream_stream("/grpc.health.v1.Health/Watch")
    streams += [watch(silent(), timeout=PATIENCE) for _ in range(20)]
    try:
        assert all(next(one) for one in streams)
        for _ in range(10):
            assert infer(whole, metadata=metadata, timeout=PATIENCE).outputs[0].shape == [2, 2]
            assert infer(whole, metadata=more, timeout=PATIENCE).outputs[0].shape == [2, 2]
    finally:
        for call in (*waiting, *streams):
            call.cancel()
        gate.set()
    assert infer(whole, metadata=metadata, timeout=PATIENCE).outputs[0].shape == [2, 2]
    logged = log.read_text()[before:]
    assert "Traceback" not in logged, logged


def test_calls_at_once_get_their_own_answers_and_each_is_counted(channel: grpc.Channel, served: RunningService) -> None:
    infer = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
    metadata = (("authorization", f"Bearer {served.toys.token}"),)
    rows = np.random.default_rng(1).uniform(-90, 90, (300, 6)).astype("<f4")
    infer(request([rows[0].tolist()]).SerializeToString(), metadata=metadata, timeout=PATIENCE)

    def answered() -> float:
        return served.telemetry("fitserve_predict_fast_lane_requests_total")

    before = answered()
    calls = [
        infer.future(request([row.tolist()]).SerializeToString(), metadata=metadata, timeout=PATIENCE) for row in rows
    ]
    answers = [np.frombuffer(call.result().raw_output_contents[0], "<f4") for call in calls]
    expected = numeric().answer(rows.tolist())["y"]
    assert np.allclose(answers, expected, rtol=1e-5, atol=1e-5)
    assert answered() - before == len(rows)


def test_a_key_that_was_revoked_while_its_message_was_awaited_is_refused(
    channel: grpc.Channel, served: RunningService
) -> None:
    token = served.toys.create_key(["predict"], models=["m1"])
    metadata, gate = (("authorization", f"Bearer {token}"),), threading.Event()
    whole = request(ROWS).SerializeToString()

    def late() -> Iterator[bytes]:
        gate.wait(PATIENCE)
        yield whole

    infer = channel.unary_unary(INFER)

    def code() -> grpc.StatusCode:
        call = infer.future(whole, metadata=metadata, timeout=PATIENCE)
        return call.code()

    eventually(lambda: code() == grpc.StatusCode.OK)
    assert code() == grpc.StatusCode.OK  # the fast lane knows the caller
    call = channel.stream_unary(INFER).future(late(), metadata=metadata, timeout=PATIENCE)
    served.toys.change(api_keys.revoke, token.split(".")[0])
    eventually(lambda: code() == grpc.StatusCode.UNAUTHENTICATED)
    gate.set()
    assert call.code() == grpc.StatusCode.UNAUTHENTICATED


def test_what_the_event_loop_does_for_a_call_ends_with_it_and_is_forgotten() -> None:
    callbacks: list[Any] = []

    def abort(code: grpc.StatusCode, details: str) -> None:
        raise InterruptedError(details)

    async def check() -> None:
        context = SimpleNamespace(add_callback=lambda callback: callbacks.append(callback) or True, abort=abort)
        work = grpc_server._LoopWork(asyncio.get_running_loop(), Threads(20, 20), context)
        for number in range(5):
            assert await asyncio.to_thread(work.run, asyncio.sleep, 0, number) == number
        assert len(callbacks) == 1  # gRPC keeps them until the call ends
        begun = asyncio.Event()

        async def endless() -> None:
            begun.set()
            await asyncio.Event().wait()

        waiting = asyncio.create_task(asyncio.to_thread(work.run, endless))
        await begun.wait()
        callbacks[0]()
        for _ in range(2):  # what is begun later ends too
            with pytest.raises(InterruptedError):
                await waiting
            waiting = asyncio.create_task(asyncio.to_thread(work.run, endless))
        with pytest.raises(InterruptedError):
            await waiting

    asyncio.run(check())


def test_no_caller_takes_all_places() -> None:
    settings = Settings(grpc_waiting_calls=1_500)
    waiting = WaitingCalls(settings, Connections(settings))

    def enter(caller: str, most: int) -> int:
        for count in range(most):
            try:
                waiting.enter(WaitingCall(caller, None, math.inf, 0.0))
            except TooMany:
                return count
        return most

    assert enter("one", 2_000) == 1_500
    assert 500 < enter("two", 2_000) < 1_500
    assert all(enter(f"further {number}", 16) == 16 for number in range(100))


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


def test_a_streams_message_that_cannot_be_read_takes_no_place_from_others(
    channel: grpc.Channel, served: RunningService
) -> None:
    stream = channel.stream_stream(
        INFER.replace("ModelInfer", "ModelStreamInfer"),
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    metadata = (("authorization", f"Bearer {served.toys.token}"),)
    messages = [b"\xff\xff", b"\xff\xff", request(ROWS).SerializeToString()]
    *refused, last = stream(iter(messages), metadata=metadata, timeout=PATIENCE)
    assert len(refused) == 2
    assert all("ModelInferRequest" in one.error_message for one in refused)
    assert last.infer_response.model_name == "m1"
    assert served.telemetry("fitserve_predict_requests_in_flight") == 0


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
        b"\0" + b"".join(bytes((len(text),)) + text for text in (name.encode(), value.encode("latin-1")))
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
