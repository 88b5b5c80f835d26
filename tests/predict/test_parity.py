"""Every kind of column, every task, trained: each protocol answers what `model.keras` predicts for the same rows.

The reference is the exported Keras model on raw columns, loaded as anybody would load it; nothing of the serving path
is in it. Nine networks: all encodings with four targets at once, each task by itself, and columns with odd names.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_service_pb2_grpc, regression_pb2

from fitserve import db, registry
from fitserve.blobs import sha256_of
from fitserve.datasets import store
from fitserve.encoder import Encoder
from fitserve.runs import create, lease
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Dataset, Run
from fitserve.wire.datasets import UploadOptions
from tests.predict.toy_registry import RunningService, ToyRegistry, run_service
from tests.trainer.requests import RecordingReporter, request_of
from tests.waiting import PATIENCE
from workers.attempt.outcome import make_durable
from workers.batch.model import ArtifactModel
from workers.batch.prediction import BatchPredictionAttempt
from workers.trainer.export.export import raw_values
from workers.trainer.interface import TrainingResult
from workers.trainer.train import train

pytestmark = pytest.mark.tensorflow
ASKED = 12  # rows
LONG = "long " * 40


def table(rows: int = 60) -> pa.Table:
    rng = np.random.default_rng(3)
    x = rng.normal(50, 10, rows)
    words = ["Good", "bad,", "ugly!", "the", "film"]
    gap = lambda values, every: [None if i % every == 3 else v for i, v in enumerate(values)]  # noqa: E731
    days = [dt.datetime(2020, 1, 1) + dt.timedelta(hours=37 * i) for i in range(rows)]
    return pa.table(
        {
            "size": gap(x.tolist(), 7),
            "income": (x**4).tolist(),
            "depth/m": rng.integers(-5, 5, rows),
            "weight": rng.normal(size=rows),
            "stars": gap((rng.integers(1, 9, rows) / 2).tolist(), 9),
            "open": gap((x > 50).tolist(), 11),
            "member": [("yes", "no")[i % 2] for i in range(rows)],
            "city": gap([("Bern", "Genève", "Zürich")[i % 3] for i in range(rows)], 8),
            "zip": [f"{i % 17:03d}" for i in range(rows)],
            "review": gap([" ".join(rng.choice(words, 4)) for _ in range(rows)], 6),
            "title": [" ".join(rng.choice(words, 2)) for _ in range(rows)],
            "notes": [" ".join(rng.choice(words, 5)) for _ in range(rows)],
            "seen": pa.array(gap(days, 10), pa.timestamp("us")),
            "price": (x * 1e4 + 3e5).tolist(),
            "sold": np.where(x + rng.normal(0, 5, rows) > 50, "yes", "no").tolist(),
            "tier": [("a", "b", "c")[i % 3] for i in range(rows)],
            "tag_a": rng.integers(0, 2, rows),
            "tag_b": rng.integers(0, 2, rows),
            # Names that people bring; the last three are targets.
            "Price (USD)": rng.normal(9, 2, rows),
            'say "hi"\\': rng.normal(size=rows),
            "t0": gap(x.tolist(), 9),
            "instances": [("Bern", "Genève", "Zürich")[i % 3] for i in range(rows)],
            LONG: rng.normal(size=rows),
            "features": x,
            "目标": [("a", "b", "c")[i % 3] for i in range(rows)],
            "a/b y% {0}\n": x * 3,
        }
    )


DENSE: list[Any] = [
    "size",
    {"column": "income", "encoding": {"log": {"missing": "median"}}},
    {"column": "depth/m", "encoding": "min_max"},
    {"column": "weight", "encoding": "pass_through"},
    {"column": "stars", "encoding": "one_hot"},
    "open",
    {"column": "member", "encoding": "boolean"},
    "city",
    {"column": "zip", "encoding": {"hashing": {"bins": 8}}},
    {"column": "review", "encoding": {"tf_idf": {"max_tokens": 6}}},
    {"column": "title", "encoding": {"counts": {"max_tokens": 4}}},
    {"column": "notes", "encoding": {"multi_hot": {"max_tokens": 5}}},
    {"column": "seen", "encoding": {"cyclic": {"parts": ["time_of_day", "weekday", "day_of_month", "time_of_year"]}}},
]
FEW: list[Any] = ["size", "city"]  # where the outputs are what a network is about
INDICES: list[Any] = [
    "size",
    {"column": "city", "encoding": "index"},
    {"column": "zip", "encoding": {"hashing": {"bins": 9, "output": "index"}}},
    {"column": "notes", "encoding": {"sequence": {"max_tokens": 5, "length": 4}}},
]
EMBEDDED: list[Any] = [
    {"Embedding": {"input_dim": 5, "output_dim": 3}, "inputs": "city", "name": "a"},
    {"Flatten": {}, "inputs": "a", "name": "b"},
    {"Embedding": {"input_dim": 9, "output_dim": 2}, "inputs": "zip", "name": "c"},
    {"Flatten": {}, "inputs": "c", "name": "d"},
    {"Embedding": {"input_dim": 5, "output_dim": 4}, "inputs": "notes", "name": "e"},
    {"LSTM": {"units": 3}, "inputs": "e", "name": "f"},
    {"Concatenate": {}, "inputs": ["b", "d", "f", "features"]},
]
TAGS = {"columns": ["tag_a", "tag_b"], "task": "multilabel", "name": "tags"}
KINDS = {"member": "boolean", "review": "text", "title": "text", "notes": "text", "seen": "datetime"}
SPECS: dict[str, dict[str, Any]] = {
    "several": {"target": ["price", "sold", {"column": "tier", "task": "multiclass"}, TAGS], "features": DENSE},
    "binary": {"target": "sold", "features": DENSE, "training": {"keep_epochs": [1]}},
    "multiclass": {"target": "tier", "features": INDICES, "network": EMBEDDED},
    "multilabel": {"target": TAGS, "features": ["weight", "city"]},
    "calibrated": {"target": "sold", "features": FEW, "ensemble": 2, "calibrate": "temperature"},
    "isotonic": {"target": "tier", "task": "multiclass", "features": FEW, "ensemble": 2, "calibrate": "isotonic"},
    "regression": {"target": "price", "features": ["income", "weight"]},
    "names": {
        "target": ["目标", "a/b y% {0}\n"],
        "features": [
            "t0",
            LONG,
            {"column": "instances", "encoding": "index"},
            {"column": "Price (USD)", "encoding": "log"},
            {"column": "depth/m", "input": "c0"},
        ],
        "network": [
            {"Embedding": {"input_dim": 5, "output_dim": 3}, "inputs": "instances", "name": "my layer"},
            {"Flatten": {}, "inputs": "my layer", "name": "my_layer"},
            {"Concatenate": {}, "inputs": ["my_layer", "features", "c0"]},
        ],
    },
    "plain-names": {"target": "features", "features": ["Price (USD)", 'say "hi"\\', "t0", LONG]},
}
Outputs = dict[str, np.ndarray]
"""By target: (rows, units)."""


@dataclass
class Case:
    """A served model, the rows of the requests, and what Keras predicts for them."""

    served: RunningService
    model: str
    manifest: dict[str, Any]
    asked: pa.Table
    keras: Outputs
    toys: ToyRegistry
    dataset: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as JSON values."""
        plain = lambda value: value.isoformat() if isinstance(value, dt.datetime) else value  # noqa: E731
        return [{name: plain(value) for name, value in row.items()} for row in self.asked.to_pylist()]

    @property
    def names(self) -> list[str]:
        return list(self.asked.column_names)

    @property
    def whole(self) -> list[int]:
        """Rows that binary tensors can express: their only null is a number's NaN."""
        text = [n for n in self.names if not pa.types.is_floating(self.asked.column(n).type)]
        return [at for at, row in enumerate(self.rows) if all(row[name] is not None for name in text)]

    def column(self, name: str, rows: list[int]) -> np.ndarray:
        values = [self.rows[at][name] for at in rows]
        if pa.types.is_floating(self.asked.column(name).type):
            return np.array([[np.nan if v is None else v] for v in values], np.float64)
        if isinstance(values[0], str):
            return np.array([[v] for v in values], object)
        return np.array([[v] for v in values])

    @property
    def output(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.manifest["outputs"]}

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        url = f"{self.served.url}{path}"
        answer = httpx2.post(url, content=content, headers={**self.served.headers, **headers}, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer


def trained(toys: ToyRegistry, name: str, folder: Path) -> tuple[TrainingResult, str]:
    """Train, and commit the result as a worker does: artifacts, run and version in one transaction."""
    spec = {**SPECS[name], "split": {"validation": 0.2}}
    spec["training"] = {"epochs": 2, "batch_size": 16, **spec.get("training", {})}
    result = train(request_of(table(), spec, folder, KINDS), RecordingReporter())
    new = create.NewRun("ada", "ds", {}, {}, {}, model=name)
    run, _ = create.create_run(toys.engine, new, Settings().limits)
    claim = lease.claim(toys.engine, "w", lease_seconds=60, running_limit=99, kinds=("training",))
    assert claim is not None
    durable = make_durable(toys.blobs, claim.run, result)
    assert durable.commit(toys.engine, claim.lease, toys.blobs, ()) == RunState.succeeded
    return result, run.id


def keras_predictions(files: dict[str, Path], encoder: Encoder, rows: pa.Table) -> Outputs:
    model = keras.models.load_model(files["keras"], safe_mode=True)
    inputs = {name: keras.ops.convert_to_tensor(value) for name, value in raw_values(encoder, rows).items()}
    return {name: value.numpy() for name, value in model(inputs, training=False).items()}


def asked_for(items: list[pytest.Item]) -> list[str]:
    """Return the networks that the selected tests of this file ask for: each takes three seconds to train."""
    parameters = [
        getattr(getattr(item, "callspec", None), "params", {}) for item in items if item.path == Path(__file__)
    ]
    return [name for name in SPECS if any(one.get("name", "binary") == name for one in parameters)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, Case]]:
    folder = tmp_path_factory.mktemp("parity")
    toys = ToyRegistry(folder / "toys")
    made: dict[str, tuple[dict[str, Any], pa.Table, Outputs]] = {}
    for name in asked_for(request.session.items):
        result, run = trained(toys, name, folder / name)
        encoder = Encoder.from_json(result.manifest["encoder"])
        asked = table().slice(0, ASKED).select(list(encoder.names))
        made[name] = (result.manifest, asked, keras_predictions(result.files, encoder, asked))
        for epoch, one in result.kept_epochs.items():
            label = f"{name}@epoch-{epoch}"
            made[label] = ({**result.manifest, **one.manifest}, asked, keras_predictions(one.files, encoder, asked))
            with db.reading(toys.engine) as session:
                artifact = session.get(Run, run).result["kept_epochs"][str(epoch)]
            toys.change(registry.set_label, name, f"epoch-{epoch}", version_number=1, artifact=artifact)
    settings = Settings(home=toys.home, database_url=toys.url)
    dataset = upload(toys, settings, table().slice(0, ASKED))
    with run_service(toys) as served:
        yield {
            name: Case(served, name, manifest, asked, outputs, toys, dataset)
            for name, (manifest, asked, outputs) in made.items()
        }


