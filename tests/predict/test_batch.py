"""Batch predictions: as a run, in parts, resumed after an interruption, refused if a row cannot be encoded."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitserve import db
from fitserve.blobs import sha256_of
from fitserve.datasets import store
from fitserve.runs import create, lease
from fitserve.settings import Settings
from fitserve.states import RunState
from fitserve.tables import Dataset, Run
from fitserve.wire.datasets import UploadOptions
from tests.predict.toy_registry import THREE, ToyRegistry, mixed
from workers.batch import rows
from workers.batch.model import ArtifactModel
from workers.batch.prediction import BatchPredictionAttempt

ROWS = 2500


@pytest.fixture
def settings(toys: ToyRegistry) -> Settings:
    return Settings(home=toys.home, heartbeat_seconds=0.2, database_url=toys.url)


def upload(toys: ToyRegistry, settings: Settings, table: pa.Table, name: str) -> Dataset:
    path = Path(settings.home) / f"{name}.parquet"
    pq.write_table(table, path)
    received = store.ReceivedFile(path, sha256_of(path), path.stat().st_size, path.name)
    options = UploadOptions(format="parquet")
    return store.create(
        toys.engine,
        toys.blobs,
        received,
        owner="ada",
        options=options,
        limits=settings.limits,
        scratch=settings.scratch,
        name=name,
    )[0]


def students(count: int = ROWS) -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table(
        {
            "gre": random.integers(380, 800, count),
            "gpa": random.uniform(2.9, 4.0, count),
            "rank": random.integers(1, 5, count),
            "city": random.choice(["Rom", "Bern", "Ürzig"], count),
        }
    )


def queue(toys: ToyRegistry, settings: Settings, dataset: Dataset) -> None:
    artifact = toys.store_artifact(mixed(THREE))
    resolved = {"model": "three", "version": 1, "artifact": artifact, "dataset": dataset.id, "name": "answers"}
    new = create.NewRun("ada", dataset.id, {}, resolved, {}, kind="prediction")
    create.create_run(toys.engine, new, settings.limits)


def attempt(toys: ToyRegistry, settings: Settings, stopping: threading.Event) -> RunState | None:
    claim = lease.claim(toys.engine, "w", lease_seconds=30, running_limit=9, kinds=("prediction",))
    assert claim is not None
    return BatchPredictionAttempt(settings, toys.engine, toys.blobs, claim, stopping).run()


def the_run(toys: ToyRegistry) -> Run:
    with db.reading(toys.engine) as session:
        return session.query(Run).filter(Run.kind == "prediction").one()


def test_a_dataset_with_predictions_comes_out(toys: ToyRegistry, settings: Settings, monkeypatch) -> None:
    monkeypatch.setattr(rows, "PART_ROWS", 1000)
    table = students()
    settings = settings.model_copy(update={"trainer_threads": 1})
    dataset = upload(toys, settings, table, "students")
    queue(toys, settings, dataset)
    chunks: list[int] = []
    stopping = threading.Event()
    original = ArtifactModel.predict

    def counted(self, batch: pa.Table) -> pa.Table:
        if batch.num_rows > 1:  # else it is asked what the columns are
            chunks.append(batch.num_rows)
        if len(chunks) == 2:
            stopping.set()  # the worker has to stop during the second part
        return original(self, batch)

    monkeypatch.setattr(ArtifactModel, "predict", counted)
    assert attempt(toys, settings, stopping) == RunState.queued  # released, no attempt spent
    assert the_run(toys).checkpoint_epoch == 1
    assert attempt(toys, settings, threading.Event()) == RunState.succeeded
    assert chunks == [1000, 1000, 1000, 500]  # no finished part was computed twice

    run = the_run(toys)
    assert run.spent_attempts == 0
    assert run.result["dataset"] == "answers@1"
    with db.reading(toys.engine) as session:
        made = session.get(Dataset, run.result["dataset_id"])
    origin = {"model": "three", "version": 1, "run": run.id, "dataset": dataset.id, "ref": "students@1"}
    assert made.source["predicted"] == origin
    predicted = pq.read_table(store.local_parquet(toys.blobs, made, settings.scratch / "blobs"))
    expected = mixed(THREE).answer(table.to_pylist())
    np.testing.assert_allclose(predicted["predicted_score"].to_numpy(), expected["score"][:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predicted["predicted_admit_yes"].to_numpy(), expected["admit"][:, 0], rtol=1e-5)
    assert predicted["predicted_tier"].to_pylist() == ["abc"[at] for at in expected["tier"].argmax(axis=1)]
    assert predicted["gre"].to_pylist() == table["gre"].to_pylist()


def test_a_cancel_is_obeyed(toys: ToyRegistry, settings: Settings, monkeypatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 500)
    queue(toys, settings, upload(toys, settings, students(), "students"))
    from fitserve.runs import finish

    original = ArtifactModel.predict

    def cancelling(self, batch: pa.Table) -> pa.Table:
        finish.cancel(toys.engine, the_run(toys).id, None)
        return original(self, batch)

    monkeypatch.setattr(ArtifactModel, "predict", cancelling)
    assert attempt(toys, settings, threading.Event()) == RunState.cancelled


def test_data_without_the_columns_fail_for_good(toys: ToyRegistry, settings: Settings) -> None:
    queue(toys, settings, upload(toys, settings, pa.table({"other": [1.0, 2.0]}), "other"))
    assert attempt(toys, settings, threading.Event()) == RunState.failed
    assert the_run(toys).error["cause"] == "bad_data"
