"""Models change while they are served: swaps, labels, canaries, shadows, roll-backs, corruption, eviction."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from fitserve import db, registry
from fitserve.ids import new_id
from fitserve.states import RunState
from fitserve.tables import Run
from tests.predict.toy_registry import RunningService, ToyRegistry, eventually, numeric, run_service
from tests.waiting import PATIENCE

ROW = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    toys = ToyRegistry(tmp_path_factory.mktemp("changes"))
    toys.register("first", numeric())
    with run_service(toys) as served:
        yield served


def ask(served: RunningService, model: str, path: str = "") -> httpx2.Response:
    url = f"{served.url}/v1/models/{model}{path}:predict"
    return httpx2.post(url, json={"instances": ROW}, headers=served.headers, timeout=PATIENCE)


def version(served: RunningService, model: str, path: str = "") -> str | None:
    return ask(served, model, path).headers.get("x-model-version")


def test_a_new_model_and_a_new_version_appear(running: RunningService) -> None:
    running.toys.register("fresh", numeric(1))
    eventually(lambda: version(running, "fresh") == "1")
    running.toys.register("fresh", numeric(2))
    eventually(lambda: version(running, "fresh") == "2")
    np.testing.assert_array_equal(ask(running, "fresh").json()["predictions"], numeric(2).answer(ROW)["y"])
    np.testing.assert_array_equal(
        ask(running, "fresh", "/versions/1").json()["predictions"], numeric(1).answer(ROW)["y"]
    )


def test_champion_rollback_and_retirement(running: RunningService) -> None:
    toys = running.toys
    for seed in range(3):
        toys.register("tide", numeric(seed))
    eventually(lambda: version(running, "tide") == "3")
    toys.change(registry.rollback, "tide")
    eventually(lambda: version(running, "tide") == "2")
    toys.change(registry.set_label, "tide", "champion", version_number=1)
    eventually(lambda: version(running, "tide") == "1")
    assert version(running, "tide", "/labels/champion") == "1"
    toys.change(registry.rollback, "tide")
    eventually(lambda: version(running, "tide") == "2")
    toys.change(registry.retire, "tide", 3)
    eventually(lambda: ask(running, "tide", "/versions/3").status_code == 404)


def test_an_artifact_of_another_run_is_not_served(running: RunningService) -> None:
    """Bytes that hash as they should, but that the version's run did not train."""
    toys = running.toys
    toys.register("foisted", numeric(1))
    eventually(lambda: version(running, "foisted") == "1")
    failures = running.telemetry("fitserve_predict_load_failures_total")
    artifact, run = toys.store_artifact(numeric(5)), new_id("run")
    with db.transaction(toys.engine) as session:
        session.add(
            Run(
                id=run,
                owner="ada",
                dataset_id="ds",
                spec={},
                resolved={},
                estimates={},
                state=RunState.succeeded,
                created_at=db.now(session),
            )
        )
        session.flush()
        registry.add_version(session, "foisted", "ada", run, artifact, {})
    eventually(lambda: running.telemetry("fitserve_predict_load_failures_total") > failures)
    assert version(running, "foisted") == "1"


def test_a_kept_checkpoint_is_served_as_a_label(running: RunningService) -> None:
    toys = running.toys
    toys.register("epochs", numeric(1))
    checkpoint = toys.store_artifact(numeric(12), run=toys.run_of("epochs", 1))
    toys.change(registry.set_label, "epochs", "epoch-12", version_number=1, artifact=checkpoint)
    eventually(lambda: ask(running, "epochs", "/labels/epoch-12").status_code == 200)
    answer = ask(running, "epochs", "/labels/epoch-12")
    assert answer.headers["x-model-label"] == "epoch-12"
    np.testing.assert_array_equal(answer.json()["predictions"], numeric(12).answer(ROW)["y"])
    oip = httpx2.post(
        f"{running.url}/v2/models/epochs/versions/epoch-12/infer",
        json={"inputs": [{"name": "instances", "shape": [1, 6], "datatype": "FP64", "data": ROW[0]}]},
        headers=running.headers,
        timeout=PATIENCE,
    )
    assert oip.json()["parameters"] == {"label": "epoch-12"}