def upload(toys: ToyRegistry, settings: Settings, rows: pa.Table) -> str:
    path = settings.home / "rows.parquet"
    pq.write_table(rows, path)
    received = store.ReceivedFile(path, sha256_of(path), path.stat().st_size, path.name)
    options = UploadOptions(format="parquet")
    limits, scratch = settings.limits, settings.scratch
    where = {"owner": "ada", "options": options, "limits": limits, "scratch": scratch, "name": "rows"}
    return store.create(toys.engine, toys.blobs, received, **where)[0].id


# --- the protocols: each returns the answers by target, and the rows that were sent -------------------------------


def tfs_rows(case: Case) -> tuple[Outputs, list[int]]:
    answer = case.post(f"/v1/models/{case.model}:predict", {"instances": case.rows}).json()
    return by_row(case, answer["predictions"]), list(range(ASKED))


def tfs_positional(case: Case) -> tuple[Outputs, list[int]]:
    rows = [list(row.values()) for row in case.rows]
    answer = case.post(f"/v1/models/{case.model}:predict", {"instances": rows}).json()
    return by_row(case, answer["predictions"]), list(range(ASKED))


def by_row(case: Case, predictions: list[Any]) -> Outputs:
    if len(case.output) == 1:
        return {name: np.array(predictions) for name in case.output}
    return {name: np.array([row[name] for row in predictions]) for name in case.output}


