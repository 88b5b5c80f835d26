"""tritonclient, unmodified, over HTTP and gRPC, with JSON and binary tensors."""

from __future__ import annotations

import queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from services.predict.protocols.proto import health_pb2
from tests.predict.toy_registry import mixed, numeric
from tests.waiting import PATIENCE

ADM = {"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}
COLUMNS = {
    "gre": ("FP32", np.float32),
    "gpa": ("FP64", np.float64),
    "rank": ("INT64", np.int64),
    "city": ("BYTES", object),
}


@pytest.fixture(params=["http", "http-json", "grpc"])
def triton(request, served):
    """Yield (module, client, headers factory, options of a tensor's data)."""
    if request.param == "grpc":
        return triton_grpc, triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}"), served, {}
    made = triton_http.InferenceServerClient(f"127.0.0.1:{served.port}")
    return triton_http, made, served, {"binary_data": request.param == "http"}


def headers(served) -> dict[str, str]:
    return {"authorization": f"Bearer {served.toys.token}"}


def tensor(module, name: str, values: np.ndarray, datatype: str, options: dict) -> object:
    made = module.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, **options)
    return made


def test_infer_all_columns_at_once(triton) -> None:
    module, client, served, options = triton
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    wanted = [module.InferRequestedOutput("y", **options)]
    for _ in range(3):
        result = client.infer(
            "m1",
            [tensor(module, "instances", rows, "FP32", options)],
            outputs=wanted,
            request_id="9",
            headers=headers(served),
        )
        np.testing.assert_array_equal(result.as_numpy("y"), numeric().answer(rows.tolist())["y"])
    response = result.get_response()
    assert (response["model_version"] if isinstance(response, dict) else response.model_version) == "1"
    assert (response["id"] if isinstance(response, dict) else response.id) == "9"


def test_infer_by_column_at_a_version(triton) -> None:
    module, client, served, options = triton
    inputs = [
        tensor(module, name, np.array([[ADM[name]]], dtype), datatype, options)
        for name, (datatype, dtype) in COLUMNS.items()
    ]
    result = client.infer("adm", inputs, model_version="1", headers=headers(served))
    np.testing.assert_array_equal(result.as_numpy("admit"), mixed().answer([ADM])["admit"])
    result = client.infer(
        "adm", inputs, outputs=[module.InferRequestedOutput("admit", class_count=1)], headers=headers(served)
    )
    assert result.as_numpy("admit").ravel()[0].endswith((b":0:no", b":1:yes"))


def test_health_metadata_and_repository(triton) -> None:
    _module, client, served, _ = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m1", headers=headers(served))
    response = client.get_model_metadata("adm", headers=headers(served))
    inputs = response["inputs"] if isinstance(response, dict) else response.inputs
    assert len(inputs) == 4
    index = client.get_model_repository_index(headers=headers(served))
    assert len(index if isinstance(index, list) else index.models) == 4


def test_unload_and_load(triton, served) -> None:
    module, client, _, options = triton
    served.toys.register("spare", numeric())
    from tests.predict.toy_registry import eventually

    eventually(lambda: "spare" in str(client.get_model_repository_index(headers=headers(served))))
    client.load_model("spare", headers=headers(served))
    assert client.is_model_ready("spare", headers=headers(served))
    client.unload_model("spare", headers=headers(served))
    assert not client.is_model_ready("spare", headers=headers(served))
    rows = tensor(module, "instances", np.ones((1, 6), np.float32), "FP32", options)
    with pytest.raises(InferenceServerException):
        client.infer("spare", [rows], headers=headers(served))
    client.load_model("spare", headers=headers(served))
    client.infer("spare", [rows], headers=headers(served))
    from fitserve import registry

    served.toys.change(registry.delete, "spare")
    eventually(lambda: "spare" not in str(client.get_model_repository_index(headers=headers(served))))


