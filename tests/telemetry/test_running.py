"""A running system under traffic, as seen through Prometheus, dashboards, alerts, logs and traces.

One server for all tests here: two prediction processes, short leases, a Prometheus that scrapes every second, and a
collector of traces. Its worker is killed in the middle of a run.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
import yaml

from docs.tables import telemetry_names
from fitserve import Client
from tests.conftest import PROJECT, Server, get_text, start_server, stop_server
from tests.events.receiver import receiving
from tests.needs import need
from tests.telemetry.running import RULES, Collector, Prometheus, eventually, log_lines, targets_of
from tests.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.xdist_group("telemetry_running"), pytest.mark.timeout(900)]
RNG = np.random.default_rng(3)

# Panels and alerts without a value in this test, and why they cannot have one.
QUIET = {
    "FitserveNoWorker": "absent() of a running worker has no value; tests/telemetry/rules.test.yml removes the worker",
    "failed loads": "counted by model, and every artifact here is intact; tests/predict/test_changes.py breaks one",
    "FitserveWebhooksDisabled": "compares with an hour before; tests/telemetry/rules.test.yml",
    "FitserveVersionBroken": "exported only for broken versions, and every artifact here is intact",
}


# Series that stay at zero in this test, and the tests that move them.
UNMOVED = {
    "fitserve_automation_firings_total": "no automation here; tests/events/test_automations.py",
    "fitserve_automations_paused": "the same",
    "fitserve_batch_parts_total": "no batch prediction here; tests/predict/test_destinations.py",
    "fitserve_batch_rows_total": "the same",
    "fitserve_blobs_collected_total": "garbage is a day old; tests/runs",
    "fitserve_import_bytes_total": "no source here; tests/datasets/test_sql_sources.py",
    "fitserve_imports_total": "the same",
    "fitserve_drift_missing_ratio": "no value is missing here; tests/telemetry/test_live.py",
    "fitserve_live_bad_slices": "no model here has coverage_by; tests/predict/test_intervals.py",
    "fitserve_predict_evictions_total": "memory suffices; tests/predict/test_changes.py",
    "fitserve_predict_expired_total": "no request has a deadline; tests/predict",
    "fitserve_predict_load_failures_total": "every artifact is intact; tests/predict/test_changes.py",
    "fitserve_predict_poll_failures_total": "the database is up; tests/predict/test_changes.py",
    "fitserve_predict_requests_in_flight": "each is over before the next scrape; tests/predict",
    "fitserve_predict_shed_total": "no queue is full; tests/predict",
    "fitserve_predict_versions_broken": "every artifact is intact; tests/predict/test_changes.py",
    "fitserve_queue_messages_dropped_total": "nobody else writes to the broker; tests/faults/test_poison.py",
    "fitserve_queue_oldest_seconds": "updated every 15 s, and no run waits as long; tests/runs",
    "fitserve_rollout_guard_used_ratio": "no guard is certain of so few requests; tests/rollouts/test_guards.py",
    "fitserve_runs_dispatched_total": "no message is lost; tests/faults",
    "fitserve_predict_shadow_largest_difference": "two networks may agree; tests/predict/test_changes.py",
    "fitserve_webhook_deliveries_pending": "counted every 15 s, and no delivery waits as long; tests/events",
    "fitserve_webhook_oldest_due_seconds": "the same",
    "fitserve_webhooks_disabled": "the receiver answers; tests/events",
}


@dataclass
class Sent:
    """Counts of what the test has sent."""

    runs: int = 0
    uploads: int = 0
    rows: int = 0
    feedback: int = 0


@dataclass
class Running:
    server: Server
    prometheus: Prometheus
    collector: Collector
    api: httpx2.Client
    predict: httpx2.Client
    client: Client
    started_at: float
    sent: Sent = field(default_factory=Sent)
    run_ids: dict[str, str] = field(default_factory=dict)

    def submit(self, name: str, spec: dict[str, Any], request_id: str) -> str:
        accepted = self.api.post("/runs", json=spec, headers={"X-Request-ID": request_id})
        assert accepted.status_code == 202, accepted.text
        self.sent.runs += 1
        self.run_ids[name] = accepted.json()["id"]
        return self.run_ids[name]

    def state(self, name: str) -> str:
        return str(self.api.get(f"/runs/{self.run_ids[name]}").json()["state"])

    def wait_until_ended(self, name: str, seconds: float = 90) -> str:
        final = ("succeeded", "failed", "cancelled")
        eventually(lambda: self.state(name) in final, seconds, f"the run {name} did not end")
        return self.state(name)


def table(rows: int, shift: float = 0.0) -> str:
    points = RNG.uniform(-5, 5, (rows, 2)) + shift
    lines = [f"{x:.4f},{y:.4f},{'in' if np.hypot(x, y) < 3.2 else 'out'},{2 * x - y:.4f}" for x, y in points]
    return "x,y,side,height\n" + "\n".join(lines) + "\n"


def spec(target: str, model: str | None, epochs: int, **options: Any) -> dict[str, Any]:
    training = {"epochs": epochs, "batch_size": 32, "seed": 1, **options}
    spec = {
        "dataset": "plane",
        "features": ["x", "y"],
        "target": target,
        "network": [{"Dense": {"units": 8, "activation": "tanh"}}],
        "training": training,
    }
    return spec | ({"model": model} if model else {})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("running")
    need("prometheus")
    collector = Collector()
    server = start_server(
        folder / "home",
        FITSERVE_PREDICT_PROCESSES="2",
        FITSERVE_DRIFT_WRITE_SECONDS="0.5",
        FITSERVE_LEASE_SECONDS="8",  # longer than a busy machine's pause, which would be counted as a lost worker
        FITSERVE_HEARTBEAT_SECONDS="1",
        FITSERVE_REAP_SECONDS="1",
        FITSERVE_OTLP_ENDPOINT=collector.endpoint,
        FITSERVE_OUTGOING_NETWORKS="127.0.0.0/8",
    )
    prometheus = Prometheus(folder / "prometheus", targets_of(server))
    system = Running(
        server,
        prometheus,
        collector,
        httpx2.Client(base_url=server.base_url + "/api/v1", headers=server.headers, timeout=PATIENCE),
        httpx2.Client(base_url=server.predict_url, headers=server.headers, timeout=PATIENCE),
        Client(server.base_url, server.token, predict_url=server.predict_url),
        time.time(),
    )
    try:
        with receiving() as receiver:
            system.client.webhooks.create(receiver.url, events=["*"])
            make_traffic(system)
            eventually(lambda: "rollout.finished" in receiver.types)
        yield system
    finally:
        system.api.close()
        system.predict.close()
        system.client.close()
        prometheus.stop()
        stop_server(server)
        collector.stop()


def make_traffic(on: Running) -> None:
    """Send uploads, runs that succeed, fail and are killed, predictions of every kind, and ground truth."""
    uploaded = on.api.put("/datasets/plane", content=table(400), headers={"Content-Type": "text/csv"})
    assert uploaded.status_code == 201, uploaded.text
    ragged = table(20) + "1,2,in,3,too many\n"
    lenient = on.api.put("/datasets/ragged?lenient=true", content=ragged, headers={"Content-Type": "text/csv"})
    assert lenient.status_code == 201, lenient.text
    on.sent.uploads += 2
    on.submit("side", spec("side", "side", 30), "request-side")
    on.submit("height", {**spec("height", "height", 20), "interval": 0.8}, "request-height")
    on.submit("diverges", spec("height", None, 5, optimizer={"SGD": {"learning_rate": 1e30}}), "request-diverges")
    assert on.wait_until_ended("side") == "succeeded"
    assert on.wait_until_ended("height") == "succeeded"
    assert on.wait_until_ended("diverges") == "failed"
    kill_the_worker(on)
    on.submit("side2", spec("side", "side", 3), "request-side2")
    assert on.wait_until_ended("side2") == "succeeded"
    # The second version shadows the first for a while, then replaces it by a rollout.
    on.client.models.promote("side", 1)
    on.client.models.promote("side", 2, "candidate", shadow=True)
    candidate = "/v1/models/side/labels/candidate/metadata"
    eventually(lambda: on.predict.get(candidate).headers.get("x-model-version") == "2")
    send_predictions(on)
    on.client.models.remove_label("side", "candidate")
    roll_out(on)
    eventually(lambda: on.predict.get("/v1/models/side/metadata").headers.get("x-model-version") == "2")
    send_predictions(on)
    send_truth(on)
    on.prometheus.wait_for_scrapes()


def roll_out(on: Running) -> None:
    """Make the second version the champion in two steps, under guards that two networks alike do not breach."""
    limits = {"errors": 0.5, "p99_ratio": 1000.0, "prediction_drift": None, "live_accuracy": None}
    rollout = on.client.rollouts.start("side", 2, steps=[50, 100], hold=2, min_requests=20, guards=limits)

    def has_ended() -> bool:
        on.client.models.predict("side", [[0.5, 0.5]])
        on.sent.rows += 1
        return on.client.rollouts.get("side", rollout.id).state == "succeeded"

    eventually(has_ended, 60, "the rollout did not end")


def kill_the_worker(on: Running) -> None:
    """Kill the worker in the middle of a run, which another worker process takes over."""
    on.submit("long", spec("side", "long", 4_000), "request-long")
    eventually(lambda: len(on.api.get(f"/runs/{on.run_ids['long']}/epochs").json()["items"]) > 3)
    (worker,) = [
        one for one in psutil.Process(on.server.process.pid).children() if one.cmdline()[-2:] == ["-m", "workers"]
    ]
    for trainer in worker.children(recursive=True):
        if "workers.trainer" in trainer.cmdline():
            trainer.suspend()  # what follows waits for Prometheus, and it would train for as long
    attempts = 'fitserve_run_attempts_total{job="worker"}'
    eventually(lambda: on.prometheus.total(attempts) == on.sent.runs, 20, "Prometheus has not seen the attempt")
    eventually(lambda: on.prometheus.query('fitserve_run_last_loss{model="long"}'), 20, "no loss of the running model")
    on.submit("queued", spec("side", None, 1), "request-queued")
    assert on.api.post(f"/runs/{on.run_ids['queued']}/cancel").json()["state"] == "cancelled"
    on.prometheus.wait_for_scrapes()  # what the worker has counted until now
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: on.api.get(f"/runs/{on.run_ids['long']}").json()["attempt"] == 2, 60)
    on.api.post(f"/runs/{on.run_ids['long']}/cancel")
    assert on.wait_until_ended("long") == "cancelled"


def send_predictions(on: Running) -> None:
    """Send named and positional rows, on both lanes and over both protocols; rows with warnings and with errors."""
    for number in range(12):
        rows = RNG.uniform(-5, 5, (25, 2)).round(4).tolist()
        with httpx2.Client(base_url=on.server.predict_url, headers=on.server.headers, timeout=PATIENCE) as fresh:
            for _ in range(2):
                for model in ("side", "height"):
                    answer = fresh.post(f"/v1/models/{model}:predict", json={"instances": rows})
                    assert answer.status_code == 200, answer.text
                    on.sent.rows += len(rows)
        if number == 0:
            far = on.predict.post("/v1/models/side:predict", json={"instances": [[1e6, 0.0]]})
            assert far.status_code == 200, far.text
            on.sent.rows += 1
            refused = on.predict.post("/v1/models/side:predict", json={"instances": [{"x": "a", "y": 1}]})
            assert refused.status_code == 400, refused.text
            big = on.predict.post(
                "/v1/models/height:predict", json={"instances": RNG.uniform(-5, 5, (3000, 2)).tolist()}
            )
            assert big.status_code == 200
            on.sent.rows += 3000
            data = {"name": "instances", "shape": [1, 2], "datatype": "FP64", "data": [0.5, 0.5]}
            infer = on.predict.post("/v2/models/height/infer", json={"inputs": [data]})
            assert infer.status_code == 200, infer.text
            on.sent.rows += 1


def send_truth(on: Running) -> None:
    rows = [[0.0, 0.0], [4.9, 4.9], [1.0, 1.0], [4.5, -4.5]]
    side = on.client.models.predict("side", rows, id="sides-1")
    on.client.models.predict("height", rows, id="heights-1")
    on.sent.rows += 8
    items = [{"id": "sides-1", "row": at, "truth": ["in", "out", "in", "out"][at]} for at in range(4)]
    accepted = eventually(lambda: _all_known(on.client.models.feedback("side", items)))
    assert (accepted.stored, accepted.repeated) == (4, 0)
    assert len(side) == 4
    heights = [{"id": "heights-1", "row": at, "truth": 2 * x - y} for at, (x, y) in enumerate(rows)]
    assert eventually(lambda: _all_known(on.client.models.feedback("height", heights))).stored == 4
    on.sent.feedback += 8


def _all_known(response: Any) -> Any:
    return None if response.unknown else response


# Prometheus


def substitute_variables(query: str) -> str:
    for name, value in {"$__rate_interval": "10m", "$model": ".*", "$top": "10"}.items():
        query = query.replace(name, value)
    return query


def panels() -> list[tuple[str, str, str]]:
    result = []
    for path in sorted((PROJECT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            result += [(panel["title"], t["legendFormat"], substitute_variables(t["expr"])) for t in panel["targets"]]
    return result


def test_every_panel_has_data(running: Running) -> None:
    def empty() -> list[tuple[str, str, str]]:
        return [
            (title, legend, query)
            for title, legend, query in panels()
            if legend not in QUIET and not running.prometheus.ever(query, running.started_at)
        ]

    wait_until(lambda: not empty(), lambda: f"data of {empty()}", pause=1)  # some are counted every 15 seconds
    for legend in QUIET.keys() & {legend for _, legend, _ in panels()}:
        query = next(query for _, name, query in panels() if name == legend)
        assert not running.prometheus.query(query), f"{legend} has data: remove it from QUIET"


def test_every_rule_and_alert_has_data(running: Running) -> None:
    """An alert's expression has a value once its comparison is removed."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    named = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules}
    bare = {name: re.sub(r"\s(?:>=?|<=?|==|!=)\s[\d.]+", "", expression) for name, expression in named.items()}

    def empty() -> list[tuple[str, str]]:
        asked = [(name, expression) for name, expression in bare.items() if name not in QUIET]
        return [one for one in asked if not running.prometheus.ever(one[1], running.started_at)]

    wait_until(lambda: not empty(), lambda: f"data of {empty()}", pause=1)
    loaded = running.prometheus.get("rules")["groups"]
    broken = [rule["name"] for group in loaded for rule in group["rules"] if rule["health"] == "err"]
    assert not broken


