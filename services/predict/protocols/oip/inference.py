"""Inference requests decoded to rows, and predictions encoded as responses: shared by REST and gRPC, with REST's JSON.

Sources: kserve/open-inference-protocol inference_rest.md; triton protocol extension_binary_data.md and
extension_classification.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from fitserve.conformal import Bounds, read_level
from fitserve.errors import Malformed
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, ModelOutput, Prediction
from services.predict.protocols.formats import (
    Tensor,
    check_shape,
    from_binary,
    from_json,
    join_texts,
    read_cell,
    read_json,
    read_part,
    read_value,
    refuse_half_characters,
    rows_of,
    write_json,
    wrong_count,
)
from services.predict.protocols.json_parts import PART_BYTES, find_members, should_divide
from services.predict.protocols.oip.models import label_outputs
from services.predict.protocols.transport import left_out_warnings
from services.predict.serving.deciding import Decided
from services.predict.serving.protocol_request import LARGE_BODY_BYTES, ProtocolRequest

CONTENT_TYPES = ("", "str", "np", "pd", "pd_json", "datetime", "base64")
MAX_WARNINGS = 100  # in a response's parameters
MAX_TENSORS = 10_000  # inputs, outputs, or parameters of a large request


# Parameters


def apply_timeout(request: ProtocolRequest, parameters: dict[str, Any]) -> None:
    """Set the deadline from Triton's parameter `timeout`, in microseconds, unless the request has one."""
    timeout = parameters.get("timeout")
    if request.deadline is None and type(timeout) is int and timeout > 0:
        request.deadline = request.arrived_at + timeout * 1e-6


def level_of(request: ProtocolRequest, parameters: dict[str, Any]) -> float | None:
    """Return the interval level from the parameter `interval`, else from the header. Raises BadInput."""
    value = parameters.get("interval")
    return request.interval_level if value is None else read_level(value, "/parameters/interval")


