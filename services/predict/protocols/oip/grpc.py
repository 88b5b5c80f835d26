"""Open Inference Protocol v2 over gRPC: package `inference`, service GRPCInferenceService."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fitserve.errors import Malformed
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.protocols.formats import Tensor, check_shape, decode_text, from_binary, from_json, rows_of
from services.predict.protocols.oip import inference, models
from services.predict.protocols.proto import health_pb2 as health
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.protocols.transport import GrpcMethod, GrpcRequest
from services.predict.serving.deciding import Decided

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


async def _live(request: GrpcRequest, message: Any) -> Any:
    return pb.ServerLiveResponse(live=True)


async def _ready(request: GrpcRequest, message: Any) -> Any:
    return pb.ServerReadyResponse(ready=request.service.updates.ready)


async def _model_ready(request: GrpcRequest, message: Any) -> Any:
    entry = request.find_entry(message.name)
    selector = models.selector_of(message.name, message.version)
    return pb.ModelReadyResponse(ready=request.service.is_model_ready(entry, selector))


async def _server_metadata(request: GrpcRequest, message: Any) -> Any:
    return pb.ServerMetadataResponse(**models.SERVER_METADATA)


async def _model_metadata(request: GrpcRequest, message: Any) -> Any:
    entry = request.find_entry(message.name)
    pointer = request.service.find_pointer(entry, models.selector_of(message.name, message.version))
    model = await request.service.load_if_needed(pointer, request.read_deadline())
    return pb.ModelMetadataResponse(**models.model_metadata(entry, model))


async def _model_config(request: GrpcRequest, message: Any) -> Any:
    entry = request.find_entry(message.name)
    pointer = request.service.find_pointer(entry, models.selector_of(message.name, message.version))
    model = await request.service.load_if_needed(pointer, request.read_deadline())
    return pb.ModelConfigResponse(config=pb.ModelConfig(**models.model_config(model)))


async def _model_statistics(request: GrpcRequest, message: Any) -> Any:
    selector = models.selector_of(message.name, message.version)
    known = [request.find_entry(message.name)] if message.name else request.service.visible_entries(request.identify())
    return pb.ModelStatisticsResponse(model_stats=models.statistics(request, known, selector))


def _stream_response(answer: Any, error: str) -> Any:
    if answer is None:
        return pb.ModelStreamInferResponse(error_message=error)
    answer.parameters["triton_final_response"].bool_param = True  # Triton's clients may wait for it
    return pb.ModelStreamInferResponse(infer_response=answer)


async def _health(request: GrpcRequest, message: Any) -> Any:
    """Answer whether the server accepts requests; the answer is the same for all of its services."""
    status = "SERVING" if request.service.updates.ready else "NOT_SERVING"
    return health.HealthCheckResponse(status=status)


async def _index(request: GrpcRequest, message: Any) -> Any:
    versions = models.repository_index(request, message.ready)
    return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**one) for one in versions])


async def _load(request: GrpcRequest, message: Any) -> Any:
    models.refuse_overrides(message.parameters)
    await models.set_loaded(request, message.model_name, True)
    return pb.RepositoryModelLoadResponse()


async def _unload(request: GrpcRequest, message: Any) -> Any:
    await models.set_loaded(request, message.model_name, False)
    return pb.RepositoryModelUnloadResponse()


async def _infer(request: GrpcRequest, message: Any) -> Any:
    model = await request.resolve(models.selector_of(message.model_name, message.model_version))
    read = functools.partial(_read_infer, model, message, request.check_count)
    rows, outputs, parameters = await request.in_thread_if_large(message.ByteSize(), read)
    inference.apply_timeout(request, parameters)
    level = inference.level_of(request, parameters)
    prediction = await request.service.predict(request, model, rows)
    decided = await inference.decide(request, prediction, rows, outputs)
    write = functools.partial(write_response, message, prediction, outputs, decided, level, request.left_out)
    return await request.in_thread_if_large(0, write)


def _read_infer(
    model: LoadedModel, message: Any, check_count: Callable[[int], None]
) -> tuple[InputRows, list[inference.SelectedOutput], dict[str, Any]]:
    """Return a request's rows, the outputs that it names, and its parameters. Raises Malformed."""
    for name in ("inputs", "outputs", "parameters"):
        inference.check_number(name, len(getattr(message, name)))
    for one in message.inputs:
        check_count(check_shape(one.name, one.shape)[0])
    rows = rows_of(model, read_tensors(message))
    return rows, inference.select_outputs(model, named_outputs(message)), _parameters(message.parameters)


