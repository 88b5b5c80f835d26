"""Calibration inside the exported model, written twice: as Keras operations and as ONNX operators.

Both start from log odds or logits that the network itself computes: for a probability near 1, float32 has lost the
digits that its calibration would magnify. So the sigmoid or softmax at the end of the network, or under the mean of an
ensemble's members, is replaced by its input. If there is none, the probabilities themselves are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from onnx import numpy_helper

from workers.trainer.calibration.calibrator import LARGEST, SMALLEST, Calibrator
from workers.trainer.engine.network import inputs_of, outputs_of
from workers.trainer.export.onnx_graph import Graph

L = keras.layers
_PASSED_ON = ("Identity", "Reshape", "Transpose", "ReduceMean", "Mul", "Add")  # linear in the members' probabilities

# --- Keras -----------------------------------------------------------------------------------------------


def calibrated_network(network: keras.Model, calibrators: Mapping[str, Calibrator]) -> keras.Model:
    """Return the network with calibrated outputs; `calibrators` by output. Other weights are shared."""
    if not calibrators:
        return network
    outputs = dict(outputs_of(network))
    for name, calibrator in calibrators.items():
        outputs[name] = _calibrated(outputs[name], calibrator)
    return keras.Model(inputs_of(network), outputs)


def _calibrated(output: Any, calibrator: Calibrator) -> Any:
    if calibrator.method == "temperature":
        inverse = np.divide(1.0, calibrator.temperatures, dtype=np.float32)
        if calibrator.independent:
            return ops.sigmoid(ops.multiply(_log_odds(output), inverse))
        return ops.softmax(ops.multiply(_logits(output), inverse), axis=-1)
    scores = _log_odds(output) if calibrator.independent else _against_rest(output)
    mapped = [
        _interpolated(scores[:, index : index + 1], *knots_of(calibrator, index))
        for index in range(len(calibrator.knots))
    ]
    joined = L.Concatenate(axis=-1, dtype="float32")(mapped) if len(mapped) > 1 else mapped[0]
    return joined if calibrator.independent else ops.divide(joined, ops.sum(joined, axis=-1, keepdims=True))


def _interpolated(scores: Any, starts: Any, widths: Any, rises: Any, first: float) -> Any:
    shares = ops.clip(ops.divide(ops.subtract(scores, starts), widths), 0.0, 1.0)
    return ops.add(ops.sum(ops.multiply(shares, rises), axis=-1, keepdims=True), first)


def _before(tensor: Any, function: str) -> Any | None:
    """Return the input of `function` (sigmoid or softmax) if the tensor's layer ends with it; None otherwise."""
    layer, node = tensor._keras_history.operation, tensor._keras_history
    source = layer._inbound_nodes[node.node_index].arguments.keras_tensors
    if getattr(getattr(layer, "activation", None), "__name__", None) != function or len(source) != 1:
        is_softmax = function == "softmax" and isinstance(layer, L.Softmax) and layer.axis == -1 and len(source) == 1
        return source[0] if is_softmax else None
    if isinstance(layer, L.Activation):
        return source[0]
    if type(layer) is not L.Dense:
        return None
    linear = L.Dense(layer.units, use_bias=layer.use_bias, dtype="float32", name=f"{layer.name}_linear")
    linear.build(source[0].shape)
    linear.set_weights(layer.get_weights())
    return linear(source[0])


def _members(tensor: Any) -> list[Any]:
    """Return the tensors that a tensor is the mean of."""
    layer = tensor._keras_history.operation
    if isinstance(layer, L.Average):
        return list(layer._inbound_nodes[tensor._keras_history.node_index].arguments.keras_tensors)
    return [tensor]


def _log_odds(output: Any) -> Any:
    ends = [_before(one, "sigmoid") for one in _members(output)]
    if any(end is None for end in ends):
        p = ops.clip(output, SMALLEST, LARGEST)
        return ops.subtract(ops.log(p), ops.log(ops.subtract(1.0, p)))
    if len(ends) == 1:
        return ends[0]
    odds = [_mean([ops.reciprocal(ops.add(1.0, ops.exp(x))) for x in xs]) for xs in (map(ops.negative, ends), ends)]
    return ops.log(ops.divide(*(ops.maximum(one, SMALLEST) for one in odds)))


def _mean(tensors: list[Any]) -> Any:
    return L.Average(dtype="float32")(tensors)


def _logits(output: Any) -> Any:
    before = _before(output, "softmax")
    return ops.log(ops.maximum(output, SMALLEST)) if before is None else before


def _against_rest(output: Any) -> Any:
    p = ops.maximum(output, SMALLEST)
    others = 1.0 - np.eye(output.shape[-1], dtype=np.float32)
    return ops.subtract(ops.log(p), ops.log(ops.matmul(p, others)))


def knots_of(calibrator: Calibrator, unit: int) -> tuple[Any, Any, Any, float]:
    """Return the pieces of one unit's map (each one's start, width and rise), and the value before the first."""
    x, y = (
        np.asarray(of, np.float64) for of in (calibrator.knots[unit].log_odds, calibrator.knots[unit].probabilities)
    )
    if len(x) == 1:
        x, y = np.append(x, x + 1.0), np.append(y, y)
    starts, widths, rises = (one.astype(np.float32) for one in (x[:-1], np.diff(x), np.diff(y)))
    return starts, widths, rises, float(y[0])