def check_parameters(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Return the parameters if all are strings, numbers or booleans. Raises Malformed."""
    for key, value in (parameters or {}).items():
        if not isinstance(value, str | int | float | bool):
            raise Malformed(f"The parameter {key[:63]!r} must be a string, a number or a boolean.")
    return parameters or {}


def check_number(what: str, number: int) -> None:
    """Raise Malformed if a request has more than MAX_TENSORS inputs, outputs or parameters."""
    if number > MAX_TENSORS:
        raise Malformed(f"The request has too many {what}.", received=number, expected=f"at most {MAX_TENSORS}")


def refuse_shared_memory(parameters: Mapping[str, Any]) -> None:
    """Raise Malformed if a tensor is to be in shared memory."""
    if "shared_memory_region" in parameters:
        raise Malformed("Shared memory is not offered.", fix="Send and receive tensors in the request and its answer.")


def content_type(of_tensor: Mapping[str, Any] | None, of_request: Mapping[str, Any] | None) -> str:
    """Return the content type of a tensor's values, a convention of MLServer's clients. Raises Malformed."""
    named = (of_tensor or {}).get("content_type") or (of_request or {}).get("content_type") or ""
    if named not in CONTENT_TYPES:
        raise Malformed(
            "This content type is not known.", received=str(named)[:40], expected=", ".join(CONTENT_TYPES[1:])
        )
    return str(named)


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


def read_infer(
    model: LoadedModel, body: bytes, json_length: int | None, check_count: Callable[[int], None] = lambda rows: None
) -> InferRequest:
    """Decode a request's body; binary tensors follow `json_length` bytes of JSON.

    `check_count` may refuse the number of rows before they are read. Raises Malformed, and any error of `check_count`.
    """
    head, tail = (body, b"") if json_length is None else (body[:json_length], body[json_length:])
    divided = len(head) > LARGE_BODY_BYTES and should_divide(head)
    decoded = _decode_divided(head, check_count) if divided else _decode(head)
    parameters = check_parameters(decoded.parameters)
    rows = rows_of(model, _read_tensors(decoded, tail, check_count))
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
        fix = None
        if b"binary_data_size" in head and not isinstance(error, msgspec.ValidationError):
            fix = "Where binary tensors follow the JSON, the header Inference-Header-Content-Length says where it ends."
        raise Malformed(f"The request cannot be read: {reason}.", fix=fix) from None


def _decode_divided(head: bytes, check_count: Callable[[int], None]) -> InferBody:
    """Decode a body of many values a part at a time. Raises Malformed, and any error of `check_count`."""
    members = find_members(head)
    if members is None:
        raise _unreadable("it is no object")
    for name in members.keys() & {"inputs", "outputs"}:
        check_number(name, members[name].count)
    small = {name: read_value(members[name]) for name in members.keys() & {"id", "parameters", "outputs"}}
    body: InferBody = _convert({"inputs": [], **small}, InferBody)
    if "inputs" not in members or not members["inputs"].is_list:
        raise _unreadable("it has no list `inputs`")
    for first, piece in members["inputs"].pieces():
        if len(piece) > PART_BYTES:
            body.inputs.append(_decode_large_input(piece, first, check_count))
        else:
            inputs = read_part(b"[" + piece + b"]", first)
            body.inputs += [_convert(one, InputTensor, first + place) for place, one in enumerate(inputs)]
    return body


_SMALL_MEMBERS = ("name", "shape", "datatype", "parameters")


def _decode_large_input(text: bytes, place: int, check_count: Callable[[int], None]) -> InputTensor:
    """Decode one input. Its values are read a part at a time, unless there are more than its shape has."""
    members = find_members(text) or {}
    small = {name: read_value(value) for name, value in members.items() if name in _SMALL_MEMBERS}
    tensor: InputTensor = _convert(small, InputTensor, place)
    data = members.get("data")
    if data is None or not data.is_list:
        return tensor
    shape = check_shape(tensor.name, tensor.shape)
    check_count(shape[0])
    if data.count > math.prod(shape):
        raise wrong_count(tensor.name, shape, data.count)
    tensor.data = read_value(data)
    return tensor


def _convert(value: Any, kind: Any, place: int | None = None) -> Any:
    """Return JSON's values as a type of those above. Raises Malformed."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _unreadable(str(error).replace("`$", "`$" if place is None else f"`$.inputs[{place}]")) from None


def _unreadable(reason: str) -> Malformed:
    return Malformed(f"The request cannot be read: {reason}.")


def _read_tensors(body: InferBody, tail: bytes, check_count: Callable[[int], None]) -> list[Tensor]:
    tensors, at, view = [], 0, memoryview(tail)
    for one in body.inputs:
        size = check_parameters(one.parameters).get("binary_data_size")
        refuse_shared_memory(one.parameters or {})
        content = content_type(one.parameters, body.parameters)
        check_count(check_shape(one.name, one.shape)[0])
        if size is None:
            if one.data is None:
                raise Malformed(f"Input {one.name!r} has no data.")
            tensors.append(decode_content(from_json(one.name, one.datatype, one.shape, one.data), content))
            continue
        if one.data is not None:
            raise Malformed(
                f"Input {one.name!r} has both `data` and a `binary_data_size`.", fix="Leave one of them out."
            )
        if type(size) is not int or not 0 <= size <= len(tail) - at:
            raise Malformed(
                f"Input {one.name!r} has a wrong `binary_data_size`.",
                received=size,
                expected=f"at most {len(tail) - at}, the bytes that follow the JSON and no other input has",
                fix="Inference-Header-Content-Length says where the JSON ends.",
            )
        tensors.append(decode_content(from_binary(one.name, one.datatype, one.shape, view[at : at + size]), content))
        at += size
    if at != len(tail):
        raise Malformed(f"{len(tail) - at} bytes follow the last tensor.")
    return tensors


def decode_content(tensor: Tensor, content: str) -> Tensor:
    """Return a tensor with base64 texts decoded, where its content type says so. Raises Malformed."""
    if content != "base64":
        return tensor
    if not isinstance(tensor.values, list):
        raise Malformed(f"Input {tensor.name!r} is base64, but not of datatype BYTES.")
    texts = [None if text is None else read_cell({"b64": text}) for text in tensor.values]
    return Tensor(tensor.name, tensor.shape, texts)


def select_outputs(
    model: LoadedModel, named: Sequence[tuple[str, dict[str, Any]]], binary: bool = False
) -> list[SelectedOutput]:
    """Return the outputs that a request names, with their parameters, or all outputs. Raises Malformed.

    If a request names a bound that the version returns by default, select the bound's output, with all of its bounds.
    """
    if len({name for name, _ in named}) != len(named):
        raise Malformed("The request names an output twice.")
    selected, bounds = [], {name: one["name"] for name, one in model.conformal.added if model.level is not None}
    for name, parameters in named:
        refuse_shared_memory(parameters)
        if name in bounds and name not in model.output_names:
            continue
        output = next((one for one in model.outputs if one.name == name), None)
        if output is None and name in (labelled := label_outputs(model)):
            selected.append(SelectedOutput(labelled[name], bool(parameters.get("binary_data", binary)), label=True))
            continue
        if output is None:
            raise Malformed(f"Unknown output {name[:63]!r}.", expected=", ".join(model.output_names))
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise Malformed("The parameter `classification` must be a number of classes.", received=str(classes)[:40])
        selected.append(SelectedOutput(output, bool(parameters.get("binary_data", binary)), classes))
    own, wanted = {one.output.name for one in selected}, {bounds[name] for name, _ in named if name in bounds}
    selected += [SelectedOutput(one, binary) for one in model.outputs if one.name in wanted - own]
    return selected or [SelectedOutput(output, binary) for output in model.outputs]


# Responses


def wanted_bounds(prediction: Prediction, selected: Iterable[SelectedOutput], level: float | None) -> list[Bounds]:
    """Return the bounds at a level, for the outputs in the response."""
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


def write_infer(
    prediction: Prediction,
    request: InferRequest,
    decided: Mapping[str, Decided],
    bounds: Iterable[Bounds] = (),
    left_out: Mapping[str, int] = MappingProxyType({}),
) -> tuple[bytes, int | None]:
    """Return the response's body and, if it has binary tensors, the length of its JSON. Bounds become extra outputs."""
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
    if parameters := response_parameters(prediction, decided, left_out):
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
    if labels and len(labels) == 2 and values.shape[1] == 1:  # a single sigmoid unit is the second class's probability
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


def response_parameters(
    prediction: Prediction, decided: Mapping[str, Decided], left_out: Mapping[str, int]
) -> dict[str, str]:
    """Return the response's parameters: a checkpoint's label; warnings and abstentions as JSON text."""
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
    if warnings := [*left_out_warnings(left_out), *prediction.flat_warnings(MAX_WARNINGS)]:
        parameters["warnings"] = json.dumps(warnings)
    return parameters