def test_every_series_moves_or_is_listed_as_unmoved(running: Running) -> None:
    """Every series is not only exported: some process has counted or set a value above zero."""

    def unmoved() -> set[str]:
        found = set()
        for name in sorted(telemetry_names() - UNMOVED.keys()):
            series = running.prometheus.query(f'max_over_time({{__name__=~"{name}|{name}_bucket"}}[1h])')
            if not any(float(one["value"][1]) > 0 for one in series):
                found.add(name)
        return found

    wait_until(lambda: not unmoved(), lambda: f"a value of {unmoved()}", pause=1)


def test_all_targets_are_up(running: Running) -> None:
    def up() -> dict[str, str]:
        return {one["metric"]["job"]: one["value"][1] for one in running.prometheus.query("up")}

    wanted = dict.fromkeys(("api", "predict", "worker", "reaper"), "1")
    eventually(lambda: up() == wanted)  # a scrape of a busy process may take longer than a second


def test_counters_agree_with_the_requests_sent(running: Running) -> None:
    """Also after a worker was killed and restarted, and with two prediction processes."""
    total, sent = running.prometheus.total, running.sent
    assert sent.runs == 6
    wanted = {
        "fitserve_runs_created_total": sent.runs,
        "fitserve_run_attempts_total": sent.runs,  # one was cancelled in the queue, another had two
        "fitserve_runs_reaped_total": 1,
        'fitserve_runs_finished_total{state="succeeded"}': 3,
        'fitserve_runs_finished_total{state="failed"}': 1,
        "fitserve_runs_finished_total": sent.runs,
        'fitserve_run_failures_total{cause="diverged"}': 1,
        "fitserve_uploads_total": sent.uploads,
        'fitserve_feedback_rows_total{outcome="stored"}': sent.feedback,
        "fitserve_predict_rows_total": sent.rows,
        'fitserve_predict_refused_rows_total{reason="bad-input"}': 2,
    }

    def counted() -> dict[str, float]:
        return {selector: total(selector) for selector in wanted}

    wait_until(lambda: counted() == wanted, lambda: f"{wanted}, but {counted()}", pause=1)
    expected = {"queued": 0, "running": 0, "succeeded": 3, "failed": 1, "cancelled": 2}

    def states() -> dict[str, int]:
        return {one["metric"]["state"]: int(one["value"][1]) for one in running.prometheus.query("fitserve_runs")}

    eventually(lambda: states() == expected, 25, "the reaper counts every 15 seconds")
    epochs = sum(
        len(running.api.get(f"/runs/{id}/epochs?limit=1000").json()["items"]) for id in running.run_ids.values()
    )
    assert total("fitserve_epochs_total") >= min(epochs, 60)


