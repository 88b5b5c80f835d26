"""The spec's JSON Schema (2020-12), derived from the same classes that read it, with every shorthand.

`GET /api/v1/schemas/spec` publishes it; a `$schema` line in a spec points editors to it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from fitserve.spec.callbacks import EarlyStopping, ReduceLROnPlateau
from fitserve.spec.component import LATER, Component, Family, definition_name
from fitserve.spec.initializers import INITIALIZERS
from fitserve.spec.layers import LAYERS
from fitserve.spec.layers.recurrent import RECURRENT
from fitserve.spec.losses import LOSSES
from fitserve.spec.metrics import METRICS
from fitserve.spec.optimizers import OPTIMIZERS, SCHEDULES
from fitserve.spec.regularizers import CONSTRAINTS, REGULARIZERS
from fitserve.spec.spec import REFERENCE, Spec
from fitserve.spec.wiring import snake_case

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PATH = "/api/v1/schemas/spec"
FAMILIES: tuple[Family[Any], ...] = (
    LAYERS,
    RECURRENT,
    INITIALIZERS,
    REGULARIZERS,
    CONSTRAINTS,
    OPTIMIZERS,
    SCHEDULES,
    LOSSES,
    METRICS,
)
_MAPPING: dict[str, Any] = {"type": "object"}
# What a model is written as beside the mapping of its fields.
SHORTHANDS: dict[str, list[dict[str, Any]]] = {
    "DatasetRef": [{"type": "string", "pattern": REFERENCE}],
    "Target": [{"type": "string"}],
    "Feature": [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}],
    "SplitSpec": [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}],
    "Warmup": [{"type": "integer", "minimum": 1}],
    EarlyStopping.__name__: [{"type": "boolean"}],
    ReduceLROnPlateau.__name__: [{"type": "boolean"}],
}
# Fields that follow from others in a shorthand.
_OPTIONAL = {"Target": {"name", "columns"}}
_ALSO = {"Target": {"column": {"type": "string", "description": "Shorthand for columns with one column"}}}


def json_schema() -> dict[str, Any]:
    """The whole schema, new each time."""
    found: dict[str, Any] = _copied(_schema())
    return found


@cache
def _schema() -> dict[str, Any]:
    body = Spec.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = body.pop("$defs", {})
    for name, shorthands in SHORTHANDS.items():
        written = definitions.pop(name)
        written["required"] = [key for key in written.get("required", []) if key not in _OPTIONAL.get(name, ())]
        written["properties"] |= _ALSO.get(name, {})
        definitions[name] = {"anyOf": [written, *shorthands]}
    for family in FAMILIES:
        definitions |= _family(family)
    definitions["Network"] = _network()
    properties = {
        "$schema": {"type": "string", "description": f"For editors: the address of this schema, ...{PATH}"},
        **body.pop("properties"),
    }
    target, features = {"$ref": "#/$defs/Target"}, {"$ref": "#/$defs/Feature"}
    properties["target"] |= {"anyOf": [target, {"type": "array", "items": target, "minItems": 1, "maxItems": 100}]}
    for key in ("type", "items", "minItems", "maxItems"):
        properties["target"].pop(key, None)
    properties["features"]["anyOf"] = [{"type": "array", "items": features}, _MAPPING, {"type": "null"}]
    return {
        "$schema": DIALECT,
        "$id": "urn:fitserve:spec",
        "title": "fitserve spec",
        **body,
        "properties": properties,
        "$defs": dict(sorted(definitions.items())),
    }


def _family(family: Family[Any]) -> dict[str, Any]:
    """The family's own definition, and one for each of its classes."""
    name = definition_name(family.noun)
    written = {
        "type": "object",
        "description": f"{family.noun.capitalize()}: one key, the class's name; its value the arguments",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": _classes(family),
    }
    found = {name: {"anyOf": [_bare(family), written, _keras(family)]}}
    if family is RECURRENT:  # its classes are among the layers'
        return found
    return found | {reference(family, cls): arguments(cls) for cls in family.classes.values()}


