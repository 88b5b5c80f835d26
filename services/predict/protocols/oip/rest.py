"""Open Inference Protocol v2 over REST, with binary tensors and the classification extension.

Sources: kserve/open-inference-protocol inference_rest.md; triton protocol extension_binary_data.md and
extension_classification.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from fitserve.errors import Malformed
from services.predict.catalog.catalog import Entry
from services.predict.catalog.loaded_model import Network, Output, Prediction
from services.predict.protocols import json_body
from services.predict.protocols.oip.tensors import Tensor, from_binary, from_json, rows_of, to_binary
from services.predict.serving.rows import Rows

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ["binary_tensor_data", "classification", "model_repository"]


class Input(msgspec.Struct):
    """An input tensor of a request. `data` is absent where it is binary."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class Requested(msgspec.Struct):
    """An output that a request names."""

    name: str
    parameters: dict[str, Any] | None = None


class Request(msgspec.Struct):
    """An inference request."""

    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Requested] | None = None


_decoder = msgspec.json.Decoder(Request)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output of the answer: `classes` is the classification extension's k, or 0."""

    output: Output
    binary: bool
    classes: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that is understood."""

    rows: Rows
    id: str | None
    wanted: tuple[Wanted, ...]
    parameters: dict[str, Any]

    @property
    def binary(self) -> bool:
        return any(wanted.binary for wanted in self.wanted)


def read(network: Network, body: bytes, header_length: int | None) -> Ask:
    """A request's body. `header_length` is its `Inference-Header-Content-Length`. Raises Malformed."""
    head, tail = (body, b"") if header_length is None else (body[:header_length], body[header_length:])
    request = _request(head)
    parameters = check_parameters(request.parameters)
    rows = rows_of(network, _tensors(request, tail))
    binary = parameters.get("binary_data_output") is True
    return Ask(rows, request.id, _wanted(network, request.outputs, binary), parameters)


def _request(head: bytes) -> Request:
    try:
        return _decoder.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not isinstance(error, msgspec.ValidationError) and (b"NaN" in head or b"Infinity" in head):
            try:
                return msgspec.convert(json_body.read(head), Request)
            except msgspec.ValidationError as wrong:
                error = wrong
        said = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        raise Malformed(f"The request cannot be read: {said}.") from None


def check_parameters(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Parameters are strings, numbers or booleans. Raises Malformed."""
    for key, value in (parameters or {}).items():
        if not isinstance(value, str | int | float | bool):
            raise Malformed(f"The parameter {key[:63]!r} must be a string, a number or a boolean.")
    return parameters or {}


def _tensors(request: Request, tail: bytes) -> list[Tensor]:
    tensors, at, view = [], 0, memoryview(tail)
    for one in request.inputs:
        size = check_parameters(one.parameters).get("binary_data_size")
        if one.parameters and "shared_memory_region" in one.parameters:
            raise Malformed("Shared memory is not offered.", fix="Send the tensor's data.")
        if size is None:
            if one.data is None:
                raise Malformed(f"Input {one.name!r} has no data.")
            tensors.append(from_json(one.name, one.datatype, one.shape, one.data))
            continue
        if one.data is not None or type(size) is not int or not 0 <= size <= len(tail) - at:
            raise Malformed(f"Input {one.name!r} has a wrong `binary_data_size`.", received=size)
        tensors.append(from_binary(one.name, one.datatype, one.shape, view[at : at + size]))
        at += size
    if at != len(tail):
        raise Malformed(f"{len(tail) - at} bytes follow the last tensor.")
    return tensors


def _wanted(network: Network, requested: list[Requested] | None, binary: bool) -> tuple[Wanted, ...]:
    if not requested:
        return tuple(Wanted(output, binary, 0) for output in network.outputs)
    return tuple(want(network, one.name, check_parameters(one.parameters), binary) for one in requested)


def want(network: Network, name: str, parameters: dict[str, Any], binary: bool) -> Wanted:
    """One requested output. Raises Malformed."""
    output = next((o for o in network.outputs if o.name == name), None)
    if output is None:
        raise Malformed(f"Unknown output {name[:63]!r}.", expected=", ".join(network.names))
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise Malformed("The parameter `classification` must be a number of classes.", received=str(count)[:40])
    return Wanted(output, bool(parameters.get("binary_data", binary)), count)


def values_of(prediction: Prediction, wanted: Wanted) -> tuple[str, list[int], Any]:
    """Datatype, shape and values of one output: an array, or a flat list of texts."""
    values = prediction.outputs[wanted.output.name]
    if not wanted.classes:
        return "FP32", list(values.shape), values
    count = min(wanted.classes, values.shape[1])
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    labels = wanted.output.labels if wanted.output.labels and len(wanted.output.labels) == values.shape[1] else None
    texts = [
        f"{row[place]:f}:{place}" + (f":{labels[place]}" if labels else "")
        for row, places in zip(values.tolist(), order.tolist(), strict=True)
        for place in places
    ]
    return "BYTES", [len(values), count], texts


def write(prediction: Prediction, ask: Ask) -> tuple[bytes, int | None]:
    """The answer's body and, where it has binary tensors, the length of its JSON."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    finite = True
    for wanted in ask.wanted:
        datatype, shape, values = values_of(prediction, wanted)
        described: dict[str, Any] = {"name": wanted.output.name, "shape": shape, "datatype": datatype}
        if wanted.binary:
            data = to_binary(values) if datatype == "BYTES" else values.astype("<f4", copy=False).tobytes()
            described["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        elif datatype == "BYTES":
            described["data"] = values
        else:
            finite = finite and bool(np.isfinite(values).all())
            described["data"] = values.ravel().tolist()
        outputs.append(described)
    body: dict[str, Any] = {"model_name": prediction.network.model, "model_version": prediction.network.version_text}
    if ask.id is not None:
        body["id"] = ask.id
    if parameters := answer_parameters(prediction):
        body["parameters"] = parameters
    body["outputs"] = outputs
    head = json_body.write(body, finite)
    return (head + b"".join(tail), len(head)) if ask.binary else (head, None)


def answer_parameters(prediction: Prediction) -> dict[str, Any]:
    """What the answer says beside its tensors: a checkpoint's label, and warnings as JSON text."""
    found: dict[str, Any] = {}
    if prediction.network.label:
        found["label"] = prediction.network.label
    if warnings := flat_warnings(prediction):
        found["warnings"] = json.dumps(warnings)
    return found


def flat_warnings(prediction: Prediction, most: int = 100) -> list[dict[str, Any]]:
    """The first warnings, each with its row (from 0)."""
    found = []
    for row, warnings in enumerate(prediction.warnings or ()):
        for warning in warnings:
            found.append({"row": row, **warning})
            if len(found) == most:
                return found
    return found


# Metadata


def server_metadata(version: str) -> dict[str, Any]:
    return {"name": "fitserve", "version": version, "extensions": EXTENSIONS}


def model_metadata(entry: Entry, network: Network) -> dict[str, Any]:
    """Name, versions and tensors: a tensor of shape [-1, 1] a column."""
    columns = network.columns
    return {
        "name": network.model,
        "versions": [str(number) for number in sorted(entry.versions)],
        "platform": PLATFORM,
        "inputs": [{"name": c.name, "datatype": c.datatype, "shape": [-1, 1]} for c in columns.fitted],
        "outputs": [{"name": o.name, "datatype": "FP32", "shape": [-1, o.units]} for o in network.outputs],
    }
