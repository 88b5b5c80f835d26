"""The serving graph of an ensemble: every layer once for all members, their weights along a leading axis.

    x       (batch, columns)                shared by the members
    first   (batch, members * units)        one product for all of them, then members first
    kernel  (members, inputs, units)        of further layers: one batched product
    output  (batch, units)                  the mean over members

With a few operators instead of a chain for each member, a single row of eight members takes about the time of four
networks. Layers unknown to this module raise `NotWritten`; the members are then written side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from fitserve.artifacts import ONE_ROW_PROPERTY
from workers.trainer.engine.network import inputs_of, nodes_of, outputs_of
from workers.trainer.export import serving_graph
from workers.trainer.export.onnx_graph import Graph, NotWritten, OutputForm, finish, new_graph

L = keras.layers
Array = NDArray[Any]
WIDE = 256  # smallest input width for which selecting the nonzero numbers may pay off
SPARSE = 0.2  # largest share of nonzero numbers for which it does
FEW = 64  # most rows for which it does: with more, few columns are 0 in all rows


@dataclass(frozen=True, slots=True)
class Stack:
    """An ensemble's members: one network, the weights of all, and the activation to apply to their mean.

    `ends` names, for an output, the activation that makes probabilities of its logits or scores. `density` is, for an
    input, the share of its numbers that are not 0 in a usual row.
    """

    member: keras.Model
    weights: Sequence[Sequence[Array]]  # each member's weights, as from `get_weights`
    ends: Mapping[str, str | None]
    density: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of the graph: shared by the members, (batch, ...), or stacked, (members, batch, ...)."""

    name: str
    stacked: bool


def write(stack: Stack, outputs: Mapping[str, OutputForm]) -> onnx.ModelProto:
    """Write the graph of an ensemble; `outputs` as in `serving_graph.write`. Raises NotWritten."""
    return _Writer(stack).write(outputs)


