"""TensorFlow Serving over gRPC: package `tensorflow.serving`, PredictionService and ModelService.

TensorProto and Example are read and written here as well; TensorFlow is not needed for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from sqlalchemy.orm import Session

from fitserve import registry
from fitserve.conformal import Bounds
from fitserve.errors import BadInput, FitserveError, Forbidden, Malformed
from services.predict.catalog.catalog import CatalogEntry, Selector
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, Prediction
from services.predict.protocols.formats import MAX_DIMENSIONS, Tensor, check_context, decode_text, rows_of
from services.predict.protocols.proto import tensorflow_pb2 as tf
from services.predict.protocols.proto import tensorflow_serving_pb2 as pb
from services.predict.protocols.tfserving import rest
from services.predict.protocols.tfserving.predict_body import SIGNATURES
from services.predict.protocols.transport import GRPC_CODES, GrpcMethod, GrpcRequest
from services.predict.serving.deciding import Decided

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
MAX_TASKS = 1_000  # of one request
MAX_VALUES = 1 << 23  # total over a request's tensors: a shape of a few bytes may claim any number of equal values
# DataType to (NumPy's type, the field of typed values).
_TYPES: dict[int, tuple[Any, str]] = {
    tf.DT_FLOAT: (np.float32, "float_val"),
    tf.DT_DOUBLE: (np.float64, "double_val"),
    tf.DT_INT32: (np.int32, "int_val"),
    tf.DT_INT16: (np.int16, "int_val"),
    tf.DT_INT8: (np.int8, "int_val"),
    tf.DT_UINT8: (np.uint8, "int_val"),
    tf.DT_UINT16: (np.uint16, "int_val"),
    tf.DT_UINT32: (np.uint32, "uint32_val"),
    tf.DT_UINT64: (np.uint64, "uint64_val"),
    tf.DT_INT64: (np.int64, "int64_val"),
    tf.DT_BOOL: (np.bool_, "bool_val"),
    tf.DT_HALF: (np.float16, "half_val"),
}


# Methods


def _selector(spec: Any) -> Selector:
    choice = spec.WhichOneof("version_choice")
    if not spec.name:
        raise Malformed("The model spec has no name.")
    if choice == "version":
        return Selector(spec.name, version=spec.version.value)
    return Selector(spec.name, label=spec.version_label if choice else None)


def _spec(model: LoadedModel, signature: str = "") -> Any:
    spec = pb.ModelSpec(name=model.name, signature_name=signature)
    spec.version.value = model.version
    return spec


async def _predict(request: GrpcRequest, message: Any) -> Any:
    model = await request.resolve(_selector(message.model_spec))
    signature = message.model_spec.signature_name
    if signature not in SIGNATURES:
        raise Malformed(f'Serving signature key "{signature[:63]}" not found.', expected="serving_default")
    rows = await request.in_thread_if_large(message.ByteSize(), _read_predict, model, message)
    prediction = await request.service.predict(request, model, rows)
    bounds = prediction.bounds(request.interval_level)
    return await request.in_thread_if_large(0, _predict_response, message, prediction, bounds)


def _read_predict(model: LoadedModel, message: Any) -> InputRows:
    known = {*model.output_names, *(name for name, _ in model.conformal.added)}
    for name in message.output_filter:
        if name not in known:
            raise Malformed(f"Unknown output {name[:63]!r}.", expected=", ".join(model.output_names))
    return rows_of(model, read_tensors(message.inputs))


def _predict_response(message: Any, prediction: Prediction, bounds: Sequence[Bounds]) -> Any:
    response = pb.PredictResponse(
        model_spec=_spec(prediction.model, message.model_spec.signature_name or "serving_default")
    )
    wanted = set(message.output_filter)
    for name, values in prediction.outputs.items():
        if not wanted or name in wanted:
            response.outputs[name].CopyFrom(_to_proto(values))
    for one in bounds:
        for name, values in one.named().items():
            if not wanted or {name, one.output} & wanted:
                response.outputs[name].CopyFrom(_to_proto(values))
    return response


def _refuse_level(request: GrpcRequest) -> None:
    """Raise BadInput if a request asks for intervals: TensorFlow Serving's messages have no field for them."""
    if request.interval_level:
        raise BadInput("Only Predict answers with intervals.", received=request.interval_level, fix="Call Predict.")


