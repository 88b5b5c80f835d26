"""Whose weights a run may start from; they are kept as long as the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, update

from fitserve import artifacts, db, registry, weights_file
from fitserve.blobs import FolderStore
from fitserve.errors import Conflict, Forbidden, NotFound
from fitserve.runs import blob_references, change, create, finish
from fitserve.settings import Limits
from fitserve.spec.feature import encoded_inputs
from fitserve.spec.graph import build_graph
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.spec.warm_start import WeightsSource, tensors_of
from fitserve.states import RunState
from fitserve.tables import Run
from fitserve.trained_weights import find_source
from tests.runs.conftest import Submit
from tests.spec.table import FEATURES, facts

SPEC = resolve(
    parse({"dataset": "table", "target": "price", "features": FEATURES, "network": [{"Dense": 2}]}), facts()
).spec


class Home:
    """Runs of ann, with networks that others want."""

    def __init__(self, engine: Engine, store: FolderStore, submit: Submit, folder: Path) -> None:
        self.engine, self.store, self.submit, self.folder = engine, store, submit, folder
        store.prepare()

    def artifact(self, run: str, with_weights: bool = True) -> str:
        tensors = tensors_of(build_graph(SPEC.network, encoded_inputs(SPEC.features or (), facts()), SPEC.target))
        path = self.folder / f"{run}.safetensors"
        weights_file.write(path, {name: np.full(shape, 0.5) for name, shape in tensors.items()})
        entry = {"members": 1, "tensors": {name: list(shape) for name, shape in tensors.items()}}
        manifest = {"run": run, "spec": SPEC.to_json(), **({"weights": entry} if with_weights else {})}
        found, stored = artifacts.write(self.store, {"weights": path} if with_weights else {}, manifest)
        with db.transaction(self.engine) as session:
            blob_references.add_references(session, self.store, stored, db.now(session))
        return found.sha256

    def trained(self, model: str | None = None, with_weights: bool = True) -> str:
        """Return a run that has succeeded, and is a version of the model."""
        run = self.submit().id
        artifact = self.artifact(run, with_weights)
        with db.transaction(self.engine) as session:
            done = {"state": RunState.succeeded, "result": {"artifact": artifact}, "finished_at": db.now(session)}
            session.execute(update(Run).where(Run.id == run).values(**done))
            if model is not None:
                registry.add_version(session, model, "ann", run, artifact, {})
        return run

    def find(self, begins: object, by: str | None = "ann") -> WeightsSource:
        spec = parse({"dataset": "table", "target": "price", "initial_weights": begins})
        with db.reading(self.engine) as session:
            source = find_source(session, self.store, spec, owner=by or "root", sees=by)
        assert source is not None
        return source


@pytest.fixture
def home(engine: Engine, store: FolderStore, submit: Submit, tmp_path: Path) -> Home:
    return Home(engine, store, submit, tmp_path)


def test_a_version_is_found_by_number_label_and_champion(home: Home) -> None:
    first, second = home.trained("house"), home.trained("house")
    assert home.find("house").run == second  # without a champion the newest
    with db.transaction(home.engine) as session:
        registry.set_label(session, "house", "champion", version_number=1)
        registry.set_label(session, "house", "next", version_number=2)
        registry.set_label(session, "house", "1", version_number=2)  # a number is a version all the same
    for begins in ("house", "house@1"):
        assert (home.find(begins).run, home.find(begins).model) == (first, "house@1")
    assert home.find("house@next").run == home.find("house@2").run == home.find(second).run == second
    for unknown in ("house@3", "house@nobody", "barn", "run_unknown"):
        with pytest.raises(NotFound):
            home.find(unknown)


def test_only_what_is_shared_for_download_is_given_to_others(home: Home) -> None:
    run = home.trained("house")
    for begins in ("house", run):
        assert home.find(begins, None).run == run  # an admin
        with pytest.raises(NotFound):
            home.find(begins, "bob")
    with db.transaction(home.engine) as session:
        session.execute(update(Run).where(Run.id == run).values(shared=True))
        registry.set_shared(session, "house", True, "inspect")
    for begins in ("house", run):
        with pytest.raises(Forbidden, match=r"not to (download|take)") as refused:
            home.find(begins, "bob")
        assert refused.value.fix
    with db.transaction(home.engine) as session:
        registry.set_shared(session, "house", True, "download")
    assert home.find("house", "bob").run == run
    artifact = home.find("house").artifact
    with pytest.raises(Forbidden):  # knowing its hash opens nothing
        home.find({"run": run, "artifact": artifact}, "bob")


def test_a_run_without_a_network_of_layers_is_refused(home: Home) -> None:
    with pytest.raises(Conflict, match="is queued"):
        home.find(home.submit().id)
    with pytest.raises(Conflict, match="earlier release") as refused:
        home.find(home.trained(with_weights=False))
    assert "reproduce" in str(refused.value.fix)


def test_the_weights_are_kept_as_long_as_a_run_that_begins_with_them(home: Home) -> None:
    run = home.trained("house")
    source = home.find("house@1")
    initial = {"run": source.run, "model": source.model, "artifact": source.artifact}
    weights = json.loads(home.store.read(source.artifact))["weights"]["sha256"]
    begins = create.NewRun("ann", home.submit().dataset_id, {}, {"initial_weights": initial}, {})
    begun = create.create_run(home.engine, begins, Limits(), None, home.store)[0]
    assert begun.initial_weights == source.artifact
    with db.transaction(home.engine) as session:
        registry.delete(session, "house")
    change.delete_run(home.engine, run, "ann")
    blob_references.delete_unreferenced(home.engine, home.store, age_seconds=-1)
    assert home.store.exists(source.artifact)
    assert home.store.exists(weights)
    again = home.find(initial)  # as that run names it; nobody else's does
    assert (again.artifact, again.model) == (source.artifact, "house@1")
    with pytest.raises(NotFound):
        home.find(initial, "bob")
    finish.cancel(home.engine, begun.id, "ann")
    change.delete_run(home.engine, begun.id, "ann")
    blob_references.delete_unreferenced(home.engine, home.store, age_seconds=-1)
    assert not home.store.exists(weights)
    with pytest.raises(blob_references.BlobVanished):
        create.create_run(home.engine, begins, Limits(), None, home.store)
