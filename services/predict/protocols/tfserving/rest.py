"""TensorFlow Serving's REST protocol: bodies to rows, predictions to bodies.

Sources: tensorflow/serving g3doc/api_rest.md, util/json_tensor.cc, model_servers/http_rest_api_util.cc.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from fitserve.errors import BadInput, Malformed
from services.predict.catalog.catalog import Entry, Pointer, Slot, State
from services.predict.catalog.loaded_model import Network, Output, Prediction
from services.predict.protocols import json_body
from services.predict.serving.rows import Rows

SIGNATURES = ("", "serving_default")
CLASSES = ("binary", "multiclass", "multilabel")
DTYPES = {"FP64": "DT_DOUBLE", "FP32": "DT_FLOAT", "BOOL": "DT_BOOL", "BYTES": "DT_STRING"}
_PREDICT_KEYS = frozenset({"signature_name", "instances", "inputs"})
_EXAMPLE_KEYS = frozenset({"signature_name", "context", "examples"})


# Predict


def read_predict(network: Network, body: bytes) -> tuple[Rows, bool]:
    """The rows of a predict body, and whether it is in row format (`instances`). Raises Malformed."""
    columns = network.columns
    if columns.read_numbers is not None:
        numbers: Any = None
        try:
            numbers = msgspec.json.decode(body, type=columns.read_numbers).instances
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        if numbers:
            return Rows(columns.matrix_of(numbers)), True
    value = _object(body, _PREDICT_KEYS)
    _check_signature(value)
    if ("instances" in value) == ("inputs" in value):
        raise Malformed("The body needs exactly one of `instances` and `inputs`.", received=sorted(value))
    if "instances" in value:
        return Rows(_instances(network, value["instances"])), True
    return Rows(_inputs(network, value["inputs"])), False


def _object(body: bytes, keys: frozenset[str]) -> dict[str, Any]:
    value = json_body.read(body)
    if not isinstance(value, dict):
        raise Malformed("The body is not a JSON object.")
    if extra := value.keys() - keys:
        raise Malformed(f"The body has an unknown key {min(extra)[:63]!r}.", expected=", ".join(sorted(keys)))
    return value


def _check_signature(value: dict[str, Any]) -> None:
    name = value.get("signature_name") or ""
    if name not in SIGNATURES:
        raise Malformed(f'Serving signature key "{str(name)[:63]}" not found.', expected="serving_default")


def _instances(network: Network, instances: Any) -> list[Any]:
    if not isinstance(instances, list) or not instances:
        raise Malformed("`instances` must be a list with at least one row.")
    names = network.columns.names
    rows: list[Any] = []
    for number, instance in enumerate(instances):
        if type(instance) is dict and not (len(names) == 1 and instance.keys() == {"b64"}):
            rows.append({name: json_body.cell(value) for name, value in instance.items()})
        elif type(instance) is list:
            rows.append([json_body.cell(value) for value in instance])
        elif len(names) == 1:
            rows.append([json_body.cell(instance)])
        else:
            raise Malformed(
                f"instances[{number}] is neither an object nor a list.",
                expected=f"an object of columns, or a list of {len(names)} values",
            )
    return rows


def _inputs(network: Network, inputs: Any) -> list[Any]:
    """The column format: an object of columns, or the rows of the one nameless tensor."""
    names = network.columns.names
    if isinstance(inputs, dict) and not (len(names) == 1 and inputs.keys() == {"b64"}):
        if not inputs:
            raise Malformed("`inputs` names no column.")
        if unknown := [name for name in inputs if name not in names]:
            raise Malformed(f"`inputs` has an unknown column {unknown[0][:63]!r}.", expected=", ".join(names[:50]))
        columns = {name: [json_body.cell(v) for v in _listed(values)] for name, values in inputs.items()}
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) != 1 or not next(iter(sizes.values())):
            raise Malformed("The columns of `inputs` need the same number of rows, at least one.", received=sizes)
        return [list(row) for row in zip(*_ordered(columns, names), strict=True)]
    rows = _listed(inputs)
    if len(names) > 1 and rows and not isinstance(rows[0], list):
        rows = [rows]
    return _instances(network, rows)


def _ordered(columns: dict[str, list[Any]], names: tuple[str, ...]) -> list[list[Any]]:
    count = len(next(iter(columns.values())))
    return [columns.get(name) or [None] * count for name in names]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def write_predict(prediction: Prediction, by_row: bool) -> bytes:
    """The body of a predict answer, in the format that was asked in."""
    outputs = prediction.outputs
    if prediction.network.single:
        (value,) = outputs.values()
        if by_row and np.isfinite(value).all():  # the usual case; the fast lane writes the same bytes
            return b'{"predictions":' + json_body.write(value.tolist()) + b"}"
        return _written({"predictions" if by_row else "outputs": value.tolist()}, outputs)
    listed = {name: value.tolist() for name, value in outputs.items()}
    if not by_row:
        return _written({"outputs": listed}, outputs)
    rows = [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
    return _written({"predictions": rows}, outputs)


def _written(body: Any, outputs: dict[str, Any]) -> bytes:
    return json_body.write(body, all(np.isfinite(value).all() for value in outputs.values()))


# Classify, regress


def read_examples(body: bytes) -> tuple[Rows, str]:
    """The rows of a classify or regress body, and the signature it names. Raises Malformed."""
    value = _object(body, _EXAMPLE_KEYS)
    examples, context = value.get("examples"), value.get("context") or {}
    if not isinstance(examples, list) or not examples or not all(isinstance(e, dict) for e in examples):
        raise Malformed("`examples` must be a list with at least one object.")
    if not isinstance(context, dict):
        raise Malformed("`context` must be an object.")
    rows = [{name: json_body.cell(v) for name, v in {**context, **example}.items()} for example in examples]
    return Rows(rows), str(value.get("signature_name") or "")


def chosen(network: Network, signature: str, tasks: tuple[str, ...], verb: str) -> Output:
    """The output that classify or regress answers with. Raises BadInput."""
    name = None if signature in (*SIGNATURES, f"tensorflow/serving/{verb}") else signature
    output = network.output(name, tasks)
    if output is None:
        raise BadInput(f"The model {network.model} has no output to {verb}: {', '.join(network.names)}.")
    return output


def classes(output: Output, scores: Any) -> list[list[tuple[str, float]]]:
    """Label and score of each class, for each row. A sigmoid of one unit gives both of its classes."""
    labels = output.labels or ("",) * output.units
    if output.units == 1 and len(labels) == 2:
        scores = np.concatenate([1 - scores, scores], axis=1)
    elif output.units != len(labels):
        labels = ("",) * output.units
    return [list(zip(labels, row, strict=True)) for row in scores.tolist()]


def write_classify(prediction: Prediction, output: Output) -> bytes:
    """`{"results": [[[label, score], ...], ...]}`."""
    scores = prediction.outputs[output.name]
    return json_body.write({"results": classes(output, scores)}, bool(np.isfinite(scores).all()))


def write_regress(prediction: Prediction, output: Output) -> bytes:
    """`{"results": [value, ...]}`."""
    values = prediction.outputs[output.name]
    return json_body.write({"results": values[:, 0].tolist()}, bool(np.isfinite(values).all()))


# Status, metadata, list


def status(entry: Entry, pointers: list[Pointer] | None) -> dict[str, Any]:
    """The states of those pointers' versions, or of all versions."""
    if pointers is None:
        slots = [pointer.wanted[0] for pointer in entry.versions.values()]
    else:
        slots = [pointer.wanted[0] for pointer in pointers]
    return {"model_version_status": [_slot_status(slot, entry) for slot in slots]}


def _slot_status(slot: Slot, entry: Entry) -> dict[str, Any]:
    state = slot.state if entry.facts.loaded else State.end
    told = {"error_code": slot.error_code, "error_message": slot.error}
    return {"version": str(slot.version), "state": str(state), "status": told}


def metadata(network: Network) -> dict[str, Any]:
    """The signature of a network: a tensor of shape (-1, 1) a column."""
    inputs = {c.name: _tensor(c.name, DTYPES[c.datatype], 1) for c in network.columns.fitted}
    outputs = {o.name: _tensor(o.name, "DT_FLOAT", o.units) for o in network.outputs}
    signature = {
        "inputs": inputs,
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": network.model, "signature_name": "", "version": network.version_text},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


def _tensor(name: str, dtype: str, units: int) -> dict[str, Any]:
    dims = [{"size": "-1", "name": ""}, {"size": str(units), "name": ""}]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": f"{name}:0"}
