"""A search over HTTP and on workers that are killed: no trial lost, none counted twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from fitserve import db
from fitserve.blobs import sha256_of
from fitserve.datasets import store
from fitserve.runs import create
from fitserve.settings import Limits
from fitserve.spec.resolve_search import resolve_search
from fitserve.spec.search import read_search
from fitserve.tables import Run, Trial
from fitserve.wire.datasets import UploadOptions
from tests.faults.cluster import Cluster, wait_for
from tests.journey.test_divided_run import REAL
from tests.journey.test_journey import circle
from tests.waiting import PATIENCE

pytestmark = pytest.mark.xdist_group("server")

SPEC: dict[str, Any] = {
    "dataset": "searched",
    "target": "side",
    "network": [{"Dense": {"units": {"search": [4, 8]}, "activation": "tanh"}}],
    "training": {
        "optimizer": {"Adam": {"learning_rate": {"search": {"low": 0.001, "high": 0.1, "log": True}}}},
        "epochs": 60,
        "batch_size": 8,
        "seed": 3,
    },
    "search": {"trials": 8, "parallel": 4},
}


def _rows(cluster: Cluster, run_id: str) -> list[Trial]:
    with db.reading(cluster.engine) as session:
        return list(session.scalars(select(Trial).where(Trial.run_id == run_id).order_by(Trial.trial)))


def _submit(cluster: Cluster, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "circle.csv"
    path.write_text(circle())
    received = store.ReceivedFile(path, sha256_of(path), path.stat().st_size, path.name)
    dataset, _ = store.create(
        cluster.engine,
        cluster.blobs,
        received,
        owner="tester",
        options=UploadOptions(),
        limits=Limits(),
        scratch=folder,
        name="searched",
    )
    search, _ = read_search(SPEC)
    assert search is not None
    resolved = resolve_search(search, store.facts_of(dataset)).resolved
    return create.create_run(cluster.engine, create.NewRun("tester", dataset.id, SPEC, resolved, {}), Limits())[0].id


@pytest.mark.long
def test_a_killed_search_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    def figures(cluster: Cluster, run_id: str) -> Any:
        rows = [(row.trial, row.state, row.point, row.value, row.epochs) for row in _rows(cluster, run_id)]
        with db.reading(cluster.engine) as session:
            run = session.get(Run, run_id)
            assert run is not None
            return rows, run.result["best_trial"], run.result["artifact"] if run.result else None

    with Cluster(tmp_path / "home", environment=REAL) as cluster:
        cluster.start("reaper")
        cluster.start("worker")
        whole, killed = (_submit(cluster, tmp_path / name) for name in ("one", "two"))
        cluster.wait_over(whole, 120)

        def some_have_ended() -> bool:
            return sum(row.state != "running" for row in _rows(cluster, killed)) >= 2

        wait_for(some_have_ended, 120, "two trials of the second search")
        next(member for member in cluster.members if member.role == "worker").kill()
        cluster.start("worker")
        cluster.wait_over(killed, 120)
        (rows, best, _), (again, best_again, _) = figures(cluster, whole), figures(cluster, killed)
        assert again == rows
        assert best_again == best
        assert [row[0] for row in rows] == list(range(8))


def test_a_search_over_http(server: Any) -> None:
    with httpx2.Client(base_url=f"{server.base_url}/api/v1", headers=server.headers, timeout=PATIENCE) as api:
        api.put("/datasets/searched", content=circle(), headers={"Content-Type": "text/csv"}).raise_for_status()
        size = api.post("/runs", json=SPEC, params={"validate_only": True}).json()["search"]
        assert (size["configurations"], size["trials"], size["parallel"]) == (None, 8, 4)
        assert size["names"] == ["units", "learning_rate"]