# --- ONNX ------------------------------------------------------------------------------------------------


def write_calibration(graph: Graph, source: str, units: int, *, calibrator: Calibrator) -> str:
    """Add a calibration of the tensor `source` to a graph. Returns the output's name."""
    writer = _GraphWriter(graph)
    if calibrator.method == "temperature":
        inverse = graph.constant(np.divide(1.0, calibrator.temperatures))
        if calibrator.independent:
            return graph.add("Sigmoid", [graph.add("Mul", [writer.log_odds(source), inverse])])
        return graph.add("Softmax", [graph.add("Mul", [writer.logits(source), inverse])], axis=-1)
    scores = writer.log_odds(source) if calibrator.independent else writer.against_rest(source, units)
    mapped = [writer.interpolated(scores, index, units, calibrator) for index in range(units)]
    joined = graph.add("Concat", mapped, axis=-1) if units > 1 else mapped[0]
    if calibrator.independent:
        return joined
    return graph.add("Div", [joined, graph.add("ReduceSum", [joined, graph.constant([-1], np.int64)], keepdims=1)])


class _GraphWriter:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = {output: node for node in graph.nodes for output in node.output}

    def _constant(self, value: Any) -> str:
        return self._graph.constant(value)

    def log_odds(self, source: str) -> str:
        node = self._nodes.get(source)
        if node is not None and node.op_type == "Sigmoid":
            return str(node.input[0])
        add = self._graph.add
        if abs((self._share(source) or 0.0) - 1.0) > 1e-6:
            p = add("Clip", [source, self._constant(SMALLEST), self._constant(LARGEST)])
            return add("Log", [add("Div", [p, add("Sub", [self._constant(1.0), p])])])
        odds = [self._mean_again(source, negative) for negative in (True, False)]
        smallest = self._constant(SMALLEST)
        return add("Log", [add("Div", [add("Max", [one, smallest]) for one in odds])])

    def _share(self, source: str) -> float | None:
        """Return the sum of the weights in a weighted sum of sigmoids; None for anything else."""
        node = self._nodes.get(source)
        if node is None:
            return None
        if node.op_type == "Sigmoid":
            return 1.0
        if node.op_type not in _PASSED_ON:
            return None
        shares = [self._share(name) for name in self._summed(node)]
        total = None if None in shares else sum(share for share in shares if share is not None)
        if node.op_type == "Mul" and total is not None:
            factor = next((c for c in self._graph.constants if c.name == node.input[1]), None)
            value = np.zeros(0) if factor is None else numpy_helper.to_array(factor)
            total = total * float(value.item()) if value.size == 1 else None
        return total

    def _summed(self, node: Any) -> list[str]:
        """Return the inputs that a mean is taken over, without constants."""
        return list(node.input) if node.op_type == "Add" else [node.input[0]]

    def _mean_again(self, source: str, negative: bool) -> str:
        """Return the mean with 1 / (1 + exp(x)) in place of sigmoids, where x is their input or its negative."""
        node, add = self._nodes[source], self._graph.add
        if node.op_type == "Sigmoid":
            x = add("Neg", [node.input[0]]) if negative else node.input[0]
            return add("Reciprocal", [add("Add", [add("Exp", [x]), self._constant(1.0)])])
        again = {name: self._mean_again(name, negative) for name in self._summed(node)}
        name = self._graph.free_name()
        copied = type(node)()
        copied.CopyFrom(node)
        copied.output[0] = name
        for index, own in enumerate(node.input):
            copied.input[index] = again.get(own, own)
        self._graph.nodes.append(copied)
        return name

    def logits(self, source: str) -> str:
        node = self._nodes.get(source)
        if node is not None and node.op_type == "Softmax" and _is_last_axis(node):
            return str(node.input[0])
        return self._graph.add("Log", [self._graph.add("Max", [source, self._constant(SMALLEST)])])

    def against_rest(self, source: str, units: int) -> str:
        add = self._graph.add
        p = add("Max", [source, self._constant(SMALLEST)])
        rest = add("MatMul", [p, self._constant(1.0 - np.eye(units))])
        return add("Sub", [add("Log", [p]), add("Log", [rest])])

    def interpolated(self, scores: str, unit: int, units: int, calibrator: Calibrator) -> str:
        graph, add = self._graph, self._graph.add
        starts, widths, rises, first = knots_of(calibrator, unit)
        own = add("Gather", [scores, graph.constant([unit], np.int64)], axis=1) if units > 1 else scores
        shares = add("Div", [add("Sub", [own, graph.constant(starts)]), graph.constant(widths)])
        shares = add("Clip", [shares, graph.constant(0.0), graph.constant(1.0)])
        risen = add("Mul", [shares, graph.constant(rises)])
        total = add("ReduceSum", [risen, graph.constant([-1], np.int64)], keepdims=1)
        return add("Add", [total, graph.constant(first)])


def _is_last_axis(node: Any) -> bool:
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return axes in ([], [-1])
