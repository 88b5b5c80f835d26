"""How an upload is to be read, from a query, a form's fields or tus metadata: the same names everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from fitserve.errors import BadInput, Problem
from fitserve.validation import problems_from
from fitserve.wire.datasets import UploadOptions

BODY = 1 << 62  # bytes: the limit of an upload is a setting, counted by `receive`
LISTS = ("missing",)
OPTIONS = tuple(UploadOptions.model_fields)


def options_of(pairs: Iterable[tuple[str, str]], others: tuple[str, ...] = ()) -> tuple[UploadOptions, dict[str, str]]:
    """The options and the `others` (such as `name`) among named texts. Raises BadInput for what is not known.

    `kinds` is a JSON object, or `kinds.age=numeric` for each column; `missing` a JSON array, or repeated.
    """
    body: dict[str, Any] = {}
    found: dict[str, str] = {}
    for name, text in pairs:
        if name in others:
            found[name] = text
        elif name.startswith("kinds.") and len(name) > 6:
            body.setdefault("kinds", {})[name[6:]] = text
        elif name == "kinds":
            body.setdefault("kinds", {}).update(_object(text))
        elif name == "missing":
            body.setdefault("missing", []).extend(_array(text))
        elif name in OPTIONS:
            body[name] = text
        else:
            known = ", ".join((*others, *OPTIONS))
            problem = Problem(f"There is no option {name[:80]!r}.", received=name[:80], expected=f"one of {known}")
            raise BadInput(problem.detail, problems=[problem])
    return validated(body), found


def validated(body: dict[str, Any]) -> UploadOptions:
    """The options. Raises BadInput naming each that cannot be."""
    try:
        return UploadOptions.model_validate(body)
    except ValidationError as error:
        problems = problems_from(error.errors()[:20], UploadOptions)
        raise BadInput(problems[0].detail, problems=problems) from None


def query_options(request: Request) -> tuple[UploadOptions, dict[str, str]]:
    """Those of an address's query."""
    return options_of(request.query_params.multi_items(), ("name",))


def _object(text: str) -> dict[str, Any]:
    found = _json(text)
    if not isinstance(found, dict):
        raise BadInput("`kinds` is a JSON object.", received=text[:80], expected='{"age": "numeric"}')
    return found


def _array(text: str) -> list[str]:
    if not text.startswith("["):
        return [text]
    found = _json(text)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise BadInput("`missing` is a list of texts.", received=text[:80], expected='["-999", "none"]')
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadInput("An option's JSON cannot be read.", received=text[:80]) from None


# What the OpenAPI document says of the options, where they come as a query.
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": field.description or "",
        "schema": {"type": "string"} if name != "missing" else {"type": "array", "items": {"type": "string"}},
    }
    for name, field in UploadOptions.model_fields.items()
]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
RAW_BODY: dict[str, Any] = {
    "parameters": PARAMETERS,
    "requestBody": {
        "required": True,
        "content": dict.fromkeys(("application/octet-stream", "text/csv", "application/x-ndjson"), _BINARY),
    },
}
FORM_BODY: dict[str, Any] = {
    "parameters": PARAMETERS,
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        **{item["name"]: item["schema"] for item in PARAMETERS},
                    },
                }
            },
            "application/octet-stream": _BINARY,
            "text/csv": _BINARY,
        },
    },
}
