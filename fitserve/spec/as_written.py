"""Store a spec as its author wrote it, and write a changed spec in the same style."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from fitserve.errors import BadInput
from fitserve.spec.network import ENTRY_KEYS, read_entry
from fitserve.spec.spec import Spec
from fitserve.spec.training import OptimizerSwitch

Json = Mapping[str, Any]
# Writes one member of a spec. Arguments: as the author wrote it, its resolved value, and the value it should get.
MemberWriter = Callable[[Any, Any, Any], Any]
_ABSENT: Any = object()
MAX_ROUNDS = 6  # Each round may change other defaults: a spec that states its network, for example, is no ensemble.
SEVERAL_RUNS = ("search", "ablate", "check")  # members that ask for several runs; `changed` is the spec of a single one


def as_sent(spec: Spec) -> dict[str, Any]:
    """Return a spec in its shortest form: without defaults, and as bare names where no argument differs."""
    sent = spec.model_dump(mode="json", exclude_unset=True)
    for key, name, rest in (("target", "name", "columns"), ("features", "column", None)):
        if isinstance(sent.get(key), list):
            sent[key] = [_bare(one, name, rest) for one in sent[key]]
    if len(sent["target"]) == 1:
        (sent["target"],) = sent["target"]
    return {**sent, "dataset": _bare(sent["dataset"], "ref", None)}


def _bare(value: Any, name: str, rest: str | None) -> Any:
    """Return a mapping that holds nothing but a name as that bare name; `rest`, if present, holds the same name."""
    if not isinstance(value, Mapping) or not {name} <= value.keys() <= {name, rest}:
        return value
    return value[name] if rest not in value or value[rest] == [value[name]] else value


def rewrite(written: Json, changed: Json, resolve: Callable[[Json], Json]) -> Json:
    """Return a spec that resolves to `changed` and stays as close as possible to `written`.

    `changed` is the resolved form of `written`, with changes; it is returned itself if no shorter spec is equivalent.
    `resolve` returns a spec's resolved form and raises if the spec is refused.
    """
    meant = resolve(changed)
    if any(written.get(key) for key in SEVERAL_RUNS):
        return changed
    for layers, features in itertools.product((_changed_layers, _all_layers), (_named_features, _all_features)):
        candidate = written
        try:
            for _ in range(MAX_ROUNDS):
                resolved = resolve(candidate)
                if _without_names(resolved) == _without_names(meant):
                    return candidate
                # The features decide the network's inputs, so layers are rewritten last.
                others = {**resolved, "network": None}, {**meant, "network": None}
                nearer = _merge(candidate, *others, {"features": features, "training": _training})
                candidate = nearer if nearer != candidate else _merge(candidate, resolved, meant, {"network": layers})
        except BadInput:  # the candidate is refused, such as one with values to search
            continue
    return changed


def _merge(written: Json, before: Json, after: Json, writers: Mapping[str, MemberWriter] | None = None) -> Json:
    """Return `written` with the changes from `before` to `after`; `writers` are how to write some members."""
    merged = dict(written)
    for key in dict.fromkeys((*before, *after)):
        old, new, own = before.get(key, _ABSENT), after.get(key, _ABSENT), written.get(key, _ABSENT)
        if old == new:
            continue
        if new is _ABSENT:
            merged.pop(key, None)
        elif writers and key in writers:
            merged[key] = writers[key](own, old, new)
        elif isinstance(old, Mapping) and isinstance(new, Mapping) and (own is _ABSENT or isinstance(own, Mapping)):
            merged[key] = _merge({} if own is _ABSENT else own, old, new)
        elif _is_one_class(old, new):  # "adam" became {"Adam": {...}}
            merged[key] = _merge({}, old, new)
        else:
            merged[key] = new
    return merged


def _training(written: Any, before: Json, after: Json) -> Json:
    """Return the training section; later optimizers are written with their non-default arguments only."""
    merged = dict(_merge({} if written is _ABSENT else written, before, after))
    if before.get("switches") != after.get("switches"):
        switches = [OptimizerSwitch.model_validate(one) for one in after["switches"]]
        merged["switches"] = [_without_nulls(one.model_dump(mode="json", exclude_defaults=True)) for one in switches]
    return merged


def _is_one_class(old: Any, new: Any) -> bool:
    """Return whether both values are components of the same class, written with arguments."""
    both = isinstance(old, Mapping) and isinstance(new, Mapping)
    return both and len(old) == 1 and old.keys() == new.keys()


def _named_features(written: Any, before: list[Json], after: list[Json]) -> list[Any]:
    """Return the features, by name alone where nothing about a column changed."""
    unchanged = [entry for entry in after if entry in before]
    changed = {entry["column"] for entry in after if entry not in unchanged}
    features: list[Any] = []
    for entry in after:
        if entry["column"] in changed:
            features.append(entry)
        elif entry["column"] not in features:
            features.append(entry["column"])
    return features


def _all_features(written: Any, before: list[Json], after: list[Json]) -> list[Json]:
    return after


def _changed_layers(written: Any, before: list[Json], after: list[Json]) -> Any:
    """Return the written layers with their changed arguments; all of them if one was added or removed."""
    if not isinstance(written, list) or [_class(entry) for entry in before] != [_class(entry) for entry in after]:
        return _all_layers(written, before, after)
    inputs = sum(_class(entry) == "Input" for entry in before)
    if any(_class_of_written(entry) == "Input" for entry in written):
        inputs = 0
    layers = []
    for place, own in enumerate(written, inputs):
        old, new = before[place], after[place]
        cls = _class(new)
        if old == new or _class_of_written(own) != cls:
            layers.append(own)
            continue
        arguments = own.get(cls) if isinstance(own, Mapping) else {}
        if not isinstance(arguments, Mapping):  # {"Dropout": 0.1}, {"Dense": 64}
            argument = next((name for name, value in old[cls].items() if value == arguments), None)
            arguments = {} if argument is None else {argument: arguments}
        beside = {key: own[key] for key in ENTRY_KEYS if isinstance(own, Mapping) and key in own}
        layers.append({cls: _merge(arguments, old[cls], new[cls]), **beside})
    return layers


def _all_layers(written: Any, before: list[Json], after: list[Json]) -> list[Json]:
    """Return the layers between inputs and outputs, each with its non-default arguments."""
    is_chain = all(
        entry.get("inputs") in (None, [previous.get("name")]) for previous, entry in itertools.pairwise(after)
    )
    layers: list[Json] = []
    for entry in after:
        is_output = entry.get("output") is not None
        if _class(entry) == "Input" or (is_output and is_chain):
            continue
        layer = read_entry(entry).layer.model_dump(mode="json", exclude_defaults=True)
        beside = {} if is_chain else {key: entry[key] for key in ENTRY_KEYS if key in entry}
        layers.append({**_without_nulls(layer), **beside})
    return layers


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _class(entry: Json) -> str:
    return next(key for key in entry if key not in ENTRY_KEYS)


def _class_of_written(entry: Any) -> str | None:
    if isinstance(entry, str):
        return entry
    return _class(entry) if isinstance(entry, Mapping) else None


def _without_names(spec: Json) -> Json:
    """Return a resolved spec with its layers numbered, whatever their names are."""
    numbers = {entry.get("name"): place for place, entry in enumerate(spec["network"])}
    layers = [
        {
            **entry,
            "name": numbers[entry.get("name")],
            "inputs": [numbers.get(name, name) for name in entry.get("inputs") or ()],
        }
        for entry in spec["network"]
    ]
    return {**spec, "network": layers}