def test_a_canary_takes_its_share(running: RunningService) -> None:
    toys = running.toys
    toys.register("bird", numeric(1))
    toys.register("bird", numeric(2))
    toys.change(registry.set_label, "bird", "champion", version_number=1)
    toys.change(registry.set_label, "bird", "candidate", version_number=2, weight=0.3)
    eventually(lambda: version(running, "bird") == "2")  # sooner or later
    with httpx2.Client(headers=running.headers, timeout=PATIENCE) as client:
        url = f"{running.url}/v1/models/bird:predict"
        answers = [client.post(url, json={"instances": ROW}) for _ in range(400)]
    share = np.mean([answer.headers["x-model-version"] == "2" for answer in answers])
    assert 0.18 < share < 0.42
    for answer in answers:
        seed = int(answer.headers["x-model-version"])
        np.testing.assert_array_equal(answer.json()["predictions"], numeric(seed).answer(ROW)["y"])


def test_a_shadow_sees_the_traffic_and_never_answers(running: RunningService) -> None:
    toys = running.toys
    toys.register("day", numeric(1))
    toys.register("day", numeric(2))
    toys.change(registry.set_label, "day", "champion", version_number=1)
    toys.change(registry.set_label, "day", "night", version_number=2, shadow=True)
    before = running.telemetry("fitserve_predict_shadow_total")

    def shadow_predicted() -> bool:
        assert version(running, "day") in (None, "1", "2")  # none until loaded, 2 only until the champion is known
        return running.telemetry("fitserve_predict_shadow_total") - before > 5

    eventually(shadow_predicted)
    assert {version(running, "day") for _ in range(10)} == {"1"}
    eventually(lambda: running.telemetry("fitserve_predict_shadow_largest_difference") > 0)


def test_a_corrupt_version_leaves_the_old_one_serving(running: RunningService) -> None:
    toys = running.toys
    toys.register("solid", numeric(1))
    eventually(lambda: version(running, "solid") == "1")
    toy = numeric(77)
    artifact = toys.store_artifact(toy)
    onnx = json.loads(toys.blobs.read(artifact))["onnx"]["sha256"]
    path = Path(toys.home) / "blobs" / onnx[:2] / onnx
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    failures = running.telemetry("fitserve_predict_load_failures_total")
    assert toys.register("solid", toy, artifact=artifact) == 2

    def is_reported_corrupt() -> bool:
        status = httpx2.get(f"{running.url}/v1/models/solid", headers=running.headers, timeout=PATIENCE).json()
        states = {one["version"]: one for one in status["model_version_status"]}
        return "2" in states and states["2"]["state"] == "END" and states["2"]["status"]["error_code"] == "DATA_LOSS"

    eventually(is_reported_corrupt)
    assert version(running, "solid") == "1"
    assert running.telemetry("fitserve_predict_load_failures_total") > failures
    assert running.telemetry("fitserve_predict_versions_broken") >= 1
    assert ask(running, "solid", "/versions/2").status_code == 503


def test_swaps_under_load(running: RunningService) -> None:
    """16 clients, a new version every 0.3 s: every answer is 200, with the values of the version that it names.

    Another one names the newest version in its address: it is answered by that one or, until it serves, not at all.
    """
    swap_under_load(running, "swapped", swaps=8, pause=0.3)


@pytest.mark.long
def test_swaps_under_load_for_two_minutes(running: RunningService) -> None:
    swap_under_load(running, "swapped-long", swaps=60, pause=2.0)