def test_promtool_accepts_every_processs_metrics(running: Running) -> None:
    for base in (
        running.server.base_url,
        running.server.predict_url,
        running.server.worker_metrics_url,
        running.server.reaper_metrics_url,
    ):
        text = get_text(f"{base}/metrics")
        # The process_* and python_* series come from the client library, which names them.
        ours = "".join(f"{line}\n" for line in text.splitlines() if "fitserve_" in line.split("{")[0])
        done = subprocess.run(
            [need("promtool"), "check", "metrics"], input=ours.encode(), capture_output=True, check=False
        )
        assert done.returncode == 0, (base, (done.stdout + done.stderr).decode())


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_paths_and_models_add_no_series(running: Running, count: int) -> None:
    def series() -> set[str]:
        lines = get_text(f"{running.server.base_url}/metrics").splitlines()
        return {line.rsplit(" ", 1)[0] for line in lines if line.startswith("fitserve_")}

    connection = http.client.HTTPConnection(running.server.base_url.removeprefix("http://"))

    def scan(numbers: range) -> None:
        for number in numbers:
            name = f"nobody-{number}"
            known = [f"models/{name}", f"models/{name}/drift", f"runs/{name}", f"datasets/{name}/rows"][number // 4 % 4]
            path = known if number % 4 == 0 else f"{name}/{number}"
            connection.request("GET", f"/api/v1/{path}", headers=running.server.headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 404

    scan(range(16))
    get_text(f"{running.server.base_url}/metrics")
    before = series()
    scan(range(16, count))
    connection.close()
    assert series() == before


# Drift and ground truth


def _of_rows(report: Any, rows: int) -> Any:
    return report if report.rows > rows else None


def test_drift_is_reported_by_column(running: Running) -> None:
    report = eventually(lambda: _of_rows(running.client.models.drift("height"), 300))
    assert {one.column for one in report.columns} == {"x", "y"}
    assert all(one.psi is not None and one.psi < 0.1 for one in report.columns), report
    assert report.verdict == "stable"
    gauge = eventually(lambda: running.prometheus.query('fitserve_drift_worst_psi{model="height"}'))
    assert float(gauge[0]["value"][1]) < 0.1
    shifted = (RNG.uniform(-5, 5, (2_000, 2)) + 4).tolist()
    for start in range(0, 2_000, 500):
        assert running.predict.post("/v1/models/height:predict", json={"instances": shifted[start : start + 500]})
        time.sleep(0.6)
    eventually(lambda: running.client.models.drift("height").verdict == "drifted", 20)
    drifted = running.client.models.drift("height")
    assert drifted.psi is not None
    assert drifted.psi > 0.25
    assert drifted.outputs[0].output == "height"
    query = 'fitserve_drift_worst_psi{model="height"} > 0.25'
    eventually(lambda: running.prometheus.query(query), 20, "the gauge does not follow")


def test_truth_gives_live_accuracy(running: Running) -> None:
    side = running.client.models.drift("side").live
    height = running.client.models.drift("height").live
    assert [one.rows for one in side] == [4]
    assert side[0].accuracy is not None
    assert side[0].rmse is None
    assert height[0].rmse is not None
    again = [{"id": "sides-1", "row": 0, "truth": "in"}, {"id": "unknown-id", "truth": "in"}]
    response = running.client.models.feedback("side", again)
    assert (response.stored, response.repeated, response.unknown) == (0, 1, ["unknown-id"])
    own = [{"id": "mine-1", "truth": "in", "predicted": "out", "version": 2}]
    assert running.client.models.feedback("side", own).stored == 1
    figures = running.client.models.drift("side").live
    assert figures[0].rows == 5
    assert figures[0].accuracy == pytest.approx(side[0].accuracy * 4 / 5)


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ({"id": "sides-1", "truth": "purple"}, "/items/0/truth"),
        ({"id": "sides-1", "row": 9, "truth": "in"}, "/items/0/row"),
        ({"id": "sides-1", "truth": "in", "output": "nothing"}, "/items/0/output"),
        ({"id": "s", "truth": "in", "predicted": "in"}, "/items/0"),
        ({"id": "has spaces", "truth": "in"}, "/items/0/id"),
    ],
)
def test_bad_feedback_is_rejected_with_a_pointer(running: Running, item: dict[str, Any], where: str) -> None:
    answer = running.api.post("/models/side/feedback", json={"items": [item]})
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert where in [body.get("pointer"), *(problem.get("pointer") for problem in body.get("errors", []))], body


