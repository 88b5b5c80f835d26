"""Changes to a resolved spec: each function yields the operations of a JSON Patch (RFC 6902)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fitserve.dataset_facts import DatasetFacts
from fitserve.spec.feature import Feature, encoded_inputs
from fitserve.findings.finding import Operation

Json = Mapping[str, Any]

SATURATING = ("sigmoid", "tanh", "hard_sigmoid", "softsign", "hard_tanh", "sparse_sigmoid")
UNSCALED = ("pass_through",)
# Learning rates that are a good start with standardised inputs: Keras's defaults, SGD's larger.
SANE_RATE = {"SGD": 0.05, "RMSprop": 0.001, "Adagrad": 0.01, "Adadelta": 1.0, "Ftrl": 0.01, "Lion": 0.0003}
USUAL_RATE = 0.001
FRESH = ("GlorotUniform", "GlorotNormal", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal")


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of the spec's network: where it stands, its class and its arguments."""

    pointer: str  # of the entry: /network/3
    name: str
    cls: str
    arguments: Json
    inputs: tuple[str, ...]
    output: bool

    @property
    def here(self) -> str:
        """The pointer of its arguments."""
        return f"{self.pointer}/{self.cls}"


def places(spec: Json) -> list[Place]:
    """All layers, in order, network inputs left out."""
    found = []
    for index, entry in enumerate(spec["network"]):
        cls = next(key for key in entry if key not in ("name", "inputs", "output"))
        if cls == "Input":
            continue
        inputs = tuple(entry.get("inputs") or ())
        found.append(
            Place(f"/network/{index}", entry.get("name", ""), cls, entry[cls], inputs, bool(entry.get("output")))
        )
    return found


def hidden(spec: Json, cls: str = "Dense") -> list[Place]:
    """Layers of that class that are no output."""
    return [place for place in places(spec) if place.cls == cls and not place.output]


def replace(path: str, value: Any) -> Operation:
    """The operation; `add` on a member that exists replaces it too, and needs no value to be there."""
    return {"op": "add", "path": path, "value": value}


def activations(
    spec: Json, names: Iterable[str] | None, old: Sequence[str], new: str, start: str
) -> Iterator[Operation]:
    """Hidden layers (those named, or all) whose activation is one of `old` get `new`, and the initializer `start`."""
    chosen = None if names is None else set(names)
    for place in places(spec):
        if place.output or (chosen is not None and place.name not in chosen):
            continue
        if place.cls == "ReLU" and "relu" in old:
            yield {"op": "remove", "path": place.here}
            yield replace(f"{place.pointer}/Activation", {"activation": new})
        elif place.arguments.get("activation") in old:
            yield replace(f"{place.here}/activation", new)
            if "kernel_initializer" in place.arguments:
                yield replace(f"{place.here}/kernel_initializer", {start: {}})
            if _off_zero(place.arguments.get("bias_initializer")):
                yield replace(f"{place.here}/bias_initializer", {"Zeros": {}})


def _off_zero(initializer: Any) -> bool:
    return isinstance(initializer, Mapping) and "Zeros" not in initializer


def fresh_initializers(spec: Json, start: str) -> Iterator[Operation]:
    """Layers whose kernel starts from a fixed spread rather than one that fits their width get `start`."""
    for place in places(spec):
        given = place.arguments.get("kernel_initializer")
        if isinstance(given, Mapping) and next(iter(given)) not in FRESH:
            yield replace(f"{place.here}/kernel_initializer", {start: {}})
        if _off_zero(place.arguments.get("bias_initializer")):
            yield replace(f"{place.here}/bias_initializer", {"Zeros": {}})


def scaled_features(spec: Json) -> Iterator[Operation]:
    """Numbers that enter as they are become standardised."""
    for index, feature in enumerate(spec["features"]):
        encoding = feature["encoding"]
        if encoding["type"] in UNSCALED:
            yield replace(f"/features/{index}/encoding", {**encoding, "type": "standardize"})


def without_features(spec: Json, columns: Iterable[str], facts: DatasetFacts) -> Iterator[Operation]:
    """The features of these columns are left out; network inputs become as much narrower."""
    gone = set(columns)
    kept = [feature for feature in spec["features"] if feature["column"] not in gone]
    yield replace("/features", kept)
    widths = {one.name: list(one.shape) for one in encoded_inputs([Feature.model_validate(f) for f in kept], facts)}
    for index, entry in enumerate(spec["network"]):
        if "Input" in entry and entry.get("name") in widths:
            yield replace(f"/network/{index}/Input/shape", widths[entry["name"]])


