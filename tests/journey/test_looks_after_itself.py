"""In time-lapse, nobody watching: a served model's inputs drift, and automations bring its live accuracy back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fitserve.client import Client
from fitserve.client.models import Model
from fitserve.wire.automations import Firing
from fitserve.wire.models import LiveFigure
from tests.conftest import Server
from tests.waiting import PATIENCE, wait_until

SPEC: dict[str, Any] = {
    "target": "above",
    "network": [{"Dense": {"units": 16, "activation": "tanh"}}],
    "training": {"optimizer": {"Adam": {"learning_rate": 0.05}}, "epochs": 25, "batch_size": 32, "seed": 1},
}
ROLLOUT = {
    "steps": [40, 100],
    "hold": 0,
    "min_requests": 15,
    "min_truths": 15,
    # The new version is to answer otherwise, and how long it takes beside a whole suite says nothing.
    "guards": {"prediction_drift": None, "p99_ratio": None},
}


def world(count: int, seed: int, *, moved: bool = False) -> pa.Table:
    """Return points; once the world has moved, they are elsewhere, and what was above is below."""
    random = np.random.default_rng(seed)
    x, y = random.normal(8.0 if moved else 0.0, 1.0, count).round(3), random.uniform(-2, 2, count).round(3)
    return pa.table({"x": x, "y": y, "above": np.where((y > 0) ^ moved, "yes", "no")})


def poisoned(count: int) -> pa.Table:
    """Return rows whose labels are of other rows."""
    table = world(count, 5, moved=True)
    labels = np.random.default_rng(6).permutation(table.column("above").to_numpy())
    return table.set_column(2, "above", pa.array(labels))


class Traffic:
    """Clients of the model, who learn the truth a little later and post it."""

    def __init__(self, client: Client, model: str) -> None:
        self.client, self.model, self.sent = client, model, 0
        self._waiting: list[dict[str, Any]] = []

    def send(self, *, moved: bool, requests: int = 5) -> None:
        for _ in range(requests):
            self.sent += 1
            rows, id = world(5, 1_000 + self.sent, moved=moved).to_pylist(), f"{self.model}-{self.sent}"
            truths = [row.pop("above") for row in rows]
            self.client.models.predict(self.model, rows, id=id)
            self._waiting += [{"id": id, "row": place, "truth": truth} for place, truth in enumerate(truths)]
        unknown = set(self.client.models.feedback(self.model, self._waiting[:1_000]).unknown)
        self._waiting = [item for item in self._waiting if item["id"] in unknown] + self._waiting[1_000:]

    def live(self, version: int) -> LiveFigure:
        return next(one for one in self.client.models.drift(self.model).live if one.version == version)

    def known(self, version: int) -> int:
        """Return of how many rows of a version the truth is known; none before its first answers are recorded."""
        return sum(one.rows for one in self.client.models.drift(self.model).live if one.version == version)


@pytest.fixture(scope="module")
def client(main_server: Server) -> Iterator[Client]:
    with Client(main_server.base_url, main_server.token) as connected:
        yield connected


def test_a_model_looks_after_itself(client: Client) -> None:
    tide = client.datasets.upload(world(400, 1), "tide")
    assert client.runs.create(SPEC, dataset=tide, model="tide").wait(PATIENCE).state == "succeeded"
    client.models.promote("tide", 1)
    follow = {"on": {"appended": "tide", "rows": 300}, "do": {"champion": "tide"}, "then": "rollout"}
    gate = {"margin": 0.05, "significance": 0.05}
    client.automations.create("tide-follow", follow, gate=gate, rollout=ROLLOUT, pause_after=9)
    quick = {"spec": {**SPEC, "dataset": "tide@1", "training": {"epochs": 1}}}
    client.automations.create("tide-drift", on={"drift": "tide", "psi": 0.25}, do=quick, then="notify")
    client.automations.create("tide-live", on={"live_metric": "tide", "below": 0.7}, do=quick, then="notify")

    def fired(name: str, count: int = 1) -> Firing | None:
        """Return the newest firing once it is over, if there are so many."""
        found = list(client.automations.history(name))
        return found[0] if len(found) >= count and found[0].finished_at is not None else None

    def model() -> Model:
        return client.models.get("tide")

    traffic = Traffic(client, "tide")
    traffic.send(moved=False, requests=10)
    traffic.send(moved=True, requests=50)
    wait_until(lambda: traffic.send(moved=True) or traffic.known(1) > 250, "live accuracy falls", pause=0.5)
    assert (traffic.live(1).accuracy or 0.0) < 0.5
    tide = tide.append(world(500, 2, moved=True))

    def rolled_out() -> bool:
        traffic.send(moved=True)
        return model().serving == 2 and next(iter(client.rollouts.list("tide"))).finished_at is not None

    done = wait_until(lambda: fired("tide-follow"), "the automation has trained", pause=0.5)
    assert (done.decision, done.dataset) == ("rollout", tide.ref), done.why
    assert done.report["unseen_by_champion"]
    assert done.report["candidate"] > done.report["champion"] + 0.3
    wait_until(rolled_out, "the rollout goes through", pause=0.2)
    rollout = next(iter(client.rollouts.list("tide")))
    assert (rollout.state, rollout.to) == ("succeeded", 2), rollout.reason
    wait_until(lambda: traffic.send(moved=True) or traffic.known(2) > 200, "ground truth of version 2", pause=0.2)
    assert (traffic.live(2).accuracy or 0.0) > 0.9
    by_drift, by_metric = (
        wait_until(lambda name=name: fired(name), name, pause=0.5) for name in ("tide-drift", "tide-live")
    )
    assert by_drift.decision == by_metric.decision == "notified"
    assert by_drift.reason.startswith("x of tide version 1 drifted: PSI ")
    assert by_metric.reason.startswith("accuracy of tide version 1 is 0.")
    for name in ("tide-drift", "tide-live"):
        client.automations.delete(name)

    tide = tide.append(poisoned(400))
    rejected = wait_until(lambda: fired("tide-follow", 2), "the gate judges", pause=0.5)
    assert (rejected.state, rejected.decision, rejected.dataset) == ("done", "rejected", tide.ref), rejected.why
    broken = world(400, 7, moved=True)
    tide = tide.append(broken.set_column(1, "y", pa.array([None] * 360 + broken.column("y").to_pylist()[360:])))
    refused = wait_until(lambda: fired("tide-follow", 3), "validation", pause=0.5)
    assert (refused.state, refused.run_id, refused.dataset) == ("refused", None, tide.ref)
    assert [(one["column"], one["what"]) for one in (refused.report or {})["problems"]] == [("y", "missing")]
    assert (model().serving, model().labels[0].version) == (2, 2)
    traffic.send(moved=True)
    assert client.rollouts.get("tide", rollout.id).finished_at is not None
    client.automations.delete("tide-follow")
