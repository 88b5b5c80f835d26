"""A served version in other formats, each run by its own runtime in a new process, gives the API's answers."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fitserve.cli import app
from fitserve.client import Client
from fitserve.client.runs import Run
from fitserve.errors import BadInput, NotFound
from tests.client.conftest import ROWS
from tests.conftest import Server, free_ports
from tests.waiting import PATIENCE, wait_until

ONNX = """
import json, sys, numpy as np, onnxruntime
rows = json.loads(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1])
types = {"tensor(double)": np.float64, "tensor(string)": object}
feeds = {i.name: np.array([[row[i.name]] for row in rows], types[i.type]) for i in session.get_inputs()}
print(json.dumps(session.run(["side"], feeds)[0].tolist()))
"""
SAVED_MODEL = """
import json, sys, tensorflow as tf
rows = json.loads(sys.argv[2])
serving = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
types = {name: spec.dtype for name, spec in serving.structured_input_signature[1].items()}
feeds = {name: tf.constant([[row[name]] for row in rows], dtype) for name, dtype in types.items()}
print(json.dumps(serving(**feeds)["side"].numpy().tolist()))
"""


def run_alone(program: str, path: Path) -> Any:
    """Run a program that knows nothing of fitserve."""
    command = [sys.executable, "-I", "-c", program, str(path), json.dumps(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


# The others start TensorFlow two or three times.
FORMATS = ["onnx-raw", pytest.param("saved-model", marks=pytest.mark.long)]


@pytest.mark.parametrize("format", FORMATS)
def test_each_export_answers_as_the_service_does(
    server: Server, client: Client, trained: Run, tmp_path: Path, format: str
) -> None:
    expected = np.asarray(client.models.predict("client-circle", ROWS, version=1))
    path = client.models.export("client-circle", 1, tmp_path, format, timeout=PATIENCE)
    if format == "onnx-raw":
        assert path.name == "client-circle-1-onnx-raw.onnx"
        answers = run_alone(ONNX, path)
    else:
        with zipfile.ZipFile(path) as file:
            file.extractall(tmp_path / "served")
        answers = run_alone(SAVED_MODEL, tmp_path / "served" / "1")
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-6)

    (made,) = [one for one in client.models.exports("client-circle", 1) if one.format == format]
    assert made.parity is not None
    assert made.parity["rows"] == 240
    assert made.parity["max_rel"] <= 1e-5
    assert client.models.export("client-circle", 1, tmp_path / "again", format).stat().st_size
    words = ["models", "export", "client-circle", "--format", format, "--output", str(tmp_path), "--json"]
    variables = {"FITSERVE_URL": server.base_url, "FITSERVE_API_KEY": server.token}
    by_command = CliRunner().invoke(app, [*words, "--version", "1"], env=variables)
    assert by_command.exit_code == 0, by_command.output
    shown = json.loads(by_command.stdout)
    assert (shown["state"], Path(shown["path"]).stat().st_size) == ("succeeded", shown["bytes"])
    (again,) = [one for one in client.models.exports("client-circle", 1) if one.format == format]
    assert shown["run_id"] == again.run_id == made.run_id  # not made twice


MLFLOW = """
import json, sys, mlflow, pandas
rows = json.loads(sys.argv[2])
print(json.dumps(mlflow.pyfunc.load_model(sys.argv[1]).predict(pandas.DataFrame(rows)).tolist()))
"""


@pytest.fixture(scope="module")
def mlflow_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own: MLflow does not work with our pyarrow."""
    folder = tmp_path_factory.mktemp("mlflow") / "environment"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "-q", "mlflow", f"onnxruntime>={version('onnxruntime')}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"MLflow cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}")
    return folder / "bin"