def tfs_columns(case: Case) -> tuple[Outputs, list[int]]:
    columns = {name: [row[name] for row in case.rows] for name in case.names}
    answer = case.post(f"/v1/models/{case.model}:predict", {"inputs": columns}).json()["outputs"]
    outputs = answer if len(case.output) > 1 else dict.fromkeys(case.output, answer)
    return {name: np.array(values) for name, values in outputs.items()}, list(range(ASKED))


def tfs_classify_and_regress(case: Case) -> tuple[Outputs, list[int]]:
    outputs = {}
    for name, output in case.output.items():
        verb = "regress" if output["task"] == "regression" else "classify"
        body = {"signature_name": name, "examples": case.rows}
        results = case.post(f"/v1/models/{case.model}:{verb}", body).json()["results"]
        if verb == "regress":
            outputs[name] = np.array(results)[:, None]
        else:
            assert [label for label, _ in results[0]] == output["labels"]
            outputs[name] = np.array([[score for _, score in row] for row in results])[:, -output["units"] :]
    return outputs, list(range(ASKED))


def tfs_grpc(case: Case) -> tuple[Outputs, list[int]]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = case.model
    for name in case.names:
        request.inputs[name].CopyFrom(tf.make_tensor_proto(case.column(name, case.whole)))
    answer = stub(case).Predict(request, 20, metadata(case))
    return {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}, case.whole


