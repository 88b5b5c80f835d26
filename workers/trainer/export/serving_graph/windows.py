"""Convolution and pooling: Keras has the channels last, ONNX first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workers.trainer.export.serving_graph.activations import activation
from workers.trainer.export.serving_graph.graph import Graph, NotWritten, Writer


def convolution(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
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


def pooling(operator: str) -> Writer:
    def write_layer(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
        rank = len(layer.pool_size)
        pads = _pads(layer, tensors[0].shape[1:-1], layer.pool_size, (1,) * rank)
        attributes: dict[str, Any] = {
            "kernel_shape": list(layer.pool_size),
            "strides": list(layer.strides),
            "pads": pads,
        }
        return _channels_last(graph, graph.add(operator, [_channels_first(graph, inputs[0], rank)], **attributes), rank)

    return write_layer


def global_pooling(operator: str) -> Writer:
    def write_layer(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
        axes = graph.constant(list(range(1, len(tensors[0].shape) - 1)), np.int64)
        return graph.add(operator, [inputs[0], axes], keepdims=int(layer.keepdims))

    return write_layer


def _pads(layer: Any, sizes: Sequence[int | None], window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """TensorFlow's padding: `same` puts the odd one at the end, `causal` all at the beginning."""
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
