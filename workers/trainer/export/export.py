"""From a trained network to its files: `model.keras` on raw columns, `model.onnx`, and the gate between them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pyarrow as pa

from fitserve.artifacts import onnx_session
from fitserve.encoder import Encoder
from fitserve.encoding.coercion import texts_of
from fitserve.target_encoder import FittedTarget, TargetEncoder
from workers.trainer.engine.signature import inputs_of, outputs_of
from workers.trainer.export import keras_encoding, serving_graph
from workers.trainer.job import Reporter, TrainingFailed

PARITY_ROWS = 256
PARITY_LIMIT = 1e-5  # largest difference, relative to the prediction or to the target's spread, whichever is larger


@dataclass(frozen=True, slots=True)
class Exported:
    """Files by kind, and the manifest's entries of the same names, without hash and size."""

    files: dict[str, Path]
    entries: dict[str, Any]
    session: onnxruntime.InferenceSession


def export(
    network: keras.Model, encoder: Encoder, targets: TargetEncoder, held_out: pa.Table, folder: Path, report: Reporter
) -> Exported:
    """Write both files into `folder` and compare them on (up to 256 of) the rows of `held_out`.

    Raises TrainingFailed("parity") where the serving path and Keras disagree.
    """
    folder.mkdir(exist_ok=True)
    raw = raw_model(network, encoder, targets)
    files = {"keras": folder / "model.keras", "onnx": folder / "model.onnx"}
    raw.save(files["keras"])
    files["onnx"].write_bytes(_graph(network, targets, report).SerializeToString())
    session = onnx_session(files["onnx"])
    parity = compare(raw, session, encoder, targets, held_out.slice(0, PARITY_ROWS))
    if not parity["max_rel"] <= PARITY_LIMIT:
        raise TrainingFailed(
            "parity",
            f"The serving graph differs from Keras by {parity['max_rel']:.1e} of the prediction"
            f" (allowed: {PARITY_LIMIT:.0e}).",
            parity,
        )
    inputs = {i.name: i for i in session.get_inputs()}
    entries = {
        "onnx": {
            "inputs": [_tensor(one.name, one.dtype, one.shape) for one in encoder.inputs if one.name in inputs],
            "outputs": [_tensor(o.name, "float32", o.shape[1:]) for o in session.get_outputs()],
        },
        "keras": {"inputs": _raw_inputs(encoder)},
        "parity": parity,
        "outputs": [_output(network, target, name) for target, name in _outputs(network, targets)],
    }
    return Exported(files, entries, session)


def raw_model(network: keras.Model, encoder: Encoder, targets: TargetEncoder) -> keras.Model:
    """The network behind its preprocessing: raw columns in, `{target: prediction in its own units}` out."""
    raw = keras_encoding.raw_inputs(encoder.columns)
    encoded = keras_encoding.encoded(encoder.columns, raw)
    answers = network({name: encoded[name] for name in inputs_of(network)}, training=False)
    by_name = (
        answers
        if isinstance(answers, dict)
        else dict(zip(outputs_of(network), keras.tree.flatten(answers), strict=True))
    )
    outputs = {}
    for target, name in _outputs(network, targets):
        answer = by_name[name]
        if _is_standardised(target):
            answer = keras.layers.Rescaling(target.scale, target.center, dtype="float32")(answer)
        outputs[target.name] = answer
    return keras.Model({tensor.name: tensor for tensor in raw.values()}, outputs, name="fitserve")


def raw_values(encoder: Encoder, table: pa.Table) -> dict[str, Any]:
    """A table's rows as `model.keras` takes them: by input name, arrays `(rows, 1)` of float64 or of text."""
    names = keras_encoding.input_names(encoder.columns)
    values: dict[str, Any] = {}
    for column in encoder.columns:
        if column.raw == "number":
            values[names[column.name]] = column.column_numbers(table.column(column.name))[:, None]
        else:
            texts = [text or "" for text in texts_of(table.column(column.name))]
            values[names[column.name]] = np.array(texts, object)[:, None]
    return values


