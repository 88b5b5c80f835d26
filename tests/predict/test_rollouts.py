"""Prediction processes in a rollout: which requests a version answers, and what is counted for its guards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx2
import pytest
from sqlalchemy import select

from fitserve import db, drift, monitoring, registry
from fitserve.rollouts import evidence, lifecycle
from fitserve.rollouts.guards import StepCounts, measure
from fitserve.settings import Settings
from fitserve.tables import Rollout, RolloutCount
from services.predict.protocols.proto import inference_pb2 as pb
from services.predict.serving.drift_monitor import COUNT_SECONDS
from services.predict.serving.rollout_traffic import WRITE_SECONDS
from tests.predict.toy_registry import RunningService, ToyModel, ToyRegistry, eventually, numeric, run_service
from tests.waiting import PATIENCE, wait_until
from workers.rollout_driver import TICK_SECONDS, RolloutDriver

ROW = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
CLIENT = httpx2.Client(verify=False, headers={"Connection": "close"}, timeout=PATIENCE)  # so that any process answers
KEYS = [f"user {number}" for number in range(80)]


def toy(seed: int) -> ToyModel:
    """Return a model whose manifest has the distribution of its predictions for training rows."""
    known = {"y": {"values": {"kind": "numeric", "edges": [-9.0, -3.0, 0.0, 3.0, 9.0], "shares": [0.25] * 4}}}
    known["y"]["values"]["missing"] = 0.0
    return replace(numeric(seed), more={"prediction_distribution": known})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Two prediction processes with a model `m` of two versions."""
    toys = ToyRegistry(tmp_path_factory.mktemp("rollouts"))
    for seed in (1, 2):
        toys.register("m", toy(seed))
    toys.change(registry.set_label, "m", "champion", version_number=1)
    with run_service(toys, FITSERVE_PREDICT_PROCESSES="2") as served:
        yield served


def ask(served: RunningService, key: str | None = None, model: str = "m", **headers: str) -> str:
    """Ask one row; return the version that answered."""
    sent = served.headers | headers | ({} if key is None else {"X-Sticky-Key": key})
    answer = CLIENT.post(f"{served.url}/v1/models/{model}:predict", json={"instances": ROW}, headers=sent)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-model-version"])


def counts(served: RunningService, id: str, step: int) -> StepCounts:
    with db.reading(served.toys.engine) as session:
        return evidence.counts_of(session, id).get(step, StepCounts())


def wait_for_every_process(served: RunningService, id: str, step: int) -> None:
    """Wait until both processes have answered, and counted, requests in a step."""

    def all_know() -> bool:
        for key in KEYS[:10]:
            ask(served, key)
        with db.reading(served.toys.engine) as session:
            query = select(RolloutCount.process).where(RolloutCount.rollout_id == id, RolloutCount.step == step)
            return len(set(session.scalars(query))) == 2

    eventually(all_know)


def advance(served: RunningService, id: str) -> str | None:
    lifecycle.claim(served.toys.engine, "test")
    done = lifecycle.advance(served.toys.engine, id, "test")
    return None if done is None else done.moved


def test_growing_shares_keep_those_who_are_in(running: RunningService) -> None:
    plan: dict[str, Any] = {"steps": [25, 60, 100], "hold": 0.0, "min_requests": 5, "guards": {"p99_ratio": None}}
    plan["guards"]["prediction_drift"] = None  # they differ
    rollout = running.toys.change(lifecycle.start, "m", 2, **plan)
    wait_for_every_process(running, rollout.id, 0)
    first = {key for key in KEYS if ask(running, key) == "2"}
    assert 0.1 < len(first) / len(KEYS) < 0.45
    assert first == {key for key in KEYS if ask(running, key) == "2"}
    assert {ask(running, None) for _ in range(30)} == {"1", "2"}
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        message = pb.ModelInferRequest(model_name="m")
        tensor = message.inputs.add(name="instances", datatype="FP64", shape=[1, 6])
        tensor.contents.fp64_contents.extend(ROW[0])
        authorization = ("authorization", f"Bearer {running.toys.token}")
        by_key = {
            key: infer(message, metadata=(authorization, ("x-sticky-key", key))).model_version for key in KEYS[:20]
        }
    assert by_key == {key: "2" if key in first else "1" for key in KEYS[:20]}
    ask(running, next(iter(first)), **{"X-Prediction-ID": "p-new"})
    bad = CLIENT.post(f"{running.url}/v1/models/m:predict", json={"instances": [["x"]]}, headers=running.headers)
    assert bad.status_code == 400

    def all_counted() -> bool:
        found = counts(running, rollout.id, 0)
        both = (found.base, found.new)
        return found.base.errors + found.new.errors == 1 and all(sum(one.latency) > 10 for one in both)

    eventually(all_counted)
    found = counts(running, rollout.id, 0)
    for arm in (found.base, found.new):
        assert sum(arm.latency) == arm.requests - arm.errors
        assert sum(arm.outputs["y"]["values"]) == pytest.approx(arm.requests - arm.errors, abs=2)
    assert found.scales == {"y": 6.0}

    def stored() -> Any:
        with db.reading(running.toys.engine) as session:
            row = monitoring.stored_prediction(session, "m", "ada", "p-new")
        return row and (row.version, row.rollout, row.rollout_step)

    eventually(lambda: stored() == (2, rollout.id, 0))
    assert advance(running, rollout.id) == "step"
    wait_for_every_process(running, rollout.id, 1)
    assert len({key for key in KEYS if ask(running, key) == "2"} - first) > 5
    assert all(ask(running, key) == "2" for key in first)
    with db.transaction(running.toys.engine) as session:
        lifecycle.abort(session, "m", rollout.id)
    eventually(lambda: {ask(running, key) for key in KEYS} == {"1"})