def reference(family: Family[Any], cls: type[Component]) -> str:
    """What a class's definition is called: `layers.Dense`, `losses.Hinge`."""
    return f"{family.module.rpartition('.')[2]}.{cls.__name__}"


def arguments(cls: type[Component]) -> dict[str, Any]:
    """The schema of a class's arguments."""
    found = cls.model_json_schema(ref_template="#/$defs/{model}")
    found.pop("title", None)
    for argument in found.get("properties", {}).values():
        argument.pop("title", None)
    written: dict[str, Any] = _copied(found)
    return written


def _classes(family: Family[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cls in family.classes.items():
        forms: list[Any] = [{"$ref": f"#/$defs/{reference(family, cls)}"}]
        first = cls.first_argument()
        if first is not None:
            forms.append(arguments(cls)["properties"][first])
        if _needs_nothing(cls):
            forms.append({"type": "null"})
        found |= {spelling: {"anyOf": forms} for spelling in _spellings(name, cls)}
    return found


def _spellings(name: str, cls: type[Component]) -> list[str]:
    return list(dict.fromkeys([name, snake_case(name), *cls.aliases]))


def _needs_nothing(cls: type[Component]) -> bool:
    return not any(field.is_required() for field in cls.model_fields.values())


def _bare(family: Family[Any]) -> dict[str, Any]:
    names = [s for name, cls in family.classes.items() if _needs_nothing(cls) for s in _spellings(name, cls)]
    return {"enum": names}


def _keras(family: Family[Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "As Keras serialises it",
        "required": ["class_name"],
        "properties": {
            "class_name": {"enum": [s for name, cls in family.classes.items() for s in _spellings(name, cls)]},
            "config": {"type": ["object", "null"]},
            "module": {"enum": [family.module, "builtins", None]},
            "registered_name": {"type": "null"},
        },
    }


def _network() -> dict[str, Any]:
    beside = {
        "name": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[^/]+$"},
        "inputs": {
            "description": "Names of layers or network inputs; left out: the entry before",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        },
        "output": {
            "description": "The target whose output it is; true for the only target",
            "anyOf": [{"type": "string", "minLength": 1}, {"const": True}],
        },
    }
    entry = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1 + len(beside),
        "additionalProperties": False,
        "properties": {**_classes(LAYERS), **beside},
    }
    return {
        "description": "Layers in order, or what Keras's to_json() wrote",
        "anyOf": [
            {"type": "array", "items": {"anyOf": [_bare(LAYERS), entry, _keras(LAYERS)]}},
            {
                "type": "object",
                "required": ["class_name", "config"],
                "properties": {"class_name": {"enum": ["Sequential", "Functional", "Model"]}, "config": _MAPPING},
            },
            {"type": "string", "description": "The text of Keras's to_json()", "pattern": r"^\s*\{"},
        ],
    }


# Pydantic's own words for bounds that stand beside a validator.
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        if LATER in value:
            return _reference(value)
        return {_BOUNDS.get(key, key): _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _reference(value: dict[str, Any]) -> dict[str, Any]:
    rest = {key: _copied(item) for key, item in value.items() if key != LATER}
    return {"$ref": f"#/$defs/{value[LATER]}", **rest}


def described(schema: dict[str, Any]) -> str:
    """A schema of one value in a few words, for tables."""
    if "enum" in schema:
        return ", ".join(f"`{_json(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_json(schema['const'])}`"
    named = schema.get(LATER) or schema.get("$ref", "").rpartition("/")[2]
    if named:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", named).lower()
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(described(item) for item in schema["anyOf"]))
    kind = schema.get("type")
    if kind == "array":
        return f"list of {described(schema.get('items', {}))}" if "items" in schema else "list"
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    return words.get(str(kind), str(kind or "any")) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return f" {' and '.join(found)}" if found else ""


def _json(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
