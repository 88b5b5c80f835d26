"""Export a trained network: `model.keras` on raw columns, `model.onnx` for serving, compared by the parity gate."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
from onnx import helper

from fitserve.artifacts import onnx_session
from fitserve.encoder import Encoder
from fitserve.states import FailureCause
from fitserve.target_encoder import FittedTarget, TargetEncoder
from workers.trainer.calibration.calibrator import Calibrator
from workers.trainer.engine.network import inputs_of, outputs_of
from workers.trainer.engine.tabular_layers import with_plain_layers
from workers.trainer.export import calibrated_graph, keras_encoding, serving_graph, stacked_graph
from workers.trainer.export.onnx_graph import NotWritten, OutputForm
from workers.trainer.export.stacked_graph import Stack
from workers.trainer.interface import Reporter, TrainingFailed

PARITY_ROWS = 256
PARITY_LIMIT = 1e-5  # largest difference, as a share of the predictions' spread, in addition to the network's own noise
ONNX_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}
NOISE_FACTOR = 16.0  # times the network's own noise that is allowed in addition
NOISE_DRAWS = 4


@dataclass(frozen=True, slots=True)
class Exported:
    """Files by kind, and the manifest's entries, those of files without hash and size."""

    files: dict[str, Path]
    entries: dict[str, Any]
    session: onnxruntime.InferenceSession


def export(
    network: keras.Model,
    encoder: Encoder,
    targets: TargetEncoder,
    held_out: pa.Table,
    folder: Path,
    report: Reporter,
    stack: Stack | None = None,
    calibrators: Mapping[str, Calibrator] | None = None,
) -> Exported:
    """Write both files into `folder` and compare them on up to PARITY_ROWS of `held_out`.

    `stack` is the same network where it is an ensemble, for a smaller serving graph; `calibrators` are by target.
    Raises TrainingFailed (parity) if the serving path and Keras disagree.
    """
    folder.mkdir(exist_ok=True)
    calibrators = calibrators or {}
    raw = raw_model(network, encoder, targets, calibrators)
    files = {"keras": folder / "model.keras", "onnx": folder / "model.onnx"}
    raw.save(files["keras"])
    files["onnx"].write_bytes(graph_of(network, targets, report, stack, calibrators).SerializeToString())
    session = onnx_session(files["onnx"])
    parity = compare(raw, session, encoder, targets, held_out.slice(0, PARITY_ROWS))
    if not parity["max_rel"] <= PARITY_LIMIT:
        parity["noise"] = rounding_noise(raw, network, encoder, targets, held_out.slice(0, PARITY_ROWS))
        if not parity["max_rel"] <= PARITY_LIMIT + NOISE_FACTOR * parity["noise"]:
            raise TrainingFailed(
                FailureCause.parity,
                f"The serving graph differs from Keras by {parity['max_rel']:.1e} of the predictions' spread; allowed"
                f" are {PARITY_LIMIT:.0e} plus {NOISE_FACTOR:g} times this network's rounding noise"
                f" ({parity['noise']:.1e}).",
                parity,
            )
    inputs = {i.name: i for i in session.get_inputs()}
    entries = {
        "onnx": {
            "inputs": [_tensor_entry(one.name, one.dtype, one.shape) for one in encoder.inputs if one.name in inputs],
            "outputs": [_tensor_entry(o.name, ONNX_DTYPES[o.type], o.shape[1:]) for o in session.get_outputs()],
        },
        "keras": {"inputs": _raw_input_entries(encoder)},
        "parity": parity,
        "outputs": [_output_entry(network, target, name) for target, name in target_outputs(network, targets.targets)],
    }
    return Exported(files, entries, session)


def raw_model(
    network: keras.Model,
    encoder: Encoder,
    targets: TargetEncoder,
    calibrators: Mapping[str, Calibrator] | None = None,
) -> keras.Model:
    """Return the network with its preprocessing: takes raw columns, returns `{target: prediction in its own units}`."""
    network = _calibrated(with_plain_layers(network), targets, calibrators or {})
    raw = keras_encoding.raw_inputs(encoder.columns)
    encoded = keras_encoding.encoded(encoder, raw)
    predictions = network({name: encoded[name] for name in inputs_of(network)}, training=False)
    if not isinstance(predictions, dict):
        predictions = dict(zip(outputs_of(network), keras.tree.flatten(predictions), strict=True))
    outputs = {}
    for target, name in target_outputs(network, targets.targets):
        outputs[target.name] = predictions[name]
        if target.is_standardised:
            outputs[target.name] = _rescaled(predictions[name], *target.rescaling)
        if target.limits is not None:
            outputs[target.name] = keras.ops.clip(outputs[target.name], *target.limits)
    return keras.Model({tensor.name: tensor for tensor in raw.values()}, outputs, name="fitserve")


