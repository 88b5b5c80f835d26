"""Data of earlier releases, one for each step of the schema, is read, served and trained on by this one.

`tests.compatibility.freeze` made the homes with those releases' own code.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

import migrations
from fitserve import artifacts, blobs, db
from fitserve.datasets import store
from fitserve.runs import queries
from fitserve.settings import Settings
from fitserve.tables import Dataset
from services.control.app import create_app
from tests.predict.toy_registry import ToyRegistry, run_service
from tests.trainer.requests import RecordingReporter
from workers.trainer.interface import TrainingRequest, TrainingStopped

RELEASES = sorted(path.name.partition(".")[0] for path in Path(__file__).parent.glob("*.tar.gz"))


@dataclass
class FrozenHome:
    """A home that an earlier release left, with its schema upgraded, and what that release answered."""

    home: Path
    answers: dict[str, Any]

    @property
    def url(self) -> str:
        return f"sqlite:///{self.home / 'fitserve.db'}"


@pytest.fixture(params=RELEASES)
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> FrozenHome:
    with tarfile.open(Path(__file__).with_name(f"{request.param}.tar.gz")) as pack:
        pack.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
        pack.extractall(tmp_path / "home")
    frozen = FrozenHome(tmp_path / "home", json.loads((tmp_path / "home" / "answers.json").read_text()))
    migrations.upgrade(frozen.url)
    return frozen


def test_each_step_of_the_schema_up_to_the_last_release_has_a_home() -> None:
    steps = sorted(path.name[:4] for path in Path(migrations.__file__).parent.glob("versions/0*.py"))
    assert steps[: len(RELEASES)] == RELEASES
    assert len(RELEASES) >= 21


def test_its_runs_and_tables_are_read(frozen: FrozenHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITSERVE_AUTH", "false")
    with TestClient(create_app(Settings(home=frozen.home)), base_url="http://127.0.0.1") as client:
        run = client.get(f"/api/v1/runs/{frozen.answers['run']}").json()
        assert (run["state"], run["model"]) == ("succeeded", "frozen")
        dataset = client.get("/api/v1/datasets/frozen").json()
        assert (dataset["rows"], len(dataset["columns"])) == (90, 5)
        for path in ("findings", "evaluation", "importance", "layers", "lineage"):
            answer = client.get(f"/api/v1/runs/{frozen.answers['run']}/{path}")
            assert answer.status_code == 200, answer.text
        assert client.get("/api/v1/models/frozen").status_code == 200
        again = client.post("/api/v1/runs", json=run["spec"])
        assert again.status_code == 202, again.text


def test_its_model_answers_as_it_did(frozen: FrozenHome) -> None:
    toys = ToyRegistry(frozen.home.parent / "unused")
    variables = {"FITSERVE_HOME": str(frozen.home), "FITSERVE_DATABASE_URL": frozen.url, "FITSERVE_AUTH": "false"}
    with run_service(toys, **variables) as service:
        answer = httpx2.post(
            f"{service.url}/v1/models/frozen:predict", json={"instances": frozen.answers["rows"]}, timeout=60
        )
    assert answer.json()["predictions"] == frozen.answers["predictions"], answer.text


@pytest.mark.tensorflow
def test_its_interrupted_run_goes_on_from_its_checkpoint(frozen: FrozenHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the packages and the Python that it had begun with: with others it begins anew."""
    from workers.trainer import ready_run
    from workers.trainer.train import train

    engine, cache = db.make_engine(frozen.url), frozen.home / "cache"
    files = blobs.open_store(Settings(home=frozen.home).resolved_blob_url)
    with db.reading(engine) as session:
        run = queries.get(session, frozen.answers["interrupted"])
        dataset = session.get(Dataset, run.dataset_id)
        assert dataset is not None
        facts, table = store.facts_of(dataset), store.local_parquet(files, dataset, cache)
        finished = queries.get(session, frozen.answers["run"])
        assert finished.result is not None
        manifest = artifacts.read(files, finished.result["artifact"]).manifest
    monkeypatch.setattr(ready_run, "versions", lambda: manifest["receipt"]["versions"])
    assert run.checkpoint is not None
    request = TrainingRequest(
        run_id=run.id,
        attempt=2,
        spec=run.resolved,
        facts=facts.model_dump(mode="json"),
        table=table,
        folder=frozen.home / "attempt",
        checkpoint=files.local(run.checkpoint, cache),
    )
    request.folder.mkdir()
    reporter = RecordingReporter(stop_after=3)
    with pytest.raises(TrainingStopped):
        train(request, reporter)
    assert reporter.epochs[0]["epoch"] > 1, f"it began anew: {reporter.events}"
    engine.dispose()
