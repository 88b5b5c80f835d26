"""Every path, format and error of the protocols, and the test that covers it; the tests below cover the rest.

TensorFlow Serving, REST
    every path, with no version, a version and a label           test_every_path_of_tensorflow_serving
    a list of the models                                         test_tfserving_rest.test_list
    predict: rows, columns, bare values, objects, b64, errors    test_tfserving_rest.test_predict_formats and after it
    NaN and Infinity, read and written                           test_bare_nan_is_read_..., test_bare_nan_is_written
    classify, regress, context, labels, no labels                test_tfserving_rest.test_classify, test_unlabelled_...
    the bodies of its own documentation, by curl                 test_curl_with_the_documentations_bodies
    status: START, LOADING, AVAILABLE, END                       test_states, test_changes.test_a_corrupt_version_...
    metadata                                                     test_metadata_to_the_letter
    400, 404, 413                                                test_tfserving_rest.test_errors, test_methods_and_sizes
    401, 403                                                     test_tfserving_rest.test_keys
    429, 504                                                     test_changes.test_overload_...
    503                                                          test_changes.test_a_corrupt_version_...
TensorFlow Serving, gRPC
    the five methods, the status, errors                         test_tfserving_grpc (its own stubs)
    a new configuration                                          test_a_configuration_decides_what_is_served
    every message, field by field                                test_tfserving_grpc
Open Inference Protocol
    every path, with and without a version                       test_every_path_of_the_open_inference_protocol
    every datatype: JSON, binary, typed, raw; FP16 raw alone     test_every_datatype
    nested, flat, outputs, id, parameters, warnings, errors      test_oip_rest
    raw and typed contents never both                            test_contents_are_raw_or_typed
    not ready: 503, and still live                               test_a_server_that_cannot_read_its_registry
    models, index, load, unload, binary tensors                  test_triton_client, test_kserve_client
    gRPC: all methods                                            test_triton_client, test_server_metadata_over_grpc
Both: what their OpenAPI files allow and forbid                  test_specifications
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import numpy as np
import pyarrow as pa
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from fitserve import registry
from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoder import Encoder
from fitserve.spec.feature import Feature
from services.predict.protocols.proto import tensorflow_serving_pb2 as tfs
from tests.conftest import free_ports, listens
from tests.needs import needs
from tests.predict.toy_registry import (
    PROJECT,
    RunningService,
    ToyModel,
    ToyRegistry,
    eventually,
    graph,
    mixed,
    run_service,
)
from tests.waiting import PATIENCE, wait_until

KINDS = [{"name": "kind", "task": "multiclass", "labels": None, "units": 3}]
THREE = [
    {"name": "admit", "task": "binary", "labels": ["no", "yes"], "units": 1},
    {"name": "score", "task": "regression", "labels": None, "units": 1},
]
ADM = {"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}


def half_plus_three() -> ToyModel:
    """Return the model of TensorFlow Serving's documentation."""
    table = pa.table({"x": [-1e9, 1e9]})
    column = ColumnFacts(name="x", kind="numeric", storage="float64", rows=2, distinct=2, min=-1e9, max=1e9)
    facts = DatasetFacts(name="toy", version=1, sha256="0" * 64, rows=2, columns=(column,))
    outputs = [{"name": "y", "task": "regression", "labels": None, "units": 1}]
    made = helper.make_graph(
        [helper.make_node("Mul", ["features", "half"], ["z"]), helper.make_node("Add", ["z", "three"], ["y"])],
        "half_plus_three",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in (("half", 0.5), ("three", 3.0))],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feature = Feature.model_validate({"x": "pass_through"})
    return ToyModel(Encoder.fit([feature], table, facts), model.SerializeToString(), outputs)


