"""`python -m workers.trainer.export.convert FOLDER`: export an artifact to another format, and compare it.

The folder holds `request.json` (`{"format", "version"}`), `manifest.json`, `model.keras`, `model.onnx` and
`rows.parquet`; `export` and `result.json` (`{"parity"}`, or `{"cause", "detail"}`) are written into it.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq

from fitserve.artifacts import onnx_session
from fitserve.encoder import Encoder
from fitserve.target_encoder import TargetEncoder
from workers.trainer.export import keras_encoding, raw_graph
from workers.trainer.export.export import NOISE_FACTOR, PARITY_LIMIT, largest_difference, raw_values, serve

Predictions = Mapping[str, np.ndarray]
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the same artifact gives the same bytes


def main(folder: Path) -> None:
    """Convert, compare, and write what came of it."""
    request, manifest = (json.loads((folder / f"{name}.json").read_text()) for name in ("request", "manifest"))
    encoder, targets = Encoder.from_json(manifest["encoder"]), TargetEncoder.from_json(manifest["targets"])
    rows = pq.read_table(folder / "rows.parquet")
    predict = MAKERS[request["format"]](folder, encoder, int(request["version"]))
    expected = serve(onnx_session(folder / "model.onnx"), encoder, rows)
    parity = largest_difference(expected, predict(raw_values(encoder, rows)), targets, rows.num_rows)
    limit = PARITY_LIMIT + NOISE_FACTOR * float(manifest["parity"].get("noise", 0.0))
    result: dict[str, Any] = {"parity": parity}
    if not parity["max_rel"] <= limit:
        detail = f"The export differs from what is served by {parity['max_rel']:.1e} of the predictions' spread."
        result |= {"cause": "parity", "detail": f"{detail} Allowed are {limit:.1e}."}
    (folder / "result.json").write_text(json.dumps(result))


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
    """Export by Keras; zipped as TensorFlow Serving wants it, in a folder named by the version."""
    import keras
    import tensorflow as tf

    whole = keras.saving.load_model(folder / "model.keras")
    path = folder / "saved_model" / str(version)
    whole.export(path, format="tf_saved_model", verbose=False)
    with zipfile.ZipFile(folder / "export", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                entry = zipfile.ZipInfo(str(file.relative_to(folder / "saved_model")), _FIXED_TIME)
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    loaded = tf.saved_model.load(str(path))
    serving = loaded.signatures["serving_default"]

    def predict(raw: Mapping[str, Any]) -> Predictions:
        answers = serving(**{name: tf.constant(value) for name, value in raw.items()})
        return {name: one.numpy() for name, one in answers.items()}

    return predict


MAKERS: Mapping[str, Callable[[Path, Encoder, int], Callable[[Mapping[str, Any]], Predictions]]] = {
    "onnx-raw": _onnx_raw,
    "saved-model": _saved_model,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