def compare(
    raw: keras.Model, session: onnxruntime.InferenceSession, encoder: Encoder, targets: TargetEncoder, rows: pa.Table
) -> dict[str, Any]:
    """How far the serving path is from Keras on these rows: `{"rows", "max_abs", "max_rel"}`."""
    values = {name: keras.ops.convert_to_tensor(value) for name, value in raw_values(encoder, rows).items()}
    expected = raw(values, training=False)
    served = serve(session, encoder, rows)
    largest = {"rows": rows.num_rows, "max_abs": 0.0, "max_rel": 0.0}
    for target in targets.targets:
        keras_says = expected[target.name].numpy().astype(np.float64)
        difference = np.abs(served[target.name] - keras_says)
        scale = np.maximum(np.abs(keras_says), target.scale if _is_standardised(target) else 1.0)
        if difference.size:
            largest["max_abs"] = max(largest["max_abs"], float(difference.max()))
            largest["max_rel"] = max(largest["max_rel"], float((difference / scale).max()))
    return largest


def serve(session: onnxruntime.InferenceSession, encoder: Encoder, rows: pa.Table) -> dict[str, Any]:
    """The serving path: encode, then ONNX Runtime. Predictions by target, float32 `(rows, units)`."""
    encoded = encoder.encode(rows)
    names = [output.name for output in session.get_outputs()]
    inputs = {i.name: encoded[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True))


def _graph(network: keras.Model, targets: TargetEncoder, report: Reporter) -> onnx.ModelProto:
    outputs = {}
    for target, name in _outputs(network, targets):
        scale, offset = (target.scale, target.center) if _is_standardised(target) else (1.0, 0.0)
        outputs[target.name] = (name, scale, offset)
    try:
        return serving_graph.write(network, outputs)
    except serving_graph.NotWritten as unknown:
        report.event("info", f"The serving graph is made by Keras's exporter, which takes longer ({unknown}).")
        return _exported_by_keras(network, outputs)


def _exported_by_keras(network: keras.Model, outputs: Mapping[str, tuple[str, float, float]]) -> onnx.ModelProto:
    """The same graph through TensorFlow and tf2onnx, its tensors named as ours."""
    inputs, answers = inputs_of(network), outputs_of(network)
    finished = {
        name: keras.layers.Rescaling(scale, offset, dtype="float32")(answers[source])
        for name, (source, scale, offset) in outputs.items()
    }
    named = keras.Model(list(inputs.values()), [finished[name] for name in outputs])
    named([keras.ops.zeros((1, *t.shape[1:]), t.dtype) for t in inputs.values()])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx looks for names that NumPy no longer has
        path = Path(folder) / "graph.onnx"
        named.export(path, format="onnx", verbose=False)
        model = onnx.load(path)
    _rename(model, list(inputs), list(outputs))
    return model


def _rename(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> None:
    """Name the graph's inputs and outputs, in order."""
    new = dict(zip([i.name for i in model.graph.input], inputs, strict=True))
    new |= dict(zip([o.name for o in model.graph.output], outputs, strict=True))
    for value in (*model.graph.input, *model.graph.output):
        value.name = new[value.name]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new.get(name, name)


def _outputs(network: keras.Model, targets: TargetEncoder) -> list[tuple[FittedTarget, str]]:
    """Each target with the network's output that answers it: by name, or by place where names differ."""
    names = list(outputs_of(network))
    if set(names) == {target.name for target in targets.targets}:
        return [(target, target.name) for target in targets.targets]
    return list(zip(targets.targets, names, strict=True))


def _is_standardised(target: FittedTarget) -> bool:
    return target.task == "regression" and (target.center != 0.0 or target.scale != 1.0)


def _output(network: keras.Model, target: FittedTarget, name: str) -> dict[str, Any]:
    tensor = outputs_of(network)[name]
    labels = list(target.labels) if target.labels is not None else None
    if target.task == "multilabel":
        labels = list(target.columns)
    return {"name": target.name, "task": target.task, "labels": labels, "units": int(tensor.shape[-1])}


def _raw_inputs(encoder: Encoder) -> list[dict[str, str]]:
    """What `model.keras` takes for each column."""
    names = keras_encoding.input_names(encoder.columns)
    dtypes = {column.name: "float64" if column.raw == "number" else "string" for column in encoder.columns}
    return [{"column": column, "name": name, "dtype": dtypes[column]} for column, name in names.items()]


def _tensor(name: str, dtype: str, shape: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": [-1, *(int(size) for size in shape)]}
