"""TensorFlow Serving's REST protocol: routes, bodies to rows, predictions to bodies.

Sources: tensorflow/serving g3doc/api_rest.md, util/json_tensor.cc, model_servers/http_rest_api_util.cc.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fitserve.conformal import Bounds
from fitserve.errors import BadInput, Malformed, NotFound
from services.predict.catalog.catalog import CatalogEntry, Pointer, Selector, Servable, State
from services.predict.catalog.columns import InputRows
from services.predict.catalog.loaded_model import LoadedModel, ModelOutput, Prediction
from services.predict.protocols.csv_body import read_csv
from services.predict.protocols.formats import (
    check_context,
    read_cell,
    read_part,
    read_value,
    write_csv,
    write_json,
    written_rows,
)
from services.predict.protocols.json_parts import should_divide
from services.predict.protocols.tfserving.predict_body import (
    SIGNATURES,
    divide_object,
    read_object,
    read_predict,
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
from services.predict.serving.protocol_request import LARGE_BODY_BYTES

CLASSIFY_TASKS = ("binary", "multiclass", "multilabel")
REGRESS_TASKS = ("regression",)
DTYPES = {"FP64": "DT_DOUBLE", "FP32": "DT_FLOAT", "BOOL": "DT_BOOL", "BYTES": "DT_STRING"}
_EXAMPLE_KEYS = frozenset({"signature_name", "context", "examples"})
_PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"
    r"(?::(?P<verb>predict|classify|regress|explain)|/(?P<metadata>metadata))?"
)


# Routes


def find_route(path: str) -> Route:
    """Return the route of a path. Raises NotFound, Malformed."""
    if path == "/":
        return Route("live", READ, _alive)
    if path == "/v1/models":
        return Route("list", READ, list_models)
    match = _PATH.fullmatch(path)
    if match is None:
        raise NotFound(f"Malformed request: {path[:200]}")
    selector = Selector(match["model"], _version_number(match["version"]), match["label"])
    if match["metadata"]:
        return Route("metadata", READ, _metadata, selector)
    if match["verb"] is None:
        return Route("status", READ, _status, selector, f"To predict, POST to {path[:200]}:predict.")
    return Route(match["verb"], POST, _POST_HANDLERS[match["verb"]], selector)


def _version_number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Malformed(f"Failed to convert version: {text[:40]} to numeric.", expected="a version's number")
    return int(text)


async def _predict(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    body = await request.body()
    if request.media_type != "text/csv":
        rows, by_row, interval_level = await request.in_thread_if_large(
            len(body), read_predict, model, body, request.check_count
        )
        interval_level = request.interval_level if interval_level is None else interval_level
        prediction = await request.service.predict(request, model, rows)
        return HttpResponse(
            await request.in_thread_if_large(
                0, lambda: write_predict(prediction, by_row, prediction.bounds(interval_level))
            )
        )
    interval_level = request.interval_level
    rows = await request.in_thread_if_large(len(body), read_csv, model, body, request.charset, request.check_count)
    prediction = await request.service.predict(request, model, rows)
    if "text/csv" in (request.header(b"accept") or ""):
        decided = await request.service.decide(prediction, rows, decided_outputs(model)) if model.deciders else {}
        content = await request.in_thread_if_large(
            0, lambda: write_csv(prediction, prediction.bounds(interval_level), decided)
        )
        return HttpResponse(content, media_type=b"text/csv; charset=utf-8")
    return HttpResponse(
        await request.in_thread_if_large(0, lambda: write_predict(prediction, True, prediction.bounds(interval_level)))
    )


async def _classify(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    rows, signature = await _examples(request, model)
    output = choose_output(model, signature, CLASSIFY_TASKS, "classify")
    prediction = await request.service.predict(request, model, rows)
    bounds = _bounds_of(prediction, output, request.interval_level)
    decided = await request.service.decide(prediction, rows, [output]) if output.name in model.deciders else {}
    content = await request.in_thread_if_large(0, _write_classes, prediction, output, bounds, decided.get(output.name))
    return HttpResponse(content)


def _write_classes(
    prediction: Prediction, output: ModelOutput, bounds: Mapping[str, list[Any]], decided: Decided | None
) -> bytes:
    scores = prediction.outputs[output.name]
    body: dict[str, Any] = {"results": label_scores(output, scores), **bounds}
    if decided is not None:
        body |= {"results": decided_scores(body["results"], decided), "decisions": decided.entries()}
    return write_json(body, bool(np.isfinite(scores).all()))


async def _regress(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    rows, signature = await _examples(request, model)
    output = choose_output(model, signature, REGRESS_TASKS, "regress")
    prediction = await request.service.predict(request, model, rows)
    values = prediction.outputs[output.name]
    body = {"results": values[:, 0].tolist(), **_bounds_of(prediction, output, request.interval_level)}
    return HttpResponse(await request.in_thread_if_large(0, write_json, body, bool(np.isfinite(values).all())))


def _bounds_of(prediction: Prediction, output: ModelOutput, interval_level: float | None) -> dict[str, list[Any]]:
    """Return the fields that bounds add to `results`: the interval or set of one output, one value per row."""
    if output.task == "multilabel":  # this output has none, even if others do
        return {}
    return {
        name: listed for one in prediction.bounds(interval_level, output.name) for name, listed in one.listed().items()
    }


async def _examples(request: HttpRequest, model: LoadedModel) -> tuple[InputRows, str]:
    """Return the rows of a classify or regress request (JSON or CSV) and the signature it names. Raises Malformed."""
    body = await request.body()
    if request.media_type == "text/csv":
        return await request.in_thread_if_large(
            len(body), read_csv, model, body, request.charset, request.check_count
        ), ""
    return await request.in_thread_if_large(len(body), read_examples, model, body, request.check_count)


async def _explain(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    body = await request.body()
    if request.media_type == "text/csv":
        rows = await request.in_thread_if_large(len(body), read_csv, model, body, request.charset, request.check_count)
    else:
        rows, *_ = await request.in_thread_if_large(len(body), read_predict, model, body, request.check_count)
    return await explain_response(request, model, rows)


async def _alive(request: HttpRequest) -> HttpResponse:
    """Answer `/` as KServe's v1 protocol does."""
    return HttpResponse.json({"status": "alive"})