def test_shadow_first_and_what_disagrees(running: RunningService) -> None:
    rollout = running.toys.change(lifecycle.start, "m", 2, shadow=True, guards={"disagreement": 0.5})

    def compared() -> bool:
        assert ask(running) == "1"
        return counts(running, rollout.id, 0).compared >= 5

    eventually(compared)
    found = counts(running, rollout.id, 0)
    assert found.base.requests == found.new.requests == found.compared
    one, two = (toy(seed).answer(ROW)["y"].mean() for seed in (1, 2))
    assert found.disagreeing == found.compared * float(abs(one - two) > 0.6)
    assert {"values": pytest.approx(sum(found.new.outputs["y"]["values"]))} == {"values": found.new.requests}
    assert len(found.new.outputs["y"]["values"]) == len(
        drift.bin_names(toy(1).more["prediction_distribution"]["y"]["values"])
    )
    with db.transaction(running.toys.engine) as session:
        lifecycle.abort(session, "m", rollout.id)


def test_a_version_that_cannot_be_loaded_fails_for_the_guard_and_for_no_client(running: RunningService) -> None:
    toys = running.toys
    toys.register("broken", toy(1))
    artifact = toys.store_artifact(toy(3))
    (toys.home / "blobs" / artifact[:2] / artifact).unlink()  # before any process can load it
    toys.change(registry.set_label, "broken", "champion", version_number=1)
    toys.register("broken", toy(3), artifact=artifact)
    rollout = toys.change(lifecycle.start, "broken", 2, steps=[50, 100])

    url = f"{running.url}/v1/models/broken:predict"
    eventually(
        lambda: (
            [CLIENT.post(url, json={"instances": ROW}, headers=running.headers).status_code for _ in range(12)]
            == [200] * 12
        )
    )  # every process knows it

    def taken_back() -> bool:
        assert ask(running, model="broken") in ("1", "2")  # 2 until the champion is known
        return advance(running, rollout.id) == "rolled_back"

    eventually(taken_back)
    with db.reading(toys.engine) as session:
        reason = lifecycle.get(session, "broken", rollout.id).reason
    assert reason is not None
    assert reason["guard"] == "errors"


class RollbackSeconds(NamedTuple):
    """Seconds by the database's clock: from when its counts were seen to breach a guard, and, longer, from before."""

    rollback: float
    rollback_from_before: float
    known_by_every_process: float


def _roll_back(served: RunningService, name: str) -> RollbackSeconds:
    """Roll out a version that cannot be loaded, driven as by a worker, until nobody is sent to it any more."""
    toys = served.toys
    toys.register(name, toy(1))
    artifact = toys.store_artifact(toy(3))
    (toys.home / "blobs" / artifact[:2] / artifact).unlink(missing_ok=True)  # before any process can load it
    toys.change(registry.set_label, name, "champion", version_number=1)
    toys.register(name, toy(3), artifact=artifact)
    url = f"{served.url}/v1/models/{name}:predict"

    def known_to_all() -> bool:
        answers = [CLIENT.post(url, json={"instances": ROW}, headers=served.headers) for _ in range(24)]
        return all(answer.status_code == 200 for answer in answers)

    eventually(known_to_all)
    rollout = toys.change(lifecycle.start, name, 2, steps=[50, 100], guards={"p99_ratio": None})
    times: dict[str, datetime] = {}

    def note(what: str) -> None:
        with db.reading(toys.engine) as session:
            times[what] = db.now(session)

    def breached() -> bool:
        """Ask until the counts in the database breach the guard."""
        for key in KEYS[:8]:
            ask(served, key, name)
        with db.reading(toys.engine) as session:
            at = db.now(session)
            found = evidence.counts_of(session, rollout.id)
            shares = lifecycle.StoredPlan.read(lifecycle.get(session, name, rollout.id).plan).shares
        if any(one.breached for one in measure(shares, 0, {"errors": 0.005}, found, {})):
            return True
        times["before"] = at
        return False

    def ended() -> Rollout | None:
        with db.reading(toys.engine) as session:
            row = lifecycle.get(session, name, rollout.id)
        return row if row.finished_at is not None else None

    driver = RolloutDriver(toys.engine)
    driver.start()
    try:
        eventually(breached)
        note("breached")
        row = wait_until(ended, "the rollback")
    finally:
        driver.stop()
    assert (row.state, (row.reason or {})["guard"]) == ("rolled_back", "errors")
    eventually(lambda: {ask(served, key, name) for key in KEYS[:40]} == {"1"})
    note("known")
    spans = [(row.finished_at, "breached"), (row.finished_at, "before"), (times["known"], "before")]
    return RollbackSeconds(*((end - times[since]).total_seconds() for end, since in spans))


def test_a_breach_is_rolled_back_within_five_seconds(running: RunningService) -> None:
    whole = COUNT_SECONDS + WRITE_SECONDS + TICK_SECONDS + Settings().registry_poll_seconds
    assert whole < 4.0, "from the request that breaches to the last process, where nothing else takes time"
    assert _roll_back(running, "late").rollback < 5.0


@pytest.mark.long
def test_breaches_are_rolled_back_within_five_seconds_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    toys = ToyRegistry(tmp_path / "pg", postgres_url)
    with run_service(toys, FITSERVE_PREDICT_PROCESSES="4", FITSERVE_REGISTRY_POLL_SECONDS="1") as served:
        measured = [_roll_back(served, f"late{number}") for number in range(6)]
    print(*measured, sep="\n")
    assert all(one.rollback < 5.0 for one in measured)
    toys.engine.dispose()
