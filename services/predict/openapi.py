"""The prediction service's OpenAPI document: its protocols are read without FastAPI, so they are described here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

Schema = dict[str, Any]
_SERVED: tuple[tuple[str, str], ...] = (
    ("", "by the champion, else the newest version"),
    ("/versions/{version}", "by a version"),
    ("/labels/{label}", "by a label's version"),
)
_VALUE: Schema = {"description": "A value of any JSON type; null is missing"}
_ROW: Schema = {"type": "object", "additionalProperties": _VALUE, "title": "Row", "description": "Values by column"}
_INSTANCES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"anyOf": [_ROW, {"type": "array", "items": _VALUE}]},
    "description": "Rows: values by column, or in the columns' order",
}
_TENSOR: Schema = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "examples": ["FP64", "INT64", "BYTES", "BOOL"]},
        "data": {"type": "array", "items": _VALUE},
        "parameters": {"type": "object", "additionalProperties": True},
    },
}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


SCHEMAS: dict[str, Schema] = {
    "Error": _object(["error"], error={"type": "string"}),
    "PredictRequest": _object(
        ["instances"], instances=_INSTANCES, signature_name={"type": "string", "description": "serving_default"}
    ),
    "PredictAnswer": _object(
        ["predictions"],
        predictions={
            "type": "array",
            "items": {"description": "A list of numbers; with several outputs, such lists by their names"},
        },
    ),
    "ExamplesRequest": _object(
        ["examples"],
        examples={"type": "array", "minItems": 1, "items": _ROW},
        context={**_ROW, "description": "Values that all rows share"},
        signature_name={"type": "string", "description": "Which output, where there are several"},
    ),
    "ClassifyAnswer": _object(
        ["results"],
        results={
            "type": "array",
            "items": {
                "type": "array",
                "items": {
                    "type": "array",
                    "prefixItems": [{"type": "string"}, {"type": "number"}],
                    "minItems": 2,
                    "maxItems": 2,
                },
            },
            "description": "For each row, each label with its score",
        },
    ),
    "RegressAnswer": _object(["results"], results={"type": "array", "items": {"type": "number"}}),
    "Explanations": {"type": "object", "additionalProperties": True},
    "Status": _object(
        ["model_version_status"],
        model_version_status={"type": "array", "items": {"type": "object", "additionalProperties": True}},
    ),
    "Metadata": {"type": "object", "additionalProperties": True},
    "InferRequest": _object(
        ["inputs"],
        id={"type": "string"},
        inputs={"type": "array", "items": _TENSOR},
        outputs={"type": "array", "items": _object(["name"], name={"type": "string"})},
        parameters={"type": "object", "additionalProperties": True},
    ),
    "InferAnswer": _object(
        ["model_name", "outputs"],
        model_name={"type": "string"},
        model_version={"type": "string"},
        id={"type": "string"},
        outputs={"type": "array", "items": _TENSOR},
    ),
}


def install(app: FastAPI) -> None:
    """The app's document tells of the protocols too."""
    made = app.openapi

    def finished() -> dict[str, Any]:
        document = made()
        if "/v1/models" not in document["paths"]:
            document["paths"] = {**paths(), **document["paths"]}
            document["servers"] = [{"url": "/", "description": "This server"}]
            document["info"]["license"] = {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(SCHEMAS)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for item in document["paths"].values():
                for operation in item.values():
                    operation.setdefault("security", [])
        return document

    app.openapi = finished  # type: ignore[method-assign]


def paths() -> dict[str, Any]:
    """TensorFlow Serving's REST under /v1, the Open Inference Protocol under /v2."""
    found: dict[str, Any] = {"/v1/models": {"get": _operation("list_models", "The models served", "Metadata", ())}}
    verbs = (
        ("predict", "Predict", "PredictRequest", "PredictAnswer"),
        ("classify", "Labels and scores", "ExamplesRequest", "ClassifyAnswer"),
        ("regress", "Numbers", "ExamplesRequest", "RegressAnswer"),
        ("explain", "Contributions of each column", "PredictRequest", "Explanations"),
    )
    for suffix, by in _SERVED:
        path = f"/v1/models/{{model}}{suffix}"
        names = ("model", *_names(suffix))
        tail = "_".join(["", *_names(suffix)])
        found[path] = {"get": _operation(f"status{tail}", f"State, {by}", "Status", names)}
        found[f"{path}/metadata"] = {"get": _operation(f"metadata{tail}", f"Signature, {by}", "Metadata", names)}
        for verb, summary, asked, told in verbs:
            found[f"{path}:{verb}"] = {"post": _operation(f"{verb}{tail}", f"{summary}, {by}", told, names, asked)}
    for suffix, by in _SERVED[:2]:
        path = f"/v2/models/{{model}}{suffix}"
        names, tail = ("model", *_names(suffix)), "_".join(["", *_names(suffix)])
        found[path] = {"get": _operation(f"v2_metadata{tail}", f"Inputs and outputs, {by}", "Metadata", names)}
        found[f"{path}/ready"] = {"get": _operation(f"v2_ready{tail}", f"Ready, {by}", "Metadata", names)}
        found[f"{path}/infer"] = {
            "post": _operation(f"v2_infer{tail}", f"Infer, {by}", "InferAnswer", names, "InferRequest")
        }
    return found


def _names(suffix: str) -> tuple[str, ...]:
    return (suffix.partition("{")[2].rstrip("}"),) if suffix else ()


def _operation(name: str, summary: str, told: str, names: tuple[str, ...], asked: str | None = None) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    refusals = {"400": "Refused", "401": "No valid key", "403": "This key may not", "404": "Not found"}
    refusals |= {"503": "Too much at once, or being loaded; `Retry-After` says when to come back"}
    if asked is not None:
        refusals |= {"409": "No model of that kind", "413": "Too large", "415": "This encoding is not understood"}
        refusals |= {"504": "No answer by the deadline of the request"}
    made: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "tags": ["predictions"],
        "security": [{"key": []}],
        "parameters": [_parameter(one) for one in names],
        "responses": {
            "200": {
                "description": "The answer; X-Model-Version says who answered" if names else "The answer",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{told}"}}},
            },
            **{status: {"description": text, **error} for status, text in refusals.items()},
        },
    }
    if asked is not None:
        schema = {"$ref": f"#/components/schemas/{asked}"}
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return made


def _parameter(name: str) -> dict[str, Any]:
    kind = "integer" if name == "version" else "string"
    return {"name": name, "in": "path", "required": True, "schema": {"type": kind}}
