"""Windows of several prediction processes add up; shifted inputs drift, training rows do not."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from fitserve import artifacts, db, monitoring, registry
from services.predict.protocols.proto import inference_pb2 as pb
from tests.predict.toy_registry import RunningService, ToyRegistry, eventually, run_service
from tests.telemetry.drifting import RNG, TRAINING, KeepAliveClient, toy_with_distributions
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("live")
WINDOW = 3600.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Two prediction processes on one port."""
    toys = ToyRegistry(tmp_path_factory.mktemp("live"))
    toys.register("m1", toy_with_distributions())
    toys.register("moved", toy_with_distributions())
    with run_service(toys, FITSERVE_PREDICT_PROCESSES="2", FITSERVE_DRIFT_WRITE_SECONDS="0.3") as running:
        eventually(lambda: running.telemetry("fitserve_predict_processes") == 2, 20)
        yield running


def totals(toys: ToyRegistry, model: str) -> tuple[monitoring.WindowTotals, dict]:
    with db.reading(toys.engine) as session:
        artifact = registry.version(session, model, 1).artifact
        return monitoring.window_totals(session, model, artifact, WINDOW), artifacts.read(toys.blobs, artifact).manifest


def predict_on_both(served: RunningService, model: str, rows: int, shift: float = 0.0) -> None:
    """Predict over many connections, so that both processes get some, slowly enough for all rows to be sampled."""
    at = 0
    while at < rows:
        client = KeepAliveClient(served, model)
        for _ in range(4):
            chosen = TRAINING[RNG.integers(0, len(TRAINING), 25)] + shift
            client.predict(chosen)
            at += 25
        client.close()
        time.sleep(0.05)


def test_training_rows_do_not_drift_and_shifted_ones_do(served: RunningService) -> None:
    predict_on_both(served, "m1", 1_000)
    predict_on_both(served, "moved", 1_000, shift=4.0)
    eventually(lambda: totals(served.toys, "moved")[0].rows > 900, 20)
    same, manifest = totals(served.toys, "m1")
    columns = monitoring.column_drift(manifest["training_distribution"], same)
    assert len(columns) == 6
    assert all(one["psi"] < 0.1 for one in columns), columns
    assert all(one["psi"] < 0.1 for one in monitoring.output_drift(manifest["prediction_distribution"], same))
    moved, manifest = totals(served.toys, "moved")
    columns = monitoring.column_drift(manifest["training_distribution"], moved)
    assert all(one["psi"] > 0.25 and one["verdict"] == "drifted" for one in columns), columns
    assert monitoring.output_drift(manifest["prediction_distribution"], moved)[0]["psi"] > 0.25


def test_missing_values_have_their_own_bin(served: RunningService) -> None:
    before = totals(served.toys, "m1")[0].columns["x3"][-1]
    client = KeepAliveClient(served)
    body = b'{"instances": [' + b",".join([b'{"x0": 1, "x1": 1, "x2": 1, "x4": 1, "x5": 1}'] * 20) + b"]}"
    client.connection.request("POST", client.path, body, client.headers)
    assert client.connection.getresponse().status in (200, 422, 400)
    client.close()
    eventually(lambda: totals(served.toys, "m1")[0].columns["x3"][-1] - before == 20)


def test_every_process_writes_a_window_that_expires(served: RunningService) -> None:
    with db.reading(served.toys.engine) as session:
        processes = {row[0] for row in session.execute(monitoring.select(monitoring.Window.process).distinct())}
        assert len(processes) == 2
        assert {model for model, _, _ in monitoring.active_artifacts(session, WINDOW)} == {"m1", "moved"}
        assert monitoring.window_totals(session, "m1", "0" * 64, WINDOW).rows == 0
    assert monitoring.delete_expired(served.toys.engine, WINDOW, 60) == 0
    time.sleep(1)
    with db.reading(served.toys.engine) as session:
        assert monitoring.active_artifacts(session, -1_000.0) == []


def test_counters_of_two_processes_add_up_to_the_requests_sent(served: RunningService) -> None:
    def rows() -> float:
        return served.telemetry("fitserve_predict_rows_total")

    def requests() -> float:
        return served.telemetry("fitserve_predict_requests_total")

    before = rows(), requests()
    for _ in range(30):
        client = KeepAliveClient(served)
        for _ in range(5):
            client.predict(TRAINING[:3])
        client.close()
    # A scrape of either process includes both.
    for _ in range(6):
        assert (rows() - before[0], requests() - before[1]) == (450, 150)
    text = served.get("/metrics")
    shares = [line for line in text.splitlines() if line.startswith("fitserve_predict_rows_total{") and '"m1"' in line]
    assert len(shares) == 2, shares
    assert all(float(line.rsplit(" ", 1)[1]) > 0 for line in shares), shares
    assert text.count("# TYPE fitserve_predict_rows_total ") == 1


