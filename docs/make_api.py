"""Write docs/reference/api.md from the two OpenAPI documents: `python -m docs.make_api`, which `make docs` runs first.

The page is not in git.
"""

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

Generated from the OpenAPI documents. A running server has the control API's at `/api/v1/openapi.json`, with a page to
try it out at `/docs`, and the prediction service's at `/openapi.json` on its own port.

Send a key as `Authorization: Bearer <id>.<secret>`. Errors are problem details (RFC 9457,
`application/problem+json`) with `type`, `title`, `status`, `detail`, `request_id`, and where they apply `pointer`,
`received`, `expected`, `fix` and a list of `errors`; the prediction protocols answer `{"error": "..."}`, as their
specifications require. Predictions (`/v1`, `/v2`) are served by the prediction service on its own port; the API
forwards them.

Lists are paged with `limit` and `cursor`. A POST that creates a run accepts an `Idempotency-Key`: repeating the key
returns the same run.
"""


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the OpenAPI documents of the control API and the prediction service, made over an empty database."""
    from services.control import app as control
    from services.predict import app as predict

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        migrations.upgrade(settings.resolved_database_url)
        control_app, predict_app = control.create_app(settings), predict.create_app(settings)
        specs = json.loads(json.dumps([control_app.openapi(), predict_app.openapi()]))
        control_app.state.context.engine.dispose()
        predict_app.state.service.engine.dispose()
    return specs[0], specs[1]


def page() -> str:
    """Return the whole page: both documents merged."""
    control, predict = documents()
    predict["paths"] = {path: item for path, item in predict["paths"].items() if path.startswith("/v")}
    control["paths"] |= predict["paths"]
    control["components"]["schemas"] |= predict["components"]["schemas"]
    return markdown(control)


def markdown(spec: dict[str, Any]) -> str:
    """Render an OpenAPI document as Markdown."""
    parts = [_HEAD]
    operations = [
        (path, method, operation) for path, item in spec["paths"].items() for method, operation in item.items()
    ]
    tags = dict.fromkeys(_tag(operation) for _, _, operation in operations)
    for tag in sorted(tags, key=lambda tag: tag == "operations"):  # operators' routes come last
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
        for parameter in parameters:
            required = parameter.get("required") and parameter["in"] != "path"
            name = f"`{parameter['name']}`" + (" (required)" if required else "")
            schema = parameter.get("schema", {})
            text = parameter.get("description") or schema.get("description") or ""
            yield f"| {name} | {parameter['in']} | {_cell(_type(schema))} | {_cell(text)} |"
        yield ""
    body = operation.get("requestBody")
    if body:
        kinds = {kind: _type(value.get("schema", {})) for kind, value in body["content"].items()}
        yield "Body: " + ", ".join(f"{shape} as `{kind}`" for kind, shape in kinds.items()) + "\n"
    yield "| status | |"
    yield "|---|---|"
    for status, response in operation.get("responses", {}).items():
        yield f"| {status} | {_cell(_response(_resolved(response, spec)))} |"


def _response(response: dict[str, Any]) -> str:
    shapes = {kind: _type(content.get("schema", {})) for kind, content in (response.get("content") or {}).items()}
    bodies = ", ".join(f"{shape} as `{kind}`" for kind, shape in shapes.items() if shape != "any")
    return ". ".join(part for part in (response.get("description", "").rstrip("."), bodies) if part)


def _resolved(value: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    target: Any = spec
    for key in value["$ref"].removeprefix("#/").split("/"):
        target = target[key]
    return dict(target)


def _type(schema: dict[str, Any]) -> str:
    """Describe a schema in a few words, linking to the shapes at the end of the page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_type(member) for member in schema[union]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping to {_type(schema['additionalProperties'])}"
    format_name = schema.get("format")
    return f"{kind} ({format_name})" if format_name else " or ".join(kind) if isinstance(kind, list) else str(kind)


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
            optional = "" if member in schema.get("required", []) else " (optional)"
            yield f"| `{member}`{optional} | {_cell(_type(shape))} | {_cell(shape.get('description', ''))} |"
        yield ""


def _anchor(name: str) -> str:
    return "".join(char for char in name.lower().replace(" ", "-") if char.isalnum() or char in "-_")


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


if __name__ == "__main__":
    PAGE.write_text(page())
