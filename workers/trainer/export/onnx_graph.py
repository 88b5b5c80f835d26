"""An ONNX graph under construction: operators, constants, and its outputs in the form in which they are served.

Operators and their attributes: https://github.com/onnx/onnx/blob/main/docs/Operators.md, opset 18.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper

from fitserve.artifacts import ROWS_DIMENSION
from workers.trainer.engine.network import inputs_of, outputs_of

OPSET, IR_VERSION = 18, 9
DTYPES = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}


class NotWritten(Exception):
    """The network has something that cannot be written as a graph here."""


@dataclass(slots=True)
class Graph:
    """An ONNX graph under construction. Tensors are named by strings."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    reserved: frozenset[str] = frozenset()  # names of the graph's inputs and outputs
    prefix: str = "t"  # of the names of operators' outputs
    known: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)  # constants, by their content

    def add(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add an operator with one output. Returns the output's name."""
        name = output or self.free_name()
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant, once for several uses. Returns its name."""
        array = np.ascontiguousarray(value, dtype)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self.known:
            self.known[key] = self.free(f"c{len(self.constants)}")
            self.constants.append(numpy_helper.from_array(array, self.known[key]))
        return self.known[key]

    def free_name(self) -> str:
        """Return a name for the output of the next operator."""
        return self.free(f"{self.prefix}{len(self.nodes)}")

    def part(self, prefix: str) -> Graph:
        """Return an empty graph for operators of a branch: it has the same constants, and other names."""
        return Graph(constants=self.constants, reserved=self.reserved, prefix=prefix, known=self.known)

    def free(self, name: str) -> str:
        """Return a name that is no input's or output's, as close to this one as possible."""
        while name in self.reserved:
            name += "_"
        return name


@dataclass(frozen=True, slots=True)
class OutputForm:
    """How an output of the network is served: calibrated, or `clip(scale * output + offset)` in the target's units."""

    source: str  # the network's output
    scale: float = 1.0
    offset: float = 0.0
    is_wide: bool = False  # computed in float64
    limits: tuple[float, float] | None = None
    calibrate: Callable[[Graph, str, int], str] | None = None  # adds it, given a tensor's name and its units


def new_graph(model: keras.Model, outputs: Mapping[str, OutputForm]) -> Graph:
    """Return an empty graph, for the inputs of `model` and these outputs. Raises NotWritten."""
    for name in outputs:
        if name in inputs_of(model):
            raise NotWritten(f"an input and an output are both called {name}")
    return Graph(reserved=frozenset({*outputs, *inputs_of(model)}))


def finish(
    graph: Graph, model: keras.Model, ends: Mapping[str, str], outputs: Mapping[str, OutputForm]
) -> onnx.ModelProto:
    """Return the whole graph; `ends` are its tensors for the outputs of `model`, by their names there."""
    tensors = outputs_of(model)
    inputs = [_value_info(name, tensor) for name, tensor in inputs_of(model).items()]
    for name, form in outputs.items():
        source = ends[form.source]
        if form.calibrate is not None:
            source = form.calibrate(graph, source, int(tensors[form.source].shape[-1]))
        _write_output(graph, source, name, form)
    _prune(graph, outputs)
    results = [_value_info(name, tensors[form.source], form.is_wide) for name, form in outputs.items()]
    body = helper.make_graph(graph.nodes, "fitserve", inputs, results, graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fitserve")


def _prune(graph: Graph, outputs: Iterable[str]) -> None:
    """Remove operators and constants that no output needs: they would be computed all the same."""
    needed, nodes = set(outputs), []
    for node in reversed(graph.nodes):
        if needed & set(node.output):
            nodes.append(node)
            needed |= _inputs_within(node)
    graph.nodes[:] = reversed(nodes)
    graph.constants[:] = [one for one in graph.constants if one.name in needed]


def _inputs_within(node: Any) -> set[str]:
    """Return the inputs of an operator and of those in its branches."""
    branches = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return {*node.input}.union(*(_inputs_within(own) for part in branches for own in part.node))


def _value_info(name: str, tensor: Any, is_wide: bool = False) -> Any:
    if tensor.dtype not in DTYPES:
        raise NotWritten(f"the dtype {tensor.dtype}")
    dtype = onnx.TensorProto.DOUBLE if is_wide else DTYPES[tensor.dtype]
    return helper.make_tensor_value_info(name, dtype, [ROWS_DIMENSION, *tensor.shape[1:]])


def _write_output(graph: Graph, source: str, name: str, form: OutputForm) -> None:
    dtype = np.float64 if form.is_wide else np.float32
    if form.is_wide:
        source = graph.add("Cast", [source], to=onnx.TensorProto.DOUBLE)
    if form.scale != 1.0:
        source = graph.add("Mul", [source, graph.constant(form.scale, dtype)])
    if form.offset != 0.0:
        source = graph.add("Add", [source, graph.constant(form.offset, dtype)])
    if form.limits is not None:
        source = graph.add("Clip", [source, *(graph.constant(limit, dtype) for limit in form.limits)])
    graph.add("Identity", [source], name)
