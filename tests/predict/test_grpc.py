"""gRPC itself: reflection, watched health, the fast lane's answers beside ordinary ones, calls without a message."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.predict.protocols.proto import health_pb2 as health
from services.predict.protocols.proto import inference_pb2 as pb
from tests.predict.toy_registry import RunningService, run_service

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
    call = watch(health.HealthCheckRequest().SerializeToString(), timeout=60)
    assert next(call).status == health.HealthCheckResponse.SERVING
    call.cancel()


def test_the_fast_lane_answers_as_the_ordinary_way(channel: grpc.Channel, served: RunningService) -> None:
    infer = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)

    def ask(
        message: pb.ModelInferRequest | bytes, *more: tuple[str, str]
    ) -> tuple[pb.ModelInferResponse, dict[str, str]]:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        metadata = (("authorization", f"Bearer {served.toys.token}"), *more)
        answer, call = infer.with_call(data, metadata=metadata, timeout=60)
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
        infer(messages[0].SerializeToString(), metadata=(("authorization", "Bearer wrong.key"),), timeout=60)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_calls_without_a_message_keep_nobody_waiting(channel: grpc.Channel, served: RunningService) -> None:
    gate = threading.Event()

    def nothing() -> Iterator[bytes]:
        gate.wait(120)
        yield b""

    metadata = (("authorization", f"Bearer {served.toys.token}"),)
    open_calls = [channel.stream_unary(INFER).future(nothing(), metadata=metadata) for _ in range(30)]
    try:
        infer = channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
        assert infer(request(ROWS).SerializeToString(), metadata=metadata, timeout=60).outputs[0].shape == [2, 2]
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
        calls = [channel.stream_unary(INFER).future(nothing(), metadata=metadata, timeout=60) for _ in range(5)]
        codes = sorted(call.code().name for call in calls)
        gate.set()
    assert codes == ["DEADLINE_EXCEEDED"] * 2 + ["RESOURCE_EXHAUSTED"] * 3
