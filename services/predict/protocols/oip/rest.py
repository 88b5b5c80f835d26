"""Open Inference Protocol v2 over REST, with binary tensors, classification and the model repository.

Sources: kserve/open-inference-protocol inference_rest.md; triton protocol extension_binary_data.md,
extension_classification.md and extension_model_repository.md.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from fitserve import __version__
from fitserve.conformal import Bounds, read_level
from fitserve.errors import Forbidden, Malformed, NotFound
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, ModelOutput, Prediction
from services.predict.catalog.selector import Selector
from services.predict.protocols.formats import (
    Tensor,
    from_binary,
    from_json,
    join_texts,
    read_cell,
    read_json,
    refuse_half_characters,
    rows_of,
    write_json,
)
from services.predict.protocols.oip.models import (
    label_outputs,
    model_config,
    model_metadata,
    repository_index,
    statistics,
)
from services.predict.protocols.transport import (
    POST,
    READ,
    VALUE,
    VERSIONS,
    HttpRequest,
    HttpResponse,
    Route,
    Schema,
    explain_response,
    list_models,
    object_schema,
    operation,
    path_parameters,
)
from services.predict.serving.deciding import Decided
from services.predict.serving.protocol_request import ProtocolRequest

SERVER_METADATA: dict[str, Any] = {
    "name": "fitserve",
    "version": __version__,
    "extensions": ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"],
}
CONTENT_TYPES = ("", "str", "np", "pd", "pd_json", "datetime", "base64")
MAX_WARNINGS = 100  # in a response's parameters
_MODEL_PATH = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer|explain|config|stats))?"
)
_REPOSITORY_PATH = re.compile(r"/v2/repository/models/(?P<model>[^/]+)/(?P<verb>load|unload)")


# Routes


def find_route(path: str) -> Route:
    """Return the route of a path. Raises NotFound."""
    if path in _FIXED_ROUTES:
        return _FIXED_ROUTES[path]
    if match := _REPOSITORY_PATH.fullmatch(path):
        handle = functools.partial(_set_loaded, loaded=match["verb"] == "load")
        return Route(match["verb"], POST, handle, Selector(match["model"]))
    match = _MODEL_PATH.fullmatch(path)
    if match is None:
        raise NotFound("There is nothing under this address.", received=path[:200])
    verb = match["verb"] or "metadata"
    methods = POST if verb in ("infer", "explain") else READ
    return Route(verb, methods, _MODEL_HANDLERS[verb], selector_of(match["model"], match["version"]))


def selector_of(model: str, version: str | None) -> Selector:
    """Return what a request names. The protocol's versions are strings: a number, or a label."""
    if not version:
        return Selector(model)
    if version.isascii() and version.isdecimal() and len(version) <= 18:
        return Selector(model, int(version))
    return Selector(model, label=version)