@pytest.mark.long
def test_an_mlflow_model_is_loaded_and_served_by_mlflow(
    client: Client, trained: Run, tmp_path: Path, mlflow_environment: Path
) -> None:
    expected = np.asarray(client.models.predict("client-circle", ROWS, version=1))
    path = client.models.export("client-circle", 1, tmp_path, "mlflow", timeout=PATIENCE)
    (made,) = [one for one in client.models.exports("client-circle", 1) if one.format == "mlflow"]
    assert made.parity is not None
    assert made.parity["max_rel"] <= 1e-5
    folder = tmp_path / "model"
    with zipfile.ZipFile(path) as file:
        file.extractall(folder)
    command = [str(mlflow_environment / "python"), "-c", MLFLOW, str(folder), json.dumps(ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, rtol=1e-5, atol=1e-6)

    (port,) = free_ports(1)
    serve = [str(mlflow_environment / "mlflow"), "models", "serve", "-m", str(folder), "--env-manager", "local"]
    environment = {**os.environ, "PATH": f"{mlflow_environment}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*serve, "-p", str(port)], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/ping"), process=server)
        answer = httpx2.post(f"{url}/invocations", json={"dataframe_records": ROWS}, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["predictions"], expected, rtol=1e-5, atol=1e-6)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(url: str) -> bool:
    """Return whether something answers there."""
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def run_code(text: str, folder: Path, data: Path) -> Any:
    """Run a program on a dataset's file, in a folder; return its history, or a list of them."""
    command = [sys.executable, "-I", "-c", text]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "DATA": str(data)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "history.json").read_text())


STOPPING = {"monitor": "val_loss", "patience": 2, "restore_best_weights": True}
TRAINING = {"epochs": 12, "seed": 7, "optimizer": {"Adam": {"learning_rate": 0.01}}, "early_stopping": STOPPING}
RELU = {"Dense": {"units": 6, "activation": "relu", "kernel_regularizer": {"L2": 0.01}}}
CODED: dict[str, dict[str, Any]] = {
    "single": {"network": [RELU, "BatchNormalization", {"Dropout": 0.2}], "training": TRAINING},
    "the default, an ensemble": {"training": {"epochs": 60}},
    "normalised side by side": {
        "network": [RELU, "BatchNormalization", {"Dropout": 0.15}, "LayerNormalization"],
        "ensemble": 3,
        "training": {**TRAINING, "optimizer": {"RMSprop": {"learning_rate": 0.01}}},
    },
    "members one after the other": {"network": [RELU, "UnitNormalization"], "ensemble": 3, "training": TRAINING},
}


WRITTEN: dict[str, dict[str, Any]] = {  # on the dataset `written`
    "times, hashes and texts": {
        "features": [
            "seen",
            {"day": {"cyclic": {"parts": ["day_of_month", "weekday"]}}},
            {"zip": {"hashing": {"bins": 8}}},
            {"review": {"tf_idf": {"max_tokens": 6}}},
            {"size": ["quantile", "periodic"]},
            {"open": "one_hot"},
        ],
        "network": [RELU, {"Dropout": 0.2}],
        "training": TRAINING,
    },
    "an ensemble of all kinds": {"training": {"epochs": 30}},
    "a sequence": {
        "features": [{"review": {"sequence": {"max_tokens": 8, "length": 5}}}],
        "network": [
            {"Embedding": {"input_dim": 8, "output_dim": 3}},
            "GlobalAveragePooling1D",
            RELU,
        ],
        "training": TRAINING,
    },
    "recurrent layers and convolutions": {
        "features": [{"review": {"sequence": {"max_tokens": 8, "length": 5}}}],
        "network": [
            {"Embedding": {"input_dim": 8, "output_dim": 3}},
            {"SpatialDropout1D": 0.1},
            {"Conv1D": {"filters": 4, "kernel_size": 2, "activation": "relu"}},
            {"Bidirectional": {"LSTM": {"units": 3, "return_sequences": True}}},
            {"GRU": {"units": 3, "return_sequences": True}},
            {"SimpleRNN": 3},
        ],
        "training": TRAINING,
    },
}


@pytest.fixture(scope="module")
def written(client: Client) -> str:
    """A dataset with times, dates, codes and texts, which have gaps."""
    random, rows = np.random.default_rng(5), 160
    size = random.normal(50, 10, rows)
    moments = [datetime(2020, 1, 1, 8) + timedelta(hours=37 * at) for at in range(rows)]

    def with_gaps(values: Sequence[Any], every: int) -> list[Any]:
        return [None if at % every == 0 else value for at, value in enumerate(values)]

    table = pa.table(
        {
            "size": with_gaps(size.tolist(), 7),
            "open": with_gaps([bool(one > 50) for one in size], 11),
            "zip": [f"{at % 17:03d}" for at in range(rows)],
            "review": with_gaps([" ".join(random.choice(["Good", "bad,", "ugly!", "the"], 5)) for _ in range(rows)], 6),
            "seen": pa.array(with_gaps(moments, 10), pa.timestamp("us")),
            "day": pa.array([one.date() for one in moments]),
            "side": np.where(size + random.normal(0, 5, rows) > 50, "yes", "no").tolist(),
        }
    )
    return client.datasets.upload(table, "export-written", kinds={"review": "text", "zip": "categorical"}).ref