async def _classify(request: GrpcRequest, message: Any) -> Any:
    _refuse_level(request)
    model = await request.resolve(_selector(message.model_spec))
    signature = message.model_spec.signature_name
    rest.choose_output(model, signature, rest.CLASSIFY_TASKS, "classify")
    rows = await _read_examples(request, model, message)
    prediction = await request.service.predict(request, model, rows)
    decided = await _decided(request, prediction, rows)
    result = await request.in_thread_if_large(0, _classes, prediction, signature, decided)
    return pb.ClassificationResponse(model_spec=_spec(model, signature), result=result)


async def _regress(request: GrpcRequest, message: Any) -> Any:
    _refuse_level(request)
    model = await request.resolve(_selector(message.model_spec))
    signature = message.model_spec.signature_name
    rest.choose_output(model, signature, rest.REGRESS_TASKS, "regress")
    prediction = await request.service.predict(request, model, await _read_examples(request, model, message))
    result = await request.in_thread_if_large(0, _values, prediction, signature)
    return pb.RegressionResponse(model_spec=_spec(model, signature), result=result)


async def _read_examples(request: GrpcRequest, model: LoadedModel, message: Any) -> InputRows:
    """Return the rows of a message's examples. Raises Malformed, TooLarge."""
    size = message.ByteSize()
    return await request.in_thread_if_large(size, _example_rows, model, message.input, request.check_count)


async def _decided(request: GrpcRequest, prediction: Prediction, rows: InputRows) -> dict[str, Decided]:
    """Return the labels by the decisions in force, by output; nothing if none are in force."""
    outputs = rest.decided_outputs(prediction.model) if prediction.model.deciders else []
    return await request.service.decide(prediction, rows, outputs) if outputs else {}


def _classes(prediction: Prediction, signature: str, decided: Mapping[str, Decided]) -> Any:
    output = rest.choose_output(prediction.model, signature, rest.CLASSIFY_TASKS, "classify")
    result = pb.ClassificationResult()
    scores = rest.label_scores(output, prediction.outputs[output.name])
    if output.name in decided:
        scores = rest.decided_scores(scores, decided[output.name])
    for row in scores:
        result.classifications.add(classes=[pb.Class(label=label, score=score) for label, score in row])
    return result


def _values(prediction: Prediction, signature: str) -> Any:
    output = rest.choose_output(prediction.model, signature, rest.REGRESS_TASKS, "regress")
    values = prediction.outputs[output.name][:, 0].tolist()
    return pb.RegressionResult(regressions=[pb.Regression(value=value) for value in values])


async def _multi_inference(request: GrpcRequest, message: Any) -> Any:
    _refuse_level(request)
    if not message.tasks:
        raise Malformed("Inference request has no tasks.")
    if len(message.tasks) > MAX_TASKS:
        raise Malformed("The request has too many tasks.", received=len(message.tasks), expected=f"at most {MAX_TASKS}")
    if len({task.model_spec.name for task in message.tasks}) != 1:
        raise Malformed("All tasks must name the same model.")
    distinct = {(task.method_name, task.model_spec.signature_name) for task in message.tasks}
    if len(distinct) != len(message.tasks):  # each would be an answer about all rows
        raise Malformed("Two tasks have the same method and signature.")
    model = await request.resolve(_selector(message.tasks[0].model_spec))
    rows = await _read_examples(request, model, message)
    prediction = await request.service.predict(request, model, rows)
    decided = await _decided(request, prediction, rows)
    return await request.in_thread_if_large(0, _multi_response, message, prediction, decided)


def _multi_response(message: Any, prediction: Prediction, decided: Mapping[str, Decided]) -> Any:
    response = pb.MultiInferenceResponse()
    for task in message.tasks:
        signature = task.model_spec.signature_name
        result = response.results.add(model_spec=_spec(prediction.model, signature))
        if task.method_name == CLASSIFY:
            result.classification_result.CopyFrom(_classes(prediction, signature, decided))
        elif task.method_name == REGRESS:
            result.regression_result.CopyFrom(_values(prediction, signature))
        else:
            raise Malformed(
                "Unsupported method name.", received=task.method_name[:80], expected=f"{CLASSIFY}, {REGRESS}"
            )
    return response


