"""The serving graph of an ensemble: every layer once for all members, their weights along a leading axis.

    x       (batch, columns)                shared by the members
    first   (batch, members * units)        one product for all of them, then members first
    kernel  (members, inputs, units)        of further layers: one batched product
    output  (batch, units)                  the mean over members

With a few operators instead of a chain for each member, a single row of eight members takes about the time of four
networks. Layers unknown to this module raise `NotWritten`; the members are then written side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
BLOCKS = 16_384  # most numbers of a matrix of blocks, most of them 0, that one row is multiplied with


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
    """A tensor of the graph: shared by the members, (batch, ...), or stacked, (members, batch, ...).

    Of a single row, members may also be side by side, (1, members * units); `units` are then those of one.
    """

    name: str
    stacked: bool
    units: int | None = None


def write(stack: Stack, outputs: Mapping[str, OutputForm]) -> onnx.ModelProto:
    """Write the graph of an ensemble; `outputs` as in `serving_graph.write`. Raises NotWritten.

    Where the input is wide and mostly 0, a single row has operators of its own.
    """
    graph = new_graph(stack.member, outputs)
    several = _Writer(stack, graph.part("several_"))
    ends, properties = several.network(), {}
    if several.selects:
        row = _RowWriter(stack, graph.part("row_"))
        ends = _either(graph, next(iter(inputs_of(stack.member))), (row, row.network()), (several, ends))
        properties = {ONE_ROW_PROPERTY: "yes"}
    else:
        graph.nodes += several.graph.nodes
    written = finish(graph, stack.member, ends, outputs)
    helper.set_model_props(written, properties)
    return written


def _either(graph: Graph, input: str, *branches: tuple[_Writer, dict[str, str]]) -> dict[str, str]:
    """Add the branches for one row and for several. Returns the tensors of the network's outputs."""
    (row, of_row), (several, of_several) = branches
    rows = graph.add("Shape", [input], start=0, end=1)
    is_one = graph.add("Equal", [rows, graph.constant([1], np.int64)])
    ends = {source: graph.free(f"end{place}") for place, source in enumerate(of_row)}
    one, more = _branch(row.graph, *of_row.values()), _branch(several.graph, *of_several.values())
    graph.nodes.append(helper.make_node("If", [is_one], list(ends.values()), then_branch=one, else_branch=more))
    return ends