@pytest.mark.long
@pytest.mark.parametrize("coded", [*CODED, *WRITTEN])
def test_script_and_notebook_reach_the_losses_of_the_run(
    client: Client, trained: Run, written: str, tmp_path: Path, coded: str
) -> None:
    dataset = written if coded in WRITTEN else trained.dataset
    spec = {"dataset": dataset, "target": "side", **(WRITTEN.get(coded) or CODED[coded])}
    run = client.runs.create(spec, model="client-coded").wait(PATIENCE)
    archive = client.models.export("client-coded", run.version or 0, tmp_path, "code", timeout=PATIENCE)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "code")
    data = client.datasets.get(dataset).download(tmp_path / "data.parquet")
    cells = json.loads((tmp_path / "code" / "train.ipynb").read_text())["cells"]
    notebook = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")
    for text in ((tmp_path / "code" / "train.py").read_text(), notebook):
        assert "fitserve" not in text.replace("Written by fitserve", "")
        history = run_code(text, tmp_path / "code", data)
        rows = list(run.history())
        for trial, one in enumerate(history if isinstance(history, list) else [history]):
            for name in ("loss", "val_loss"):
                recorded = [row[name] for row in rows if row["trial"] == trial]
                np.testing.assert_allclose(one[name], recorded, rtol=0, atol=1e-4)
    (made,) = client.models.exports("client-coded", 1)
    assert made.parity is not None
    assert made.parity["max_rel"] <= 1e-4
    assert made.parity["later"] == 0.0  # all epochs are compared
    client.models.delete("client-coded")


def test_names_are_no_code(client: Client, tmp_path: Path) -> None:
    target = 'y"""\nraise SystemExit(7)\n"""'
    table = pa.table({'a\\"""# %% ': [float(n) for n in range(80)], target: ["no", "it's \\"] * 40})
    dataset = client.datasets.upload(table, "export-names")
    spec = {"dataset": dataset.ref, "target": dataset.columns[1].name, "training": {"epochs": 2}}  # an ensemble
    client.runs.create(spec, model="export-names").wait(PATIENCE)
    archive = client.models.export("export-names", 1, tmp_path, "code", timeout=PATIENCE)
    with zipfile.ZipFile(archive) as file:
        code = ast.parse(file.read("train.py"))
        assert not any(isinstance(node, ast.Raise) for node in ast.walk(code))
        assert len(json.loads(file.read("train.ipynb"))["cells"]) == 11
        assert "SideBySide(members)" in file.read("train.py").decode()
    client.models.delete("export-names")


def test_what_a_format_cannot_hold_is_refused_by_name(client: Client, trained: Run, tmp_path: Path) -> None:
    feature = {"column": "colour", "encoding": {"hashing": {"bins": 4}}}
    spec = {"dataset": trained.dataset, "target": "side", "features": ["x", feature], "network": [{"Dense": 2}]}
    run = client.runs.create(spec, training={"epochs": 1}, model="client-hashed").wait(PATIENCE)
    with pytest.raises(BadInput, match=r"onnx-raw cannot hold hashing, the encoding of the column 'colour'") as caught:
        client.models.export("client-hashed", run.version or 0, tmp_path, "onnx-raw")
    assert caught.value.problems[0].column == "colour"
    with pytest.raises(BadInput):
        client.models.export("client-hashed", 1, tmp_path, "pmml")
    with pytest.raises(NotFound):
        client.models.export("client-hashed", 9, tmp_path, "saved-model")
    with pytest.raises(BadInput, match="code cannot hold /training/restarts"):
        client.models.export("client-circle", 1, tmp_path, "code")
    client.models.delete("client-hashed")
