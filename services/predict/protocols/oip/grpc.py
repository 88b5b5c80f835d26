"""Open Inference Protocol v2 over gRPC: package `inference`, service GRPCInferenceService."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from fitserve import __version__
from fitserve.errors import Malformed
from services.predict.catalog.loaded_model import Network, Prediction
from services.predict.protocols.oip import repository, rest
from services.predict.protocols.oip.tensors import (
    Tensor,
    check_shape,
    from_binary,
    from_json,
    rows_of,
    text_of,
    to_binary,
)
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.server.grpc_server import GrpcCall, Method, handler
from services.predict.server.routes import is_ready, model_is_ready, oip_selector
from services.predict.serving.prediction_service import Service

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


def handlers(service: Service) -> tuple[grpc.GenericRpcHandler, ...]:
    """The service's handlers."""
    methods = {
        "ServerLive": Method("live", pb.ServerLiveRequest, _live),
        "ServerReady": Method("ready", pb.ServerReadyRequest, _ready),
        "ModelReady": Method("ready", pb.ModelReadyRequest, _model_ready),
        "ServerMetadata": Method("server_metadata", pb.ServerMetadataRequest, _server_metadata),
        "ModelMetadata": Method("metadata", pb.ModelMetadataRequest, _model_metadata),
        "ModelInfer": Method("infer", pb.ModelInferRequest, _infer),
        "RepositoryIndex": Method("index", pb.RepositoryIndexRequest, _index),
        "RepositoryModelLoad": Method("load", pb.RepositoryModelLoadRequest, _load),
        "RepositoryModelUnload": Method("unload", pb.RepositoryModelUnloadRequest, _unload),
    }
    return (handler(service, "oip_grpc", methods, "inference.GRPCInferenceService"),)


async def _live(call: GrpcCall, request: Any) -> Any:
    return pb.ServerLiveResponse(live=True)


async def _ready(call: GrpcCall, request: Any) -> Any:
    return pb.ServerReadyResponse(ready=is_ready(call.service))


async def _model_ready(call: GrpcCall, request: Any) -> Any:
    entry = call.entry(request.name)
    ready = model_is_ready(call.service, entry, oip_selector(request.name, request.version))
    return pb.ModelReadyResponse(ready=ready)


async def _server_metadata(call: GrpcCall, request: Any) -> Any:
    return pb.ServerMetadataResponse(**rest.server_metadata(__version__))


async def _model_metadata(call: GrpcCall, request: Any) -> Any:
    entry = call.entry(request.name)
    pointer = call.service.pointer(entry, oip_selector(request.name, request.version))
    return pb.ModelMetadataResponse(**rest.model_metadata(entry, await call.service.network(pointer, call.deadline)))


async def _index(call: GrpcCall, request: Any) -> Any:
    found = repository.index(call.service, call.identity(), request.ready)
    return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**one) for one in found])


async def _load(call: GrpcCall, request: Any) -> Any:
    await repository.set_loaded(call.service, call.identity(), request.model_name, True)
    return pb.RepositoryModelLoadResponse()


async def _unload(call: GrpcCall, request: Any) -> Any:
    await repository.set_loaded(call.service, call.identity(), request.model_name, False)
    return pb.RepositoryModelUnloadResponse()


# Infer


async def _infer(call: GrpcCall, request: Any) -> Any:
    entry, network = await call.target(oip_selector(request.model_name, request.model_version))
    parameters = _parameters(request.parameters)
    rows = rows_of(network, _tensors(request))
    wanted = _wanted(network, request)
    deadline, timeout = call.deadline, parameters.get("timeout")  # Triton's: microseconds
    if deadline is None and type(timeout) is int and timeout > 0:
        deadline = call.service.loop.time() + timeout * 1e-6
    prediction = await call.service.predict(network, rows, deadline, entry)
    call.told(prediction)
    return _response(request, prediction, wanted)


def _parameters(given: Any) -> dict[str, Any]:
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in given.items()}


def _tensors(request: Any) -> list[Tensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Malformed("`raw_input_contents` needs one element for each input.", received=len(raw))
    tensors = []
    for place, one in enumerate(request.inputs):
        if "shared_memory_region" in one.parameters:
            raise Malformed("Shared memory is not offered.", fix="Send the tensor's data.")
        if raw:
            if one.HasField("contents"):
                raise Malformed(f"Input {one.name!r} has contents beside raw contents.")
            tensors.append(from_binary(one.name, one.datatype, list(one.shape), raw[place]))
        else:
            tensors.append(_typed(one))
    return tensors


def _typed(one: Any) -> Tensor:
    field = _FIELDS.get(one.datatype)
    if field is None:
        raise Malformed(f"Input {one.name!r}: {one.datatype[:40]!r} has no typed contents.", fix="Send it raw.")
    data = list(getattr(one.contents, field))
    if one.datatype == "BYTES":
        data = [text_of(one.name, value) for value in data]
    if one.datatype in ("FP32", "FP64"):
        dims = check_shape(one.name, list(one.shape))
        if len(data) == np.prod(dims):
            return Tensor(one.name, dims, np.array(data, np.float32 if one.datatype == "FP32" else np.float64))
    return from_json(one.name, one.datatype, list(one.shape), data)


def _wanted(network: Network, request: Any) -> list[rest.Wanted]:
    if not request.outputs:
        return [rest.Wanted(output, False, 0) for output in network.outputs]
    return [rest.want(network, one.name, _parameters(one.parameters), False) for one in request.outputs]


def _response(request: Any, prediction: Prediction, wanted: list[rest.Wanted]) -> Any:
    network, raw = prediction.network, bool(request.raw_input_contents)
    response = pb.ModelInferResponse(model_name=network.model, model_version=network.version_text, id=request.id)
    for key, value in rest.answer_parameters(prediction).items():
        response.parameters[key].string_param = value
    for one in wanted:
        datatype, shape, values = rest.values_of(prediction, one)
        tensor = response.outputs.add(name=one.output.name, datatype=datatype, shape=shape)
        if raw:
            data = to_binary(values) if datatype == "BYTES" else values.astype("<f4", copy=False).tobytes()
            response.raw_output_contents.append(data)
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.extend(text.encode() for text in values)
        else:
            tensor.contents.fp32_contents.extend(values.ravel().tolist())
    return response
