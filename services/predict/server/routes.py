"""Which path means what, and the few steps of each: who calls, which network, decode, predict, encode."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fitserve import __version__
from fitserve.api_keys import Identity
from fitserve.errors import Malformed, NotFound, Unavailable
from services.predict.catalog.catalog import Entry
from services.predict.catalog.loaded_model import Network
from services.predict.protocols import csv, json_body
from services.predict.protocols.answers import MethodNotAllowed, version_headers
from services.predict.protocols.oip import repository
from services.predict.protocols.oip import rest as oip
from services.predict.protocols.tfserving import rest as tfserving
from services.predict.server.access import check_predict
from services.predict.server.http import Answer, Call
from services.predict.serving.prediction_service import Selector, Service

Handler = Callable[[Service, Call], Awaitable[Answer]]

_TFSERVING = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?"
    r"(?::(?P<verb>predict|classify|regress|explain)|/(?P<metadata>metadata))?"
)
_OIP_MODEL = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer|explain))?"
)
_REPOSITORY = re.compile(r"/v2/repository/models/(?P<model>[^/]+)/(?P<verb>load|unload)")


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for. `operation` is a telemetry label."""

    protocol: str
    operation: str
    handle: Handler
    selector: Selector | None = None


def route(method: str, path: str) -> Route:
    """The route of a request. Raises NotFound, MethodNotAllowed."""
    if path.startswith("/v1"):
        found, methods = _tfserving_route(path)
    else:
        found, methods = _oip_route(path)
    if method not in methods:
        raise MethodNotAllowed(f"{method} is not for this path.", expected=", ".join(methods))
    return found


READ, POST = ("GET", "HEAD"), ("POST",)


def _tfserving_route(path: str) -> tuple[Route, tuple[str, ...]]:
    if path == "/v1/models":
        return Route("tfserving", "list", _list_models), READ
    match = _TFSERVING.fullmatch(path)
    if match is None:
        raise NotFound(f"Malformed request: {path[:200]}")
    selector = Selector(match["model"], _version_number(match["version"]), match["label"])
    if match["metadata"]:
        return Route("tfserving", "metadata", lambda s, c: _tfs_metadata(s, c, selector), selector), READ
    verb = match["verb"]
    if verb is None:
        return Route("tfserving", "status", lambda s, c: _tfs_status(s, c, selector), selector), READ
    steps = {"predict": _tfs_predict, "classify": _tfs_classify, "regress": _tfs_regress, "explain": _explain}[verb]
    return Route("tfserving", verb, lambda s, c: steps(s, c, selector), selector), POST


def _version_number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Malformed(f"Failed to convert version: {text[:40]} to numeric.", expected="a version's number")
    return int(text)


def _oip_route(path: str) -> tuple[Route, tuple[str, ...]]:
    if path in _OIP_PLAIN:
        operation, handler, methods = _OIP_PLAIN[path]
        return Route("oip", operation, handler), methods
    match = _REPOSITORY.fullmatch(path)
    if match is not None:
        model, loaded = match["model"], match["verb"] == "load"
        return Route("oip", match["verb"], lambda s, c: _repository_load(s, c, model, loaded)), POST
    match = _OIP_MODEL.fullmatch(path)
    if match is None:
        raise NotFound("There is nothing under this address.", received=path[:200])
    selector = oip_selector(match["model"], match["version"])
    verb = match["verb"] or "metadata"
    steps = {"metadata": _oip_metadata, "ready": _oip_ready, "infer": _oip_infer, "explain": _explain}[verb]
    methods = READ if verb in ("metadata", "ready") else POST
    return Route("oip", verb, lambda s, c: steps(s, c, selector), selector), methods


def oip_selector(model: str, version: str | None) -> Selector:
    """The protocol's versions are strings: a number, or a label."""
    if not version:
        return Selector(model)
    if version.isascii() and version.isdecimal() and len(version) <= 18:
        return Selector(model, int(version))
    return Selector(model, label=version)