def tfs_grpc_examples(case: Case) -> tuple[Outputs, list[int]]:
    """Classify and Regress. Examples have 32-bit floats, so only rows whose numbers fit them are sent."""
    outputs = {}
    for name, output in case.output.items():
        regression = output["task"] == "regression"
        request = regression_pb2.RegressionRequest() if regression else classification_pb2.ClassificationRequest()
        request.model_spec.name, request.model_spec.signature_name = case.model, name
        request.input.example_list.examples.extend(example(row) for row in case.rows)
        if regression:
            answer = stub(case).Regress(request, 20, metadata(case))
            outputs[name] = np.array([[one.value] for one in answer.result.regressions])
        else:
            answer = stub(case).Classify(request, 20, metadata(case))
            scores = [[one.score for one in row.classes] for row in answer.result.classifications]
            outputs[name] = np.array(scores)[:, -output["units"] :]
    return outputs, list(range(ASKED))


def example(row: dict[str, Any]) -> tf.train.Example:
    features = {}
    for name, value in row.items():
        if isinstance(value, str):
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        elif isinstance(value, float):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        elif value is not None:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
    return tf.train.Example(features=tf.train.Features(feature=features))


def stub(case: Case) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(
        grpc.insecure_channel(f"127.0.0.1:{case.served.grpc_port}")
    )


def metadata(case: Case) -> tuple[tuple[str, str], ...]:
    return (("authorization", case.served.headers["Authorization"]),)


def oip_type(case: Case, name: str) -> str:
    kind = case.asked.column(name).type
    if pa.types.is_boolean(kind):
        return "BOOL"
    return "FP64" if pa.types.is_floating(kind) else "INT64" if pa.types.is_integer(kind) else "BYTES"


