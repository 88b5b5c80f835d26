"""TensorFlow Serving's own stubs against our server; and our messages against theirs, field by field."""

from __future__ import annotations

import ast
import importlib.util
import re
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from services.predict.protocols.proto import tensorflow_pb2 as tensorflow
from services.predict.protocols.proto import tensorflow_serving_pb2 as serving
from tests.predict.toy_registry import THREE, mixed, numeric
from tests.waiting import PATIENCE, fastest

NO_LIMITS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
ADM = {"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}


@pytest.mark.tensorflow
def test_the_stubs_of_tensorflow_serving_api(served) -> None:
    from tests.predict.tfserving_stubs import answers

    report = answers(served.grpc_port, served.toys.token)
    rows = np.arange(12, dtype=float).reshape(2, 6).tolist()
    assert report["predict"] == numeric().answer(rows)["y"].tolist()
    assert report["version"] == 1
    assert report["columns"] == mixed().answer([ADM])["admit"].tolist()
    score = float(mixed(seed=1).answer([ADM])["admit"][0, 0])
    assert [label for label, _ in report["classify"]] == ["no", "yes"]
    np.testing.assert_allclose([s for _, s in report["classify"]], [1 - score, score], rtol=1e-6)
    np.testing.assert_allclose(report["regress"], mixed(THREE).answer([ADM])["score"][0, 0], rtol=1e-6)
    assert report["multi"] == ["classification_result", "regression_result"]
    assert report["metadata"] == sorted(ADM)
    assert report["status"] == ["AVAILABLE1", "AVAILABLE2"]
    assert report["errors"] == [
        "NOT_FOUND",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
    ]


def test_health_does_not_wait_for_the_examples_of_a_large_request(served) -> None:
    """Examples are read one by one in Python: 100,000 of them take seconds, in which others are answered."""
    message = serving.ClassificationRequest(model_spec=serving.ModelSpec(name="adm"))
    example = tensorflow.Example()
    for name, value in (("gre", 700.0), ("gpa", 3.5)):
        example.features.feature[name].float_list.value.append(value)
    message.input.example_list.examples.extend([example] * 100_000)
    metadata = tuple((name.lower(), value) for name, value in served.headers.items())
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}", NO_LIMITS) as channel:
        classify = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Classify",
            request_serializer=serving.ClassificationRequest.SerializeToString,
            response_deserializer=serving.ClassificationResponse.FromString,
        )

        def longest_share() -> float:
            """Return the longest wait for an answer about health, as a share of the request's time."""
            waits: list[float] = []
            started = time.perf_counter()
            call = classify.future(message, timeout=PATIENCE, metadata=metadata)
            while not call.done():
                asked = time.perf_counter()
                served.get("/v2/health/live")
                waits.append(time.perf_counter() - asked)
            assert len(call.result().result.classifications) == 100_000
            return max(waits) / (time.perf_counter() - started)

        assert fastest(longest_share, 0.25) < 0.25

        message.input.example_list.examples.append(example)
        with pytest.raises(grpc.RpcError, match="at most 100000"):
            classify(message, timeout=PATIENCE, metadata=metadata)


def their_file(package: str, path: str) -> descriptor_pb2.FileDescriptorProto:
    """Return a generated file's descriptor without importing it, which would import TensorFlow."""
    spec = importlib.util.find_spec(package)
    source = (Path(spec.submodule_search_locations[0]) / path).read_text()
    text = re.search(r"AddSerializedFile\((b(?:'|\").*?(?:'|\"))\)\n", source, re.DOTALL)[1]
    return descriptor_pb2.FileDescriptorProto.FromString(ast.literal_eval(text))


def messages(file, package: str) -> dict[str, dict[str, tuple]]:
    """Return each message's fields: (number, type, repeated, type's name) by name."""
    fields: dict[str, dict[str, tuple]] = {}

    def walk(message, prefix: str) -> None:
        name = f"{prefix}.{message.name}"
        fields[name] = {f.name: (f.number, f.type, f.label == 3, f.type_name) for f in message.field}
        for inner in message.nested_type:
            walk(inner, name)

    for message in file.message_type:
        walk(message, package)
    return fields


THEIRS = [
    ("tensorflow_serving", f"apis/{name}_pb2.py")
    for name in (
        "predict",
        "classification",
        "regression",
        "inference",
        "input",
        "model",
        "get_model_metadata",
        "get_model_status",
        "model_management",
    )
] + [
    ("tensorflow_serving", "config/model_server_config_pb2.py"),
    ("tritonclient", "grpc/model_config_pb2.py"),
    ("tensorflow", "core/framework/tensor_pb2.py"),
    ("tensorflow", "core/framework/tensor_shape_pb2.py"),
    ("tensorflow", "core/example/example_pb2.py"),
    ("tensorflow", "core/example/feature_pb2.py"),
    ("tensorflow", "core/protobuf/meta_graph_pb2.py"),
    ("tritonclient", "grpc/service_pb2.py"),
]


def test_our_messages_are_theirs() -> None:
    theirs: dict[str, dict[str, tuple]] = {}
    for package, path in THEIRS:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        file = their_file(package, path)
        theirs |= messages(file, file.package)
    checked = 0
    for name in ("tensorflow", "tensorflow_serving", "inference"):
        file = their_file("services.predict.protocols.proto", f"{name}_pb2.py")
        for name, fields in messages(file, file.package).items():
            # In a file that the package does not carry, and a field that only KServe has.
            if name in ("tensorflow.serving.StatusProto", "inference.ModelMetadataResponse.PropertiesEntry"):
                continue
            for field, shape in fields.items():
                if f"{name}.{field}" == "inference.ModelMetadataResponse.properties":  # KServe's
                    continue
                assert theirs[name][field] == shape, f"{name}.{field}"
                checked += 1
    assert checked > 120