def named_outputs(message: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the outputs that a ModelInferRequest names, with their parameters."""
    return [(one.name, _parameters(one.parameters)) for one in message.outputs]


def _parameters(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in parameters.items()
    }


def read_tensors(message: Any) -> list[Tensor]:
    """Return a ModelInferRequest's tensors, typed or raw. Raises Malformed."""
    raw = message.raw_input_contents
    for one in message.inputs:  # first: an input in shared memory has no element in the raw contents
        if one.parameters:
            inference.refuse_shared_memory(one.parameters)
    if raw and len(raw) != len(message.inputs):
        raise Malformed("`raw_input_contents` needs one element for each input.", received=len(raw))
    tensors, of_request = [], _parameters(message.parameters)
    for place, one in enumerate(message.inputs):
        content = ""
        if one.parameters or of_request:
            content = inference.content_type(_parameters(one.parameters), of_request)
        if raw:
            if one.HasField("contents"):
                raise Malformed(f"Input {one.name!r} has contents beside raw contents.")
            tensor = from_binary(one.name, one.datatype, list(one.shape), raw[place])
        else:
            tensor = _typed_tensor(one)
        tensors.append(inference.decode_content(tensor, content))
    return tensors


def _typed_tensor(one: Any) -> Tensor:
    field = _FIELDS.get(one.datatype)
    if field is None:
        raise Malformed(f"Input {one.name!r}: {one.datatype[:40]!r} has no typed contents.", fix="Send it raw.")
    data = list(getattr(one.contents, field))
    if one.datatype == "BYTES":
        data = [decode_text(one.name, value) for value in data]
    if one.datatype in ("FP32", "FP64"):
        dims = check_shape(one.name, list(one.shape))
        if len(data) == np.prod(dims):
            return Tensor(one.name, dims, np.array(data, np.float32 if one.datatype == "FP32" else np.float64))
    return from_json(one.name, one.datatype, list(one.shape), data)


def write_response(
    message: Any,
    prediction: Prediction,
    outputs: list[inference.SelectedOutput],
    decided: Mapping[str, Decided],
    level: float | None = None,
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> Any:
    """Return the response to a ModelInferRequest, raw where its inputs were raw; with bounds at a level, if any."""
    model, raw = prediction.model, bool(message.raw_input_contents)
    response = pb.ModelInferResponse(model_name=model.name, model_version=model.version_text, id=message.id)
    for key, value in inference.response_parameters(prediction, decided, left_out).items():
        response.parameters[key].string_param = value
    for selected in outputs:
        datatype, shape, values = inference.output_values(prediction, selected, decided)
        tensor = response.outputs.add(name=selected.name, datatype=datatype, shape=shape)
        if raw:
            response.raw_output_contents.append(inference.binary_output(datatype, values))
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.extend(text.encode() for text in values)
        else:
            getattr(tensor.contents, _FIELDS[datatype]).extend(values.ravel().tolist())
    for name, datatype, values in inference.bound_tensors(inference.wanted_bounds(prediction, outputs, level)):
        tensor = response.outputs.add(name=name, datatype=datatype, shape=list(values.shape))
        if raw:
            response.raw_output_contents.append(values.astype("<f8" if datatype == "FP64" else "?").tobytes())
        else:
            getattr(tensor.contents, _FIELDS[datatype]).extend(values.ravel().tolist())
    return response


GRPC_SERVICES = {
    "inference.GRPCInferenceService": {
        "ServerLive": GrpcMethod("live", pb.ServerLiveRequest, _live, needs_key=False),
        "ServerReady": GrpcMethod("ready", pb.ServerReadyRequest, _ready, needs_key=False),
        "ModelReady": GrpcMethod("ready", pb.ModelReadyRequest, _model_ready),
        "ServerMetadata": GrpcMethod("server_metadata", pb.ServerMetadataRequest, _server_metadata, needs_key=False),
        "ModelMetadata": GrpcMethod("metadata", pb.ModelMetadataRequest, _model_metadata),
        "ModelInfer": GrpcMethod("infer", pb.ModelInferRequest, _infer),
        "ModelStreamInfer": GrpcMethod("infer", pb.ModelInferRequest, _infer, stream=_stream_response),
        "ModelConfig": GrpcMethod("config", pb.ModelConfigRequest, _model_config),
        "ModelStatistics": GrpcMethod("stats", pb.ModelStatisticsRequest, _model_statistics),
        "RepositoryIndex": GrpcMethod("index", pb.RepositoryIndexRequest, _index),
        "RepositoryModelLoad": GrpcMethod("load", pb.RepositoryModelLoadRequest, _load),
        "RepositoryModelUnload": GrpcMethod("unload", pb.RepositoryModelUnloadRequest, _unload),
    },
    "grpc.health.v1.Health": {
        "Check": GrpcMethod("ready", health.HealthCheckRequest, _health, needs_key=False),
        "Watch": GrpcMethod("ready", health.HealthCheckRequest, _health, needs_key=False, watch=True),
    },
}