async def _status(request: HttpRequest) -> HttpResponse:
    selector = request.selector
    entry = request.find_entry(selector.model)
    named = selector.version is not None or selector.label is not None
    states = status(entry, [request.service.find_pointer(entry, selector)] if named else None)
    ready = request.service.is_model_ready(entry, selector)
    return HttpResponse.json({"name": selector.model, "ready": ready, **states})  # both are KServe's


async def _metadata(request: HttpRequest) -> HttpResponse:
    pointer = request.service.find_pointer(request.find_entry(request.selector.model), request.selector)
    model = await request.service.load_if_needed(pointer)
    return HttpResponse.json(metadata(model), model=model)


_POST_HANDLERS = {"predict": _predict, "classify": _classify, "regress": _regress, "explain": _explain}


# Predict


def write_predict(prediction: Prediction, by_row: bool, bounds: Sequence[Bounds] = ()) -> bytes:
    """Return the body of a predict response, in its request's format. Bounds become extra outputs."""
    outputs = prediction.outputs
    finite = all(np.isfinite(value).all() for value in outputs.values())
    listed: Any
    if prediction.model.single_output and not bounds:
        (value,) = outputs.values()
        listed = written_rows(value) if finite else value.tolist()
    else:
        listed = {name: value.tolist() for name, value in outputs.items()}
        for one in bounds:
            listed |= one.listed()
        if by_row:
            listed = [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
    return write_json({"predictions" if by_row else "outputs": listed}, finite)


# Classify, regress


def read_examples(
    model: LoadedModel, body: bytes, check_count: Callable[[int], None] = lambda rows: None
) -> tuple[InputRows, str]:
    """Return the rows of a classify or regress body, and the signature it names.

    `check_count` may refuse the number of rows before they are read. Raises Malformed, and any error of `check_count`.
    """
    if len(body) <= LARGE_BODY_BYTES or not should_divide(body):
        value = read_object(body, _EXAMPLE_KEYS)
        rows = _example_rows(model, value.get("examples"), value.get("context"))
        return InputRows(rows), str(value.get("signature_name") or "")
    members = divide_object(body, _EXAMPLE_KEYS)
    context, signature = (
        read_value(members[name]) if name in members else None for name in ("context", "signature_name")
    )
    examples = members.get("examples")
    if examples is None or not examples.is_list:
        return InputRows(_example_rows(model, None, context)), ""
    check_count(examples.count)
    rows = []
    for first, part in examples.parts():
        rows += _example_rows(model, read_part(part, first), context)
    return InputRows(rows or _example_rows(model, [], context)), str(signature or "")


def _example_rows(model: LoadedModel, examples: Any, context: Any) -> list[dict[str, Any]]:
    """Return examples as rows, each with the values of the context. Raises Malformed."""
    if not isinstance(examples, list) or not examples or not all(isinstance(e, dict) for e in examples):
        raise Malformed("`examples` must be a list with at least one object.")
    if not isinstance(context or {}, dict):
        raise Malformed("`context` must be an object.")
    check_context(model, context or {})
    return [{name: read_cell(v) for name, v in {**(context or {}), **example}.items()} for example in examples]


def choose_output(model: LoadedModel, signature: str, tasks: tuple[str, ...], verb: str) -> ModelOutput:
    """Return the output that answers a classify or regress request. Raises BadInput."""
    name = None if signature in (*SIGNATURES, f"tensorflow/serving/{verb}") else signature
    output = model.find_output(name, tasks)
    if output is None:
        fitting = [one.name for one in model.outputs if one.task in tasks]
        if fitting and name is not None:
            raise BadInput(f"The signature {name[:63]!r} is no output to {verb}.", expected=", ".join(fitting))
        raise BadInput(f"The model {model.name} has no output to {verb}: {', '.join(model.output_names)}.")
    return output


def label_scores(output: ModelOutput, scores: Any) -> list[list[tuple[str, float]]]:
    """Return each row's labels with their scores. A single sigmoid unit gives scores of both classes."""
    labels = output.labels or ("",) * output.units
    if output.units == 1 and len(labels) == 2:
        scores = np.concatenate([1 - scores, scores], axis=1)
    elif output.units != len(labels):
        labels = ("",) * output.units
    return [list(zip(labels, row, strict=True)) for row in scores.tolist()]


def decided_outputs(model: LoadedModel) -> list[ModelOutput]:
    """Return the outputs that have a decision in force."""
    return [output for output in model.outputs if output.name in model.deciders]


def decided_scores(results: list[list[tuple[str, float]]], decided: Decided) -> list[list[tuple[str, float]]]:
    """Return each row's labels with their scores, the decided label first; none if the model abstains for the row.

    For a multi-label target, the labels that apply come first.
    """
    ordered: list[list[tuple[str, float]]] = []
    for row, (scores, why) in enumerate(zip(results, decided.reasons, strict=True)):
        if why is not None:
            ordered.append([])
            continue
        first = decided.applies[row].tolist() if decided.applies is not None else None
        if first is None:
            assert decided.places is not None
            first = [place == decided.places[row] for place in range(len(scores))]
        places = sorted(range(len(scores)), key=lambda place: (not first[place], -scores[place][1]))
        ordered.append([scores[place] for place in places])
    return ordered


# Status, metadata


def status(entry: CatalogEntry, pointers: list[Pointer] | None) -> dict[str, Any]:
    """Return the states of these pointers' versions, or of all versions."""
    chosen = entry.versions.values() if pointers is None else pointers
    return {"model_version_status": [_version_status(pointer.target, entry) for pointer in chosen]}


def _version_status(servable: Servable, entry: CatalogEntry) -> dict[str, Any]:
    state = servable.state if entry.facts.wanted else State.end
    error = {"error_code": servable.error_code, "error_message": servable.error}
    return {"version": str(servable.version), "state": str(state), "status": error}


def metadata(model: LoadedModel) -> dict[str, Any]:
    """Return the signature of a model: a tensor of shape (-1, 1) for each column."""
    inputs = {c.name: _tensor(c.name, DTYPES[c.datatype], 1) for c in model.columns.fitted}
    outputs = {o.name: _tensor(o.name, DTYPES[o.datatype], o.units) for o in model.outputs}
    outputs |= {name: _tensor(name, DTYPES[kind], width) for name, kind, width in model.bound_outputs}
    signature = {
        "inputs": inputs,
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": model.version_text},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


def _tensor(name: str, dtype: str, units: int) -> dict[str, Any]:
    dims = [{"size": "-1", "name": ""}, {"size": str(units), "name": ""}]
    return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": f"{name}:0"}


# OpenAPI

_ROW: Schema = {"type": "object", "additionalProperties": VALUE, "title": "Row", "description": "Values by column"}
_INSTANCES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [_ROW, {"type": "array", "items": VALUE}]},
    "description": "Rows: values by column, or in the columns' order",
}
_LABEL_SCORE: Schema = {
    "type": "array",
    "prefixItems": [{"type": "string"}, {"type": "number"}],
    "minItems": 2,
    "maxItems": 2,
}

