"""The serving graph, `model.onnx`, written straight from the layers.

Keras's own exporter traces TensorFlow and converts the trace, which takes seconds; writing takes milliseconds. Layers
unknown to this module raise `NotWritten`, and Keras's exporter is used. Either way the parity gate compares the graph
with Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper

from workers.trainer.engine.network import functional_of, inputs_of, nodes_of, outputs_of
from workers.trainer.engine.tabular_layers import BatchEnsemble, Periodic
from workers.trainer.export.onnx_graph import Graph, NotWritten, OutputForm, finish, new_graph

L = keras.layers
Writer = Callable[[Graph, Any, list[str], list[Any]], str]
"""Adds a layer to the graph, given the names of its inputs and, for their shapes, their Keras tensors. Returns the
name of its output. Raises NotWritten."""
WRITERS: dict[type, Writer] = {}


def writes(*classes: type) -> Callable[[Writer], Writer]:
    """Register the writer of these layers."""

    def register(writer: Writer) -> Writer:
        WRITERS.update(dict.fromkeys(classes, writer))
        return writer

    return register


def write(model: keras.Model, outputs: Mapping[str, OutputForm]) -> onnx.ModelProto:
    """Write the graph of a Functional `model`; its first axis is the batch, of any size.

    `outputs` describes each output of the graph. Raises NotWritten.
    """
    functional = functional_of(model)
    if not hasattr(functional, "_nodes_by_depth"):
        raise NotWritten(type(model).__name__)
    graph = new_graph(model, outputs)
    names: dict[int, str] = {id(tensor): name for name, tensor in inputs_of(model).items()}
    for node in nodes_of(model):
        _write_node(graph, node, names)
    return finish(graph, model, {name: names[id(tensor)] for name, tensor in outputs_of(model).items()}, outputs)


def _write_node(graph: Graph, node: Any, names: dict[int, str]) -> None:
    layer = node.operation
    write_layer = WRITERS.get(type(layer))
    if write_layer is None or len(node.output_tensors) != 1:
        raise NotWritten(type(layer).__name__)
    if getattr(layer, "compute_dtype", "float32") != "float32":
        raise NotWritten(f"{type(layer).__name__} in {layer.compute_dtype}")
    tensors = node.arguments.keras_tensors
    names[id(node.output_tensors[0])] = write_layer(graph, layer, [names[id(t)] for t in tensors], tensors)


# --- activations ---------------------------------------------------------------------------------------


def activation(graph: Graph, function: Any, x: str) -> str:
    """Add an activation, given as a function of `keras.activations` or by name. Raises NotWritten."""
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    if name in ("linear", "identity"):
        return x
    if name in _ACTIVATIONS:
        operator, attributes = _ACTIVATIONS[name]
        return graph.add(operator, [x], **attributes)
    if name == "silu":
        return graph.add("Mul", [x, graph.add("Sigmoid", [x])])
    if name == "gelu":  # approximate=False, the default of keras.activations
        return _gelu(graph, x)
    if name in ("relu6", "hard_tanh"):
        low, high = (0.0, 6.0) if name == "relu6" else (-1.0, 1.0)
        return graph.add("Clip", [x, graph.constant(low), graph.constant(high)])
    if name == "log_softmax":
        return graph.add("LogSoftmax", [x], axis=-1)
    if name == "hard_silu":
        return graph.add("Mul", [x, graph.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])
    if name == "tanh_shrink":
        return graph.add("Sub", [x, graph.add("Tanh", [x])])
    if name == "log_sigmoid":
        return graph.add("Neg", [graph.add("Softplus", [graph.add("Neg", [x])])])
    raise NotWritten(f"the activation {name}")


# Slopes and constants are the defaults of `keras.activations`.
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "elu": ("Elu", {"alpha": 1.0}),
    "celu": ("Celu", {"alpha": 1.0}),
    "selu": ("Selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "exponential": ("Exp", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "mish": ("Mish", {}),
    "hard_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.0}),
    "soft_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.5}),
}


def _gelu(graph: Graph, x: str) -> str:
    erf = graph.add("Erf", [graph.add("Mul", [x, graph.constant(np.sqrt(0.5))])])
    return graph.add("Mul", [graph.add("Mul", [x, graph.constant(0.5)]), graph.add("Add", [erf, graph.constant(1.0)])])


# --- layers without a window or a state ----------------------------------------------------------------


@writes(
    *(L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D, L.GaussianDropout, L.AlphaDropout, L.GaussianNoise),
    *(L.ActivityRegularization, L.Identity),
)
def _identity(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return inputs[0]


@writes(L.Dense)
def _dense(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    kernel = graph.constant(layer.kernel.numpy())
    if layer.use_bias and len(tensors[0].shape) == 2:
        x = graph.add("Gemm", [inputs[0], kernel, graph.constant(layer.bias.numpy())])
    else:
        x = graph.add("MatMul", [inputs[0], kernel])
        x = graph.add("Add", [x, graph.constant(layer.bias.numpy())]) if layer.use_bias else x
    return activation(graph, layer.activation, x)


@writes(L.Activation)
def _activation_layer(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return activation(graph, layer.activation, inputs[0])


@writes(L.ReLU)
def _relu(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if layer.threshold or (layer.negative_slope and layer.max_value is not None):
        raise NotWritten("ReLU with a threshold")
    if layer.negative_slope:
        return graph.add("LeakyRelu", inputs, alpha=float(layer.negative_slope))
    x = graph.add("Relu", inputs)
    return x if layer.max_value is None else graph.add("Min", [x, graph.constant(layer.max_value)])


@writes(L.LeakyReLU)
def _leaky(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("LeakyRelu", inputs, alpha=float(layer.negative_slope))


@writes(L.ELU)
def _elu(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Elu", inputs, alpha=float(layer.alpha))


@writes(L.PReLU)
def _prelu(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("PRelu", [inputs[0], graph.constant(layer.alpha.numpy())])


@writes(L.Softmax)
def _softmax(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if not isinstance(layer.axis, int) or len(inputs) > 1:
        raise NotWritten("Softmax over several axes")
    return graph.add("Softmax", inputs, axis=layer.axis)


@writes(L.Embedding)
def _embedding(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if layer.mask_zero:
        raise NotWritten("a masking Embedding")
    integers = inputs[0] if tensors[0].dtype == "int32" else graph.add("Cast", inputs, to=onnx.TensorProto.INT32)
    return graph.add("Gather", [graph.constant(layer.embeddings.numpy()), integers], axis=0)


@writes(L.BatchNormalization)
def _batch_normalization(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if layer.axis not in (-1, len(tensors[0].shape) - 1):
        raise NotWritten("BatchNormalization over another axis than the last")
    scale = 1.0 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    scale = scale * layer.gamma.numpy() if layer.scale else scale
    offset = (layer.beta.numpy() if layer.center else 0.0) - layer.moving_mean.numpy() * scale
    return graph.add("Add", [graph.add("Mul", [inputs[0], graph.constant(scale)]), graph.constant(offset)])


@writes(L.LayerNormalization)
def _layer_normalization(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    rank, axis = len(tensors[0].shape), layer.axis
    axes = [a % rank for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
    if axes != [rank - 1]:
        raise NotWritten("LayerNormalization over another axis than the last")
    size = tensors[0].shape[-1]
    scale = layer.gamma.numpy() if layer.scale else np.ones(size)
    offset = layer.beta.numpy() if layer.center else np.zeros(size)
    parts = [inputs[0], graph.constant(scale), graph.constant(offset)]
    return graph.add("LayerNormalization", parts, axis=-1, epsilon=float(layer.epsilon))


@writes(BatchEnsemble)
def _batch_ensemble(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    x = inputs[0]
    if len(tensors[0].shape) == 2:
        x = graph.add("Unsqueeze", [x, graph.constant([1], np.int64)])
    for operator, weight in (("Mul", layer.input_scale), ("MatMul", layer.kernel), ("Mul", layer.output_scale)):
        x = graph.add(operator, [x, graph.constant(weight.numpy())])
    x = graph.add("Add", [x, graph.constant(layer.bias.numpy())]) if layer.use_bias else x
    return activation(graph, layer.activation, x)


@writes(Periodic)
def _periodic(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    x = graph.add("Unsqueeze", [inputs[0], graph.constant([2], np.int64)])
    angles = graph.add("Mul", [x, graph.constant(2 * np.pi * layer.frequencies.numpy())])
    if layer.phases is None:
        waves = graph.add("Concat", [graph.add("Sin", [angles]), graph.add("Cos", [angles])], axis=2)
    else:
        waves = graph.add("Cos", [graph.add("Add", [angles, graph.constant(layer.phases.numpy())])])
    # Every column has its own matrix, so columns come first in the product.
    product = graph.add(
        "MatMul", [graph.add("Transpose", [waves], perm=[1, 0, 2]), graph.constant(layer.kernel.numpy())]
    )
    units = graph.add("Add", [graph.add("Transpose", [product], perm=[1, 0, 2]), graph.constant(layer.bias.numpy())])
    units = graph.add("Relu", [units]) if layer.phases is None else graph.add("Concat", [x, units], axis=2)
    return graph.add("Reshape", [units, graph.constant([-1, tensors[0].shape[-1] * layer.units], np.int64)])


@writes(L.Flatten, L.Reshape)
def _reshape(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    shape = layer.compute_output_shape(tensors[0].shape)[1:]
    if any(size is None for size in shape):
        raise NotWritten("a shape that is not known")
    return graph.add("Reshape", [inputs[0], graph.constant([-1, *shape], np.int64)])


@writes(L.Permute)
def _permute(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Transpose", inputs, perm=[0, *layer.dims])


@writes(L.RepeatVector)
def _repeat(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    x = graph.add("Unsqueeze", [inputs[0], graph.constant([1], np.int64)])
    return graph.add("Expand", [x, graph.constant([1, layer.n, 1], np.int64)])


@writes(L.Rescaling)
def _rescaling(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Add", [graph.add("Mul", [inputs[0], graph.constant(layer.scale)]), graph.constant(layer.offset)])


@writes(L.Concatenate)
def _concatenate(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Concat", inputs, axis=layer.axis)


_MERGES = {L.Add: "Add", L.Subtract: "Sub", L.Multiply: "Mul", L.Maximum: "Max", L.Minimum: "Min", L.Average: "Add"}


@writes(*_MERGES)
def _merge(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    x = inputs[0]
    for other in inputs[1:]:
        x = graph.add(_MERGES[type(layer)], [x, other])
    return graph.add("Mul", [x, graph.constant(1 / len(inputs))]) if type(layer) is L.Average else x


# --- convolution and pooling: Keras has the channels last, ONNX first ----------------------------------


@writes(L.Conv1D, L.Conv2D)
def _convolution(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    kernel = layer.kernel.numpy()
    rank = kernel.ndim - 2
    weights = graph.constant(kernel.transpose(rank + 1, rank, *range(rank)))
    parts = [_channels_first(graph, inputs[0], rank), weights]
    if layer.use_bias:
        parts.append(graph.constant(layer.bias.numpy()))
    x = graph.add(
        "Conv",
        parts,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        group=layer.groups,
        pads=_pads(layer, tensors[0].shape[1:-1], layer.kernel_size, layer.dilation_rate),
    )
    return activation(graph, layer.activation, _channels_last(graph, x, rank))


@writes(L.MaxPooling1D, L.MaxPooling2D, L.AveragePooling1D, L.AveragePooling2D)
def _pooling(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    operator = "MaxPool" if isinstance(layer, (L.MaxPooling1D, L.MaxPooling2D)) else "AveragePool"
    rank = len(layer.pool_size)
    x = graph.add(
        operator,
        [_channels_first(graph, inputs[0], rank)],
        kernel_shape=list(layer.pool_size),
        strides=list(layer.strides),
        pads=_pads(layer, tensors[0].shape[1:-1], layer.pool_size, (1,) * rank),
    )
    return _channels_last(graph, x, rank)


@writes(L.GlobalMaxPooling1D, L.GlobalMaxPooling2D, L.GlobalAveragePooling1D, L.GlobalAveragePooling2D)
def _global_pooling(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    operator = "ReduceMax" if isinstance(layer, (L.GlobalMaxPooling1D, L.GlobalMaxPooling2D)) else "ReduceMean"
    axes = graph.constant(list(range(1, len(tensors[0].shape) - 1)), np.int64)
    return graph.add(operator, [inputs[0], axes], keepdims=int(layer.keepdims))


def _pads(layer: Any, sizes: Sequence[int | None], window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Return padding as in TensorFlow: `same` puts an odd element at the end, `causal` puts all at the beginning."""
    if layer.data_format != "channels_last":
        raise NotWritten("channels first")
    if layer.padding == "valid":
        return [0] * (2 * len(window))
    before, after = [], []
    for size, width, stride, spread in zip(sizes, window, layer.strides, dilation, strict=True):
        if size is None:
            raise NotWritten("a size that is not known")
        reach = (width - 1) * spread + 1
        total = max(0, (-(-size // stride) - 1) * stride + reach - size) if layer.padding == "same" else reach - 1
        before.append(total // 2 if layer.padding == "same" else total)
        after.append(total - before[-1])
    return before + after


def _channels_first(graph: Graph, x: str, rank: int) -> str:
    return graph.add("Transpose", [x], perm=[0, rank + 1, *range(1, rank + 1)])


def _channels_last(graph: Graph, x: str, rank: int) -> str:
    return graph.add("Transpose", [x], perm=[0, *range(2, rank + 2), 1])


# --- recurrent layers: ONNX has the time axis first, and gates in its own order ------------------------


@writes(L.LSTM)
def _lstm(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    """Write an LSTM. Keras orders the gates i, f, c, o; ONNX i, o, f, c, with the time axis first."""
    if (layer.activation.__name__, layer.recurrent_activation.__name__) != ("tanh", "sigmoid") or layer.go_backwards:
        raise NotWritten("an LSTM with other activations, or backwards")

    def gates(weights: Any) -> Any:
        i, f, c, o = np.split(weights, 4, axis=-1)
        return np.concatenate([i, o, f, c], axis=-1)

    cell, units = layer.cell, layer.units
    bias = gates(cell.bias.numpy()) if layer.use_bias else np.zeros(4 * units)
    parts = [
        graph.add("Transpose", inputs, perm=[1, 0, 2]),
        graph.constant(gates(cell.kernel.numpy()).T[None]),
        graph.constant(gates(cell.recurrent_kernel.numpy()).T[None]),
        graph.constant(np.concatenate([bias, np.zeros(4 * units)])[None]),
    ]
    return _recurrent_node(graph, layer, "LSTM", parts, {})


@writes(L.GRU)
def _gru(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    """Write a GRU. Both order the gates z, r, h; `reset_after` is ONNX's `linear_before_reset`."""
    if (layer.activation.__name__, layer.recurrent_activation.__name__) != ("tanh", "sigmoid") or layer.go_backwards:
        raise NotWritten("a GRU with other activations, or backwards")
    cell, units = layer.cell, layer.units
    bias = np.zeros((2, 3 * units))
    if layer.use_bias:
        bias[: 2 if layer.reset_after else 1] = cell.bias.numpy()
    parts = [
        graph.add("Transpose", inputs, perm=[1, 0, 2]),
        graph.constant(cell.kernel.numpy().T[None]),
        graph.constant(cell.recurrent_kernel.numpy().T[None]),
        graph.constant(bias.reshape(1, -1)),
    ]
    return _recurrent_node(graph, layer, "GRU", parts, {"linear_before_reset": int(layer.reset_after)})


def _recurrent_node(graph: Graph, layer: Any, operator: str, parts: list[str], attributes: dict[str, Any]) -> str:
    """ONNX returns every step `(time, 1, batch, units)` and the last `(1, batch, units)`; Keras has the batch first."""
    steps, last = f"t{len(graph.nodes)}_steps", f"t{len(graph.nodes)}_last"
    graph.nodes.append(helper.make_node(operator, parts, [steps, last], hidden_size=layer.units, **attributes))
    if not layer.return_sequences:
        return graph.add("Squeeze", [last, graph.constant([0], np.int64)])
    return graph.add("Transpose", [graph.add("Squeeze", [steps, graph.constant([1], np.int64)])], perm=[1, 0, 2])