async def _infer(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    body = await request.body()
    infer = await request.off_loop(len(body), read_infer, model, body, _json_length(request, len(body)))
    apply_timeout(request, infer.parameters)
    prediction = await request.service.predict(request, model, infer.rows)
    level = level_of(request, infer.parameters)
    decided = await decide(request, prediction, infer.rows, infer.outputs)
    content, json_length = await request.off_loop(
        0, lambda: write_infer(prediction, infer, decided, wanted_bounds(prediction, infer.outputs, level))
    )
    if json_length is None:
        return HttpResponse(content)
    headers = [(b"inference-header-content-length", str(json_length).encode())]
    return HttpResponse(content, media_type=b"application/octet-stream", headers=headers)


async def _explain(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    body = await request.body()
    infer = await request.off_loop(len(body), read_infer, model, body, _json_length(request, len(body)))
    return await explain_response(request, model, infer.rows)


def _json_length(request: HttpRequest, size: int) -> int | None:
    """Return the length of the JSON before binary tensors, where the client says so. Raises Malformed."""
    text = request.header(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) > size:
        raise Malformed("Inference-Header-Content-Length is not a length within the body.", received=text[:40])
    return int(text)


async def _server_metadata(request: HttpRequest) -> HttpResponse:
    return HttpResponse.json(SERVER_METADATA)


async def _live(request: HttpRequest) -> HttpResponse:
    return HttpResponse.json({"live": True})


async def _ready(request: HttpRequest) -> HttpResponse:
    ready = request.service.ready
    return HttpResponse.json({"ready": ready}, 200 if ready else 503)


async def _model_ready(request: HttpRequest) -> HttpResponse:
    name = request.selector.model
    ready = request.service.is_model_ready(request.find_entry(name), request.selector)
    return HttpResponse.json({"name": name, "ready": ready}, 200 if ready else 503)


async def _model_metadata(request: HttpRequest) -> HttpResponse:
    entry = request.find_entry(request.selector.model)
    model = await request.service.loaded_model(request.service.find_pointer(entry, request.selector))
    return HttpResponse.json(model_metadata(entry, model))


async def _index(request: HttpRequest) -> HttpResponse:
    body = await request.body()
    value = read_json(body) if body.strip() else {}
    if not isinstance(value, dict):
        raise Malformed("The body is not a JSON object.")
    return HttpResponse.json(repository_index(request, value.get("ready") is True))


async def _set_loaded(request: HttpRequest, loaded: bool) -> HttpResponse:
    body = await request.body()
    value = read_json(body) if body.strip() else {}
    if not isinstance(value, dict):
        raise Malformed("The body is not a JSON object.")
    parameters = value.get("parameters") or {}
    refuse_overrides(parameters if isinstance(parameters, dict) else {})
    await set_loaded(request, request.selector.model, loaded)
    return HttpResponse(b"{}")


async def _config(request: HttpRequest) -> HttpResponse:
    entry = request.find_entry(request.selector.model)
    model = await request.service.loaded_model(request.service.find_pointer(entry, request.selector))
    return HttpResponse.json(model_config(model))


async def _stats(request: HttpRequest) -> HttpResponse:
    if request.selector.model:
        entries = [request.find_entry(request.selector.model)]
    else:
        entries = request.service.visible_entries(request.identify())
    return HttpResponse.json({"model_stats": statistics(request, entries, request.selector)})


_MODEL_HANDLERS = {
    "metadata": _model_metadata,
    "ready": _model_ready,
    "infer": _infer,
    "explain": _explain,
    "config": _config,
    "stats": _stats,
}
_FIXED_ROUTES = {
    "/v2": Route("server_metadata", READ, _server_metadata),
    "/v2/": Route("server_metadata", READ, _server_metadata),
    "/v2/health/live": Route("live", READ, _live),
    "/v2/health/ready": Route("ready", READ, _ready),
    "/v2/models": Route("list", READ, list_models),
    "/v2/models/stats": Route("stats", READ, _stats),
    "/v2/repository/index": Route("index", POST, _index),
}


# What REST and gRPC share


def apply_timeout(request: ProtocolRequest, parameters: dict[str, Any]) -> None:
    """Set the deadline from Triton's parameter `timeout`, in microseconds, unless the request has one."""
    timeout = parameters.get("timeout")
    if request.deadline is None and type(timeout) is int and timeout > 0:
        request.deadline = request.arrived_at + timeout * 1e-6


def level_of(request: ProtocolRequest, parameters: dict[str, Any]) -> float | None:
    """Return the level of the parameter `interval`, or of the header. Raises BadInput."""
    value = parameters.get("interval")
    return request.level if value is None else read_level(value, "/parameters/interval")


def wanted_bounds(prediction: Prediction, selected: Iterable[SelectedOutput], level: float | None) -> list[Bounds]:
    """Return the bounds, at a level, of the outputs that a response has."""
    names = {one.output.name for one in selected}
    return [one for one in prediction.bounds(level) if one.output in names]


def bound_tensors(bounds: Iterable[Bounds]) -> Iterator[tuple[str, str, Any]]:
    """Yield name, datatype and values of the outputs that bounds add: numbers, or whether each label is in the set."""
    for one in bounds:
        for name, values in one.named().items():
            yield name, "BOOL" if values.dtype == np.bool_ else "FP64", values


async def decide(
    request: ProtocolRequest, prediction: Prediction, rows: InputRows, selected: Iterable[SelectedOutput]
) -> dict[str, Decided]:
    """Return the labels that a response needs: those of label outputs, and of classes where a decision is in force."""
    deciders = prediction.model.deciders
    wanted = {one.output: None for one in selected if one.label or (one.classes and one.output.name in deciders)}
    return await request.service.decide(prediction, rows, wanted) if wanted else {}


def refuse_overrides(parameters: Iterable[str]) -> None:
    """Raise Malformed where a load brings its own configuration or files. Models come from runs alone."""
    if own := [name for name in parameters if name == "config" or name.startswith("file:")]:
        raise Malformed(
            "A model cannot be loaded with a configuration or files of the request.",
            received=own[0][:80],
            fix="Load it without parameters; train a run to change it.",
        )


async def set_loaded(request: ProtocolRequest, model: str, loaded: bool) -> None:
    """Load or unload a model in every process. Raises NotFound, Forbidden, Unavailable."""
    identity, owner = request.identify(), request.find_entry(model).facts.owner
    if not (identity.may("train") and (identity.may("admin") or identity.owner == owner)):
        raise Forbidden("This key may not load or unload this model.", expected="its owner's key with the scope train")
    await request.service.set_loaded(model, loaded)


# Requests


class InputTensor(msgspec.Struct):
    """An input tensor of a request. `data` is absent where it is binary."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class OutputRequest(msgspec.Struct):
    """An output that a request names."""

    name: str
    parameters: dict[str, Any] | None = None


class InferBody(msgspec.Struct):
    """The JSON of an inference request."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputRequest] | None = None


_decoder = msgspec.json.Decoder(InferBody)


@dataclass(frozen=True, slots=True)
class SelectedOutput:
    """One output of the response: `classes` is the classification extension's k, or 0; `label`, its labels as text."""

    output: ModelOutput
    binary: bool = False
    classes: int = 0
    label: bool = False

    @property
    def name(self) -> str:
        return f"{self.output.name}_label" if self.label else self.output.name


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded inference request."""

    rows: InputRows
    id: str | None
    outputs: list[SelectedOutput]
    parameters: dict[str, Any]


def read_infer(model: LoadedModel, body: bytes, json_length: int | None) -> InferRequest:
    """Decode a request's body; binary tensors follow `json_length` bytes of JSON. Raises Malformed."""
    head, tail = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    decoded = _decode(head)
    parameters = check_parameters(decoded.parameters)
    rows = rows_of(model, _read_tensors(decoded, tail))
    binary = parameters.get("binary_data_output") is True
    named = [(one.name, check_parameters(one.parameters)) for one in decoded.outputs or ()]
    return InferRequest(rows, decoded.id, select_outputs(model, named, binary), parameters)


def _decode(head: bytes) -> InferBody:
    try:
        return _decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not isinstance(error, msgspec.ValidationError):
            refuse_half_characters(head)
            if b"NaN" in head or b"Infinity" in head:
                try:
                    return msgspec.convert(read_json(head), InferBody)
                except msgspec.ValidationError as invalid:
                    error = invalid
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        raise Malformed(f"The request cannot be read: {reason}.") from None


def check_parameters(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Return parameters, which are strings, numbers or booleans. Raises Malformed."""
    for key, value in (parameters or {}).items():
        if not isinstance(value, str | int | float | bool):
            raise Malformed(f"The parameter {key[:63]!r} must be a string, a number or a boolean.")
    return parameters or {}


def refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    """Raise Malformed where a tensor would lie in shared memory."""
    if "shared_memory_region" in parameters:
        raise Malformed("Shared memory is not offered.", fix="Send and receive tensors in the request and its answer.")


def content_type(of_tensor: Mapping[str, Any] | None, of_request: Mapping[str, Any] | None) -> str:
    """Return what a tensor's values stand for, as MLServer's clients say it. Raises Malformed."""
    named = (of_tensor or {}).get("content_type") or (of_request or {}).get("content_type") or ""
    if named not in CONTENT_TYPES:
        raise Malformed(
            "This content type is not known.", received=str(named)[:40], expected=", ".join(CONTENT_TYPES[1:])
        )
    return str(named)


def decode_content(tensor: Tensor, content: str) -> Tensor:
    """Return a tensor with base64 texts decoded, where its content type says so. Raises Malformed."""
    if content != "base64":
        return tensor
    if not isinstance(tensor.values, list):
        raise Malformed(f"Input {tensor.name!r} is base64, but not of datatype BYTES.")
    texts = [None if text is None else read_cell({"b64": text}) for text in tensor.values]
    return Tensor(tensor.name, tensor.shape, texts)


def _read_tensors(body: InferBody, tail: bytes) -> list[Tensor]:
    tensors, at, view = [], 0, memoryview(tail)
    for one in body.inputs:
        size = check_parameters(one.parameters).get("binary_data_size")
        refuse_shared_memory(one.parameters or {})
        content = content_type(one.parameters, body.parameters)
        if size is None:
            if one.data is None:
                raise Malformed(f"Input {one.name!r} has no data.")
            tensors.append(decode_content(from_json(one.name, one.datatype, one.shape, one.data), content))
            continue
        if one.data is not None or type(size) is not int or not 0 <= size <= len(tail) - at:
            raise Malformed(f"Input {one.name!r} has a wrong `binary_data_size`.", received=size)
        tensors.append(decode_content(from_binary(one.name, one.datatype, one.shape, view[at : at + size]), content))
        at += size
    if at != len(tail):
        raise Malformed(f"{len(tail) - at} bytes follow the last tensor.")
    return tensors


def select_outputs(
    model: LoadedModel, named: Sequence[tuple[str, dict[str, Any]]], binary: bool = False
) -> list[SelectedOutput]:
    """Return the outputs that a request names, with their parameters, or all of them. Raises Malformed.

    Whoever names a bound that the version answers by itself has the output that it is about, with all of its bounds.
    """
    selected, bounds = [], {name: one["name"] for name, one in model.conformal.added if model.level is not None}
    for name, parameters in named:
        if name in bounds and name not in model.output_names:
            continue
        output = next((one for one in model.outputs if one.name == name), None)
        if output is None and name in (labelled := label_outputs(model)):
            selected.append(SelectedOutput(labelled[name], bool(parameters.get("binary_data", binary)), label=True))
            continue
        if output is None:
            raise Malformed(f"Unknown output {name[:63]!r}.", expected=", ".join(model.output_names))
        refuse_shared_memory(parameters)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise Malformed("The parameter `classification` must be a number of classes.", received=str(classes)[:40])
        selected.append(SelectedOutput(output, bool(parameters.get("binary_data", binary)), classes))
    own, wanted = {one.output.name for one in selected}, {bounds[name] for name, _ in named if name in bounds}
    selected += [SelectedOutput(one, binary) for one in model.outputs if one.name in wanted - own]
    return selected or [SelectedOutput(output, binary) for output in model.outputs]


# Responses


def write_infer(
    prediction: Prediction, request: InferRequest, decided: Mapping[str, Decided], bounds: Iterable[Bounds] = ()
) -> tuple[bytes, int | None]:
    """Return the response's body and, if it has binary tensors, the length of its JSON; bounds are further outputs."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    finite = True
    for selected in request.outputs:
        datatype, shape, values = output_values(prediction, selected, decided)
        tensor: dict[str, Any] = {"name": selected.name, "shape": shape, "datatype": datatype}
        if selected.binary:
            data = binary_output(datatype, values)
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        elif datatype == "BYTES":
            tensor["data"] = values
        else:
            finite = finite and bool(np.isfinite(values).all())
            tensor["data"] = values.ravel().tolist()
        outputs.append(tensor)
    binary = any(one.binary for one in request.outputs)
    for name, datatype, values in bound_tensors(bounds):
        tensor = {"name": name, "shape": list(values.shape), "datatype": datatype}
        if binary:
            tail.append(values.astype("<f8" if datatype == "FP64" else "?").tobytes())
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            finite = finite and bool(np.isfinite(values).all())
            tensor["data"] = values.ravel().tolist()
        outputs.append(tensor)
    body: dict[str, Any] = {"model_name": prediction.model.name, "model_version": prediction.model.version_text}
    if request.id is not None:
        body["id"] = request.id
    if parameters := response_parameters(prediction, decided):
        body["parameters"] = parameters
    body["outputs"] = outputs
    head = write_json(body, finite)
    return (head + b"".join(tail), len(head)) if binary else (head, None)


def output_values(
    prediction: Prediction, selected: SelectedOutput, decided: Mapping[str, Decided]
) -> tuple[str, list[int], Any]:
    """Return datatype, shape and values of one output: an array, or a flat list of texts.

    Where a decision is in force, the decided label is the first class, and a row that is not answered has empty texts.
    """
    values, own = prediction.outputs[selected.output.name], decided.get(selected.output.name)
    if selected.label:
        assert own is not None
        texts = ["" if one is None else "; ".join(one) if isinstance(one, list) else one for one in own.labels()]
        return "BYTES", [len(texts), 1], texts
    if not selected.classes:
        return selected.output.datatype, list(values.shape), values
    labels = selected.output.labels
    if labels and len(labels) == 2 and values.shape[1] == 1:  # one unit's sigmoid is the second class's
        values = np.concatenate([1 - values, values], axis=1)
    count = min(selected.classes, values.shape[1])
    if own is not None:
        first = own.applies if own.applies is not None else np.eye(values.shape[1], dtype=bool)[own.places]
        order = np.lexsort((-values, ~first))[:, :count]
    else:
        order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    if labels and len(labels) != values.shape[1]:
        labels = None
    texts = [
        f"{row[place]:f}:{place}" + (f":{labels[place]}" if labels else "")
        for row, places in zip(values.tolist(), order.tolist(), strict=True)
        for place in places
    ]
    for row, why in enumerate(own.reasons if own is not None else ()):
        if why is not None:
            texts[row * count : (row + 1) * count] = [""] * count
    return "BYTES", [len(values), count], texts


def binary_output(datatype: str, values: Any) -> bytes:
    """Return an output's values as raw bytes."""
    if datatype == "BYTES":
        return join_texts(values)
    return bytes(values.astype("<f8" if datatype == "FP64" else "<f4", copy=False).tobytes())


def response_parameters(prediction: Prediction, decided: Mapping[str, Decided]) -> dict[str, str]:
    """Return what a response adds to its tensors: a checkpoint's label, and as JSON text warnings and abstentions."""
    parameters = {}
    abstained = [
        {"row": row, "output": name, "reason": why}
        for name, own in decided.items()
        for row, why in enumerate(own.reasons)
        if why is not None
    ]
    if abstained:
        parameters["abstained"] = json.dumps(abstained)
    if prediction.model.label:
        parameters["label"] = prediction.model.label
    if warnings := prediction.flat_warnings(MAX_WARNINGS):
        parameters["warnings"] = json.dumps(warnings)
    return parameters


# OpenAPI

_TENSOR: Schema = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "examples": ["FP64", "INT64", "BYTES", "BOOL"]},
        "data": {"type": "array", "items": VALUE},
        "parameters": {"type": "object", "additionalProperties": True},
    },
}