async def _metadata(request: GrpcRequest, message: Any) -> Any:
    if list(message.metadata_field) != ["signature_def"]:
        raise Malformed("`metadata_field` must be signature_def.", received=list(message.metadata_field)[:5])
    selector = _selector(message.model_spec)
    pointer = request.service.find_pointer(request.find_entry(selector.model), selector)
    model = await request.service.load_if_needed(pointer, request.read_deadline())
    described = rest.metadata(model)["metadata"]["signature_def"]["signature_def"]["serving_default"]
    signature = tf.SignatureDef(method_name=described["method_name"])
    for side, into in ((described["inputs"], signature.inputs), (described["outputs"], signature.outputs)):
        for name, tensor in side.items():
            info = into[name]
            info.name, info.dtype = tensor["name"], getattr(tf, tensor["dtype"])
            for dim in tensor["tensor_shape"]["dim"]:
                info.tensor_shape.dim.add(size=int(dim["size"]))
    response = pb.GetModelMetadataResponse(model_spec=_spec(model))
    response.metadata["signature_def"].Pack(pb.SignatureDefMap(signature_def={"serving_default": signature}))
    return response


async def _status(request: GrpcRequest, message: Any) -> Any:
    selector = _selector(message.model_spec)
    entry = request.find_entry(selector.model)
    named = selector.version is not None or selector.label is not None
    described = rest.status(entry, [request.service.find_pointer(entry, selector)] if named else None)
    response = pb.GetModelStatusResponse()
    for version in described["model_version_status"]:
        status = pb.StatusProto(
            error_code=grpc.StatusCode[version["status"]["error_code"]].value[0],
            error_message=version["status"]["error_message"],
        )
        state = pb.ModelVersionStatus.State.Value(version["state"])
        response.model_version_status.add(version=int(version["version"]), state=state, status=status)
    return response


async def _reload(request: GrpcRequest, message: Any) -> Any:
    """Serve the models of a configuration, with its labels; unload all others."""
    if not request.identify().may("admin"):
        raise Forbidden("This key may not change what is served.", expected="a key with the scope admin")
    if message.config.WhichOneof("config") != "model_config_list":
        raise Malformed("The configuration has no model_config_list.")
    labels = {config.name: dict(config.version_labels) for config in message.config.model_config_list.config}

    def apply(session: Session) -> None:
        for name, numbers in labels.items():
            registry.set_loaded(session, name, True)
            for label, number in numbers.items():
                registry.set_label(session, name, label, version_number=number)
        for name in registry.generations(session):
            if name not in labels:
                registry.set_loaded(session, name, False)

    def applied(entry: CatalogEntry) -> bool:
        current = {facts.label: facts.version for facts in entry.facts.labels}
        return entry.facts.wanted and labels[entry.facts.name].items() <= current.items()

    try:
        await request.service.change_registry(apply)
    except FitserveError as error:
        code = GRPC_CODES.get(error.status, grpc.StatusCode.INTERNAL)
        return pb.ReloadConfigResponse(status=pb.StatusProto(error_code=code.value[0], error_message=error.detail))
    for name in labels:
        await request.service.wait_for_change(name, applied)
    return pb.ReloadConfigResponse(status=pb.StatusProto(error_code=0))


GRPC_SERVICES = {
    "tensorflow.serving.PredictionService": {
        "Predict": GrpcMethod("predict", pb.PredictRequest, _predict),
        "Classify": GrpcMethod("classify", pb.ClassificationRequest, _classify),
        "Regress": GrpcMethod("regress", pb.RegressionRequest, _regress),
        "MultiInference": GrpcMethod("multi_inference", pb.MultiInferenceRequest, _multi_inference),
        "GetModelMetadata": GrpcMethod("metadata", pb.GetModelMetadataRequest, _metadata),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": GrpcMethod("status", pb.GetModelStatusRequest, _status),
        "HandleReloadConfigRequest": GrpcMethod("reload", pb.ReloadConfigRequest, _reload),
    },
}


# TensorProto, Example


