"""Ablations: the same spec without each of its parts, trained with the same seeds on the same rows.

A part is named `dropout`, `batch_norm`, ..., `feature:COLUMN` or `layer:WHICH`, where WHICH is a layer's name or its
number, counted from 1 over the network's layers without inputs and outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fitserve.data_model import DataModel
from fitserve.errors import Problem
from fitserve.validation import unknown_name

KEY = "ablate"
NOTHING_LEFT_OUT = "nothing"  # names the trial that leaves nothing out: the spec itself
SEEDS = 5
MAX_PARTS = 100
_DROPOUT = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "AlphaDropout")
_NORMALIZATION = ("BatchNormalization",)
# Layers that only reshape: `ablate: all` leaves none of them out.
_SHAPING = ("Flatten", "Reshape", "Permute", "Concatenate", "Average", "Add", "Multiply", "RepeatVector", "Cropping1D")

Body = dict[str, Any]


class Ablation(DataModel):
    """An ablation: the parts to leave out in turn, and how often to train without each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: Literal["all"] | tuple[str, ...] = Field(
        "all", description="dropout, batch_norm, regularizers, feature:COLUMN, layer:2, ...; all: whatever there is"
    )
    seeds: Annotated[int, Field(ge=3, le=100, strict=True)] = Field(
        SEEDS, description="Trainings of each variant: from training.seed on, each with a split of its own"
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.parts:
            raise ValueError("name at least one part, or write all")
        return self


def _switch(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    if isinstance(value, str) and value != "all":
        return {"parts": [value]}
    return {"parts": value} if isinstance(value, (str, list)) else value


AnyAblation = Annotated[Ablation | None, BeforeValidator(_switch)]


# --- parts ----------------------------------------------------------------------------------------------


def parts_of(body: Body) -> list[str]:
    """Return the parts of a resolved spec that `all` stands for."""
    parts = [name for name, (present, _) in _OPTIONS.items() if present(body)]
    columns = list(dict.fromkeys(feature["column"] for feature in body["features"]))
    parts += [f"feature:{column}" for column in columns] if len(columns) > 1 else []
    removable = (*_DROPOUT, *_NORMALIZATION, *_SHAPING)
    layers = [number for number, entry in enumerate(_hidden(body), 1) if _kind(entry) not in removable]
    return parts + [f"layer:{number}" for number in layers]


def check_parts(parts: Sequence[str], body: Body) -> list[Problem]:
    """Return a problem for each part that a resolved spec does not have."""
    known = list(dict.fromkeys([*parts_of(body), *_all_layers(body)]))
    known += [f"feature:{feature['column']}" for feature in body["features"]]
    problems = []
    for index, part in enumerate(parts):
        pointer = f"/{KEY}/parts/{index}"
        if part in parts[:index]:
            problems.append(Problem(f"{part!r} is named twice.", pointer, received=part))
        elif part not in known:
            problems.append(unknown_name(f"The spec has no part {part!r}.", part, list(dict.fromkeys(known)), pointer))
    return problems


def without(part: str, body: Body) -> Body:
    """Return a resolved spec without one of its parts. Input layers are left out: resolving writes them again."""
    body = copy.deepcopy(body)
    kind, _, name = part.partition(":")
    if part in _OPTIONS:
        _OPTIONS[part][1](body)
    elif kind == "feature":
        body["features"] = [feature for feature in body["features"] if feature["column"] != name]
        _drop_lost_inputs(body)
    elif kind == "layer":
        _remove(body, _layer(body, name))
    body["network"] = [entry for entry in body["network"] if _kind(entry) != "Input"]
    return body


def _kind(entry: Body) -> str:
    return next(key for key in entry if key not in ("name", "inputs", "output"))


def _hidden(body: Body) -> list[Body]:
    return [entry for entry in body["network"] if _kind(entry) != "Input" and "output" not in entry]


def _all_layers(body: Body) -> list[str]:
    hidden = _hidden(body)
    return [f"layer:{number}" for number in range(1, len(hidden) + 1)] + [f"layer:{entry['name']}" for entry in hidden]


def _layer(body: Body, which: str) -> str:
    """Return the name of the layer that a number or a name refers to."""
    return str(_hidden(body)[int(which) - 1]["name"]) if which.isdecimal() else which


def _remove(body: Body, name: str) -> None:
    """Remove a layer, and connect the layers that read it to its inputs."""
    gone = next(entry for entry in body["network"] if entry["name"] == name)
    body["network"] = [entry for entry in body["network"] if entry is not gone]
    for entry in body["network"]:
        inputs: list[str] = []
        for one in entry.get("inputs") or ():
            inputs += [own for own in (gone["inputs"] if one == name else [one]) if own not in inputs]
        if "inputs" in entry:
            entry["inputs"] = inputs


def _drop_lost_inputs(body: Body) -> None:
    """Drop inputs that no longer have a feature, and layers that only read those inputs."""
    fed = {feature["input"] for feature in body["features"]}
    lost = {entry["name"] for entry in body["network"] if _kind(entry) == "Input" and entry["name"] not in fed}
    remaining = []
    for entry in body["network"]:
        inputs = [one for one in entry.get("inputs") or () if one not in lost]
        if entry["name"] in lost or (entry.get("inputs") and not inputs):
            lost.add(entry["name"])
        else:
            remaining.append({**entry, "inputs": inputs} if "inputs" in entry else entry)
    body["network"] = remaining
    for entry in [one for one in remaining if _kind(one) in ("Concatenate", "Add", "Average", "Multiply")]:
        if len(entry["inputs"]) == 1:
            _remove(body, entry["name"])


# --- parts that are neither layers nor columns --------------------------------------------------------------


def _layers_of(kinds: Sequence[str]) -> tuple[Callable[[Body], bool], Callable[[Body], None]]:
    def present(body: Body) -> bool:
        return any(_kind(entry) in kinds for entry in _hidden(body))

    def remove(body: Body) -> None:
        for entry in [entry for entry in _hidden(body) if _kind(entry) in kinds]:
            _remove(body, entry["name"])

    return present, remove


def _has_regularizer(body: Body) -> bool:
    return any(_regularized(entry) for entry in body["network"])


def _regularized(entry: Body) -> list[str]:
    arguments = entry[_kind(entry)]
    return [key for key, value in (arguments or {}).items() if key.endswith("_regularizer") and value is not None]


def _remove_regularizers(body: Body) -> None:
    for entry in body["network"]:
        for key in _regularized(entry):
            entry[_kind(entry)][key] = None


def _setting(name: str) -> tuple[Callable[[Body], bool], Callable[[Body], None]]:
    def remove(body: Body) -> None:
        body["training"][name] = None

    return lambda body: body["training"][name] is not None, remove


def _smoothed(body: Body) -> list[Body]:
    losses = [next(iter(loss.values())) for loss in body["training"]["loss"].values()]
    return [arguments for arguments in losses if arguments.get("label_smoothing")]


def _remove_smoothing(body: Body) -> None:
    body["training"]["label_smoothing"] = None
    for arguments in _smoothed(body):
        arguments["label_smoothing"] = 0.0


_OPTIONS: dict[str, tuple[Callable[[Body], bool], Callable[[Body], None]]] = {
    "dropout": _layers_of(_DROPOUT),
    "batch_norm": _layers_of(_NORMALIZATION),
    "regularizers": (_has_regularizer, _remove_regularizers),
    "label_smoothing": (lambda body: bool(_smoothed(body)), _remove_smoothing),
    "class_weight": _setting("class_weight"),
    "early_stopping": _setting("early_stopping"),
    "reduce_lr_on_plateau": _setting("reduce_lr_on_plateau"),
    "warmup": _setting("warmup"),
}