OPENAPI_SCHEMAS: dict[str, Schema] = {
    "InferRequest": object_schema(
        ["inputs"],
        id={"type": "string"},
        inputs={"type": "array", "items": _TENSOR},
        outputs={"type": "array", "items": object_schema(["name"], name={"type": "string"})},
        parameters={"type": "object", "additionalProperties": True},
    ),
    "InferAnswer": object_schema(
        ["model_name", "outputs"],
        model_name={"type": "string"},
        model_version={"type": "string"},
        id={"type": "string"},
        outputs={"type": "array", "items": _TENSOR},
    ),
}


def _describe_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for suffix, by in VERSIONS[:2]:
        path, names = f"/v2/models/{{model}}{suffix}", path_parameters(suffix)
        tail = "".join(f"_{name}" for name in names[1:])
        paths[path] = {"get": operation(f"v2_metadata{tail}", f"Inputs and outputs, {by}", "Metadata", names)}
        paths[f"{path}/ready"] = {"get": operation(f"v2_ready{tail}", f"Ready, {by}", "Metadata", names)}
        infer = operation(f"v2_infer{tail}", f"Infer, {by}", "InferAnswer", names, "InferRequest")
        paths[f"{path}/infer"] = {"post": infer}
    return paths


OPENAPI_PATHS = _describe_paths()