def raw_values(encoder: Encoder, table: pa.Table) -> dict[str, Any]:
    """Return a table's rows as inputs of `model.keras`: arrays `(rows, 1)` of float64 or strings, by input name."""
    names = keras_encoding.input_names(encoder.columns)
    return {names[c.name, c.raw]: c.raw_values(table.column(c.name))[:, None] for c in encoder.columns}


def compare(
    raw: keras.Model, session: onnxruntime.InferenceSession, encoder: Encoder, targets: TargetEncoder, rows: pa.Table
) -> dict[str, Any]:
    """Return the largest differences of the serving path from Keras on these rows: `{"rows", "max_abs", "max_rel"}`.

    `max_rel` is relative to the predictions' spread: see `_spread`.
    """
    return largest_difference(_predict(raw, encoder, rows), serve(session, encoder, rows), targets, rows.num_rows)


def largest_difference(
    expected: Mapping[str, np.ndarray], served: Mapping[str, np.ndarray], targets: TargetEncoder, rows: int
) -> dict[str, Any]:
    """Compare two answers for the same rows, by target: `{"rows", "max_abs", "max_rel"}`."""
    largest: dict[str, Any] = {"rows": rows, "max_abs": 0.0, "max_rel": 0.0}
    for target in targets.targets:
        wanted = expected[target.name]
        difference = np.abs(served[target.name] - wanted)
        if difference.size:
            largest["max_abs"] = max(largest["max_abs"], float(difference.max()))
            largest["max_rel"] = max(largest["max_rel"], float(difference.max()) / _spread(target, wanted))
    return largest


def rounding_noise(
    raw: keras.Model, network: keras.Model, encoder: Encoder, targets: TargetEncoder, rows: pa.Table
) -> float:
    """Return how far rounding to single precision moves this network's predictions, as a share of their spread.

    Whatever the order of addition, a sum in float32 equals the exact sum of terms that are each off by about one
    rounding. So every weight is moved by one rounding, up or down at random, a few times; the largest change counts.
    """
    expected = _predict(raw, encoder, rows)
    weights, random = network.get_weights(), np.random.default_rng(0)
    eps, noise = float(np.finfo(np.float32).eps), 0.0
    try:
        for _ in range(NOISE_DRAWS):
            network.set_weights(
                [w * (1 + eps * random.choice((-1.0, 1.0), w.shape)) if w.dtype.kind == "f" else w for w in weights]
            )
            moved = _predict(raw, encoder, rows)
            for target in targets.targets:
                change = np.abs(moved[target.name] - expected[target.name]).max(initial=0.0)
                if not target.is_wide:
                    change += eps * np.abs(expected[target.name]).max(initial=0.0)
                noise = max(noise, float(change) / _spread(target, expected[target.name]))
    finally:
        network.set_weights(weights)
    return noise


def _predict(raw: keras.Model, encoder: Encoder, rows: pa.Table) -> dict[str, np.ndarray]:
    values = {name: keras.ops.convert_to_tensor(value) for name, value in raw_values(encoder, rows).items()}
    return {name: output.numpy().astype(np.float64) for name, output in raw(values, training=False).items()}


def _spread(target: FittedTarget, predictions: np.ndarray) -> float:
    """Return the scale of differences: 1 for probabilities.

    For numbers it is the larger of the target's standard deviation (where it is standardised) and that of the
    predictions; if all predictions are equal, their size.
    """
    if target.task != "regression":
        return 1.0
    own = target.scale if target.is_standardised else 0.0
    spread = max(own, float(predictions.std()) if predictions.size else 0.0)
    size = float(np.abs(predictions).max(initial=0.0))
    return spread if spread > (1e-12 if target.is_wide else 1e-6) * size else size or 1.0


def serve(session: onnxruntime.InferenceSession, encoder: Encoder, rows: pa.Table) -> dict[str, Any]:
    """Predict as the serving path does: encode, then run the graph. Returns float32 `(rows, units)` by target."""
    encoded = encoder.encode(rows)
    names = [output.name for output in session.get_outputs()]
    inputs = {i.name: encoded[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True))


def _calibrated(network: keras.Model, targets: TargetEncoder, by_target: Mapping[str, Calibrator]) -> keras.Model:
    named = {
        name: by_target[one.name] for one, name in target_outputs(network, targets.targets) if one.name in by_target
    }
    return calibrated_graph.calibrated_network(network, named)


