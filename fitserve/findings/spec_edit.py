"""Changes to a resolved spec: functions that yield the operations of a JSON Patch (RFC 6902), and `apply_patch`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException

from fitserve.dataset_facts import DatasetFacts
from fitserve.encoding import ENCODINGS
from fitserve.encoding.piecewise_linear import PiecewiseLinear, usual_bins
from fitserve.errors import BadInput
from fitserve.findings.finding import Operation
from fitserve.findings.record import Json
from fitserve.spec.feature import DENSE, MAX_PIECES, Feature, default_features, encoded_inputs
from fitserve.spec.network import ENTRY_KEYS
from fitserve.spec.optimizers import OPTIMIZERS

# Initializers whose spread fits the layer's width.
SCALED = ("GlorotUniform", "GlorotNormal", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal")
DROPOUTS = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise")


class PatchRefused(BadInput):
    """The patch does not fit this document."""

    slug = "patch-refused"
    title = "The patch is refused"


def apply_patch(document: Any, patch: Sequence[Mapping[str, Any]]) -> Any:
    """Return a patched copy of `document`. Raises PatchRefused with the operation that does not fit."""
    for number, operation in enumerate(patch):
        try:
            document = jsonpatch.JsonPatch([operation]).apply(document)
        except (jsonpatch.JsonPatchException, JsonPointerException) as error:
            raise PatchRefused(
                f"Operation {number} of the patch does not fit: {operation.get('op')} {operation.get('path')}.",
                pointer=f"/{number}",
                received=dict(operation),
                expected="an operation of RFC 6902 on a location that exists",
            ) from error
    return document


@dataclass(frozen=True, slots=True)
class SpecLayer:
    """A layer of the spec's network: its position, class and arguments."""

    pointer: str  # JSON Pointer of the entry: /network/3
    name: str
    cls: str
    arguments: Json
    inputs: tuple[str, ...]
    output: bool

    @property
    def arguments_pointer(self) -> str:
        """The pointer of its arguments: /network/3/Dense."""
        return f"{self.pointer}/{self.cls}"

    @property
    def noise(self) -> tuple[str, float]:
        """Of a dropout or noise layer: its argument and value."""
        argument = "stddev" if self.cls == "GaussianNoise" else "rate"
        return argument, float(self.arguments[argument])


def layers(spec: Json) -> list[SpecLayer]:
    """Return all layers in order, without network inputs."""
    places = []
    for index, entry in enumerate(spec["network"]):
        cls = next(key for key in entry if key not in ENTRY_KEYS)
        if cls != "Input":
            inputs, output = tuple(entry.get("inputs") or ()), bool(entry.get("output"))
            places.append(SpecLayer(f"/network/{index}", entry.get("name", ""), cls, entry[cls], inputs, output))
    return places


def hidden_layers(spec: Json, cls: str = "Dense") -> list[SpecLayer]:
    """Return the layers of a class that are not outputs."""
    return [layer for layer in layers(spec) if layer.cls == cls and not layer.output]


def first_layers(spec: Json) -> list[SpecLayer]:
    """Return the Dense layers that read network inputs."""
    inputs = {entry.get("name") for entry in spec["network"] if "Input" in entry}
    return [layer for layer in layers(spec) if layer.cls == "Dense" and set(layer.inputs) & inputs]


def dropout_layers(spec: Json) -> list[SpecLayer]:
    """Return the layers that drop units or add noise while training."""
    return [layer for layer in layers(spec) if layer.cls in DROPOUTS]


def has_kernel_penalty(layer: SpecLayer, kinds: Sequence[str]) -> bool:
    """Return whether the layer's kernel has a regularizer of one of these classes (L1L2: with l1 above 0)."""
    regularizer = layer.arguments.get("kernel_regularizer")
    if not isinstance(regularizer, Mapping):
        return False
    ((name, arguments),) = regularizer.items()
    return name in kinds and (name != "L1L2" or bool(arguments.get("l1")))


def set_value(path: str, value: Any) -> Operation:
    """Return the operation that sets a member: `add` replaces an existing one and does not require one."""
    return {"op": "add", "path": path, "value": value}


