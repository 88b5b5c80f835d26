"""TensorFlow Serving over gRPC: package `tensorflow.serving`, PredictionService and ModelService."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from fitserve import db, registry
from fitserve.errors import FitserveError, Forbidden, Malformed
from services.predict.catalog.catalog import Entry
from services.predict.catalog.loaded_model import Network, Prediction
from services.predict.protocols.oip.repository import settled
from services.predict.protocols.oip.tensors import rows_of
from services.predict.protocols.proto import tensorflow_pb2 as tf
from services.predict.protocols.proto import tensorflow_serving_pb2 as pb
from services.predict.protocols.tfserving import rest
from services.predict.protocols.tfserving.tensors import example_rows, tensors_of, to_proto
from services.predict.server.grpc_server import CODES, GrpcCall, Method, handler
from services.predict.serving.prediction_service import Selector, Service
from services.predict.serving.rows import Rows

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def handlers(service: Service) -> tuple[grpc.GenericRpcHandler, ...]:
    """Both services' handlers."""
    predictions = {
        "Predict": Method("predict", pb.PredictRequest, _predict),
        "Classify": Method("classify", pb.ClassificationRequest, _classify),
        "Regress": Method("regress", pb.RegressionRequest, _regress),
        "MultiInference": Method("multi_inference", pb.MultiInferenceRequest, _multi_inference),
        "GetModelMetadata": Method("metadata", pb.GetModelMetadataRequest, _metadata),
    }
    models = {
        "GetModelStatus": Method("status", pb.GetModelStatusRequest, _status),
        "HandleReloadConfigRequest": Method("reload", pb.ReloadConfigRequest, _reload),
    }
    return (
        handler(service, "tfserving_grpc", predictions, "tensorflow.serving.PredictionService"),
        handler(service, "tfserving_grpc", models, "tensorflow.serving.ModelService"),
    )


def _selector(spec: Any) -> Selector:
    choice = spec.WhichOneof("version_choice")
    if not spec.name:
        raise Malformed("The model spec has no name.")
    if choice == "version":
        return Selector(spec.name, version=spec.version.value)
    return Selector(spec.name, label=spec.version_label if choice else None)


def _spec(network: Network, signature: str = "") -> Any:
    spec = pb.ModelSpec(name=network.model, signature_name=signature)
    spec.version.value = network.version
    return spec


async def _predict(call: GrpcCall, request: Any) -> Any:
    entry, network = await call.target(_selector(request.model_spec))
    signature = request.model_spec.signature_name
    if signature not in rest.SIGNATURES:
        raise Malformed(f'Serving signature key "{signature[:63]}" not found.', expected="serving_default")
    if unknown := [name for name in request.output_filter if name not in network.names]:
        raise Malformed(f"Unknown output {unknown[0][:63]!r}.", expected=", ".join(network.names))
    rows = rows_of(network, tensors_of(request.inputs))
    prediction = await call.service.predict(network, rows, call.deadline, entry)
    call.told(prediction)
    response = pb.PredictResponse(model_spec=_spec(network, signature or "serving_default"))
    for name, values in prediction.outputs.items():
        if not request.output_filter or name in request.output_filter:
            response.outputs[name].CopyFrom(to_proto(values))
    return response


async def _examples(call: GrpcCall, entry: Entry, network: Network, rows: Rows) -> Prediction:
    prediction = await call.service.predict(network, rows, call.deadline, entry)
    call.told(prediction)
    return prediction


def _classified(prediction: Prediction, signature: str) -> Any:
    output = rest.chosen(prediction.network, signature, rest.CLASSES, "classify")
    result = pb.ClassificationResult()
    for row in rest.classes(output, prediction.outputs[output.name]):
        result.classifications.add(classes=[pb.Class(label=label, score=score) for label, score in row])
    return result


def _regressed(prediction: Prediction, signature: str) -> Any:
    output = rest.chosen(prediction.network, signature, ("regression",), "regress")
    values = prediction.outputs[output.name][:, 0].tolist()
    return pb.RegressionResult(regressions=[pb.Regression(value=value) for value in values])


async def _classify(call: GrpcCall, request: Any) -> Any:
    entry, network = await call.target(_selector(request.model_spec))
    signature = request.model_spec.signature_name
    rest.chosen(network, signature, rest.CLASSES, "classify")
    prediction = await _examples(call, entry, network, example_rows(request.input))
    return pb.ClassificationResponse(model_spec=_spec(network, signature), result=_classified(prediction, signature))


