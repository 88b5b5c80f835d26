"""The fitted encoder as an ONNX graph in front of the serving graph, so that ONNX Runtime takes raw columns.

Each raw column is an input `(rows, 1)`, as of `model.keras`: float64 with NaN for missing (a datetime: seconds since
1970 in UTC; a boolean: 0 or 1), or a string with "" for missing. Each encoding computes what `fitserve.encoding` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from fitserve.encoder import Encoder
from fitserve.encoding import FittedColumn
from fitserve.encoding.cyclic import phase
from fitserve.encoding.robust import BOUND, LARGE
from fitserve.parsing.words import FALSE, TRUE

LABELS = "ai.onnx.ml"  # the operators' domain that has LabelEncoder


class Tensor:
    """A float64 tensor of a graph that is being written; arithmetic adds nodes."""

    def __init__(self, graph: RawGraph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Any) -> Tensor:
        return self.graph.add("Add", self, other)

    def __sub__(self, other: Any) -> Tensor:
        return self.graph.add("Sub", self, other)

    def __mul__(self, other: Any) -> Tensor:
        return self.graph.add("Mul", self, other)

    def __truediv__(self, other: Any) -> Tensor:
        return self.graph.add("Div", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return self.graph.add("Mul", other, self)

    def __radd__(self, other: Any) -> Tensor:
        return self.graph.add("Add", other, self)


class RawGraph:
    """ONNX nodes and constants of the preprocessing, under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: Any, domain: str = "", **attributes: Any) -> Tensor:
        """Add a node. An input that is not a tensor becomes a constant, float64 unless it is an array."""
        name = f"raw/{len(self.nodes)}"
        names = [one.name if isinstance(one, Tensor) else self._constant(one) for one in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], domain=domain, **attributes))
        return Tensor(self, name)

    def _constant(self, value: Any) -> str:
        name = f"raw/constant/{len(self.constants)}"
        array = value if isinstance(value, np.ndarray) else np.asarray(value, np.float64)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, tensor: Tensor, to: int) -> Tensor:
        """Return a tensor in another type."""
        return self.add("Cast", tensor, to=to)

    def floor(self, tensor: Tensor) -> Tensor:
        """Round a tensor down to whole numbers."""
        return self.add("Floor", tensor)

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """Concatenate tensors along the columns."""
        return tensors[0] if len(tensors) == 1 else self.add("Concat", *tensors, axis=1)

    def places(self, texts: Tensor, places: Mapping[str, int], default: int) -> Tensor:
        """Look texts up: int64 `(rows, 1)`."""
        return self.add(
            "LabelEncoder",
            texts,
            domain=LABELS,
            keys_strings=list(places) or ["\x00"],  # the operator requires at least one key, even if there was no value
            values_int64s=list(places.values()) or [default],
            default_int64=default,
        )


def with_preprocessing(
    serving: onnx.ModelProto, encoder: Encoder, names: Mapping[tuple[str, str], str]
) -> onnx.ModelProto:
    """Return the serving graph behind its preprocessing. `names` are the raw inputs' by column and raw type."""
    graph = RawGraph()
    inner = compose.add_prefix(serving, "network/")
    needed = {one.name: one for one in inner.graph.input}
    for one in encoder.inputs:
        columns = [column for column in encoder.columns if column.input == one.name]
        raw = [Tensor(graph, names[column.name, column.raw]) for column in columns]
        if one.dtype == "int32":
            encoded = graph.cast(_index(graph, columns[0], raw[0]), TensorProto.INT32)
        else:
            parts = sorted(zip(columns, raw, strict=True), key=lambda pair: pair[0].offset)
            encoded = graph.joined([_encoded(graph, column, tensor) for column, tensor in parts])
        if len(one.shape) != 1:
            encoded = graph.add("Reshape", encoded, np.asarray([-1, *one.shape], np.int64))
        if f"network/{one.name}" in needed:
            graph.nodes.append(helper.make_node("Identity", [encoded.name], [f"network/{one.name}"]))
    types = {"number": TensorProto.DOUBLE, "string": TensorProto.STRING}
    inputs = [helper.make_tensor_value_info(name, types[raw], ["rows", 1]) for (_, raw), name in names.items()]
    outputs = []
    for own, public in zip(inner.graph.output, serving.graph.output, strict=True):
        graph.nodes.append(helper.make_node("Identity", [own.name], [f"{public.name}:predicted"]))
        outputs.append(onnx.ValueInfoProto.FromString(public.SerializeToString()))
        outputs[-1].name = f"{public.name}:predicted" if public.name in names.values() else public.name
        graph.nodes[-1].output[0] = outputs[-1].name
    pre = len(graph.nodes) - len(outputs)
    nodes = [*graph.nodes[:pre], *inner.graph.node, *graph.nodes[pre:]]
    whole = helper.make_graph(nodes, "fitserve", inputs, outputs, [*graph.constants, *inner.graph.initializer])
    opsets = [*(one for one in serving.opset_import if one.domain != LABELS), helper.make_opsetid(LABELS, 2)]
    model = helper.make_model(whole, opset_imports=opsets, ir_version=serving.ir_version, functions=inner.functions)
    onnx.checker.check_model(model)
    return model