OPENAPI_SCHEMAS: dict[str, Schema] = {
    "PredictRequest": object_schema(
        ["instances"],
        instances=_INSTANCES,
        signature_name={"type": "string", "description": "serving_default"},
        interval={
            "type": "number",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1,
            "description": "The share of rows whose truth the interval or the set of labels is to contain",
        },
    ),
    "PredictAnswer": object_schema(
        ["predictions"],
        predictions={
            "type": "array",
            "items": {"description": "A list of numbers; with several outputs, such lists by their names"},
        },
    ),
    "ExamplesRequest": object_schema(
        ["examples"],
        examples={"type": "array", "minItems": 1, "items": _ROW},
        context={**_ROW, "title": "Context", "description": "Values that all rows share"},
        signature_name={"type": "string", "description": "Which output, where there are several"},
    ),
    "ClassifyAnswer": object_schema(
        ["results"],
        results={
            "type": "array",
            "items": {"type": "array", "items": _LABEL_SCORE},
            "description": "For each row, each label with its score; where a decision is in force, the decided label "
            "first, and no label where none is answered",
        },
        decisions={
            "type": "array",
            "items": {"type": "object", "additionalProperties": True},
            "description": "Where a decision is in force: each row's `label` (or `labels`), or why it `abstained`",
        },
    ),
    "RegressAnswer": object_schema(["results"], results={"type": "array", "items": {"type": "number"}}),
    "Explanations": {"type": "object", "additionalProperties": True},
    "Status": object_schema(
        ["model_version_status"],
        model_version_status={"type": "array", "items": {"type": "object", "additionalProperties": True}},
    ),
}

_VERBS = (
    ("predict", "Predict", "PredictRequest", "PredictAnswer"),
    ("classify", "Labels and scores", "ExamplesRequest", "ClassifyAnswer"),
    ("regress", "Numbers", "ExamplesRequest", "RegressAnswer"),
    ("explain", "Contributions of each column", "PredictRequest", "Explanations"),
)


def _describe_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {"/v1/models": {"get": operation("list_models", "The models served", "Metadata")}}
    for suffix, by in VERSIONS:
        path, names = f"/v1/models/{{model}}{suffix}", path_parameters(suffix)
        tail = "".join(f"_{name}" for name in names[1:])
        paths[path] = {"get": operation(f"status{tail}", f"State, {by}", "Status", names)}
        paths[f"{path}/metadata"] = {"get": operation(f"metadata{tail}", f"Signature, {by}", "Metadata", names)}
        for verb, summary, request, response in _VERBS:
            described = operation(f"{verb}{tail}", f"{summary}, {by}", response, names, request)
            paths[f"{path}:{verb}"] = {"post": described}
    return paths


OPENAPI_PATHS = _describe_paths()
