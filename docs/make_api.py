"""`python -m docs.make_api`: writes docs/reference/api.md from the two OpenAPI documents; a test keeps them equal."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import migrations
from fitserve.settings import Settings

PAGE = Path(__file__).parent / "reference" / "api.md"

_HEAD = """\
# The HTTP API

Made from the OpenAPI document by `python -m docs.make_api`; a test keeps the two equal. A running server has the
document at `/api/v1/openapi.json` and a page to try it out at `/docs`.

Send a key as `Authorization: Bearer <id>.<secret>`. Errors are problem details (RFC 9457,
`application/problem+json`) with `type`, `title`, `status`, `detail`, `request_id`, and where they apply `pointer`,
`received`, `expected`, `fix` and a list of `errors`; the prediction protocols answer `{"error": "..."}`, as theirs
say. Predictions (`/v1`, `/v2`) are the prediction service's, on a port of its own; the API forwards to it.

Lists are paged by `limit` and `cursor`. POSTs that make a run
take an `Idempotency-Key`: the same key again gets the same run.
"""


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    """The OpenAPI documents of the control API and of the prediction service, over an empty database."""
    from services.control import app as control
    from services.predict import app as predict

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        migrations.upgrade(settings.resolved_database_url)
        made, asked = control.create_app(settings), predict.create_app(settings)
        found = json.loads(json.dumps(made.openapi())), json.loads(json.dumps(asked.openapi()))
        made.state.context.engine.dispose()
        asked.state.service.engine.dispose()
    return found


def page() -> str:
    """The whole page."""
    control, predict = documents()
    predict["paths"] = {path: item for path, item in predict["paths"].items() if path.startswith("/v")}
    control["paths"] |= predict["paths"]
    control["components"]["schemas"] |= predict["components"]["schemas"]
    return markdown(control)


def markdown(spec: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    parts = [_HEAD]
    operations = [
        (path, method, operation)
        for path, item in spec["paths"].items()
        for method, operation in item.items()
        if method in ("get", "put", "post", "patch", "delete", "head")
    ]
    tags = dict.fromkeys(_tag(operation) for _, _, operation in operations)
    for tag in sorted(tags, key=lambda tag: tag == "operations"):  # the operator's own come last
        parts.append(f"## {tag.capitalize()}\n")
        for path, method, operation in operations:
            if _tag(operation) == tag:
                parts += [*_operation(path, method, operation, spec), ""]
    parts += ["## Shapes\n", *_schemas(spec)]
    return "\n".join(parts).rstrip() + "\n"


def _tag(operation: dict[str, Any]) -> str:
    return str((operation.get("tags") or ["other"])[0])


def _operation(path: str, method: str, operation: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield f"{operation.get('summary', '')}." if not operation.get("description") else f"**{operation['summary']}.**"
    if operation.get("description"):
        yield operation["description"].strip()
    yield ""
    parameters = [_resolved(parameter, spec) for parameter in operation.get("parameters", [])]
    if parameters:
        yield "| parameter | in | type | |"
        yield "|---|---|---|---|"
        for one in parameters:
            name = f"`{one['name']}`" + (" (needed)" if one.get("required") and one["in"] != "path" else "")
            schema = one.get("schema", {})
            text = one.get("description") or schema.get("description") or ""
            yield f"| {name} | {one['in']} | {_cell(_type(schema))} | {_cell(text)} |"
        yield ""
    body = operation.get("requestBody")
    if body:
        kinds = {kind: _type(value.get("schema", {})) for kind, value in body["content"].items()}
        yield "Body: " + ", ".join(f"{shape} as `{kind}`" for kind, shape in kinds.items()) + "\n"
    yield "| status | |"
    yield "|---|---|"
    for status, answer in operation.get("responses", {}).items():
        yield f"| {status} | {_cell(_answer(_resolved(answer, spec)))} |"


def _answer(answer: dict[str, Any]) -> str:
    shapes = {kind: _type(content.get("schema", {})) for kind, content in (answer.get("content") or {}).items()}
    told = ", ".join(f"{shape} as `{kind}`" for kind, shape in shapes.items() if shape != "any")
    return ". ".join(part for part in (answer.get("description", "").rstrip("."), told) if part)


def _resolved(value: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = spec
    for key in value["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return dict(found)


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, with links to the shapes below."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[several]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping to {_type(schema['additionalProperties'])}"
    named = schema.get("format")
    return f"{kind} ({named})" if named else " or ".join(kind) if isinstance(kind, list) else str(kind)


def _schemas(spec: dict[str, Any]) -> Iterator[str]:
    for name, schema in sorted(spec.get("components", {}).get("schemas", {}).items()):
        yield f"### {name}\n"
        if schema.get("description"):
            yield schema["description"].strip() + "\n"
        properties = schema.get("properties")
        if not properties:
            yield f"{_type(schema)}\n"
            continue
        yield "| member | type | |"
        yield "|---|---|---|"
        for member, shape in properties.items():
            optional = "" if member in schema.get("required", []) else " (may be left out)"
            yield f"| `{member}`{optional} | {_cell(_type(shape))} | {_cell(shape.get('description', ''))} |"
        yield ""


def _anchor(name: str) -> str:
    return "".join(char for char in name.lower().replace(" ", "-") if char.isalnum() or char in "-_")


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