def test_errors(triton) -> None:
    module, client, served, options = triton
    rows = tensor(module, "nope", np.ones((1, 6), np.float32), "FP32", options)
    with pytest.raises(InferenceServerException, match="Unknown input"):
        narrow = tensor(module, "nope", np.ones((1, 5), np.float32), "FP32", options)
        client.infer("m1", [narrow], headers=headers(served))
    with pytest.raises(InferenceServerException, match="No model"):
        client.infer("none", [rows], headers=headers(served))
    with pytest.raises(InferenceServerException, match="API key"):
        client.infer("m1", [rows])


def test_shared_memory_is_refused_wherever_it_is_named(triton) -> None:
    module, client, served, options = triton

    def in_memory(made: Any) -> Any:
        made.set_shared_memory("region", 8)
        return made

    whole = [
        tensor(module, name, np.array([[ADM[name]]], kind), sort, options) for name, (sort, kind) in COLUMNS.items()
    ]
    for inputs, output in (
        ([*whole[:3], in_memory(module.InferInput("city", [1, 1], "BYTES"))], module.InferRequestedOutput("admit")),
        (whole, in_memory(module.InferRequestedOutput("admit"))),
        (whole, in_memory(module.InferRequestedOutput("admit_label"))),
    ):
        with pytest.raises(InferenceServerException, match="Shared memory is not offered"):
            client.infer("adm", inputs, outputs=[output], headers=headers(served))


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_compressed_requests(served, packed) -> None:
    client = triton_http.InferenceServerClient(f"127.0.0.1:{served.port}")
    rows = tensor(triton_http, "instances", np.ones((1, 6), np.float32), "FP32", {})
    result = client.infer("m1", [rows], headers=headers(served), request_compression_algorithm=packed)
    np.testing.assert_array_equal(result.as_numpy("y"), numeric().answer([[1] * 6])["y"])


def test_configuration_and_statistics(triton) -> None:
    module, client, served, _ = triton
    known = {"headers": headers(served)} | ({"as_json": True} if module is triton_grpc else {})
    config = client.get_model_config("m1", **known)
    config = config.get("config", config)
    assert (config["name"], config["platform"]) == ("m1", "onnxruntime_onnx")
    assert config["input"][0]["data_type"] == "TYPE_FP64"
    (stats,) = client.get_inference_statistics("m1", **known)["model_stats"]
    assert (stats["name"], stats["version"]) == ("m1", "1")
    counted = {name: int(one.get("count", 0)) for name, one in stats["inference_stats"].items()}
    with pytest.raises(InferenceServerException, match="not a number"):
        client.infer(
            "m1", [tensor(module, "instances", np.full((1, 6), "x", object), "BYTES", {})], headers=headers(served)
        )
    client.infer("m1", [tensor(module, "instances", np.ones((1, 6), np.float32), "FP32", {})], headers=headers(served))
    (stats,) = client.get_inference_statistics("m1", **known)["model_stats"]
    now = {name: int(one.get("count", 0)) for name, one in stats["inference_stats"].items()}
    assert now == {"success": counted["success"] + 1, "fail": counted["fail"] + 1}
    with pytest.raises(InferenceServerException, match="configuration or files"):
        client.load_model("m1", config="{}", headers=headers(served))


def test_a_stream_answers_each_request_in_order(served) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}")
    client.start_stream(lambda result, error: answers.put((result, error)), headers=headers(served))
    rows = np.arange(6, dtype=np.float32).reshape(1, 6)
    client.async_stream_infer("m1", [tensor(triton_grpc, "input-0", rows, "FP32", {})])
    client.async_stream_infer("none", [tensor(triton_grpc, "input-0", rows, "FP32", {})])
    client.async_stream_infer("m1", [tensor(triton_grpc, "input-0", rows + 1, "FP32", {})])
    (first, _), (_, refused), (third, _) = (answers.get(timeout=PATIENCE) for _ in range(3))
    client.stop_stream()
    np.testing.assert_array_equal(first.as_numpy("y"), numeric().answer(rows.tolist())["y"])
    assert first.get_response().parameters["triton_final_response"].bool_param
    assert "No model none" in str(refused)
    np.testing.assert_array_equal(third.as_numpy("y"), numeric().answer((rows + 1).tolist())["y"])


def test_health_service(served) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        assert check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