class _Writer:
    def __init__(self, stack: Stack) -> None:
        self._stack, self._members = stack, len(stack.weights)
        ordered = zip(stack.member.weights, *stack.weights, strict=True)
        self._values = {id(variable): np.stack(values) for variable, *values in ordered}
        self._tensors: dict[int, _Tensor] = {}
        self._graph = Graph()

    def write(self, outputs: Mapping[str, OutputForm]) -> onnx.ModelProto:
        member = self._stack.member
        self._graph = graph = new_graph(member, outputs)
        for name, tensor in inputs_of(member).items():
            self._tensors[id(tensor)] = _Tensor(name, stacked=False)
        for node in nodes_of(member):
            layer, tensors = node.operation, node.arguments.keras_tensors
            if len(node.output_tensors) != 1 or getattr(layer, "compute_dtype", "float32") != "float32":
                raise NotWritten(type(layer).__name__)
            output = self._layer(layer, [self._tensors[id(t)] for t in tensors], tensors)
            self._tensors[id(node.output_tensors[0])] = output
        results = {}
        for source, tensor in outputs_of(member).items():
            end = self._stack.ends.get(source)
            results[source] = serving_graph.activation(graph, end or "linear", self._mean(self._tensors[id(tensor)]))
        written = finish(graph, member, results, outputs)
        if any(node.op_type == "If" for node in graph.nodes):
            helper.set_model_props(written, {ONE_ROW_PROPERTY: "yes"})
        return written

    def _mean(self, tensor: _Tensor) -> str:
        if not tensor.stacked:
            return tensor.name
        return self._graph.add("ReduceMean", [tensor.name, self._graph.constant([0], np.int64)], keepdims=0)

    def _layer(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        x = inputs[0]
        if type(layer) in _UNCHANGED:
            return x
        writer = _WRITERS.get(type(layer))
        if writer is None:
            raise NotWritten(f"{type(layer).__name__} in an ensemble")
        return writer(self, layer, inputs, tensors)

    # --- layers ---------------------------------------------------------------------------------------------

    def dense(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,), graph, kernel = inputs, self._graph, self._values[id(layer.kernel)]
        if len(tensors[0].shape) != 2:
            raise NotWritten("Dense over several positions in an ensemble")
        bias = self._values[id(layer.bias)][:, None] if layer.use_bias else None
        if x.stacked:
            y = graph.add("MatMul", [x.name, graph.constant(kernel)])
            y = y if bias is None else graph.add("Add", [y, graph.constant(bias)])
            return self._activated(layer, _Tensor(y, stacked=True))
        units = kernel.shape[-1]
        side_by_side = kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1)
        offset = None if bias is None else graph.constant(bias.reshape(-1))
        y = self._product(x.name, side_by_side, offset)
        elementwise = getattr(layer.activation, "__name__", "") in _ELEMENTWISE
        y = serving_graph.activation(graph, layer.activation, y) if elementwise else y
        y = graph.add("Reshape", [y, graph.constant([-1, self._members, units], np.int64)])
        stacked = _Tensor(graph.add("Transpose", [y], perm=[1, 0, 2]), stacked=True)
        return stacked if elementwise else self._activated(layer, stacked)

    def _product(self, x: str, kernel: Array, bias: str | None) -> str:
        """Return the product of a shared tensor with the kernels of all members.

        One row or a few of a wide input that is mostly 0, such as words and categories, read the kernels' rows of the
        other numbers alone: all of them would not stay in a core's cache.
        """
        graph, inputs = self._graph, [x, self._graph.constant(kernel)] + ([] if bias is None else [bias])
        if len(kernel) < WIDE or self._stack.density.get(x, 1.0) > SPARSE:
            return graph.add("Gemm", inputs)
        zero, whole = graph.constant([0], np.int64), graph.constant([-1], np.int64)
        row, few, many, own = Graph(), Graph(), Graph(), f"t{len(graph.nodes)}"  # names are shared with the branches

        found = row.add("Cast", [x], f"{own}_found", to=onnx.TensorProto.BOOL)  # whether a number is not 0
        nonzero = row.add("Reshape", [found, whole], f"{own}_nonzero")
        values = row.add("Compress", [x, nonzero], f"{own}_values", axis=1)
        kernels = row.add("Compress", [inputs[1], nonzero], f"{own}_kernels", axis=0)
        of_row = row.add("Gemm", [values, kernels, *inputs[2:]], f"{own}_one")

        sizes = few.add("ReduceL1", [x, zero], f"{own}_sizes", keepdims=0)  # not 0 where any row has a number
        used = few.add("Reshape", [few.add("NonZero", [sizes], f"{own}_places"), whole], f"{own}_used")
        columns = few.add("Gather", [x, used], f"{own}_columns", axis=1)
        shared = few.add("Gather", [inputs[1], used], f"{own}_shared", axis=0)
        of_few = few.add("Gemm", [columns, shared, *inputs[2:]], f"{own}_few")

        of_many = many.add("Gemm", inputs, f"{own}_many")
        rows = graph.add("Shape", [x], start=0, end=1)
        several = Graph()
        is_few = several.add("LessOrEqual", [rows, graph.constant([FEW], np.int64)], f"{own}_is_few")
        either = {"then_branch": _branch(few, of_few), "else_branch": _branch(many, of_many)}
        of_several = several.add("If", [is_few], f"{own}_several", **either)
        is_one = graph.add("Equal", [rows, graph.constant([1], np.int64)])
        return graph.add("If", [is_one], then_branch=_branch(row, of_row), else_branch=_branch(several, of_several))

    def _activated(self, layer: Any, x: _Tensor) -> _Tensor:
        return _Tensor(serving_graph.activation(self._graph, layer.activation, x.name), x.stacked)

    def activation(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        return self._activated(layer, inputs[0])

    def single(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        """Write a layer without weights for shared tensors: it works along the last axis or by element."""
        return _Tensor(
            serving_graph.WRITERS[type(layer)](self._graph, layer, [inputs[0].name], tensors), inputs[0].stacked
        )

    def embedding(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,), graph = inputs, self._graph
        if layer.mask_zero or x.stacked:
            raise NotWritten("a masking Embedding")
        integers = x.name if tensors[0].dtype == "int32" else graph.add("Cast", [x.name], to=onnx.TensorProto.INT32)
        table = graph.constant(self._values[id(layer.embeddings)])
        return _Tensor(graph.add("Gather", [table, integers], axis=1), stacked=True)

    def flatten(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,) = inputs
        shape = layer.compute_output_shape(tensors[0].shape)[1:]
        if any(size is None for size in shape):
            raise NotWritten("a shape that is not known")
        target = [self._members, -1, *shape] if x.stacked else [-1, *shape]
        return _Tensor(self._graph.add("Reshape", [x.name, self._graph.constant(target, np.int64)]), x.stacked)

    def concatenate(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        rank = len(tensors[0].shape)
        if layer.axis not in (-1, rank - 1):
            raise NotWritten("Concatenate over another axis than the last in an ensemble")
        names = [one.name for one in self._alike(inputs, tensors)]
        return _Tensor(self._graph.add("Concat", names, axis=-1), any(one.stacked for one in inputs))

    def merge(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        names = [one.name for one in inputs]  # a shared one broadcasts over the members
        written = serving_graph.WRITERS[type(layer)](self._graph, layer, names, tensors)
        return _Tensor(written, any(one.stacked for one in inputs))

    def batch_normalization(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,), graph = inputs, self._graph
        if layer.axis not in (-1, len(tensors[0].shape) - 1):
            raise NotWritten("BatchNormalization over another axis than the last")
        mean, variance, gamma, beta = (
            None if variable is None else self._values[id(variable)][:, None].astype(np.float64)
            for variable in (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
        )
        assert mean is not None
        assert variance is not None
        scale = 1.0 / np.sqrt(variance + layer.epsilon)
        scale = scale if gamma is None else scale * gamma
        offset = (0.0 if beta is None else beta) - mean * scale
        scaled = graph.add("Mul", [x.name, graph.constant(scale)])
        return _Tensor(graph.add("Add", [scaled, graph.constant(offset)]), stacked=True)

    def _alike(self, inputs: list[_Tensor], tensors: list[Any]) -> list[_Tensor]:
        """Stack all inputs if any is stacked: repeat shared ones for every member."""
        if not any(one.stacked for one in inputs):
            return inputs
        graph, alike = self._graph, []
        for one, tensor in zip(inputs, tensors, strict=True):
            if not one.stacked:
                times = graph.constant([self._members, *[1] * len(tensor.shape)], np.int64)
                one = _Tensor(graph.add("Expand", [one.name, times]), stacked=True)
            alike.append(one)
        return alike


def _branch(part: Graph, output: str) -> onnx.GraphProto:
    """Return operators as a branch of an `If`, with one output."""
    return helper.make_graph(
        part.nodes, output, [], [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)]
    )


LayerWriter = Callable[[_Writer, Any, list[_Tensor], list[Any]], _Tensor]
_UNCHANGED = (L.Dropout, L.GaussianDropout, L.AlphaDropout, L.GaussianNoise, L.ActivityRegularization, L.Identity)
# Computed before the members part: they take each number by itself.
_ELEMENTWISE = ("linear", "relu", "tanh", "sigmoid", "elu", "selu", "silu", "gelu", "softplus", "leaky_relu")
_WRITERS: dict[type, LayerWriter] = {
    L.Dense: _Writer.dense,
    L.Activation: _Writer.activation,
    **dict.fromkeys((L.ReLU, L.LeakyReLU, L.ELU, L.Rescaling), _Writer.single),
    L.Embedding: _Writer.embedding,
    L.Flatten: _Writer.flatten,
    L.Concatenate: _Writer.concatenate,
    **dict.fromkeys((L.Add, L.Subtract, L.Multiply, L.Maximum, L.Minimum, L.Average), _Writer.merge),
    L.BatchNormalization: _Writer.batch_normalization,
}