def replace_activations(
    spec: Json, names: Iterable[str] | None, old: Sequence[str], new: str, initializer: str
) -> Iterator[Operation]:
    """Replace activations in `old` by `new` in hidden layers (those named, or all).

    Their kernels restart from `initializer`."""
    chosen = None if names is None else set(names)
    for layer in layers(spec):
        if layer.output or (chosen is not None and layer.name not in chosen):
            continue
        if layer.cls == "ReLU" and "relu" in old:
            yield {"op": "remove", "path": layer.arguments_pointer}
            yield set_value(f"{layer.pointer}/Activation", {"activation": new})
        elif layer.arguments.get("activation") in old:
            yield set_value(f"{layer.arguments_pointer}/activation", new)
            if "kernel_initializer" in layer.arguments:
                yield set_value(f"{layer.arguments_pointer}/kernel_initializer", {initializer: {}})
            yield from _zero_bias(layer)


def reset_initializers(spec: Json, initializer: str) -> Iterator[Operation]:
    """Give `initializer` to layers whose kernel starts from a spread that does not fit their width."""
    for layer in layers(spec):
        current = layer.arguments.get("kernel_initializer")
        if isinstance(current, Mapping) and next(iter(current)) not in SCALED:
            yield set_value(f"{layer.arguments_pointer}/kernel_initializer", {initializer: {}})
        yield from _zero_bias(layer)


def _zero_bias(layer: SpecLayer) -> Iterator[Operation]:
    initializer = layer.arguments.get("bias_initializer")
    if isinstance(initializer, Mapping) and "Zeros" not in initializer:
        yield set_value(f"{layer.arguments_pointer}/bias_initializer", {"Zeros": {}})


def standardize_features(spec: Json) -> Iterator[Operation]:
    """Standardise the numbers that are passed through unscaled."""
    for index, feature in enumerate(spec["features"]):
        encoding = feature["encoding"]
        if not ENCODINGS[encoding["type"]].rescales:
            yield set_value(f"/features/{index}/encoding", {**encoding, "type": "standardize"})


def drop_features(spec: Json, columns: Iterable[str], facts: DatasetFacts) -> Iterator[Operation]:
    """Leave out the features of these columns and narrow the network inputs accordingly."""
    dropped = set(columns)
    yield from _with_features(spec, [one for one in spec["features"] if one["column"] not in dropped], facts)


def add_features(spec: Json, columns: Iterable[str], facts: DatasetFacts) -> Iterator[Operation]:
    """Add columns as features to the network's only input; nothing where it has several."""
    inputs = {feature["input"] for feature in spec["features"]}
    if len(inputs) != 1:
        return
    added = [
        {**feature.model_dump(mode="json"), "input": next(iter(inputs))}
        for column in columns
        for feature in default_features(facts.by_name[column])
        if feature.input == DENSE  # not integers, which need an input and an Embedding of their own
    ]
    if added:
        yield from _with_features(spec, [*spec["features"], *added], facts)