def oip_json(case: Case) -> tuple[Outputs, list[int]]:
    inputs = [
        {"name": n, "shape": [ASKED, 1], "datatype": oip_type(case, n), "data": [row[n] for row in case.rows]}
        for n in case.names
    ]
    answer = case.post(f"/v2/models/{case.model}/infer", {"inputs": inputs}).json()
    outputs = {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer["outputs"]}
    return outputs, list(range(ASKED))


def oip_binary(case: Case) -> tuple[Outputs, list[int]]:
    return triton(case, triton_http, f"127.0.0.1:{case.served.port}")


def oip_grpc(case: Case) -> tuple[Outputs, list[int]]:
    return triton(case, triton_grpc, f"127.0.0.1:{case.served.grpc_port}")


def triton(case: Case, module: Any, address: str) -> tuple[Outputs, list[int]]:
    inputs = []
    for name in case.names:
        values = case.column(name, case.whole)
        inputs.append(module.InferInput(name, list(values.shape), oip_type(case, name)))
        inputs[-1].set_data_from_numpy(values)
    headers = {"authorization": case.served.headers["Authorization"]}
    answer = module.InferenceServerClient(address).infer(case.model, inputs, headers=headers)
    return {name: answer.as_numpy(name) for name in case.output}, case.whole


def csv_text(case: Case) -> tuple[Outputs, list[int]]:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(case.names)
    plain = lambda value: "" if value is None else str(value).lower() if isinstance(value, bool) else value  # noqa: E731
    writer.writerows([plain(value) for value in row.values()] for row in case.rows)
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    lines = list(
        csv.DictReader(io.StringIO(case.post(f"/v1/models/{case.model}:predict", out.getvalue(), **headers).text))
    )
    outputs = {
        name: np.array([[float(row[column]) for column in unit_columns(output, name)] for row in lines])
        for name, output in case.output.items()
    }
    return outputs, list(range(ASKED))


def unit_columns(output: dict[str, Any], prefix: str) -> list[str]:
    """Return the names of a target's columns in CSV responses and batch predictions."""
    if output["task"] == "regression":
        return [prefix]
    return [f"{prefix}_{label}" for label in output["labels"][-output["units"] :]]