def _encoded(graph: RawGraph, column: Any, raw: Tensor) -> Tensor:
    """Compute a column's part of its network input: float32 `(rows, width)`."""
    own = column.width - bool(getattr(column.encoding, "indicator", False))
    if column.raw == "string":
        missing = graph.add("Equal", graph.places(raw, {"": 1}, 0), np.asarray([[1]], np.int64))
    else:
        missing = graph.add("IsNaN", raw)
    compute = RawEncoding.by_name[column.encoding.type]
    parts = [graph.cast(one, TensorProto.FLOAT) for one in compute(graph, column, raw, missing, own) if one is not None]
    if column.width > own:
        parts.append(graph.cast(missing, TensorProto.FLOAT))
    return graph.joined(parts)


class RawEncoding:
    """How ONNX computes each encoding, by its name: a list of tensors side by side, without the indicator."""

    by_name: ClassVar[dict[str, Callable[[RawGraph, Any, Tensor, Tensor, int], list[Tensor | None]]]] = {}


def _encodes(*names: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        RawEncoding.by_name |= dict.fromkeys(names, function)
        return function

    return register


def _scaled(graph: RawGraph, column: Any, x: Tensor, name: str) -> Tensor:
    """Apply the column's `scaled`."""
    if name == "log":
        x = graph.add("Sign", x) * graph.add("Log", graph.add("Abs", x) + 1.0)
    x = (x - float(column.fitted["center"])) * (1.0 / float(column.fitted["scale"]))
    if name == "robust":
        x = graph.add("Min", graph.add("Max", x, -LARGE), LARGE)
        share = x / BOUND
        x = x / graph.add("Sqrt", share * share + 1.0)
    return x


@_encodes("standardize", "min_max", "pass_through", "log", "robust")
def _number(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    scaled = _scaled(graph, column, raw, column.encoding.type)
    return [graph.add("Where", missing, float(column.scaled(column.fitted["fill"])), scaled)]


def _known(graph: RawGraph, missing: Tensor) -> Tensor:
    return graph.cast(graph.add("Not", missing), TensorProto.DOUBLE)


def _passed(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor) -> Tensor:
    """Return the share of each bin that a number has passed, 0 where it is missing."""
    low, widths = np.asarray(column.halves[:-1], np.float64), np.diff(column.halves)
    above = (graph.add("Where", missing, 0.0, raw) * 0.5 - low) * (1.0 / widths)
    return graph.add("Min", graph.add("Max", above, 0.0), 1.0)


def _zeros(graph: RawGraph, raw: Tensor, count: int) -> Tensor | None:
    if count <= 0:
        return None
    flags = graph.cast(graph.add("IsNaN", raw), TensorProto.DOUBLE)
    return flags * np.zeros((1, count))


@_encodes("piecewise_linear")
def _bins(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    shares = _passed(graph, column, raw, missing) * _known(graph, missing) if column.bins else None
    return [shares, _zeros(graph, raw, own - column.bins)]


@_encodes("quantile")
def _quantile(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    if not column.bins:
        return [_zeros(graph, raw, own)]
    scores = np.asarray(column.fitted["scores"], np.float64)
    rises = _passed(graph, column, raw, missing) * np.diff(scores)
    score = graph.add("ReduceSum", rises, np.asarray([1], np.int64), keepdims=1) + float(scores[0])
    return [graph.add("Where", missing, 0.0, score), _zeros(graph, raw, own - 1)]


@_encodes("periodic")
def _periodic(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    scaled = _scaled(graph, column, graph.add("Where", missing, 0.0, raw), "robust")
    turns = np.asarray([2 * math.pi * frequency for frequency in column.fitted["frequencies"]], np.float64)
    angles, known = scaled * turns, _known(graph, missing)
    return [_sine(graph, angles, known), _cosine(graph, angles, known)]


def _sine(graph: RawGraph, angles: Tensor, known: Tensor) -> Tensor:
    return graph.add("Sin", angles) * known


def _cosine(graph: RawGraph, angles: Tensor, known: Tensor) -> Tensor:
    return graph.add("Sin", angles + math.pi / 2) * known  # ONNX Runtime has no cosine of float64


@_encodes("cyclic")
def _cyclic(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    seconds, known = graph.add("Where", missing, 0.0, raw), _known(graph, missing)
    waves: list[Tensor | None] = []
    for part in column.encoding.parts:
        angles = phase(part, seconds, graph.floor) * (2 * math.pi)
        waves += [_sine(graph, angles, known), _cosine(graph, angles, known)]
    return waves


@_encodes("boolean")
def _boolean(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    if column.raw == "number":
        return [graph.add("Where", missing, 0.0, raw)]
    usual = {case: 1 for word in TRUE for case in (word, word.upper(), word.capitalize())}
    usual |= {case: 0 for word in FALSE for case in (word, word.upper(), word.capitalize())}
    return [graph.places(raw, {**usual, column.fitted["false"]: 0, column.fitted["true"]: 1}, 0)]


@_encodes("one_hot")
def _one_hot(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    first = int(column.encoding.unknown == "bucket")  # the bucket's index comes before the labels
    places = {label: first + index for index, label in enumerate(column.fitted["labels"])} | {"": -1}
    matches = graph.places(raw, places, 0 if first else -1)
    return [graph.add("Equal", matches, np.arange(own, dtype=np.int64)[None])]


def _index(graph: RawGraph, column: FittedColumn, raw: Tensor) -> Tensor:
    """Return a label's index: 0 for missing, 1 for unknown."""
    return graph.places(raw, {"": 0} | {label: 2 + index for index, label in enumerate(column.fitted["labels"])}, 1)


@_encodes("index")
def _index_as_number(graph: RawGraph, column: Any, raw: Tensor, missing: Tensor, own: int) -> list[Tensor | None]:
    return [_index(graph, column, raw)]