def typed() -> ToyModel:
    """Return a model of a number, a flag and a word."""
    table = pa.table({"n": [0.0, 200.0], "on": [True, False], "word": ["a", "b"]})
    columns = (
        ColumnFacts(name="n", kind="numeric", storage="float64", rows=2, distinct=2, min=0, max=200),
        ColumnFacts(name="on", kind="boolean", storage="bool", rows=2, distinct=2, labels=("false", "true")),
        ColumnFacts(name="word", kind="categorical", storage="string", rows=2, distinct=2, labels=("a", "b")),
    )
    facts = DatasetFacts(name="toy", version=1, sha256="0" * 64, rows=2, columns=columns)
    encoder = Encoder.fit([Feature(column=name) for name in table.column_names], table, facts)
    outputs = [{"name": "y", "task": "regression", "labels": None, "units": 1}]
    return ToyModel(encoder, graph(encoder.inputs[0].shape[0], outputs, hidden=(4,)), outputs)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    toys = ToyRegistry(tmp_path_factory.mktemp("protocols"))
    models = {"half_plus_three": half_plus_three(), "typed": typed(), "kinds": mixed(KINDS), "three": mixed(THREE)}
    for name, toy in models.items():
        toys.register(name, toy)
    broken = mixed([{"name": "y", "task": "regression", "labels": None, "units": 1}])
    outputs = broken.outputs
    width = broken.encoder.inputs[0].shape[0]
    toys.register("broken", ToyModel(broken.encoder, graph(width, outputs, hidden=(4,), bias=float("nan")), outputs))
    for name in models:
        toys.change(registry.set_label, name, "stable", version_number=1)
    with run_service(toys) as running:
        yield running


def ask(served: RunningService, method: str, path: str, body: Any = None) -> httpx2.Response:
    content = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
    return httpx2.request(method, served.url + path, content=content, headers=served.headers, timeout=PATIENCE)


# --- TensorFlow Serving -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/stable"])
def test_every_path_of_tensorflow_serving(own: RunningService, place: str) -> None:
    path = f"/v1/models/three{place}"
    predicted = ask(own, "POST", f"{path}:predict", {"instances": [ADM]})
    classified = ask(own, "POST", f"{path}:classify", {"examples": [ADM]})
    regressed = ask(own, "POST", f"{path}:regress", {"examples": [ADM]})
    for answer in (predicted, classified, regressed):
        assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
    expected = mixed(THREE).answer([ADM])
    assert predicted.json()["predictions"] == [{name: value[0].tolist() for name, value in expected.items()}]
    assert regressed.json() == {"results": expected["score"][:, 0].tolist()}
    assert [label for label, _ in classified.json()["results"][0]] == ["no", "yes"]
    status = ask(own, "GET", path).json()["model_version_status"]
    assert [(one["version"], one["state"]) for one in status] == [("1", "AVAILABLE")]
    assert ask(own, "GET", f"{path}/metadata").json()["model_spec"]["version"] == "1"