def test_a_killed_process_comes_back_and_the_other_keeps_its_counts(served: RunningService) -> None:
    processes = psutil.Process(served.process.pid).children()
    assert len(processes) == 2
    before = served.get("/metrics")
    os.kill(processes[0].pid, signal.SIGKILL)
    eventually(lambda: processes[0].pid not in [one.pid for one in psutil.Process(served.process.pid).children()], 20)

    def both() -> bool:
        try:
            return served.telemetry("fitserve_predict_processes") == 2
        except (urllib.error.URLError, OSError):
            return False

    eventually(both, 30)

    def count_of(process: str, text: str) -> float:
        lines = [x for x in text.splitlines() if x.startswith(f'fitserve_predict_rows_total{{process="{process}"')]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    after = served.get("/metrics")
    assert count_of("1", after) == count_of("1", before)
    assert count_of("0", after) == 0  # a counter that restarted, as Prometheus expects


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_names_and_paths_add_no_series(served: RunningService, count: int) -> None:
    def series() -> set[str]:
        lines = served.get("/metrics").splitlines()
        # Ignore the process: sooner or later both have the same series.
        named = (line.rsplit(" ", 1)[0] for line in lines if line.startswith("fitserve_"))
        return {re.sub(r'process="."', "", one) for one in named}

    client = KeepAliveClient(served)

    def scan(numbers: range) -> None:
        for number in numbers:
            name = f"nobody-{number}"
            path = [f"/v1/models/{name}:predict", f"/v2/models/{name}/infer", f"/{name}/{number}"][number % 3]
            client.connection.request("POST", path, b"{}", client.headers)
            assert client.connection.getresponse().read() is not None

    scan(range(60))  # the series of each kind of error
    client.connection.close()
    before = series()
    scan(range(60, 60 + count))
    client.close()
    assert series() == before


def test_predictions_under_an_id_are_stored(served: RunningService) -> None:
    client = KeepAliveClient(served)
    answer = client.predict(TRAINING[:2], **{"X-Prediction-ID": "order-7"})
    client.close()

    def stored() -> monitoring.StoredPrediction | None:
        with db.reading(served.toys.engine) as session:
            return monitoring.stored_prediction(session, "m1", "ada", "order-7")

    eventually(lambda: stored() is not None)
    prediction = stored()
    assert prediction is not None
    np.testing.assert_allclose(prediction.outputs["y"], answer["predictions"], atol=1e-5)


def test_grpc_predictions_under_an_id_are_stored(served: RunningService) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(name="instances", datatype="FP64", shape=[1, 6])
    tensor.contents.fp64_contents.extend([1.0] * 6)
    request = pb.ModelInferRequest(model_name="m1", inputs=[tensor])
    metadata = (("authorization", f"Bearer {served.toys.token}"), ("x-prediction-id", "order-8"))
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        answer, call = infer.with_call(request, timeout=PATIENCE, metadata=metadata)
    assert ("x-prediction-id", "order-8") in [(one.key, one.value) for one in call.trailing_metadata()]

    def stored() -> monitoring.StoredPrediction | None:
        with db.reading(served.toys.engine) as session:
            return monitoring.stored_prediction(session, "m1", "ada", "order-8")

    eventually(lambda: stored() is not None)
    prediction = stored()
    assert prediction is not None
    np.testing.assert_allclose(prediction.outputs["y"][0], answer.outputs[0].contents.fp32_contents, atol=1e-5)


def test_a_bad_id_is_refused(served: RunningService) -> None:
    client = KeepAliveClient(served)
    body = '{"instances": [[1, 1, 1, 1, 1, 1]]}'
    for id in ("with space", "x" * 65, "käse"):
        headers = {**client.headers, "X-Prediction-ID": id.encode("latin-1")}
        client.connection.request("POST", client.path, body, headers)
        answer = client.connection.getresponse()
        assert answer.status == 400, answer.read()
        assert b"X-Prediction-ID" in answer.read()
    client.close()


def test_the_window_is_bounded(tmp_path: Path) -> None:
    """At any rate of requests, a process buffers no more rows than its budget."""
    from fitserve.settings import Settings
    from services.predict.catalog.loaded_model import LoadedModel
    from services.predict.serving.drift import ROWS_PER_SECOND, DriftSampler

    toy = toy_with_distributions()
    model = LoadedModel("m", 1, None, "a" * 64, toy.manifest, toy.onnx)
    sampler = DriftSampler(model, monitoring.slice_seconds(Settings().drift_window_seconds))
    for batch in range(100_000):  # ten seconds of batches of 16 rows
        now = batch * 1e-4
        if now > sampler.next_sample_at:
            sampler.sample(now, [[[0.0] * 6] * 16], False, 16, [])
    left = sum(len(rows) for requests, _, _ in sampler.buffer for rows in requests)
    assert left <= ROWS_PER_SECOND[1] * 12
