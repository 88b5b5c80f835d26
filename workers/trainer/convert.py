"""`python -m workers.trainer.convert FOLDER`: export an artifact to another format, and compare it.

The folder holds `request.json` (`{"format", "version", "table", "epochs"}`: the dataset's file, and the logs that the
run recorded, by trial), `manifest.json`, `model.keras`, `model.onnx` and `rows.parquet`. Written into it are `export`
and `result.json`: `{"parity"}`, with `{"cause", "detail"}` where it failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pyarrow.parquet as pq

from fitserve.artifacts import onnx_session
from fitserve.encoder import Encoder
from fitserve.spec.ensemble import members_of
from fitserve.spec.spec import parse
from fitserve.states import FailureCause
from fitserve.strictjson import finite_json
from fitserve.target_encoder import TargetEncoder
from workers.trainer.data.preparation import columns_of, read_columns, split_rows, usable_rows
from workers.trainer.engine.executors import MULTITHREADED_STEP
from workers.trainer.export import keras_encoding, mlflow_model, plain_code, raw_graph
from workers.trainer.export.export import NOISE_FACTOR, PARITY_LIMIT, largest_difference, raw_values, serve

Predictions = Mapping[str, np.ndarray]
LOSS_LIMIT = 1e-4  # largest difference of a loss; relative where the loss exceeds 1
LATER_LIMIT = 0.05  # in later epochs, if steps were spread over threads: differences in rounding may have grown
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the same artifact gives the same bytes


class SilentReporter:
    """A Reporter that discards everything, since the run has already reported it."""

    def event(self, level: str, message: str, data: Any = None) -> None:
        pass


def main(folder: Path) -> None:
    """Convert a run's model to the requested format, compare its answers with the original's, write the result."""
    request, manifest = (json.loads((folder / f"{name}.json").read_text()) for name in ("request", "manifest"))
    encoder, targets = Encoder.from_json(manifest["encoder"]), TargetEncoder.from_json(manifest["targets"])
    if request["format"] == "code":
        parity, limit = _code(folder, request, manifest, encoder, targets), LOSS_LIMIT
        what = "The script's losses differ from those of the run by"
    else:
        parity = _compared(folder, request, encoder, targets)
        limit = PARITY_LIMIT + NOISE_FACTOR * float(manifest["parity"].get("noise", 0.0))
        what = "The export differs from what is served, as a share of the predictions' spread, by"
    result: dict[str, Any] = {"parity": parity}
    if parity.get("later", 0.0) > LATER_LIMIT:
        parity, limit = {**parity, "max_rel": parity["later"]}, LATER_LIMIT
    if not parity["max_rel"] <= limit:
        detail = f"{what} {parity['max_rel']:.1e}; allowed are {limit:.1e}."
        result |= {"cause": FailureCause.parity, "detail": detail}
        parity |= finite_json({name: parity[name] for name in ("max_abs", "max_rel")})
    (folder / "result.json").write_text(json.dumps(result))


def _compared(folder: Path, request: Mapping[str, Any], encoder: Encoder, targets: TargetEncoder) -> dict[str, Any]:
    """Convert, and compare the predictions with those of the serving path."""
    rows = pq.read_table(folder / "rows.parquet")
    predict = MAKERS[request["format"]](folder, encoder, int(request["version"]))
    expected = serve(onnx_session(folder / "model.onnx"), encoder, rows)
    return largest_difference(expected, predict(raw_values(encoder, rows)), targets, rows.num_rows)


def _code(
    folder: Path, request: Mapping[str, Any], manifest: Mapping[str, Any], encoder: Encoder, targets: TargetEncoder
) -> dict[str, Any]:
    """Write script and notebook, run the script on the dataset, and compare the losses of each epoch."""
    spec, table, code = parse(manifest["spec"]), Path(request["table"]), folder / "code"
    code.mkdir()
    silent: Any = SilentReporter()
    columns = read_columns(table, columns_of(spec))
    parts, folds = split_rows(columns, spec, usable_rows(columns, spec, silent)[0])
    own = [(fold.train, fold.held_out) for fold in folds] or [(parts.train, parts.validation)] * members_of(
        spec.ensemble
    )
    numbered = own if len(own) > 1 else []
    rows: dict[str, Any] = {f"train_{number}": train for number, (train, _) in enumerate(numbered)}
    rows |= {f"validation_{number}": held_out for number, (_, held_out) in enumerate(numbered)}
    np.savez(code / "rows.npz", train=parts.train, validation=parts.validation, test=parts.test, **rows)
    kind = plain_code.SINGLE if not numbered else plain_code.TOGETHER
    kind = plain_code.ONE_BY_ONE if numbered and len(request["epochs"]) > 1 else kind
    epoch = min(len(train) for train, _ in own)  # rows: members of an ensemble have epochs of one length
    text = plain_code.script(manifest, encoder, targets.targets[0], columns.schema, epoch, kind)
    (code / "train.py").write_text(text, encoding="utf-8")
    (code / "train.ipynb").write_text(plain_code.notebook(text), encoding="utf-8")
    _zip(folder / "export", code)
    subprocess.run([sys.executable, "train.py"], cwd=code, env={**os.environ, "DATA": str(table)}, check=True)
    spread = kind == plain_code.TOGETHER and _is_spread(folder / "model.keras", spec.training.batch_size, epoch)
    compared = plain_code.FIRST_EPOCHS if spread else None
    return plain_code.differences(request["epochs"], json.loads((code / "history.json").read_text()), compared)


def _is_spread(model: Path, batch_size: int | str, rows: int) -> bool:
    """Return whether stacked networks were computed in groups, whose sums round differently from the script's."""
    weights = sum(int(np.prod(v.shape)) for v in keras.saving.load_model(model).trainable_variables)
    return 3.0 * weights * (rows if batch_size == "full" else int(batch_size)) > MULTITHREADED_STEP