class _Writer:
    """Writes the operators for any number of rows into `graph`."""

    def __init__(self, stack: Stack, graph: Graph) -> None:
        self._stack, self._members = stack, len(stack.weights)
        ordered = zip(stack.member.weights, *stack.weights, strict=True)
        self._values = {id(variable): np.stack(values) for variable, *values in ordered}
        self._tensors: dict[int, _Tensor] = {}
        self.graph = graph
        self.selects = False  # whether a product reads only what is not 0

    def network(self) -> dict[str, str]:
        """Write the members and their mean. Returns the tensor of each output of the network. Raises NotWritten."""
        member = self._stack.member
        for name, tensor in inputs_of(member).items():
            self._tensors[id(tensor)] = _Tensor(name, stacked=False)
        for node in nodes_of(member):
            layer, tensors = node.operation, node.arguments.keras_tensors
            if len(node.output_tensors) != 1 or getattr(layer, "compute_dtype", "float32") != "float32":
                raise NotWritten(type(layer).__name__)
            output = self._layer(layer, [self._tensors[id(t)] for t in tensors], tensors)
            self._tensors[id(node.output_tensors[0])] = output
        return {
            source: serving_graph.activation(
                self.graph, self._stack.ends.get(source) or "linear", self._mean(self._tensors[id(tensor)])
            )
            for source, tensor in outputs_of(member).items()
        }

    def _mean(self, tensor: _Tensor) -> str:
        if not tensor.stacked:
            return tensor.name
        return self.graph.add("ReduceMean", [tensor.name, self.graph.constant([0], np.int64)], keepdims=0)

    def _layer(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        x = inputs[0]
        if type(layer) in _UNCHANGED:
            return x
        method = _WRITERS.get(type(layer))
        if method is None:
            raise NotWritten(f"{type(layer).__name__} in an ensemble")
        output: _Tensor = getattr(self, method)(layer, inputs, tensors)
        return output

    # --- layers ---------------------------------------------------------------------------------------------

    def dense(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,), graph, kernel = inputs, self.graph, self._values[id(layer.kernel)]
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
        elementwise = _is_elementwise(layer)
        y = serving_graph.activation(graph, layer.activation, y) if elementwise else y
        y = graph.add("Reshape", [y, graph.constant([-1, self._members, units], np.int64)])
        stacked = _Tensor(graph.add("Transpose", [y], perm=[1, 0, 2]), stacked=True)
        return stacked if elementwise else self._activated(layer, stacked)

    def _product(self, x: str, kernel: Array, bias: str | None) -> str:
        """Return the product of a shared tensor with the kernels of all members.

        A few rows of a wide input that is mostly 0, such as words and categories, read the kernels' rows of the other
        numbers alone: all of them would not stay in a core's cache.
        """
        graph, inputs = self.graph, [x, self.graph.constant(kernel)] + ([] if bias is None else [bias])
        if not self._is_sparse(x, kernel):
            return graph.add("Gemm", inputs)
        self.selects = True
        zero, whole = graph.constant([0], np.int64), graph.constant([-1], np.int64)
        own = graph.free_name()  # names are shared with the branches
        few, many = graph.part(f"{own}_few_"), graph.part(f"{own}_many_")
        sizes = few.add("ReduceL1", [x, zero], keepdims=0)  # not 0 where any row has a number
        used = few.add("Reshape", [few.add("NonZero", [sizes]), whole])
        columns, kernels = few.add("Gather", [x, used], axis=1), few.add("Gather", [inputs[1], used], axis=0)
        of_few = few.add("Gemm", [columns, kernels, *inputs[2:]])
        of_many = many.add("Gemm", inputs)
        rows = graph.add("Shape", [x], start=0, end=1)
        is_few = graph.add("LessOrEqual", [rows, graph.constant([FEW], np.int64)])
        return graph.add("If", [is_few], then_branch=_branch(few, of_few), else_branch=_branch(many, of_many))

    def _is_sparse(self, x: str, kernel: Array) -> bool:
        return len(kernel) >= WIDE and self._stack.density.get(x, 1.0) <= SPARSE

    def _activated(self, layer: Any, x: _Tensor) -> _Tensor:
        return _Tensor(serving_graph.activation(self.graph, layer.activation, x.name), x.stacked)

    def activation(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        return self._activated(layer, inputs[0])

    def single(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        """Write a layer without weights for shared tensors: it works along the last axis or by element."""
        return _Tensor(
            serving_graph.WRITERS[type(layer)](self.graph, layer, [inputs[0].name], tensors), inputs[0].stacked
        )

    def embedding(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,), graph = inputs, self.graph
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
        return _Tensor(self.graph.add("Reshape", [x.name, self.graph.constant(target, np.int64)]), x.stacked)

    def concatenate(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        rank = len(tensors[0].shape)
        if layer.axis not in (-1, rank - 1):
            raise NotWritten("Concatenate over another axis than the last in an ensemble")
        names = [one.name for one in self._alike(inputs, tensors)]
        return _Tensor(self.graph.add("Concat", names, axis=-1), any(one.stacked for one in inputs))

    def merge(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        names = [one.name for one in inputs]  # a shared one broadcasts over the members
        written = serving_graph.WRITERS[type(layer)](self.graph, layer, names, tensors)
        return _Tensor(written, any(one.stacked for one in inputs))

    def batch_normalization(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,), graph = inputs, self.graph
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
        graph, alike = self.graph, []
        for one, tensor in zip(inputs, tensors, strict=True):
            if not one.stacked:
                times = graph.constant([self._members, *[1] * len(tensor.shape)], np.int64)
                one = _Tensor(graph.add("Expand", [one.name, times]), stacked=True)
            alike.append(one)
        return alike


class _RowWriter(_Writer):
    """Writes the operators for exactly one row: the members' numbers lie side by side, (1, members * units)."""

    def _layer(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        if type(layer) not in (*_UNCHANGED, *_BY_ELEMENT, L.Activation, L.Dense):
            inputs = [self._one_by_one(x) for x in inputs]
        return super()._layer(layer, inputs, tensors)

    def dense(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        (x,), kernel = inputs, self._values[id(layer.kernel)]
        if (x.stacked and x.units is None) or len(tensors[0].shape) != 2:
            return super().dense(layer, inputs, tensors)
        bias = self._values[id(layer.bias)] if layer.use_bias else np.zeros((self._members, kernel.shape[-1]))
        if not x.stacked:
            side_by_side = kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1)
            y = self._product(x.name, side_by_side, self.graph.constant(bias.reshape(-1)))
        elif kernel.size * self._members <= BLOCKS:
            y = self.graph.add("Gemm", [x.name, *map(self.graph.constant, (_blocks(kernel), bias.reshape(-1)))])
        else:
            return self._grouped(layer, x, kernel, bias)
        return self._activated(layer, _Tensor(y, stacked=True, units=kernel.shape[-1]))

    def _grouped(self, layer: Any, x: _Tensor, kernel: Array, bias: Array) -> _Tensor:
        """Write a convolution of one position in groups: ONNX Runtime has no cheaper product of several matrices."""
        graph, (members, size, units) = self.graph, kernel.shape
        position = graph.add("Reshape", [x.name, graph.constant([1, members * size, 1], np.int64)])
        weights = kernel.transpose(0, 2, 1).reshape(-1, size, 1)
        y = graph.add("Conv", [position, *map(graph.constant, (weights, bias.reshape(-1)))], group=members)
        elementwise = _is_elementwise(layer)
        y = serving_graph.activation(graph, layer.activation, y) if elementwise else y  # next to it: they are fused
        flat = graph.add("Reshape", [y, graph.constant([1, members * units], np.int64)])
        tensor = _Tensor(flat, stacked=True, units=units)
        return tensor if elementwise else self._activated(layer, tensor)

    def _product(self, x: str, kernel: Array, bias: str | None) -> str:
        graph, inputs = self.graph, [x, self.graph.constant(kernel)] + ([] if bias is None else [bias])
        if not self._is_sparse(x, kernel):
            return graph.add("Gemm", inputs)
        found = graph.add("Cast", [x], to=onnx.TensorProto.BOOL)  # whether a number is not 0
        nonzero = graph.add("Reshape", [found, graph.constant([-1], np.int64)])
        values = graph.add("Compress", [x, nonzero], axis=1)
        kernels = graph.add("Compress", [inputs[1], nonzero], axis=0)
        return graph.add("Gemm", [values, kernels, *inputs[2:]])

    def _activated(self, layer: Any, x: _Tensor) -> _Tensor:
        x = x if _is_elementwise(layer) else self._one_by_one(x)
        return replace(super()._activated(layer, x), units=x.units)

    def single(self, layer: Any, inputs: list[_Tensor], tensors: list[Any]) -> _Tensor:
        return replace(super().single(layer, inputs, tensors), units=inputs[0].units)

    def _mean(self, tensor: _Tensor) -> str:
        if tensor.units == 1:
            return self.graph.add("MatMul", [tensor.name, self.graph.constant([[1 / self._members]] * self._members)])
        return super()._mean(self._one_by_one(tensor))

    def _one_by_one(self, x: _Tensor) -> _Tensor:
        """Return a tensor with members side by side as a stacked one, and any other as it is."""
        if x.units is None:
            return x
        shape = self.graph.constant([self._members, 1, x.units], np.int64)
        return _Tensor(self.graph.add("Reshape", [x.name, shape]), stacked=True)


def _blocks(kernel: Array) -> Array:
    """Return the members' kernels as one matrix, each as a block of its diagonal."""
    members, size, units = kernel.shape
    blocks = np.zeros((members, size, members, units), kernel.dtype)
    blocks[range(members), :, range(members)] = kernel
    return blocks.reshape(members * size, members * units)


def _is_elementwise(layer: Any) -> bool:
    return getattr(layer.activation, "__name__", "") in _ELEMENTWISE


def _branch(part: Graph, *outputs: str) -> onnx.GraphProto:
    """Return operators as a branch of an `If`."""
    infos = [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None) for output in outputs]
    return helper.make_graph(part.nodes, outputs[0], [], infos)


_BY_ELEMENT = (L.ReLU, L.LeakyReLU, L.ELU, L.Rescaling)
_UNCHANGED = (L.Dropout, L.GaussianDropout, L.AlphaDropout, L.GaussianNoise, L.ActivityRegularization, L.Identity)
# Computed before the members part: they take each number by itself.
_ELEMENTWISE = ("linear", "relu", "tanh", "sigmoid", "elu", "selu", "silu", "gelu", "softplus", "leaky_relu")
_WRITERS: dict[type, str] = {  # the method of a writer that writes a layer
    L.Dense: "dense",
    L.Activation: "activation",
    **dict.fromkeys(_BY_ELEMENT, "single"),
    L.Embedding: "embedding",
    L.Flatten: "flatten",
    L.Concatenate: "concatenate",
    **dict.fromkeys((L.Add, L.Subtract, L.Multiply, L.Maximum, L.Minimum, L.Average), "merge"),
    L.BatchNormalization: "batch_normalization",
}
