"""Layers as operators, but for those that slide a window and those that have a state."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from workers.trainer.export.serving_graph.activations import activation
from workers.trainer.export.serving_graph.graph import Graph, NotWritten, Writer


def same(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return inputs[0]


def dense(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    kernel = graph.constant(layer.kernel.numpy())
    if layer.use_bias and len(tensors[0].shape) == 2:
        x = graph.add("Gemm", [inputs[0], kernel, graph.constant(layer.bias.numpy())])
    else:
        x = graph.add("MatMul", [inputs[0], kernel])
        x = graph.add("Add", [x, graph.constant(layer.bias.numpy())]) if layer.use_bias else x
    return activation(graph, layer.activation, x)


def activation_layer(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return activation(graph, layer.activation, inputs[0])


def relu(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if layer.threshold or (layer.negative_slope and layer.max_value is not None):
        raise NotWritten("ReLU with a threshold")
    if layer.negative_slope:
        return graph.add("LeakyRelu", inputs, alpha=float(layer.negative_slope))
    x = graph.add("Relu", inputs)
    return x if layer.max_value is None else graph.add("Min", [x, graph.constant(layer.max_value)])


def leaky(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("LeakyRelu", inputs, alpha=float(layer.negative_slope))


def elu(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Elu", inputs, alpha=float(layer.alpha))


def prelu(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("PRelu", [inputs[0], graph.constant(layer.alpha.numpy())])


def softmax(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if not isinstance(layer.axis, int) or len(inputs) > 1:
        raise NotWritten("Softmax over several axes")
    return graph.add("Softmax", inputs, axis=layer.axis)


def embedding(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if layer.mask_zero:
        raise NotWritten("a masking Embedding")
    integers = inputs[0] if tensors[0].dtype == "int32" else graph.add("Cast", inputs, to=onnx.TensorProto.INT32)
    return graph.add("Gather", [graph.constant(layer.embeddings.numpy()), integers], axis=0)


def batch_normalization(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    if layer.axis not in (-1, len(tensors[0].shape) - 1):
        raise NotWritten("BatchNormalization over another axis than the last")
    scale = 1.0 / np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
    scale = scale * layer.gamma.numpy() if layer.scale else scale
    offset = (layer.beta.numpy() if layer.center else 0.0) - layer.moving_mean.numpy() * scale
    return graph.add("Add", [graph.add("Mul", [inputs[0], graph.constant(scale)]), graph.constant(offset)])


def layer_normalization(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    rank, axis = len(tensors[0].shape), layer.axis
    axes = [a % rank for a in (axis if isinstance(axis, (list, tuple)) else [axis])]
    if axes != [rank - 1]:
        raise NotWritten("LayerNormalization over another axis than the last")
    size = tensors[0].shape[-1]
    scale = layer.gamma.numpy() if layer.scale else np.ones(size)
    offset = layer.beta.numpy() if layer.center else np.zeros(size)
    parts = [inputs[0], graph.constant(scale), graph.constant(offset)]
    return graph.add("LayerNormalization", parts, axis=-1, epsilon=float(layer.epsilon))


def reshape(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    shape = layer.compute_output_shape(tensors[0].shape)[1:]
    if any(size is None for size in shape):
        raise NotWritten("a shape that is not known")
    return graph.add("Reshape", [inputs[0], graph.constant([-1, *shape], np.int64)])


def permute(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Transpose", inputs, perm=[0, *layer.dims])


def repeat(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    x = graph.add("Unsqueeze", [inputs[0], graph.constant([1], np.int64)])
    return graph.add("Expand", [x, graph.constant([1, layer.n, 1], np.int64)])


def rescaling(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Add", [graph.add("Mul", [inputs[0], graph.constant(layer.scale)]), graph.constant(layer.offset)])


def concatenate(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Concat", inputs, axis=layer.axis)


def merge(operator: str) -> Writer:
    def write_layer(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
        x = inputs[0]
        for other in inputs[1:]:
            x = graph.add(operator, [x, other])
        return x

    return write_layer


def average(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    return graph.add("Mul", [merge("Add")(graph, layer, inputs, tensors), graph.constant(1 / len(inputs))])