def add_bins(spec: Json, facts: DatasetFacts) -> Iterator[Operation]:
    """Encode numbers that are only scaled by bins too, and widen the network inputs accordingly."""
    encodings = Counter(feature["column"] for feature in spec["features"])
    features: list[Any] = []
    for feature in spec["features"]:
        features.append(feature)
        column = facts.by_name[feature["column"]]
        encoding = ENCODINGS[feature["encoding"]["type"]].model_validate(feature["encoding"])
        one_number = encoding.cardinality(column) is None and encoding.width(column) - bool(encoding.indicator) == 1
        bins = usual_bins(column, MAX_PIECES // max(1, len(encodings)))
        if one_number and encoding.rescales and encodings[column.name] == 1 and column.kind == "numeric" and bins > 1:
            binned = PiecewiseLinear(bins=bins, indicator=False)
            features.append({**feature, "encoding": binned.model_dump(mode="json")})
    if len(features) > len(spec["features"]):
        yield from _with_features(spec, features, facts)


def _with_features(spec: Json, features: list[Any], facts: DatasetFacts) -> Iterator[Operation]:
    """Replace the features, and give the network inputs their shapes."""
    yield set_value("/features", features)
    inputs = encoded_inputs([Feature.model_validate(feature) for feature in features], facts)
    shapes = {one.name: list(one.shape) for one in inputs}
    for index, entry in enumerate(spec["network"]):
        if "Input" in entry and entry.get("name") in shapes:
            yield set_value(f"/network/{index}/Input/shape", shapes[entry["name"]])


def learning_rate(spec: Json) -> tuple[float, str] | None:
    """Return the (initial) learning rate and its pointer; None for a schedule without an initial one."""
    ((name, arguments),) = spec["training"]["optimizer"].items()
    rate, pointer = arguments["learning_rate"], f"/training/optimizer/{name}/learning_rate"
    if isinstance(rate, (int, float)):
        return float(rate), pointer
    ((schedule, inner),) = rate.items()
    if "initial_learning_rate" in inner:
        return float(inner["initial_learning_rate"]), f"{pointer}/{schedule}/initial_learning_rate"
    return None


def learning_rate_excess(spec: Json) -> float:
    """Return the learning rate as a multiple of a usual one for its optimizer; 0 where it is not known."""
    known = learning_rate(spec)
    return 0.0 if known is None else known[0] / _usual_rate(spec)


def _usual_rate(spec: Json) -> float:
    return OPTIMIZERS.classes[next(iter(spec["training"]["optimizer"]))].usual_learning_rate


def lower_learning_rate(spec: Json) -> Iterator[Operation]:
    """Divide the learning rate by ten; set it to a usual one where it is more than ten times that."""
    if (known := learning_rate(spec)) is not None:
        rate, pointer = known
        usual = _usual_rate(spec)
        yield set_value(pointer, usual if rate > 10 * usual else rate / 10)


def raise_learning_rate(spec: Json, factor: float) -> Iterator[Operation]:
    """Multiply the learning rate by `factor`, up to three times a usual one (or ten times the current one)."""
    if (known := learning_rate(spec)) is not None:
        rate, pointer = known
        yield set_value(pointer, min(rate * factor, max(3 * _usual_rate(spec), rate * 10)))


def widen(spec: Json, times: int, at_least: int, below: int | None = None) -> Iterator[Operation]:
    """Multiply the units of hidden Dense layers (of those narrower than `below`), to `at_least` units."""
    for layer in hidden_layers(spec):
        units = int(layer.arguments["units"])
        if below is None or units < below:
            yield set_value(f"{layer.arguments_pointer}/units", max(units * times, at_least))


def add_hidden_layers(spec: Json, widths: Sequence[int]) -> Iterator[Operation]:
    """Insert Dense layers with relu before the output; nothing where there are several outputs."""
    outputs = [layer for layer in layers(spec) if layer.output]
    if len(outputs) != 1 or len(outputs[0].inputs) != 1:
        return
    at = int(outputs[0].pointer.rpartition("/")[2])
    previous = outputs[0].inputs[0]
    taken = {entry.get("name") for entry in spec["network"]}
    free = (name for number in range(1, 1000) if (name := f"added_{number}") not in taken)
    for offset, width in enumerate(widths):
        name = next(free)
        layer = {"Dense": {"units": width, "activation": "relu"}, "name": name, "inputs": [previous]}
        yield {"op": "add", "path": f"/network/{at + offset}", "value": layer}
        previous = name
    yield set_value(f"/network/{at + len(widths)}/inputs", [previous])


def reduce_dropout(spec: Json, share: float = 0.25, at_most: float = 0.2) -> Iterator[Operation]:
    """Multiply dropout rates and noise by `share`, down to `at_most`."""
    for layer in dropout_layers(spec):
        argument, value = layer.noise
        if value > 0:
            yield set_value(f"{layer.arguments_pointer}/{argument}", min(value * share, at_most))


def reduce_penalties(spec: Json, share: float) -> Iterator[Operation]:
    """Multiply the factors of all regularizers by `share`."""
    for layer in layers(spec):
        for argument, value in layer.arguments.items():
            if argument.endswith("_regularizer") and isinstance(value, Mapping):
                ((name, factors),) = value.items()
                for key, factor in factors.items():
                    if key in ("l1", "l2", "factor") and factor:
                        yield set_value(f"{layer.arguments_pointer}/{argument}/{name}/{key}", factor * share)
