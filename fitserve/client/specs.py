"""What `runs.create` was given, as the body of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from fitserve.client.dataframes import plain
from fitserve.errors import BadInput


def spec_of(spec: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    """A spec from a mapping, a file, YAML or JSON text, or parts alone; parts overrule. Raises BadInput, Malformed.

    `network` may be a Keras model: its configuration is sent. A dataset may be what `client.datasets` returned.
    """
    body = {**_body(spec), **{name: value for name, value in parts.items() if value is not None}}
    if "network" in body:
        body["network"] = network_of(body["network"])
    reference = getattr(body.get("dataset"), "ref", None)
    if reference is not None:
        body["dataset"] = reference
    found: dict[str, Any] = plain(body)
    return found


def _body(spec: Any) -> dict[str, Any]:
    if spec is None:
        return {}
    if isinstance(spec, Mapping):
        return dict(spec)
    if isinstance(spec, str | PathLike):
        from fitserve.spec.text import values_of

        if isinstance(spec, str) and "\n" in spec:
            text, name = spec.encode(), ""
        else:
            text, name = _read(Path(spec)), str(spec)
        kind = "application/json" if name.endswith(".json") or text.lstrip()[:1] == b"{" else "application/yaml"
        body = values_of(text, kind)
        if isinstance(body, dict):
            return body
    elif hasattr(spec, "to_json"):  # a fitserve.spec.Spec
        return dict(spec.to_json())
    raise BadInput("That is no spec.", received=type(spec).__name__, expected="a mapping, a file, or YAML text")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", received=str(path)) from None


def network_of(network: Any) -> Any:
    """A Keras model's configuration (`to_json()`); anything else as it is."""
    if isinstance(network, str) and network.lstrip().startswith("{"):
        return json.loads(network)
    to_json = getattr(network, "to_json", None)
    return json.loads(to_json()) if callable(to_json) else network
