"""LSTM and GRU: ONNX has time first, and gates in an order of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from workers.trainer.export.serving_graph.graph import Graph, NotWritten


def lstm(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    """Keras's gates are i, f, c, o; ONNX's are i, o, f, c."""
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
    return _recurrent(graph, layer, "LSTM", parts, {})


def gru(graph: Graph, layer: Any, inputs: list[str], tensors: list[Any]) -> str:
    """Keras's gates are z, r, h, as ONNX's; `reset_after` is ONNX's `linear_before_reset`."""
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
    return _recurrent(graph, layer, "GRU", parts, {"linear_before_reset": int(layer.reset_after)})


def _recurrent(graph: Graph, layer: Any, operator: str, parts: list[str], attributes: dict[str, Any]) -> str:
    """Every step `(time, 1, batch, units)` and the last state `(1, batch, units)`; Keras has the batch first."""
    steps, last = f"t{len(graph.nodes)}_steps", f"t{len(graph.nodes)}_last"
    graph.nodes.append(helper.make_node(operator, parts, [steps, last], hidden_size=layer.units, **attributes))
    if not layer.return_sequences:
        return graph.add("Squeeze", [last, graph.constant([0], np.int64)])
    return graph.add("Transpose", [graph.add("Squeeze", [steps, graph.constant([1], np.int64)])], perm=[1, 0, 2])
