"""The spec's JSON Schema (2020-12), derived from the classes that read it, with every shorthand.

`GET /api/v1/schemas/spec` publishes it; a `$schema` line in a spec points editors to it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fitserve.encoding import ENCODINGS
from fitserve.spec.component import DEFERRED, Component, Family, definition_name
from fitserve.spec.decision import MAX_DECISIONS
from fitserve.spec.feature import MAX_ENCODINGS
from fitserve.spec.graph import snake_case
from fitserve.spec.initializers import INITIALIZERS
from fitserve.spec.interval import LEVELS
from fitserve.spec.layers import LAYERS
from fitserve.spec.layers.recurrent import RECURRENT
from fitserve.spec.losses import LOSSES
from fitserve.spec.metrics import METRICS
from fitserve.spec.optimizers import OPTIMIZERS, SCHEDULES
from fitserve.spec.regularizers import CONSTRAINTS, REGULARIZERS
from fitserve.spec.spec import REFERENCE, Spec

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
# Shorthands: ways to write a model other than as a mapping of its fields.
SHORTHANDS: dict[str, list[dict[str, Any]]] = {
    "DatasetRef": [{"type": "string", "pattern": REFERENCE}],
    "Target": [{"type": "string"}],
    "Feature": [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}],
    "SplitSpec": [{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}],
    "Warmup": [{"type": "integer", "minimum": 1}],
    "InitialWeights": [{"type": "string", "minLength": 1}],
    "Abstain": [{"type": "boolean"}],
    "Adaptive": [{"type": "boolean"}],
    "Interval": [LEVELS],
    "EarlyStopping": [{"type": "boolean"}],
    "ReduceLROnPlateau": [{"type": "boolean"}],
}
# Fields that a shorthand leaves out, and fields that only a shorthand has.
_OPTIONAL = {"Target": {"name", "columns"}}
_EXTRA = {"Target": {"column": {"type": "string", "description": "Shorthand for columns with one column"}}}


def json_schema() -> dict[str, Any]:
    """Return a new copy of the whole schema."""
    schema: dict[str, Any] = _converted(_schema())
    return schema


@cache
def _schema() -> dict[str, Any]:
    body = Spec.model_json_schema(ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = body.pop("$defs", {})
    definitions["Feature"]["properties"]["encoding"] |= _encodings(definitions)
    for name, shorthands in SHORTHANDS.items():
        written = definitions.pop(name)
        written["required"] = [key for key in written.get("required", []) if key not in _OPTIONAL.get(name, ())]
        written["properties"] |= _EXTRA.get(name, {})
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
    decision = {"$ref": "#/$defs/Decision"}
    properties["decision"] |= {"anyOf": [decision, {"type": "array", "items": decision, "maxItems": MAX_DECISIONS}]}
    columns = {key: value for key, value in properties["protected"].items() if key not in ("default", "description")}
    properties["protected"] |= {"anyOf": [{"type": "string"}, columns, {"type": "null"}]}
    for key in ("type", "items", "minItems", "maxItems"):
        for name in ("target", "decision", "protected"):
            properties[name].pop(key, None)
    properties["features"]["anyOf"] = [{"type": "array", "items": features}, _MAPPING, {"type": "null"}]
    return {
        "$schema": DIALECT,
        "$id": "urn:fitserve:spec",
        "title": "fitserve spec",
        **body,
        "properties": properties,
        "$defs": dict(sorted(definitions.items())),
    }


def _encodings(definitions: dict[str, Any]) -> dict[str, Any]:
    """Define `Encoding` with its shorthands; return the schema of a feature's encodings: one, or a list of several."""
    encoding = definitions["Feature"]["properties"]["encoding"]
    typed = next(one for one in encoding.pop("oneOf") if "discriminator" in one)
    names = sorted(ENCODINGS)
    by_name = {name: {"type": ["object", "null"]} for name in names}
    one_key = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False}
    definitions["Encoding"] = {"anyOf": [typed, {"enum": names}, {**one_key, "properties": by_name}]}
    one = {"$ref": "#/$defs/Encoding"}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_ENCODINGS}
    return {"anyOf": [one, several, {"type": "null"}]}


def _family(family: Family[Any]) -> dict[str, Any]:
    """Return the family's own definition, and one for each of its classes."""
    name = definition_name(family.noun)
    written = {
        "type": "object",
        "description": f"{family.noun.capitalize()}: one key, the class's name; its value the arguments",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": _classes(family),
    }
    own = {name: {"anyOf": [_bare_name(family), written, _keras(family)]}}
    if family is RECURRENT:  # its classes are defined with the layers
        return own
    return own | {reference(family, cls): arguments(cls) for cls in family.classes.values()}


def reference(family: Family[Any], cls: type[Component]) -> str:
    """Return the name of a class's definition: `layers.Dense`, `losses.Hinge`."""
    return f"{family.module.rpartition('.')[2]}.{cls.__name__}"


def arguments(cls: type[Component]) -> dict[str, Any]:
    """Return the schema of a class's arguments."""
    schema = cls.model_json_schema(ref_template="#/$defs/{model}")
    schema.pop("title", None)
    for argument in schema.get("properties", {}).values():
        argument.pop("title", None)
    converted: dict[str, Any] = _converted(schema)
    return converted


def _classes(family: Family[Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, cls in family.classes.items():
        forms: list[Any] = [{"$ref": f"#/$defs/{reference(family, cls)}"}]
        argument = cls.shorthand_argument()
        if argument is not None:
            forms.append(arguments(cls)["properties"][argument])
        if _has_defaults(cls):
            forms.append({"type": "null"})
        properties |= {spelling: {"anyOf": forms} for spelling in _spellings(name, cls)}
    return properties


def _spellings(name: str, cls: type[Component]) -> list[str]:
    return list(dict.fromkeys([name, snake_case(name), *cls.aliases]))


def _has_defaults(cls: type[Component]) -> bool:
    return not any(field.is_required() for field in cls.model_fields.values())


def _bare_name(family: Family[Any]) -> dict[str, Any]:
    names = [s for name, cls in family.classes.items() if _has_defaults(cls) for s in _spellings(name, cls)]
    return {"enum": names}


def _keras(family: Family[Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Keras's own serialisation",
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
            {"type": "array", "items": {"anyOf": [_bare_name(LAYERS), entry, _keras(LAYERS)]}},
            {
                "type": "object",
                "required": ["class_name", "config"],
                "properties": {"class_name": {"enum": ["Sequential", "Functional", "Model"]}, "config": _MAPPING},
            },
            {"type": "string", "description": "The text of Keras's to_json()", "pattern": r"^\s*\{"},
        ],
    }


# Pydantic keeps its own names for bounds that stand next to a validator.
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _converted(value: Any) -> Any:
    """Return a copy with JSON Schema's names for bounds, and with deferred references resolved."""
    if isinstance(value, dict):
        converted = {_BOUNDS.get(key, key): _converted(item) for key, item in value.items() if key != DEFERRED}
        return {"$ref": f"#/$defs/{value[DEFERRED]}", **converted} if DEFERRED in value else converted
    return [_converted(item) for item in value] if isinstance(value, list) else value
