"""The serving graph, `model.onnx`, written straight from the layers.

Keras's own exporter traces TensorFlow and converts that: seconds, where writing takes milliseconds.
Layers that are not known here raise `NotWritten`, and the exporter does the work. Either way the
parity gate compares the graph with Keras.

Operators and their attributes: https://github.com/onnx/onnx/blob/main/docs/Operators.md, opset 18.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import onnx
from onnx import helper

from workers.trainer.engine.signature import functional_of, inputs_of, outputs_of
from workers.trainer.export.serving_graph import layers, recurrent, windows
from workers.trainer.export.serving_graph.graph import DTYPES, Graph, NotWritten, Writer

__all__ = ["NotWritten", "write"]

OPSET, IR_VERSION = 18, 9


def write(model: keras.Model, outputs: Mapping[str, tuple[str, float, float]]) -> onnx.ModelProto:
    """The graph of a Functional `model`, batch first and of any size.

    `outputs` names the graph's outputs: name to (the model's output, scale, offset); the graph answers
    `scale * output + offset`, so that a standardised target is undone. Raises NotWritten.
    """
    functional = functional_of(model)
    if not hasattr(functional, "_nodes_by_depth"):
        raise NotWritten(type(model).__name__)
    graph, inputs, made = Graph(), [], outputs_of(model)
    names: dict[int, str] = {}
    for name, tensor in inputs_of(model).items():
        inputs.append(_value(name, tensor))
        names[id(tensor)] = name
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if not isinstance(node.operation, keras.layers.InputLayer):
                _node(graph, node, names)
    taken = {value.name for value in inputs}
    results = []
    for name, (source, scale, offset) in outputs.items():
        if name in taken:
            raise NotWritten(f"an input and an output are both called {name}")
        results.append(_value(name, made[source]))
        _finish(graph, names[id(made[source])], name, scale, offset)
    body = helper.make_graph(graph.nodes, "fitserve", inputs, results, graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fitserve")


def _value(name: str, tensor: Any) -> Any:
    if tensor.dtype not in DTYPES:
        raise NotWritten(f"the dtype {tensor.dtype}")
    return helper.make_tensor_value_info(name, DTYPES[tensor.dtype], ["batch", *tensor.shape[1:]])


def _finish(graph: Graph, source: str, name: str, scale: float, offset: float) -> None:
    if scale != 1.0:
        source = graph.add("Mul", [source, graph.constant(scale)])
    if offset != 0.0:
        source = graph.add("Add", [source, graph.constant(offset)])
    graph.add("Identity", [source], name)


def _node(graph: Graph, node: Any, names: dict[int, str]) -> None:
    layer = node.operation
    write_layer = WRITERS.get(type(layer))
    if write_layer is None or len(node.output_tensors) != 1:
        raise NotWritten(type(layer).__name__)
    if getattr(layer, "compute_dtype", "float32") != "float32":
        raise NotWritten(f"{type(layer).__name__} in {layer.compute_dtype}")
    tensors = node.arguments.keras_tensors
    names[id(node.output_tensors[0])] = write_layer(graph, layer, [names[id(t)] for t in tensors], tensors)


L = keras.layers
WRITERS: dict[type, Writer] = {
    **dict.fromkeys(
        (
            L.Dropout,
            L.SpatialDropout1D,
            L.SpatialDropout2D,
            L.GaussianDropout,
            L.AlphaDropout,
            L.GaussianNoise,
            L.ActivityRegularization,
            L.Identity,
        ),
        layers.same,
    ),
    L.Dense: layers.dense,
    L.Activation: layers.activation_layer,
    L.ReLU: layers.relu,
    L.LeakyReLU: layers.leaky,
    L.ELU: layers.elu,
    L.PReLU: layers.prelu,
    L.Softmax: layers.softmax,
    L.Embedding: layers.embedding,
    L.BatchNormalization: layers.batch_normalization,
    L.LayerNormalization: layers.layer_normalization,
    L.Flatten: layers.reshape,
    L.Reshape: layers.reshape,
    L.Permute: layers.permute,
    L.RepeatVector: layers.repeat,
    L.Rescaling: layers.rescaling,
    L.Concatenate: layers.concatenate,
    L.Add: layers.merge("Add"),
    L.Subtract: layers.merge("Sub"),
    L.Multiply: layers.merge("Mul"),
    L.Maximum: layers.merge("Max"),
    L.Minimum: layers.merge("Min"),
    L.Average: layers.average,
    L.Conv1D: windows.convolution,
    L.Conv2D: windows.convolution,
    L.MaxPooling1D: windows.pooling("MaxPool"),
    L.MaxPooling2D: windows.pooling("MaxPool"),
    L.AveragePooling1D: windows.pooling("AveragePool"),
    L.AveragePooling2D: windows.pooling("AveragePool"),
    L.GlobalAveragePooling1D: windows.global_pooling("ReduceMean"),
    L.GlobalAveragePooling2D: windows.global_pooling("ReduceMean"),
    L.GlobalMaxPooling1D: windows.global_pooling("ReduceMax"),
    L.GlobalMaxPooling2D: windows.global_pooling("ReduceMax"),
    L.LSTM: recurrent.lstm,
    L.GRU: recurrent.gru,
}