def _zip(target: Path, folder: Path) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                entry = zipfile.ZipInfo(str(file.relative_to(folder)), _FIXED_TIME)
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)


def _onnx_raw(folder: Path, encoder: Encoder, version: int) -> Callable[[Mapping[str, Any]], Predictions]:
    names = keras_encoding.input_names(encoder.columns)
    model = raw_graph.with_preprocessing(onnx.load(folder / "model.onnx"), encoder, names)
    (folder / "export").write_bytes(model.SerializeToString())
    session = onnx_session(folder / "export")
    outputs = [output.name for output in session.get_outputs()]

    def predict(raw: Mapping[str, Any]) -> Predictions:
        return dict(zip(outputs, session.run(outputs, dict(raw)), strict=True))

    return predict


def _saved_model(folder: Path, encoder: Encoder, version: int) -> Callable[[Mapping[str, Any]], Predictions]:
    """Export with Keras, zipped in a folder named by the version, as TensorFlow Serving expects."""
    import tensorflow as tf

    whole = keras.saving.load_model(folder / "model.keras")
    path = folder / "saved_model" / str(version)
    whole.export(path, format="tf_saved_model", verbose=False)
    _zip(folder / "export", folder / "saved_model")
    loaded = tf.saved_model.load(str(path))
    serving = loaded.signatures["serving_default"]

    def predict(raw: Mapping[str, Any]) -> Predictions:
        answers = serving(**{name: tf.constant(value) for name, value in raw.items()})
        return {name: one.numpy() for name, one in answers.items()}

    return predict


def _mlflow(folder: Path, encoder: Encoder, version: int) -> Callable[[Mapping[str, Any]], Predictions]:
    made = folder / "mlflow"
    mlflow_model.write(made, onnx.load(folder / "model.onnx"), encoder, version)
    _zip(folder / "export", made)
    return mlflow_model.predictor(made, pq.read_table(folder / "rows.parquet").to_pandas())


MAKERS: Mapping[str, Callable[[Path, Encoder, int], Callable[[Mapping[str, Any]], Predictions]]] = {
    "mlflow": _mlflow,
    "onnx-raw": _onnx_raw,
    "saved-model": _saved_model,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