def read_tensors(inputs: Mapping[str, Any]) -> list[Tensor]:
    """Return a request's tensors. Raises Malformed before allocating the memory that their shapes claim."""
    claimed = sum(abs(math.prod(dim.size for dim in proto.tensor_shape.dim)) for proto in inputs.values())
    if claimed > MAX_VALUES:
        raise Malformed("The tensors have too many values.", received=claimed, expected=f"at most {MAX_VALUES}")
    return [_from_proto(name, proto) for name, proto in inputs.items()]


def _from_proto(name: str, proto: Any) -> Tensor:
    """Return a tensor of rows; a scalar is one row. Raises Malformed."""
    if proto.tensor_shape.unknown_rank or len(proto.tensor_shape.dim) > MAX_DIMENSIONS:
        raise Malformed(f"Input {name!r} does not have the shape of rows.", expected="[rows] or [rows, 1]")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim) or (1,)
    if any(size < 0 for size in shape):
        raise Malformed(f"Input {name!r} has a negative dimension.", received=list(shape))
    count = math.prod(shape)
    if proto.dtype == tf.DT_STRING:
        if len(proto.string_val) not in (count, min(count, 1)):
            raise Malformed(f"Input {name!r} has {len(proto.string_val)} values; its shape needs {count}.")
        texts = [decode_text(name, value) for value in proto.string_val]
        return Tensor(name, shape, texts if len(texts) == count else texts * count)
    if proto.dtype not in _TYPES:
        raise Malformed(f"Input {name!r} has a data type that is not understood.", received=proto.dtype)
    return Tensor(name, shape, _numbers(name, proto, count).reshape(-1))


def _numbers(name: str, proto: Any, count: int) -> Any:
    dtype, field = _TYPES[proto.dtype]
    if proto.tensor_content:
        if len(proto.tensor_content) != count * np.dtype(dtype).itemsize:
            raise Malformed(f"Input {name!r}: tensor_content does not have the length of its shape.")
        return np.frombuffer(proto.tensor_content, np.dtype(dtype).newbyteorder("<"))
    listed = list(getattr(proto, field))
    if (not listed and count) or len(listed) > count:
        raise Malformed(f"Input {name!r} has {len(listed)} values; its shape needs {count}.")
    if dtype is np.float16:  # half_val holds its 16 bits in wider integers
        if any(not 0 <= bits < 1 << 16 for bits in listed):
            raise Malformed(f"Input {name!r} has a half_val of more than 16 bits.")
        values = np.array(listed, np.uint16).view(np.float16)
    else:
        values = np.array(listed).astype(dtype)
    if len(values) < count:  # as in TensorFlow, the last value fills the rest
        values = np.concatenate([values, np.full(count - len(values), values[-1], dtype)])
    return values


def _to_proto(values: Any) -> Any:
    """Return a float, double or boolean tensor with typed values, as TensorFlow Serving sends them."""
    shape = tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=size) for size in values.shape])
    if values.dtype == np.bool_:
        return tf.TensorProto(dtype=tf.DT_BOOL, tensor_shape=shape, bool_val=values.ravel().tolist())
    if values.dtype == np.float64:
        return tf.TensorProto(dtype=tf.DT_DOUBLE, tensor_shape=shape, double_val=values.ravel().tolist())
    return tf.TensorProto(dtype=tf.DT_FLOAT, tensor_shape=shape, float_val=values.ravel().tolist())


def _example_rows(model: LoadedModel, message: Any, check_count: Callable[[int], None]) -> InputRows:
    """Return the rows of an Input: its examples, each with the values of the context.

    `check_count` may refuse their number before they are read. Raises Malformed, and any error of `check_count`.
    """
    kind = message.WhichOneof("kind")
    examples = [] if kind is None else getattr(message, kind).examples
    if not examples:
        raise Malformed("The input has no examples.")
    check_count(len(examples))
    context = _features(message.example_list_with_context.context) if kind == "example_list_with_context" else {}
    check_context(model, context)
    return InputRows([{**context, **_features(example)} for example in examples])


def _features(example: Any) -> dict[str, Any]:
    return {name: _feature(name, feature) for name, feature in example.features.feature.items()}


def _feature(name: str, feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if len(values) > 1:
        raise Malformed(f"Feature {name!r} has {len(values)} values.", expected="one, or none where it is missing")
    if not values:
        return None
    return decode_text(name, values[0]) if kind == "bytes_list" else values[0]