def swap_under_load(served: RunningService, model: str, swaps: int, pause: float) -> None:
    toys = [numeric(seed) for seed in range(swaps + 1)]
    wanted = {str(n + 1): toy.answer(ROW)["y"].tolist() for n, toy in enumerate(toys)}
    served.toys.register(model, toys[0])
    eventually(lambda: version(served, model) == "1")
    stop = threading.Event()

    def client(_: int) -> tuple[int, set[str]]:
        count, versions = 0, set()
        with httpx2.Client(headers=served.headers, timeout=PATIENCE) as session:
            while not stop.is_set():
                answer = session.post(f"{served.url}/v1/models/{model}:predict", json={"instances": ROW})
                assert answer.status_code == 200, answer.text
                name = answer.headers["x-model-version"]
                assert answer.json()["predictions"] == wanted[name]
                count, versions = count + 1, versions | {name}
        return count, versions

    newest = ["1"]

    def naming_client() -> set[str]:
        versions = set()
        with httpx2.Client(headers=served.headers, timeout=PATIENCE) as session:
            while not stop.is_set():
                name = newest[0]
                answer = session.post(
                    f"{served.url}/v1/models/{model}/versions/{name}:predict", json={"instances": ROW}
                )
                if answer.status_code != 404:
                    assert answer.status_code == 200, answer.text
                    assert answer.headers["x-model-version"] == name
                    assert answer.json()["predictions"] == wanted[name]
                    versions.add(name)
        return versions

    with ThreadPoolExecutor(17) as pool:
        clients = [pool.submit(client, number) for number in range(16)]
        naming = pool.submit(naming_client)
        for number, toy in enumerate(toys[1:], start=2):
            served.toys.register(model, toy)
            newest[0] = str(number)
            time.sleep(pause)
        eventually(lambda: version(served, model) == str(len(toys)))
        eventually(lambda: ask(served, model, f"/versions/{len(toys)}").status_code == 200)
        stop.set()
        results = [one.result() for one in clients]
    assert len(naming.result()) > 1
    assert sum(count for count, _ in results) > 50
    assert len(set.union(*(versions for _, versions in results))) > len(toys) // 2


def test_many_models_under_a_memory_budget(toys: ToyRegistry) -> None:
    for number in range(12):
        toys.register(f"m{number}", numeric(number))
    with run_service(toys, FITSERVE_PREDICT_MEMORY_BYTES="1500000") as served:  # about five of them
        assert served.telemetry("fitserve_predict_networks_loaded") <= 5
        for _ in range(2):
            for number in range(12):
                answer = ask(served, f"m{number}")
                assert answer.json()["predictions"] == numeric(number).answer(ROW)["y"].tolist()
        assert served.telemetry("fitserve_predict_evictions_total") > 12
        assert served.telemetry("fitserve_predict_networks_bytes") <= 1_500_000


def test_overload_sheds_with_429_and_deadlines_are_504(toys: ToyRegistry) -> None:
    """A model that takes milliseconds per row has a bounded queue, and answers only 200, 429 and 504."""
    toys.register("heavy", numeric(hidden=(1500, 1500)))
    with run_service(toys) as served:
        rows = [[1.0] * 6] * 300
        url = f"{served.url}/v1/models/heavy:predict"

        def one(number: int) -> tuple[int, str | None]:
            headers = {**served.headers, **({"X-Request-Timeout-Ms": "1"} if number % 3 == 0 else {})}
            answer = httpx2.post(url, json={"instances": rows}, headers=headers, timeout=PATIENCE)
            return answer.status_code, answer.headers.get("retry-after")

        with ThreadPoolExecutor(40) as pool:
            outcomes = list(pool.map(one, range(60)))
        statuses = {status for status, _ in outcomes}
        assert statuses <= {200, 429, 504}, statuses
        assert 200 in statuses
        assert 504 in statuses
        assert all(retry is not None for status, retry in outcomes if status == 429)
        assert served.telemetry("fitserve_predict_batches_total") > 0
        assert httpx2.get(f"{served.url}/readyz", timeout=PATIENCE).status_code == 200
