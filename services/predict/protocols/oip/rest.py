"""Open Inference Protocol v2 over REST: its routes, and their OpenAPI.

Sources: kserve/open-inference-protocol inference_rest.md; triton protocol extension_model_repository.md.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from fitserve.errors import Malformed, NotFound
from services.predict.catalog.catalog import Selector
from services.predict.protocols.oip.inference import (
    apply_timeout,
    decide,
    level_of,
    read_infer,
    wanted_bounds,
    write_infer,
)
from services.predict.protocols.oip.models import (
    SERVER_METADATA,
    model_config,
    model_metadata,
    refuse_overrides,
    repository_index,
    selector_of,
    set_loaded,
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
    instead = f"To predict, POST to {path[:200]}/infer." if verb == "metadata" else None
    return Route(verb, methods, _MODEL_HANDLERS[verb], selector_of(match["model"], match["version"]), instead)


async def _infer(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    body = await request.body()
    length = _json_length(request, len(body))
    infer = await request.in_thread_if_large(len(body), read_infer, model, body, length, request.check_count)
    apply_timeout(request, infer.parameters)
    prediction = await request.service.predict(request, model, infer.rows)
    level = level_of(request, infer.parameters)
    decided = await decide(request, prediction, infer.rows, infer.outputs)
    content, json_length = await request.in_thread_if_large(
        0,
        lambda: write_infer(
            prediction, infer, decided, wanted_bounds(prediction, infer.outputs, level), request.left_out
        ),
    )
    if json_length is None:
        return HttpResponse(content)
    headers = [(b"inference-header-content-length", str(json_length).encode())]
    return HttpResponse(content, media_type=b"application/octet-stream", headers=headers)


async def _explain(request: HttpRequest) -> HttpResponse:
    model = await request.resolve(request.selector)
    body = await request.body()
    length = _json_length(request, len(body))
    infer = await request.in_thread_if_large(len(body), read_infer, model, body, length, request.check_count)
    return await explain_response(request, model, infer.rows)


def _json_length(request: HttpRequest, size: int) -> int | None:
    """Return the length of the JSON before binary tensors, if the client sends it. Raises Malformed."""
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
    ready = request.service.updates.ready
    return HttpResponse.json({"ready": ready}, 200 if ready else 503)


async def _model_ready(request: HttpRequest) -> HttpResponse:
    name = request.selector.model
    ready = request.service.is_model_ready(request.find_entry(name), request.selector)
    return HttpResponse.json({"name": name, "ready": ready}, 200 if ready else 503)


async def _model_metadata(request: HttpRequest) -> HttpResponse:
    entry = request.find_entry(request.selector.model)
    model = await request.service.load_if_needed(request.service.find_pointer(entry, request.selector))
    return HttpResponse.json(model_metadata(entry, model))


class _RepositoryBody(msgspec.Struct):
    """What is read of a repository request; the values of its parameters, such as files, are skipped."""

    ready: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, msgspec.Raw] | None = None


_decode_repository = msgspec.json.Decoder(_RepositoryBody).decode


async def _repository_body(request: HttpRequest) -> _RepositoryBody:
    """Read the body of a repository request, which may be empty. Raises Malformed."""
    body = await request.body()
    if not body.strip():
        return _RepositoryBody()
    try:
        return await request.in_thread_if_large(len(body), _decode_repository, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The request cannot be read: {error}.") from None


async def _index(request: HttpRequest) -> HttpResponse:
    body = await _repository_body(request)
    return HttpResponse.json(repository_index(request, body.ready == msgspec.Raw(b"true")))


async def _set_loaded(request: HttpRequest, loaded: bool) -> HttpResponse:
    body = await _repository_body(request)
    refuse_overrides(body.parameters or ())
    await set_loaded(request, request.selector.model, loaded)
    return HttpResponse(b"{}")


async def _config(request: HttpRequest) -> HttpResponse:
    entry = request.find_entry(request.selector.model)
    model = await request.service.load_if_needed(request.service.find_pointer(entry, request.selector))
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