def curl(own: RunningService, *arguments: str) -> str:
    key = f"Authorization: {own.headers['Authorization']}"
    done = subprocess.run(
        ["curl", "-s", "-H", key, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


@needs("curl")
def test_curl_with_the_documentations_bodies(own: RunningService) -> None:
    """api_rest.md's example, command by command. Our output has a dimension of units, theirs has none."""
    model = f"{own.url}/v1/models/half_plus_three"
    state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    answer = json.loads(curl(own, model))
    assert answer == {"name": "half_plus_three", "ready": True, "model_version_status": [state]}
    predicted = curl(own, "-d", '{"instances": [1.0,2.0,5.0]}', "-X", "POST", f"{model}:predict")
    assert json.loads(predicted) == {"predictions": [[3.5], [4.0], [5.5]]}
    body = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert json.loads(curl(own, "-d", body, "-X", "POST", f"{model}:regress")) == {"results": [3.5, 4.0]}
    absent = f"{own.url}/v1/models/half:predict"
    response = curl(own, "-i", "-d", '{"instances": [1.0,5.0]}', "-X", "POST", absent)
    assert response.startswith("HTTP/1.1 404 Not Found")
    assert "content-type: application/json" in response
    assert list(json.loads(response.split("\n\n", 1)[1])) == ["error"]


def test_bare_nan_is_written(own: RunningService) -> None:
    instances = ask(own, "POST", "/v1/models/broken:predict", {"instances": [ADM]})
    assert instances.text == '{"predictions":[[NaN]]}'
    columns = ask(own, "POST", "/v1/models/broken:predict", {"inputs": {n: [v] for n, v in ADM.items()}})
    assert columns.text == '{"outputs":[[NaN]]}'
    assert ask(own, "POST", "/v1/models/broken:regress", {"examples": [ADM]}).text == '{"results":[NaN]}'
    inputs = [{"name": "gre", "shape": [1], "datatype": "FP64", "data": [700]}]
    oip = ask(own, "POST", "/v2/models/broken/infer", {"inputs": inputs})
    assert '"data":[NaN]' in oip.text
    assert oip.status_code == 200


def test_unlabelled_classes_have_empty_labels(own: RunningService) -> None:
    (row,) = ask(own, "POST", "/v1/models/kinds:classify", {"examples": [ADM]}).json()["results"]
    assert [label for label, _ in row] == ["", "", ""]
    np.testing.assert_allclose([score for _, score in row], mixed(KINDS).answer([ADM])["kind"][0])


def test_metadata_to_the_letter(own: RunningService) -> None:
    def tensor(dtype: str, name: str) -> dict[str, Any]:
        dims = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
        return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": f"{name}:0"}

    inputs = {
        name: tensor(dtype, name) for name, dtype in (("n", "DT_DOUBLE"), ("on", "DT_BOOL"), ("word", "DT_STRING"))
    }
    signature = {
        "inputs": inputs,
        "outputs": {"y": tensor("DT_FLOAT", "y")},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert ask(own, "GET", "/v1/models/typed/metadata").json() == {
        "model_spec": {"name": "typed", "signature_name": "", "version": "1"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


def test_states(own: RunningService) -> None:
    """Unloaded: END, and 404 for predictions, 503 for readiness; loaded again: AVAILABLE."""
    toys = own.toys
    toys.register("brief", half_plus_three())

    def state() -> str:
        status = ask(own, "GET", "/v1/models/brief").json()
        return status["model_version_status"][0]["state"] if "error" not in status else ""

    eventually(lambda: state() == "AVAILABLE")
    toys.change(registry.set_loaded, "brief", False)
    eventually(lambda: state() == "END")
    assert ask(own, "POST", "/v1/models/brief:predict", {"instances": [1.0]}).status_code == 404
    ready = ask(own, "GET", "/v2/models/brief/ready")
    assert (ready.status_code, ready.json()) == (503, {"name": "brief", "ready": False})
    toys.change(registry.set_loaded, "brief", True)
    eventually(lambda: state() == "AVAILABLE")
    assert ask(own, "GET", "/v2/models/brief/ready").status_code == 200


def test_a_configuration_decides_what_is_served(own: RunningService) -> None:
    """HandleReloadConfigRequest; test_tfserving_grpc calls it through TensorFlow Serving's own stubs."""
    own.toys.register("stays", half_plus_three())
    own.toys.register("stays", half_plus_three())
    admin = own.toys.create_key(["admin", "predict", "read"])
    headers = {"Authorization": f"Bearer {admin}"}
    eventually(
        lambda: (
            httpx2.get(f"{own.url}/v1/models/stays/versions/2", headers=headers, timeout=PATIENCE).status_code == 200
        )
    )
    with grpc.insecure_channel(f"127.0.0.1:{own.grpc_port}") as channel:
        reload = channel.unary_unary(
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            request_serializer=tfs.ReloadConfigRequest.SerializeToString,
            response_deserializer=tfs.ReloadConfigResponse.FromString,
        )

        def serve(*names: str) -> int:
            request = tfs.ReloadConfigRequest()
            for name in names:
                one = request.config.model_config_list.config.add(name=name, model_platform="tensorflow")
                if name == "stays":
                    one.version_labels["stable"] = 1
            answer = reload(request, timeout=PATIENCE, metadata=(("authorization", f"Bearer {admin}"),))
            return int(answer.status.error_code)

        assert serve("stays", "half_plus_three", "typed", "kinds", "three") == 0
        assert serve("stays", "nowhere") == 5  # NOT_FOUND: and nothing has changed
    labelled = ask(own, "POST", "/v1/models/stays/labels/stable:predict", {"instances": [2.0]})
    assert (labelled.status_code, labelled.headers["x-model-version"]) == (200, "1")
    assert ask(own, "POST", "/v1/models/broken:predict", {"instances": [ADM]}).status_code == 404
    assert ask(own, "POST", "/v1/models/typed:predict", {"instances": [[1, True, "a"]]}).status_code == 200
    own.toys.change(registry.set_loaded, "broken", True)
    eventually(lambda: ask(own, "POST", "/v1/models/broken:predict", {"instances": [ADM]}).status_code == 200)


# --- the Open Inference Protocol ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "/versions/1", "/versions/stable"])
def test_every_path_of_the_open_inference_protocol(own: RunningService, place: str) -> None:
    path = f"/v2/models/typed{place}"
    assert ask(own, "GET", f"{path}/ready").json() == {"name": "typed", "ready": True}
    assert ask(own, "GET", path).json() == {
        "name": "typed",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "properties": {"task": "regression", "label": ""},
        "inputs": [
            {"name": "n", "datatype": "FP64", "shape": [-1, 1]},
            {"name": "on", "datatype": "BOOL", "shape": [-1, 1]},
            {"name": "word", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }
    inputs = [
        {"name": "n", "shape": [1], "datatype": "FP64", "data": [7.5]},
        {"name": "on", "shape": [1], "datatype": "BOOL", "data": [True]},
        {"name": "word", "shape": [1], "datatype": "BYTES", "data": ["b"]},
    ]
    answer = ask(own, "POST", f"{path}/infer", {"inputs": inputs})
    assert answer.json()["outputs"][0]["data"] == typed().answer([[7.5, True, "b"]])["y"].ravel().tolist()
    assert (answer.json()["model_version"], answer.headers["x-model-version"]) == ("1", "1")


NUMBERS = ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
NUMPY = {np_to_triton_dtype(t): t for t in (np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32)}
NUMPY |= {np_to_triton_dtype(t): t for t in (np.int64, np.float16, np.float32, np.float64)}
CONTENTS = {"INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"}


def contents_of(datatype: str) -> str:
    """Return the field of typed contents; 8 to 32 bits share one."""
    return CONTENTS.get(datatype, "uint_contents" if datatype[0] == "U" else "int_contents")


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("way", ["json", "binary", "typed", "raw"])
def test_every_datatype(own: RunningService, way: str, datatype: str) -> None:
    expected = typed().answer([[100, True, "b"], [7, False, "a"]])["y"]
    headers = {"authorization": own.headers["Authorization"]}
    if way == "typed":
        request = service_pb2.ModelInferRequest(model_name="typed")
        request.inputs.add(name="on", datatype="BOOL", shape=[2]).contents.bool_contents.extend([True, False])
        request.inputs.add(name="word", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"b", b"a"])
        number = request.inputs.add(name="n", datatype=datatype, shape=[2])
        if datatype != "FP16":
            getattr(number.contents, contents_of(datatype)).extend([100, 7])
        try:
            answer = stub(own).ModelInfer(request, 20, tuple(headers.items()))
        except grpc.RpcError as error:
            assert (datatype, error.code()) == ("FP16", grpc.StatusCode.INVALID_ARGUMENT)
            assert "raw" in error.details()
            return
        assert datatype != "FP16"
        values = np.array(answer.outputs[0].contents.fp32_contents)
    else:
        module = triton_grpc if way == "raw" else triton_http
        values = {"n": (datatype, np.array([[100], [7]], NUMPY[datatype]))}
        values |= {"on": ("BOOL", np.array([[True], [False]])), "word": ("BYTES", np.array([["b"], ["a"]], object))}
        inputs = []
        for name, (kind, array) in values.items():
            inputs.append(module.InferInput(name, [2, 1], kind))
            inputs[-1].set_data_from_numpy(array, **({} if way == "raw" else {"binary_data": way == "binary"}))
        port = own.grpc_port if way == "raw" else own.port
        client = module.InferenceServerClient(f"127.0.0.1:{port}")
        try:
            values = client.infer("typed", inputs, headers=headers).as_numpy("y").ravel()
        except InferenceServerException as refused:  # their client cannot write FP16 as JSON
            assert (way, datatype) == ("json", "FP16"), refused
            return
    np.testing.assert_allclose(values, expected.ravel(), rtol=1e-6)


def stub(own: RunningService) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{own.grpc_port}"))


def test_contents_are_raw_or_typed(own: RunningService) -> None:
    request = service_pb2.ModelInferRequest(model_name="typed")
    request.inputs.add(name="n", datatype="FP32", shape=[1]).contents.fp32_contents.append(1.0)
    request.raw_input_contents.append(np.float32(1.0).tobytes())
    metadata = (("authorization", own.headers["Authorization"]),)
    with pytest.raises(grpc.RpcError) as refused:
        stub(own).ModelInfer(request, 20, metadata)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    del request.inputs[0].contents.fp32_contents[:]
    request.inputs[0].ClearField("contents")
    stub(own).ModelInfer(request, 20, metadata)
    request.raw_input_contents.append(b"")
    with pytest.raises(grpc.RpcError, match="one element for each input"):
        stub(own).ModelInfer(request, 20, metadata)


def test_server_metadata_over_grpc(own: RunningService) -> None:
    metadata = triton_grpc.InferenceServerClient(f"127.0.0.1:{own.grpc_port}").get_server_metadata()
    assert (metadata.name, "binary_tensor_data" in metadata.extensions) == ("fitserve", True)


def test_a_server_that_cannot_read_its_registry(tmp_path: Path) -> None:
    """It is live but not ready, by status code and body; predictions say so."""
    port, grpc_port = free_ports(2)
    environment = {
        "FITSERVE_HOME": str(tmp_path),
        "FITSERVE_DATABASE_URL": f"sqlite:///{tmp_path / 'empty.db'}",
        "FITSERVE_AUTH": "false",
        "FITSERVE_LOG_LEVEL": "ERROR",
        "FITSERVE_PREDICT_PORT": str(port),
        "FITSERVE_GRPC_PORT": str(grpc_port),
    }
    command = [sys.executable, "-m", "services.predict"]
    process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **environment})
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: listens(port), "the service listens", process=process)
        live = httpx2.get(f"{url}/v2/health/live", timeout=PATIENCE)
        assert (live.status_code, live.json()) == (200, {"live": True})
        ready = httpx2.get(f"{url}/v2/health/ready", timeout=PATIENCE)
        assert (ready.status_code, ready.json()) == (503, {"ready": False})
        assert httpx2.get(f"{url}/readyz", timeout=PATIENCE).status_code == 503
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert httpx2.post(f"{url}/v1/models/m:predict", content="{}", timeout=PATIENCE).status_code == 503
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_grpc_checks_the_key_before_it_takes_the_message(served: RunningService) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * 30_000_000, timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=PATIENCE)


def test_grpc_garbage_is_invalid_argument_without_internals(served: RunningService) -> None:
    metadata = tuple((name.lower(), value) for name, value in served.headers.items())
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        for method in (
            "inference.GRPCInferenceService/ModelInfer",
            "tensorflow.serving.PredictionService/Predict",
            "tensorflow.serving.ModelService/GetModelStatus",
        ):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/{method}")(b"\xff\xff garbage", metadata=metadata, timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method
            assert "Request" in caught.value.details()
            assert "Error" not in caught.value.details()
            assert "deserializ" not in caught.value.details()