# Logs and traces


def test_one_request_id_joins_api_worker_and_prediction(running: Running) -> None:
    run = running.run_ids["side"]
    running.predict.post(
        "/v1/models/side/versions/1:predict", json={"instances": [[0, 0]]}, headers={"X-Request-ID": "ask-side"}
    )

    def lines_of_run() -> dict[tuple[str, str], dict[str, Any]] | None:
        lines = log_lines(running.server)
        by = {(line["process"], line["message"]): line for line in lines if line.get("run") == run}
        return by if ("predict", "prediction") in by else None

    lines = eventually(lines_of_run, 10, "no line of the prediction service names the run")
    assert lines["api", "run queued"]["request_id"] == "request-side"
    assert lines["worker", "attempt begins"]["request_id"] == "request-side"
    assert lines["worker", "attempt over"]["request_id"] == "request-side"
    assert lines["predict", "prediction"]["request_id"] == "ask-side"
    by_request = [line for line in log_lines(running.server) if line.get("request_id") == "request-side"]
    assert {line["process"] for line in by_request} == {"api", "worker"}


def test_a_trace_goes_from_the_request_through_the_queue_to_the_worker(running: Running) -> None:
    run = running.run_ids["side"]

    def attributes(span: dict[str, Any]) -> dict[str, str]:
        return {one["key"]: str(next(iter(one["value"].values()))) for one in span.get("attributes", [])}

    def attempt() -> dict[str, Any] | None:
        spans = running.collector.spans
        return next((one for one in spans if one["name"] == "attempt" and attributes(one)["run.id"] == run), None)

    worker = eventually(attempt, 10, "no span of the worker")
    assert worker["service"] == "fitserve-worker"
    assert attributes(worker)["run.state"] == "succeeded"
    (request,) = [one for one in running.collector.spans if one["span"] == worker["parent"]]
    assert (request["service"], request["name"]) == ("fitserve-api", "POST /api/v1/runs")
    assert request["trace"] == worker["trace"]
    # A prediction from a page: through the API to the prediction service, in one trace.
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    url = f"{running.server.base_url}/v1/models/side:predict"
    body = {"instances": [[0.5, 0.5]]}
    answer = httpx2.post(url, json=body, headers={**running.server.headers, "traceparent": parent}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text

    def complete() -> set[str] | None:
        services = {one["service"] for one in running.collector.spans if one["trace"] == "ab" * 16}
        return services if len(services) == 2 else None

    assert eventually(complete, 10, "the trace is not complete") == {"fitserve-api", "fitserve-predict"}
    prediction = next(
        one for one in running.collector.spans if one["trace"] == "ab" * 16 and "predict" in one["service"]
    )
    assert attributes(prediction)["model.model"] == "side"
    assert "seconds.infer" in attributes(prediction)
