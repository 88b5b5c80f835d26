"""The spec's reference page in Markdown, derived from the classes that read specs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from fitserve.encoding import ENCODINGS
from fitserve.spec.ablation import Ablation
from fitserve.spec.activations import ACTIVATION_ALIASES, ACTIVATIONS, UNUSABLE
from fitserve.spec.check import Check, RangeTest
from fitserve.spec.component import DEFERRED, Family
from fitserve.spec.ensemble import Ensemble, Folds
from fitserve.spec.feature import Feature
from fitserve.spec.initial_weights import InitialWeights
from fitserve.spec.schema import FAMILIES, PATH, arguments, json_schema
from fitserve.spec.search import Search
from fitserve.spec.spec import Spec, SplitSpec
from fitserve.spec.target import Target
from fitserve.spec.training import EarlyStopping, ReduceLROnPlateau, Training, Warmup
from fitserve.spec.workers import Workers

TITLES = {
    "layer": "Layers",
    "initializer": "Initializers",
    "regularizer": "Regularizers",
    "constraint": "Constraints",
    "optimizer": "Optimizers",
    "learning-rate schedule": "Learning-rate schedules",
    "loss": "Losses",
    "metric": "Metrics",
}
MODELS: Sequence[tuple[str, type[BaseModel]]] = (
    ("The spec", Spec),
    ("`target`", Target),
    ("`split`", SplitSpec),
    ("`training`", Training),
    ("`initial_weights`", InitialWeights),
    ("`ensemble`", Ensemble),
    ("`folds`", Folds),
    ("`search`", Search),
    ("`ablate`", Ablation),
    ("`check`", Check),
    ("`check.range_test`", RangeTest),
    ("`training.early_stopping`", EarlyStopping),
    ("`training.reduce_lr_on_plateau`", ReduceLROnPlateau),
    ("`training.warmup`", Warmup),
    ("`training.workers`", Workers),
)
HEAD = f"""# The spec

Written by `python -m docs.tables` from the classes that read specs; do not edit. `GET {PATH}` is the same as a
JSON Schema.

Names, arguments and defaults are Keras's, so Keras's documentation explains them. A class is written as
`{{Dense: {{units: 128, activation: relu}}}}`, with its first argument alone (`{{Dropout: 0.2}}`; the argument in
*italics* below), or by its bare name (`Flatten`). An argument in **bold** is required.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    definitions = json_schema()["$defs"]
    for title, model in MODELS:
        schema = json_schema() if model is Spec else definitions[model.__name__]
        properties = schema.get("properties") or schema["anyOf"][0]["properties"]
        parts += [f"## {title}\n", f"{_summary(model)}\n", _fields(model, properties)]
    parts += ["## Features and encodings\n", f"{_summary(Feature)}\n", _encodings(definitions)]
    parts += ["## Activations\n", _activations()]
    parts += [_family(family) for family in FAMILIES if family.noun in TITLES]
    return "\n".join(parts).rstrip() + "\n"


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _fields(model: type[BaseModel], properties: dict[str, Any]) -> str:
    lines = ["| member | takes | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        schema = properties[name]
        default = "required" if field.is_required() else _default(schema.get("default"))
        lines.append(f"| `{name}` | {_cell(_type(schema))} | {default} | {_cell(field.description or '')} |")
    return "\n".join(lines) + "\n"


def _encodings(definitions: dict[str, Any]) -> str:
    """Return the table of encodings, and what a column has where the spec names none."""
    lines = ["| encoding | of columns | arguments | |", "|---|---|---|---|"]
    for name, cls in sorted(ENCODINGS.items()):
        properties = definitions[cls.__name__]["properties"]
        listed = "; ".join(_argument(key, one, False, False) for key, one in properties.items() if key != "type")
        lines.append(f"| `{name}` | {', '.join(cls.kinds)} | {_cell(listed)} | {_cell(_summary(cls))} |")
    text = """
A column may have several: `{age: [robust, piecewise_linear]}`, or several features of one column. A row of a prediction
names it once. Where a spec names no encoding:

- With a network of its own, or with `preset: plain`: numbers `standardize`, truth values `boolean`, categories
  `one_hot` (more than 100 labels: `hashing`), texts `multi_hot`, times `cyclic`.
- Without: numbers `robust` and `piecewise_linear`, of up to 32 bins: one for each 80 rows, one fewer than there are
  values, 192 over all numeric columns (fewer than two: `robust` alone). Categories of more than 100 labels: `index`,
  through an Embedding of their own. The rest as above.
"""
    return "\n".join(lines) + "\n" + text


def _activations() -> str:
    names = ", ".join(f"`{name}`" for name in ACTIVATIONS)
    aliases = ", ".join(f"`{alias}` is `{name}`" for alias, name in ACTIVATION_ALIASES.items())
    refused = " ".join(f"`{name}` is refused: {why}." for name, why in UNUSABLE.items())
    return f"{names}.\n\n{aliases}. {refused}\n"


def _family(family: Family[Any]) -> str:
    lines = [f"## {TITLES[family.noun]}\n", "| class | arguments | |", "|---|---|---|"]
    for name, cls in family.classes.items():
        schema = arguments(cls)
        required, first = schema.get("required", []), cls.shorthand_argument()
        listed = "; ".join(
            _argument(key, one, key in required, key == first) for key, one in schema["properties"].items()
        )
        aliases = f" (also {', '.join(f'`{alias}`' for alias in cls.aliases)})" if cls.aliases else ""
        lines.append(f"| `{name}`{aliases} | {_cell(listed)} | {_cell(_summary(cls))} |")
    return "\n".join(lines) + "\n"


def _argument(name: str, schema: dict[str, Any], required: bool, first: bool) -> str:
    shown = f"**{name}**" if required else name
    shown = f"*{shown}*" if first else shown
    kind = "activation" if name in ("activation", "recurrent_activation") else _type(schema)
    default = "" if required else f" = {_default(schema.get('default'))}"
    return f"{shown}: {kind}{default}"


def _type(schema: dict[str, Any]) -> str:
    """Return the schema of one value in a few words."""
    if "enum" in schema:
        return ", ".join(f"`{_json(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_json(schema['const'])}`"
    named = schema.get(DEFERRED) or schema.get("$ref", "").rpartition("/")[2]
    if named:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", named).lower()
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(item) for item in schema["anyOf"]))
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}" if "items" in schema else "list"
    words = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}
    return words.get(str(kind), str(kind or "any")) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    return f" {' and '.join(found)}" if found else ""


def _json(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _default(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
        return f"`{name}`" if isinstance(inner, dict) else f"`{value}`"
    if isinstance(value, (dict, list)) and len(str(value)) > 60:
        return "see below" if isinstance(value, dict) else "two hidden layers"
    words = {None: "none", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