# Steps that several protocols share


def _caller(service: Service, call: Call) -> Identity:
    return service.access.identify_header(call.header(b"authorization"))


async def _target(
    service: Service, call: Call, selector: Selector, deadline: float | None = None
) -> tuple[Entry, Network]:
    """Who answers this call's prediction, with its right to ask checked."""
    identity = _caller(service, call)
    entry = service.entry(selector.model, identity)
    check_predict(identity, selector.model)
    return entry, await service.network(service.pointer(entry, selector), deadline)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(json_body.write(value), status)


# TensorFlow Serving


async def _tfs_predict(service: Service, call: Call, selector: Selector) -> Answer:
    deadline = call.deadline()
    entry, network = await _target(service, call, selector, deadline)
    body = await call.body()
    if call.media_type == "text/csv":
        prediction = await service.predict(network, csv.read_rows(network, body), deadline, entry)
        wants_csv = "text/csv" in (call.header(b"accept") or "")
        answered = csv.write_rows(prediction) if wants_csv else tfserving.write_predict(prediction, True)
        media = b"text/csv; charset=utf-8" if wants_csv else b"application/json"
        return Answer(answered, media_type=media, headers=version_headers(prediction))
    rows, by_row = tfserving.read_predict(network, body)
    prediction = await service.predict(network, rows, deadline, entry)
    return Answer(tfserving.write_predict(prediction, by_row), headers=version_headers(prediction))


async def _tfs_classify(service: Service, call: Call, selector: Selector) -> Answer:
    deadline = call.deadline()
    entry, network = await _target(service, call, selector, deadline)
    rows, signature = tfserving.read_examples(await call.body())
    output = tfserving.chosen(network, signature, tfserving.CLASSES, "classify")
    prediction = await service.predict(network, rows, deadline, entry)
    return Answer(tfserving.write_classify(prediction, output), headers=version_headers(prediction))


async def _tfs_regress(service: Service, call: Call, selector: Selector) -> Answer:
    deadline = call.deadline()
    entry, network = await _target(service, call, selector, deadline)
    rows, signature = tfserving.read_examples(await call.body())
    output = tfserving.chosen(network, signature, ("regression",), "regress")
    prediction = await service.predict(network, rows, deadline, entry)
    return Answer(tfserving.write_regress(prediction, output), headers=version_headers(prediction))


async def _tfs_status(service: Service, call: Call, selector: Selector) -> Answer:
    entry = service.entry(selector.model, _caller(service, call))
    named = selector.version is not None or selector.label is not None
    pointers = [service.pointer(entry, selector)] if named else None
    return _json(tfserving.status(entry, pointers))


async def _tfs_metadata(service: Service, call: Call, selector: Selector) -> Answer:
    entry = service.entry(selector.model, _caller(service, call))
    network = await service.network(service.pointer(entry, selector))
    return Answer(
        json_body.write(tfserving.metadata(network)), headers=[(b"x-model-version", network.version_text.encode())]
    )


async def _list_models(service: Service, call: Call) -> Answer:
    return _json({"models": [entry.facts.name for entry in service.entries(_caller(service, call))]})


# Open Inference Protocol


async def _oip_infer(service: Service, call: Call, selector: Selector) -> Answer:
    deadline = call.deadline()
    entry, network = await _target(service, call, selector, deadline)
    body = await call.body()
    ask = oip.read(network, body, _header_length(call, len(body)))
    timeout = ask.parameters.get("timeout")  # Triton's: microseconds
    if deadline is None and type(timeout) is int and timeout > 0:
        deadline = call.now + timeout * 1e-6
    prediction = await service.predict(network, ask.rows, deadline, entry)
    answered, json_length = oip.write(prediction, ask)
    headers = version_headers(prediction)
    if json_length is None:
        return Answer(answered, headers=headers)
    headers.append((b"inference-header-content-length", str(json_length).encode()))
    return Answer(answered, media_type=b"application/octet-stream", headers=headers)