def fast_lane(case: Case) -> tuple[Outputs, list[int]]:
    """One row per request on one connection, each three times: the first one makes the lane remember its head."""
    before = case.served.telemetry("fitserve_predict_fast_lane_requests_total")
    predictions = []
    with socket.create_connection(("127.0.0.1", case.served.port)) as connection:
        reader = connection.makefile("rb")
        for row in case.rows:
            for _ in range(3):
                body = json.dumps({"instances": [row]}).encode()
                head = f"POST /v1/models/{case.model}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                connection.sendall(
                    f"{head}Authorization: {case.served.headers['Authorization']}\r\n\r\n".encode() + body
                )
                assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
                lines = iter(reader.readline, b"\r\n")
                length = max(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
                answer = json.loads(reader.read(length))["predictions"]
            predictions += answer
    used = case.served.telemetry("fitserve_predict_fast_lane_requests_total") - before
    assert used >= (2 if len(case.output) == 1 else 0)  # warnings and several targets take the ordinary path
    return by_row(case, predictions), list(range(ASKED))


def batch(case: Case) -> tuple[Outputs, list[int]]:
    toys = case.toys
    settings = Settings(home=toys.home, database_url=toys.url)
    with db.reading(toys.engine) as session:
        artifact = registry.version(session, case.model, 1).artifact
    asked = {
        "model": case.model,
        "version": 1,
        "artifact": artifact,
        "dataset": case.dataset,
        "name": f"by-{case.model}",
    }
    new = create.NewRun("ada", case.dataset, {}, asked, {}, kind="prediction")
    create.create_run(toys.engine, new, settings.limits)
    claim = lease.claim(toys.engine, "w", lease_seconds=60, running_limit=99, kinds=("prediction",))
    assert claim is not None
    state = BatchPredictionAttempt(settings, toys.engine, toys.blobs, claim, threading.Event()).run()
    assert state == RunState.succeeded
    with db.reading(toys.engine) as session:
        made = session.get(Dataset, session.get(Run, claim.lease.run_id).result["dataset_id"])
    table = pq.read_table(store.local_parquet(toys.blobs, made, settings.scratch / "blobs"))
    outputs = {
        name: np.stack([table[column].to_numpy() for column in unit_columns(output, f"predicted_{name}")], axis=1)
        for name, output in case.output.items()
    }
    return outputs, list(range(ASKED))


PROTOCOLS: list[Callable[[Case], tuple[Outputs, list[int]]]] = [
    tfs_rows,
    tfs_positional,
    tfs_columns,
    tfs_classify_and_regress,
    tfs_grpc,
    tfs_grpc_examples,
    oip_json,
    oip_binary,
    oip_grpc,
    csv_text,
    fast_lane,
    batch,
]


def check(outputs: Outputs, case: Case, rows: list[int]) -> None:
    assert outputs.keys() == case.keras.keys()
    assert len(rows) >= 3
    for name, expected in case.keras.items():
        wanted = expected[rows]
        assert outputs[name].shape == wanted.shape
        scale = np.maximum(np.abs(wanted), 1.0)
        assert (np.abs(outputs[name] - wanted) / scale).max() <= 1e-5, name


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", list(SPECS))
def test_every_protocol_answers_what_keras_predicts(cases: dict[str, Case], name: str, protocol: Any) -> None:
    case = cases[name]
    assert np.ptp(np.concatenate([value.ravel() for value in case.keras.values()])) > 1e-3  # the rows differ
    outputs, rows = protocol(case)
    check(outputs, case, rows)


def test_a_kept_epoch_is_served_as_a_label_by_every_protocol_with_labels(cases: dict[str, Case]) -> None:
    """Its weights are not the version's."""
    case, checkpoint = cases["binary"], cases["binary@epoch-1"]
    assert np.abs(case.keras["sold"] - checkpoint.keras["sold"]).max() > 1e-4
    rest = case.post("/v1/models/binary/labels/epoch-1:predict", {"instances": case.rows})
    assert (rest.headers["x-model-version"], rest.headers["x-model-label"]) == ("1", "epoch-1")
    check({"sold": np.array(rest.json()["predictions"])}, checkpoint, list(range(ASKED)))
    columns = [
        {"name": n, "shape": [ASKED], "datatype": oip_type(case, n), "data": [row[n] for row in case.rows]}
        for n in case.names
    ]
    oip = case.post("/v2/models/binary/versions/epoch-1/infer", {"inputs": columns}).json()
    assert oip["parameters"]["label"] == "epoch-1"
    check({"sold": np.array(oip["outputs"][0]["data"])[:, None]}, checkpoint, list(range(ASKED)))
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = "binary", "epoch-1"
    for name in case.names:
        request.inputs[name].CopyFrom(tf.make_tensor_proto(case.column(name, case.whole)))
    answer = stub(case).Predict(request, 20, metadata(case))
    check({"sold": tf.make_ndarray(answer.outputs["sold"])}, checkpoint, case.whole)
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{case.served.grpc_port}")
    inputs = []
    for name in case.names:
        inputs.append(triton_grpc.InferInput(name, [len(case.whole), 1], oip_type(case, name)))
        inputs[-1].set_data_from_numpy(case.column(name, case.whole))
    headers = {"authorization": case.served.headers["Authorization"]}
    outputs = client.infer("binary", inputs, model_version="epoch-1", headers=headers).as_numpy("sold")
    check({"sold": outputs}, checkpoint, case.whole)


@pytest.mark.parametrize("name", ["regression", "calibrated", "isotonic"])
def test_every_protocol_answers_the_same_interval_or_set(cases: dict[str, Case], name: str) -> None:
    case, level = cases[name], 0.8
    (output,) = case.manifest["outputs"]
    kept, own = case.manifest["conformal"][output["name"]], case.keras[output["name"]].astype(np.float64)
    scores, rows = np.sort(kept["scores"]), kept["rows"]
    if name == "regression":
        tail = int(0.1 * (rows + 1) + 1e-9)
        wanted = {"low": own + scores[tail - 1], "high": own + scores[rows - tail]}
    else:
        shares = np.hstack([1 - own, own]) if own.shape[1] == 1 else own
        likelier = (shares[:, None, :] * (shares[:, None, :] > shares[:, :, None])).sum(axis=2)
        wanted = {"set": likelier <= scores[int(np.ceil(level * (rows + 1) - 1e-9)) - 1] + 1e-9}
    wanted = {f"{output['name']}_{end}": values for end, values in wanted.items()}
    labels = np.array(output["labels"] or (), object)

    def same(found: dict[str, Any]) -> None:
        for key, values in wanted.items():
            if values.dtype == bool:
                np.testing.assert_array_equal(np.asarray(found[key], bool).reshape(values.shape), values)
            else:
                np.testing.assert_allclose(np.asarray(found[key]).reshape(values.shape), values, rtol=1e-5)

    def inside(listed: Any) -> Any:
        return [np.isin(labels, one) for one in listed] if labels.size else listed

    body = {"instances": case.rows, "interval": level}
    answer = case.post(f"/v1/models/{case.model}:predict", body).json()["predictions"]
    same({key: inside([row[key] for row in answer]) for key in wanted})
    columns = {one: [row[one] for row in case.rows] for one in case.names}
    answer = case.post(f"/v1/models/{case.model}:predict", {"inputs": columns, "interval": level}).json()["outputs"]
    same({key: inside(answer[key]) for key in wanted})
    verb = "classify" if labels.size else "regress"
    answer = case.post(f"/v1/models/{case.model}:{verb}", {"examples": case.rows}, **{"X-Interval": "0.8"}).json()
    same({key: inside(answer[key]) for key in wanted})
    inputs = [
        {"name": n, "shape": [ASKED, 1], "datatype": oip_type(case, n), "data": [row[n] for row in case.rows]}
        for n in case.names
    ]
    asked = {"inputs": inputs, "parameters": {"interval": level}}
    same({one["name"]: one["data"] for one in case.post(f"/v2/models/{case.model}/infer", asked).json()["outputs"]})
    with db.reading(case.toys.engine) as session:
        artifact = registry.version(session, case.model, 1).artifact
    found = ArtifactModel(case.toys.blobs, artifact, level).predict(case.asked).to_pydict()
    split = lambda listed: [one.split("; ") for one in listed] if labels.size else listed  # noqa: E731
    same({key: inside(split(found[f"predicted_{key}"])) for key in wanted})
    for module, port in ((triton_http, case.served.port), (triton_grpc, case.served.grpc_port)):
        binary = []
        for one in case.names:
            binary.append(module.InferInput(one, [len(case.whole), 1], oip_type(case, one)))
            binary[-1].set_data_from_numpy(case.column(one, case.whole))
        headers = {"authorization": case.served.headers["Authorization"], "x-interval": "0.8"}
        found = module.InferenceServerClient(f"127.0.0.1:{port}").infer(case.model, binary, headers=headers)
        for key, values in wanted.items():
            np.testing.assert_allclose(found.as_numpy(key), values[case.whole], rtol=1e-5)
    for bad in (0, 1, -0.5, 90, "high", True, []):
        refused = httpx2.post(
            f"{case.served.url}/v1/models/{case.model}:predict",
            json={**body, "interval": bad},
            headers=case.served.headers,
            timeout=PATIENCE,
        )
        assert (refused.status_code, "between 0 and 1" in refused.text) == (400, True), bad
    refused = httpx2.post(
        f"{case.served.url}/v1/models/{case.model}:predict",
        json={**body, "interval": 0.999},
        headers=case.served.headers,
        timeout=PATIENCE,
    )
    assert refused.status_code == 400
    assert f"needs {1999 if name == 'regression' else 999} held-out rows" in refused.text
