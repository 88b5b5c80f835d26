"""The outbox: an event exists if and only if its change does, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from fitserve import db, events, monitoring, registry
from fitserve.blobs import FolderStore
from fitserve.runs import create, finish, lease
from fitserve.settings import Limits
from fitserve.tables import Dataset
from tests.faults.cluster import add_dataset


def recorded(engine: Engine) -> list[tuple[str, str, dict[str, object]]]:
    """Return all events, the first one first: type, owner and data."""
    with db.reading(engine) as session:
        return [(row.type, row.owner, row.data) for row in reversed(events.latest(session, None, limit=100))]


def run_of(engine: Engine, store: FolderStore) -> tuple[str, lease.Lease]:
    with db.reading(engine) as session:
        dataset = session.scalar(select(Dataset.id))
    new = create.NewRun("ann", dataset or add_dataset(engine, store), {"a": 1}, {"b": 2}, {}, model="m")
    run = create.create_run(engine, new, Limits(), None)[0]
    claim = lease.claim(engine, "w", lease_seconds=30, running_limit=10)
    assert claim is not None
    return run.id, claim.lease


def test_a_change_and_its_event_are_committed_together(engine: Engine, tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    first, held = run_of(engine, store)
    manifest = store.put_bytes(b"manifest")

    def register(session: Session) -> dict[str, int]:
        return {"version": registry.add_version(session, "m", "ann", first, manifest.sha256, {"loss": 0.5})}

    result = {"artifact": manifest.sha256, "metrics": {"loss": 0.5}}
    finish.succeed(engine, held, result, blobs=store, stored={"manifest": manifest}, register=register)
    second, held = run_of(engine, store)
    finish.fail(engine, held, "diverged", "The loss became NaN")
    third, held = run_of(engine, store)
    finish.cancel(engine, third, "ann")
    finish.confirm_cancel(engine, held)
    with db.transaction(engine) as session:
        registry.set_label(session, "m", "champion", version_number=1)
        registry.set_label(session, "m", "champion", version_number=1, weight=0.0)  # moves nothing
    with pytest.raises(RuntimeError), db.transaction(engine) as session:
        registry.set_label(session, "m", "canary", version_number=1)
        raise RuntimeError("the change is rolled back")
    with db.transaction(engine) as session:
        registry.remove_label(session, "m", "champion")
    found = recorded(engine)
    assert all(owner == "ann" for _, owner, _ in found)
    assert [(type, data.get("run"), data.get("version")) for type, _, data in found] == [
        ("version.registered", first, 1),
        ("run.succeeded", first, 1),
        ("run.failed", second, None),
        ("run.cancelled", third, None),
        ("label.moved", None, 1),
        ("label.moved", None, None),
    ]
    assert found[2][2]["error"] == {"cause": "diverged", "detail": "The loss became NaN"}
    assert found[1][2]["metrics"] == {"loss": 0.5}


def test_drift_begins_once_and_ends_once_whoever_looks(engine: Engine) -> None:
    with db.transaction(engine) as session:
        registry._create_if_missing(session, "m", "ann")
    for psi in (0.1, 0.3, 0.5, 0.24, 0.26, 0.1, 0.1, 0.3):
        for _ in range(2):
            monitoring.note_drift(engine, "m", 3, {"column": "age", "psi": psi}, 500, 0.25)
    monitoring.note_drift(engine, "gone", 1, {"column": "age", "psi": 9.0}, 500, 0.25)
    types = [(type, data["psi"]) for type, _, data in recorded(engine)]
    assert types == [("drift.detected", 0.3), ("drift.ended", 0.1), ("drift.detected", 0.3)]


def test_an_unknown_type_is_a_mistake_of_the_caller(engine: Engine) -> None:
    with pytest.raises(ValueError), db.transaction(engine) as session:
        events.record(session, "run.exploded", owner="ann", data={})
    assert recorded(engine) == []