def learning_rate(spec: Json) -> tuple[float, str] | None:
    """The (initial) learning rate and its pointer; None for a schedule that begins otherwise."""
    ((name, arguments),) = spec["training"]["optimizer"].items()
    rate, pointer = arguments["learning_rate"], f"/training/optimizer/{name}/learning_rate"
    if isinstance(rate, (int, float)):
        return float(rate), pointer
    ((schedule, inner),) = rate.items()
    if "initial_learning_rate" in inner:
        return float(inner["initial_learning_rate"]), f"{pointer}/{schedule}/initial_learning_rate"
    return None


def sane_rate(spec: Json) -> float:
    """A learning rate to start from with this optimizer."""
    return SANE_RATE.get(next(iter(spec["training"]["optimizer"])), USUAL_RATE)


def slower(spec: Json) -> Iterator[Operation]:
    """A tenth of the learning rate; of one that is far too high, a usual one."""
    known = learning_rate(spec)
    if known is not None:
        rate, pointer = known
        sane = sane_rate(spec)
        yield replace(pointer, sane if rate > 10 * sane else rate / 10)


def faster(spec: Json, factor: float) -> Iterator[Operation]:
    """The learning rate times `factor`, but not beyond three times a usual one (or ten times itself)."""
    known = learning_rate(spec)
    if known is not None:
        rate, pointer = known
        yield replace(pointer, min(rate * factor, max(3 * sane_rate(spec), rate * 10)))


def wider(spec: Json, times: int, least: int, below: int | None = None) -> Iterator[Operation]:
    """Hidden Dense layers (those narrower than `below`) get `times` as many units, `least` at least."""
    for place in hidden(spec):
        units = int(place.arguments["units"])
        if below is None or units < below:
            yield replace(f"{place.here}/units", max(units * times, least))


def with_hidden_layers(spec: Json, widths: Sequence[int]) -> Iterator[Operation]:
    """New Dense layers with relu before the only output."""
    outputs = [place for place in places(spec) if place.output]
    if len(outputs) != 1 or len(outputs[0].inputs) != 1:
        return
    at = int(outputs[0].pointer.rsplit("/", 1)[1])
    previous = outputs[0].inputs[0]
    taken = {entry.get("name") for entry in spec["network"]}
    for offset, width in enumerate(widths):
        name = next(n for n in (f"added_{i}" for i in range(1, 1000)) if n not in taken)
        taken.add(name)
        layer = {"Dense": {"units": width, "activation": "relu"}, "name": name, "inputs": [previous]}
        yield {"op": "add", "path": f"/network/{at + offset}", "value": layer}
        previous = name
    yield replace(f"/network/{at + len(widths)}/inputs", [previous])


def dropouts(spec: Json) -> list[Place]:
    """Layers that drop or shake what they are given."""
    classes = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise")
    return [place for place in places(spec) if place.cls in classes]


def gentler_dropout(spec: Json, share: float, most: float) -> Iterator[Operation]:
    """Dropout rates and noise times `share`, `most` at most."""
    for place in dropouts(spec):
        argument = "stddev" if place.cls == "GaussianNoise" else "rate"
        rate = float(place.arguments[argument])
        if rate > 0:
            yield replace(f"{place.here}/{argument}", min(rate * share, most))


def gentler_penalties(spec: Json, share: float) -> Iterator[Operation]:
    """All weights of regularizers times `share`."""
    for place in places(spec):
        for argument, value in place.arguments.items():
            if argument.endswith("_regularizer") and isinstance(value, Mapping):
                ((name, inner),) = value.items()
                for key, weight in inner.items():
                    if key in ("l1", "l2", "factor") and weight:
                        yield replace(f"{place.here}/{argument}/{name}/{key}", weight * share)


def has_penalty(place: Place, kinds: Sequence[str]) -> bool:
    """Whether the layer's kernel has a regularizer of one of these classes, with a weight above 0."""
    given = place.arguments.get("kernel_regularizer")
    if not isinstance(given, Mapping):
        return False
    ((name, inner),) = given.items()
    return name in kinds and (name != "L1L2" or bool(inner.get("l1")))


def first_layers(spec: Json) -> list[Place]:
    """Dense layers that read network inputs."""
    inputs = {entry.get("name") for entry in spec["network"] if "Input" in entry}
    return [place for place in places(spec) if place.cls == "Dense" and set(place.inputs) & inputs]