def _header_length(call: Call, size: int) -> int | None:
    text = call.header(b"inference-header-content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) > size:
        raise Malformed("Inference-Header-Content-Length is not a length within the body.", received=text[:40])
    return int(text)


async def _oip_server(service: Service, call: Call) -> Answer:
    return _json(oip.server_metadata(__version__))


async def _oip_live(service: Service, call: Call) -> Answer:
    return _json({"live": True})


async def _oip_server_ready(service: Service, call: Call) -> Answer:
    ready = is_ready(service)
    return _json({"ready": ready}, 200 if ready else 503)


def is_ready(service: Service) -> bool:
    """Whether the registry was read and the first networks were loaded."""
    try:
        service.check_ready()
    except Unavailable:
        return False
    return True


async def _oip_models(service: Service, call: Call) -> Answer:
    return await _list_models(service, call)


async def _oip_metadata(service: Service, call: Call, selector: Selector) -> Answer:
    entry = service.entry(selector.model, _caller(service, call))
    network = await service.network(service.pointer(entry, selector))
    return _json(oip.model_metadata(entry, network))


async def _oip_ready(service: Service, call: Call, selector: Selector) -> Answer:
    entry = service.entry(selector.model, _caller(service, call))
    ready = model_is_ready(service, entry, selector)
    return _json({"name": selector.model, "ready": ready}, 200 if ready else 503)


def model_is_ready(service: Service, entry: Entry, selector: Selector) -> bool:
    """Whether a request would be answered: loaded, or to be loaded when it is asked for. Raises NotFound."""
    if not entry.facts.loaded or entry.default is None:
        return False
    slot = service.pointer(entry, selector).current
    return slot is not None and (slot.network is not None or not slot.failed)


async def _repository_index(service: Service, call: Call) -> Answer:
    body = await call.body()
    value = json_body.read(body) if body.strip() else {}
    if not isinstance(value, dict):
        raise Malformed("The body is not a JSON object.")
    return _json(repository.index(service, _caller(service, call), value.get("ready") is True))


async def _repository_load(service: Service, call: Call, model: str, loaded: bool) -> Answer:
    await call.body()
    await repository.set_loaded(service, _caller(service, call), model, loaded)
    return Answer(b"{}")


_OIP_PLAIN: dict[str, tuple[str, Handler, tuple[str, ...]]] = {
    "/v2": ("server_metadata", _oip_server, READ),
    "/v2/": ("server_metadata", _oip_server, READ),
    "/v2/health/live": ("live", _oip_live, READ),
    "/v2/health/ready": ("ready", _oip_server_ready, READ),
    "/v2/models": ("list", _oip_models, READ),
    "/v2/repository/index": ("index", _repository_index, POST),
}


# Explain: the same in both protocols, with the body of predict


async def _explain(service: Service, call: Call, selector: Selector) -> Answer:
    deadline = call.deadline()
    _, network = await _target(service, call, selector, deadline)
    body = await call.body()
    if call.path.startswith("/v2"):
        rows = oip.read(network, body, _header_length(call, len(body))).rows
    else:
        rows, _ = tfserving.read_predict(network, body)
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(service.executor, network.explain, rows)
    explanations = [
        {
            name: {column: values[row, at].tolist() for at, column in enumerate(network.columns.names)}
            for name, values in found.contributions.items()
        }
        for row in range(rows.count)
    ]
    answer = {
        "model_name": network.model,
        "model_version": network.version_text,
        "method": "shapley",
        "baseline": {
            "row": dict(zip(network.columns.names, network.columns.baseline, strict=True)),
            "outputs": {name: values.tolist() for name, values in found.baseline.items()},
        },
        "explanations": explanations,
    }
    version = (b"x-model-version", network.version_text.encode())
    return Answer(json_body.write(answer), headers=[version])