def graph_of(
    network: keras.Model,
    targets: TargetEncoder,
    report: Reporter,
    stack: Stack | None,
    calibrators: Mapping[str, Calibrator],
) -> onnx.ModelProto:
    """Return the serving graph of a network, or of a stack of members."""
    outputs = {}
    for target, name in target_outputs(network, targets.targets):
        own = calibrators.get(target.name)
        write = None if own is None else functools.partial(calibrated_graph.write_calibration, calibrator=own)
        outputs[target.name] = OutputForm(name, *target.rescaling, target.limits, write)
    try:
        return _written(network, outputs, stack)
    except NotWritten as error:
        report.event("info", f"The serving graph is made by Keras's exporter, which takes longer ({error}).")
        return exported_by_keras(_calibrated(network, targets, calibrators), outputs)


def _written(network: keras.Model, outputs: Mapping[str, OutputForm], stack: Stack | None) -> onnx.ModelProto:
    """Return the graph of an ensemble with its members stacked, or else side by side. Raises NotWritten."""
    if stack is not None:
        with contextlib.suppress(NotWritten):
            return stacked_graph.write(stack, outputs)
    return serving_graph.write(network, outputs)


def _rescaled(output: Any, scale: float, offset: float, is_wide: bool) -> Any:
    if is_wide:
        return keras_encoding.rescaled(output, scale, offset)
    return keras.layers.Rescaling(scale, offset, dtype="float32")(output)


def exported_by_keras(network: keras.Model, outputs: Mapping[str, OutputForm]) -> onnx.ModelProto:
    """Return the same graph, exported by Keras through TensorFlow and tf2onnx, with its tensors renamed as in ours."""
    inputs, tensors = inputs_of(network), outputs_of(network)
    served = []
    for form in outputs.values():
        values = _rescaled(tensors[form.source], form.scale, form.offset, form.is_wide)
        served.append(values if form.limits is None else keras.ops.clip(values, *form.limits))
    model = keras.Model(list(inputs.values()), served)
    model([keras.ops.zeros((1, *t.shape[1:]), t.dtype) for t in inputs.values()])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx uses names that NumPy has deprecated
        path = Path(folder) / "graph.onnx"
        model.export(path, format="onnx", verbose=False)
        graph = onnx.load(path)
    _write_unknown(graph.graph)
    _rename(graph, list(inputs), list(outputs))
    return graph


def _write_unknown(graph: onnx.GraphProto) -> None:
    """Replace TensorFlow operators that tf2onnx leaves, also in loop bodies: erfc of GELU, expm1 of CELU."""
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _write_unknown(attribute.g)
        if node.op_type not in ("Erfc", "Expm1"):
            nodes.append(node)
            continue
        (x,), (result,) = node.input, node.output
        one, part = f"{result}/one", f"{result}/part"
        nodes += [
            helper.make_node("Constant", [], [one], value_float=1.0),
            helper.make_node("Erf" if node.op_type == "Erfc" else "Exp", [x], [part]),
            helper.make_node("Sub", [one, part] if node.op_type == "Erfc" else [part, one], [result]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _rename(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> None:
    """Rename the graph's inputs and outputs, in order."""
    new = dict(zip([i.name for i in model.graph.input], inputs, strict=True))
    new |= dict(zip([o.name for o in model.graph.output], outputs, strict=True))
    inner = {output for node in model.graph.node for output in node.output} | {i.name for i in model.graph.initializer}
    new = {name: f"{name}:inner" for name in inner & set(new.values())} | new
    for initializer in model.graph.initializer:
        initializer.name = new.get(initializer.name, initializer.name)
    for value in (*model.graph.input, *model.graph.output):
        value.name = new[value.name]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = new.get(name, name)


def target_outputs(network: keras.Model, targets: Sequence[FittedTarget]) -> list[tuple[FittedTarget, str]]:
    """Return each target with the network's output for it: by name, or in order where the names differ."""
    names = list(outputs_of(network))
    if set(names) == {target.name for target in targets}:
        return [(target, target.name) for target in targets]
    return list(zip(targets, names, strict=True))


def _output_entry(network: keras.Model, target: FittedTarget, name: str) -> dict[str, Any]:
    tensor = outputs_of(network)[name]
    labels = list(target.labels) if target.labels is not None else None
    if target.task == "multilabel":
        labels = list(target.columns)
    entry = {"name": target.name, "task": target.task, "labels": labels, "units": int(tensor.shape[-1])}
    return {**entry, "datatype": "FP64"} if target.is_wide else entry


def _raw_input_entries(encoder: Encoder) -> list[dict[str, str]]:
    """Return the manifest's description of each raw input of `model.keras`."""
    names, dtypes = keras_encoding.input_names(encoder.columns), {"number": "float64", "string": "string"}
    return [{"column": column, "name": name, "dtype": dtypes[raw]} for (column, raw), name in names.items()]


def _tensor_entry(name: str, dtype: str, shape: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": [-1, *(int(size) for size in shape)]}
