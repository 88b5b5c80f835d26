"""One run on several workers, with real trainers: exactly the result of one worker, whichever process is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fitserve import db
from fitserve.blobs import sha256_of
from fitserve.datasets import store
from fitserve.runs import create, queries
from fitserve.settings import Limits
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.tables import Run, Worker
from fitserve.wire.datasets import UploadOptions
from tests.faults.cluster import Cluster, Member, wait_for
from tests.journey.test_journey import circle

pytestmark = pytest.mark.xdist_group("server")

SPEC: dict[str, Any] = {
    "dataset": "circle",
    "target": "side",
    "network": [{"Dense": {"units": 16, "activation": "tanh"}}, {"Dropout": 0.1}],
    "training": {
        "optimizer": "Adam",
        "epochs": 200,
        "batch_size": 8,
        "restarts": 4,
        "reduce_lr_on_plateau": {"patience": 20, "monitor": "val_loss"},  # cannot be stacked
        "seed": 3,
    },
}
REAL = {
    "FITSERVE_TRAINER_MODULE": "",
    "FITSERVE_TRAINER_THREADS": "1",
    "FITSERVE_CHECKPOINT_SECONDS": "0.4",
    "FITSERVE_LEASE_SECONDS": "6",
    "FITSERVE_HEARTBEAT_SECONDS": "1",
}


def _submit(cluster: Cluster, folder: Path, **training: Any) -> str:
    """Create the run as the API does, but without estimated seconds: every trial is then worth a helper."""
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
        name="circle",
    )
    spec = {**SPEC, "training": {**SPEC["training"], **training}}
    new = create.NewRun("tester", dataset.id, spec, resolve(parse(spec), store.facts_of(dataset)).spec.to_json(), {})
    return create.create_run(cluster.engine, new, Limits())[0].id


def _results(cluster: Cluster, run_id: str) -> tuple[dict[str, Any], dict[tuple[int, int], Any]]:
    """The result of a run without durations, and all its epochs."""
    run = cluster.wait_over(run_id, 120)
    assert run.state == "succeeded", run.error
    result = run.result or {}
    trials = [{key: value for key, value in trial.items() if key != "seconds"} for trial in result["trials"]]
    figures = {name: result[name] for name in ("best_trial", "best_epoch", "spread", "metrics", "evaluation")}
    with db.reading(cluster.engine) as session:
        rows = {(row.trial, row.epoch): row.logs for row in queries.epochs(session, run_id, limit=10_000)}
    return {**figures, "trials": trials}, rows


def _parts(cluster: Cluster, run_id: str) -> list[Run]:
    with db.reading(cluster.engine) as session:
        return list(session.scalars(select(Run).where(Run.parent_id == run_id)))


def _wait_idle(cluster: Cluster, count: int) -> None:
    def idle() -> bool:
        with db.reading(cluster.engine) as session:
            return len(session.scalars(select(Worker.id).where(Worker.run_id.is_(None))).all()) == count

    wait_for(idle, 30, "idle workers")


def _holder(cluster: Cluster, run_id: str, members: list[Member]) -> Member:
    worker = cluster.run(run_id).worker or ""
    return next(member for member in members if f"-{member.process.pid}-" in worker)


@pytest.mark.long
def test_a_run_on_two_workers_ends_as_on_one(tmp_path: Path) -> None:
    with Cluster(tmp_path / "home", environment=REAL) as cluster:
        members = [cluster.start("worker")]
        _wait_idle(cluster, 1)
        alone = _submit(cluster, tmp_path / "data")
        wanted = _results(cluster, alone)
        assert _parts(cluster, alone) == []
        assert len(wanted[1]) == 800

        members.append(cluster.start("worker"))
        _wait_idle(cluster, 2)
        for short in [_submit(cluster, tmp_path / "data", epochs=1, restarts=1) for _ in members]:
            cluster.wait_over(short, 120)  # one for each worker, which warms both trainers
        _wait_idle(cluster, 2)
        divided = _submit(cluster, tmp_path / "data")
        assert _results(cluster, divided) == wanted
        states = [part.state for part in _parts(cluster, divided)]
        assert "succeeded" in states, states
        assert "cancelled" in states, states  # the run's own worker took some back

        _wait_idle(cluster, 2)
        disturbed = _submit(cluster, tmp_path / "data")

        def checkpointed() -> Run | None:
            parts = _parts(cluster, disturbed)
            return next((part for part in parts if part.state == "running" and part.checkpoint_epoch), None)

        helped: Run = wait_for(checkpointed, 60, "a helper's checkpoint")
        _holder(cluster, helped.id, members).kill()
        assert _results(cluster, disturbed) == wanted
        with db.reading(cluster.engine) as session:
            messages = [event.message for event in queries.events_after(session, disturbed, 0, 10_000)]
        trial = helped.spec["trial"] + 1
        assert any(message.startswith(f"Resumed at trial {trial}, epoch") for message in messages)
