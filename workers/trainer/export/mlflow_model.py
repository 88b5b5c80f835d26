"""An MLflow model: a folder as its documentation describes it, written without MLflow.

Its flavour `python_function` is loaded by a module inside the folder, which needs neither fitserve nor TensorFlow; its
flavour `onnx` is the same graph.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fitserve.encoder import Encoder
from workers.trainer.export import keras_encoding, raw_graph

MLFLOW = "2.20.0"  # the format's MLflow version; later ones read it, earlier ones have no columns of type `any`
LOADER = "fitserve_mlflow_loader"
_SOURCE = Path(__file__).with_name("mlflow_loader.py")


def write(folder: Path, model: Any, encoder: Encoder, version: int) -> None:
    """Write the model's folder: MLmodel, its environment, the loader, and the ONNX graph that takes raw columns."""
    names = keras_encoding.input_names(encoder.columns)
    graph = raw_graph.with_preprocessing(model, encoder, names)
    (folder / "data").mkdir(parents=True)
    (folder / "code").mkdir()
    (folder / "data" / "model.onnx").write_bytes(graph.SerializeToString())
    columns = [{"name": name, "raw": raw, "input": own} for (name, raw), own in names.items()]
    (folder / "data" / "columns.json").write_text(json.dumps(columns, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(_SOURCE, folder / "code" / f"{LOADER}.py")
    _write_yaml(folder / "MLmodel", _description(graph, encoder, version))
    wanted = [f"mlflow>={MLFLOW}", f"onnxruntime>={installed('onnxruntime')}", "numpy", "pandas"]
    (folder / "requirements.txt").write_text("\n".join(wanted) + "\n", encoding="utf-8")
    python = platform.python_version()
    _write_yaml(folder / "python_env.yaml", {"python": python, "dependencies": ["-r requirements.txt"]})
    conda = {"name": "mlflow-env", "channels": ["conda-forge"]}
    _write_yaml(folder / "conda.yaml", {**conda, "dependencies": [f"python={python}", "pip", {"pip": wanted}]})


def _description(graph: Any, encoder: Encoder, version: int) -> dict[str, Any]:
    """Return the text of MLmodel. The same artifact gives the same text."""
    digest = uuid.uuid5(uuid.NAMESPACE_OID, graph.SerializeToString().hex())
    return {
        "flavors": {
            "onnx": {
                "code": None,
                "data": "data/model.onnx",
                "onnx_version": installed("onnx"),
                "providers": ["CPUExecutionProvider"],
            },
            "python_function": {
                "code": "code",
                "data": "data",
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": LOADER,
                "python_version": platform.python_version(),
            },
        },
        "metadata": {"fitserve_version": version},
        "mlflow_version": MLFLOW,
        "model_uuid": digest.hex,
        "signature": {"inputs": json.dumps(_inputs(encoder)), "outputs": None, "params": None},
        "utc_time_created": "1980-01-01 00:00:00.000000",
    }


def _inputs(encoder: Encoder) -> list[dict[str, Any]]:
    """Return the columns, each once, with type `any`, since MLflow refuses 3 for a double and null for a boolean."""
    return [{"name": name, "type": "any", "required": True} for name in dict.fromkeys(c.name for c in encoder.columns)]


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")


def predictor(folder: Path, rows: pd.DataFrame) -> Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]:
    """Return a function that predicts these rows as MLflow would, with the folder's own loader."""
    specification = importlib.util.spec_from_file_location(LOADER, folder / "code" / f"{LOADER}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    model = module._load_pyfunc(folder / "data")

    def predict(_: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        answers = model.predict(rows)
        if len(model.outputs) == 1:
            return {model.outputs[0]: answers}
        return {name: np.asarray([row[name] for row in answers]) for name in model.outputs}

    return predict