async def _regress(call: GrpcCall, request: Any) -> Any:
    entry, network = await call.target(_selector(request.model_spec))
    signature = request.model_spec.signature_name
    rest.chosen(network, signature, ("regression",), "regress")
    prediction = await _examples(call, entry, network, example_rows(request.input))
    return pb.RegressionResponse(model_spec=_spec(network, signature), result=_regressed(prediction, signature))


async def _multi_inference(call: GrpcCall, request: Any) -> Any:
    if not request.tasks:
        raise Malformed("Inference request has no tasks.")
    if len({task.model_spec.name for task in request.tasks}) != 1:
        raise Malformed("All tasks must name the same model.")
    entry, network = await call.target(_selector(request.tasks[0].model_spec))
    prediction = await _examples(call, entry, network, example_rows(request.input))
    response = pb.MultiInferenceResponse()
    for task in request.tasks:
        signature = task.model_spec.signature_name
        result = response.results.add(model_spec=_spec(network, signature))
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(_classified(prediction, signature))
        elif task.method_name == REGRESS:
            result.regression_result.CopyFrom(_regressed(prediction, signature))
        else:
            raise Malformed(
                "Unsupported method name.", received=task.method_name[:80], expected=f"{CLASSIFY}, {REGRESS}"
            )
    return response


async def _metadata(call: GrpcCall, request: Any) -> Any:
    if list(request.metadata_field) != ["signature_def"]:
        raise Malformed("`metadata_field` must be signature_def.", received=list(request.metadata_field)[:5])
    selector = _selector(request.model_spec)
    entry = call.entry(selector.model)
    network = await call.service.network(call.service.pointer(entry, selector), call.deadline)
    told = rest.metadata(network)["metadata"]["signature_def"]["signature_def"]["serving_default"]
    signature = tf.SignatureDef(method_name=told["method_name"])
    for side, into in ((told["inputs"], signature.inputs), (told["outputs"], signature.outputs)):
        for name, tensor in side.items():
            info = into[name]
            info.name, info.dtype = tensor["name"], getattr(tf, tensor["dtype"])
            for dim in tensor["tensor_shape"]["dim"]:
                info.tensor_shape.dim.add(size=int(dim["size"]))
    response = pb.GetModelMetadataResponse(model_spec=_spec(network))
    response.metadata["signature_def"].Pack(pb.SignatureDefMap(signature_def={"serving_default": signature}))
    return response


async def _status(call: GrpcCall, request: Any) -> Any:
    selector = _selector(request.model_spec)
    entry = call.entry(selector.model)
    named = selector.version is not None or selector.label is not None
    told = rest.status(entry, [call.service.pointer(entry, selector)] if named else None)
    response = pb.GetModelStatusResponse()
    for one in told["model_version_status"]:
        status = pb.StatusProto(
            error_code=grpc.StatusCode[one["status"]["error_code"]].value[0],
            error_message=one["status"]["error_message"],
        )
        state = pb.ModelVersionStatus.State.Value(one["state"])
        response.model_version_status.add(version=int(one["version"]), state=state, status=status)
    return response


async def _reload(call: GrpcCall, request: Any) -> Any:
    """The models that shall be served from now on, with their labels; the others are unloaded."""
    if not call.identity().may("admin"):
        raise Forbidden("This key may not change what is served.", expected="a key with the scope admin")
    if request.config.WhichOneof("config") != "model_config_list":
        raise Malformed("The configuration has no model_config_list.")
    wanted = {config.name: dict(config.version_labels) for config in request.config.model_config_list.config}
    service = call.service
    try:
        await asyncio.get_running_loop().run_in_executor(service.executor, _write_config, service, wanted)
    except FitserveError as error:
        return _reload_status(error)
    for name, labels in wanted.items():
        await settled(service, name, lambda entry, labels=labels: _carries(entry, labels))
    return pb.ReloadConfigResponse(status=pb.StatusProto(error_code=0))


def _write_config(service: Service, wanted: dict[str, dict[str, int]]) -> None:
    with db.transaction(service.engine) as session:
        for name, labels in wanted.items():
            registry.set_loaded(session, name, True)
            for label, number in labels.items():
                registry.set_label(session, name, label, version_number=number)
        for name in registry.generations(session):
            if name not in wanted:
                registry.set_loaded(session, name, False)


def _carries(entry: Entry, labels: dict[str, int]) -> bool:
    found = {facts.label: facts.version for facts in entry.facts.labels}
    return entry.facts.loaded and labels.items() <= found.items()


def _reload_status(error: FitserveError) -> Any:
    code = CODES.get(error.status, grpc.StatusCode.INTERNAL)
    return pb.ReloadConfigResponse(status=pb.StatusProto(error_code=code.value[0], error_message=error.detail))
