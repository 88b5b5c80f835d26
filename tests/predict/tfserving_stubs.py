"""tensorflow-serving-api's stubs against our server. Importing them imports TensorFlow."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.waiting import PATIENCE

ADM = {"gre": 700, "gpa": 3.5, "rank": 3, "city": "Rom"}


def example() -> tf.train.Example:
    feature = {
        "gre": tf.train.Feature(int64_list=tf.train.Int64List(value=[700])),
        "gpa": tf.train.Feature(float_list=tf.train.FloatList(value=[3.5])),
        "rank": tf.train.Feature(int64_list=tf.train.Int64List(value=[3])),
        "city": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"Rom"])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


def answers(port: int, token: str) -> dict[str, Any]:
    """Make each kind of request once, and some that are refused. Return the answers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return _answers(channel, token)


def _answers(channel: grpc.Channel, token: str) -> dict[str, Any]:
    metadata = (("authorization", f"Bearer {token}"),)
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    report: dict[str, Any] = {}

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m1"
    request.inputs["instances"].CopyFrom(tf.make_tensor_proto(np.arange(12, dtype=np.float32).reshape(2, 6)))
    answer = service.Predict(request, timeout=PATIENCE, metadata=metadata)
    report["predict"] = tf.make_ndarray(answer.outputs["y"]).tolist()
    report["version"] = answer.model_spec.version.value

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "adm"
    request.model_spec.version.value = 1
    for name, value in ADM.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto([value], dtype=None if name != "gpa" else tf.float64))
    report["columns"] = tf.make_ndarray(service.Predict(request, PATIENCE, metadata).outputs["admit"]).tolist()

    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name = "adm"
    classify.input.example_list.examples.append(example())
    answer = service.Classify(classify, PATIENCE, metadata)
    report["classify"] = [[c.label, c.score] for c in answer.result.classifications[0].classes]

    regress = regression_pb2.RegressionRequest()
    regress.model_spec.name = "three"
    regress.input.example_list_with_context.context.CopyFrom(example())
    regress.input.example_list_with_context.examples.append(tf.train.Example())
    report["regress"] = service.Regress(regress, PATIENCE, metadata).result.regressions[0].value

    multi = inference_pb2.MultiInferenceRequest()
    for method in ("classify", "regress"):
        task = multi.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "three"
    multi.input.example_list.examples.append(example())
    answer = service.MultiInference(multi, PATIENCE, metadata)
    report["multi"] = [result.WhichOneof("result") for result in answer.results]

    about = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    about.model_spec.name = "adm"
    answer = service.GetModelMetadata(about, PATIENCE, metadata)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    report["metadata"] = sorted(signatures.signature_def["serving_default"].inputs)

    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "adm"
    response = MessageToDict(
        models.GetModelStatus(status, PATIENCE, metadata=metadata), preserving_proto_field_name=True
    )
    report["status"] = sorted(one["state"] + one["version"] for one in response["model_version_status"])

    report["errors"] = []
    for change in ("none", "label", "signature", "version"):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "none" if change == "none" else "m1"
        if change == "label":
            request.model_spec.version_label = "nope"
        if change == "version":
            request.model_spec.version.value = 99
        request.model_spec.signature_name = "nope" if change == "signature" else ""
        request.inputs["instances"].CopyFrom(tf.make_tensor_proto(np.ones((1, 6), np.float32)))
        try:
            service.Predict(request, PATIENCE, metadata)
        except grpc.RpcError as error:
            report["errors"].append(error.code().name)
    try:
        service.Predict(request, PATIENCE)
    except grpc.RpcError as error:
        report["errors"].append(error.code().name)
    reload = model_management_pb2.ReloadConfigRequest()
    try:
        models.HandleReloadConfigRequest(reload, PATIENCE, metadata=metadata)
    except grpc.RpcError as error:
        report["errors"].append(error.code().name)
    return report
