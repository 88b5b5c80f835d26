"""The list of runs: filters, search, order and pages; what each run changes; deletion with all that belongs to it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from sqlalchemy import Engine, event, func, select, update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.datasets import store as datasets
from fitserve.errors import Conflict, NotFound, TooLarge
from fitserve.operations import storage
from fitserve.runs import bulk, change, create, finish, listing, queries
from fitserve.runs.listing import Order, RunFilter
from fitserve.runs.scores import scores_by_part, scores_of
from fitserve.settings import Limits
from fitserve.states import RunKind
from fitserve.tables import Dataset, Epoch, Event, Idempotency, Run
from tests.faults.cluster import add_dataset

BASE: dict[str, Any] = {"target": "y", "training": {"epochs": 5, "seed": 0}, "network": [{"Dense": 4}]}


@pytest.fixture
def runs(engine: Engine, store: FolderStore) -> list[str]:
    """Five runs of ann on one dataset, with scores that differ, and one of bob."""
    dataset = add_dataset(engine, store)
    resolved = {"target": [{"name": "pric\u00e9"}], "training": {}}
    made = []
    for place in range(6):
        owner = "bob" if place == 5 else "ann"
        spec = {**BASE, "training": {"epochs": 5 + place // 2, "seed": 0}}
        new = create.NewRun(
            owner, dataset, spec, resolved, {}, name=("Gamma", "Beta one", "Alpha")[place // 2] if place % 2 else None
        )
        made.append(create.create_run(engine, new, Limits())[0].id)
    with db.transaction(engine) as session:
        for place, score in ((0, 0.7), (1, 0.9), (3, 0.8)):
            session.execute(update(Run).where(Run.id == made[place]).values(scores={"accuracy": score}))
        # One that ended before scores were kept
        old = {"metrics": {"validation": {"accuracy": 0.75}}}
        session.execute(update(Run).where(Run.id == made[4]).values(result=old, tags=["b%se", "keep"], notes="50% off"))
    return made


def found(engine: Engine, **wanted: Any) -> list[str]:
    with db.reading(engine) as session:
        listed = listing.list_runs(session, RunFilter(**wanted))
        assert listing.count_runs(session, RunFilter(**wanted)) == len(listed)
    return [run.id for run in listed]


def test_a_row_with_a_nul_of_an_earlier_release_spoils_no_list(engine: Engine, runs: list[str]) -> None:
    nul = {"target": [{"name": "pric\0"}], "name": "a\0", "detail": "b\0"}
    with db.transaction(engine) as session:
        session.execute(update(Run).where(Run.id == runs[0]).values(resolved=nul, error=nul))
    assert found(engine, text="gamma") == [runs[1]]
    with db.reading(engine) as session:
        page = listing.list_runs(session, RunFilter())
        targets = {entry.run.id: entry.targets for entry in listing.describe(session, page)}
    assert targets[runs[1]] == ["pric\u00e9"]


def test_no_filter_or_order_reads_members_of_a_row_with_a_nul(engine: Engine, runs: list[str]) -> None:
    """Such a row is as if it had none of them."""
    nul = {"name": "a\0", "dataset_id": "b\0", "metrics": {"validation": {"accuracy\0": 1.0}}, "bytes": 5}
    with db.transaction(engine) as session:
        session.execute(
            update(Run).where(Run.id == runs[0]).values(resolved=nul, result=nul, scores=nul, spec=nul, dataset_id=None)
        )
    assert found(engine, dataset="c") == found(engine, dataset_id="c") == []
    with db.reading(engine) as session:
        ordered = listing.list_runs(session, RunFilter(), Order("metric", metric="accuracy"))
        assert [run.id for run in ordered][-1] in (runs[0], runs[2])
        assert storage.by_owner(session, "ann")[0].runs == 5


def test_filters_and_search(engine: Engine, runs: list[str]) -> None:
    newest_first = runs[::-1]
    assert found(engine) == newest_first
    assert found(engine, owner="ann") == newest_first[1:]
    assert found(engine, text="ONE beta") == [runs[3]]
    assert found(engine, text="PRIC\u00e9") == newest_first
    assert found(engine, text="50%") == found(engine, text="b%s keep") == found(engine, tags=["keep"]) == [runs[4]]
    assert found(engine, text="b_se") == found(engine, tags=["kee"]) == found(engine, tags=["b%se", "other"]) == []
    assert found(engine, states=["succeeded"]) == []
    with db.reading(engine) as session:
        assert listing.tags_in_use(session, "ann") == ["b%se", "keep"]
        assert listing.tags_in_use(session, "bob") == []


def test_every_order_pages_through_all_runs_once(engine: Engine, runs: list[str]) -> None:
    with db.reading(engine) as session:
        for key in get_args(listing.SortKey):
            for descending in (False, True):
                order = Order(key, descending, "accuracy")
                whole = [run.id for run in listing.list_runs(session, RunFilter(), order)]
                pages = [listing.list_runs(session, RunFilter(), order, offset=at, limit=2) for at in (0, 2, 4)]
                assert [run.id for page in pages for run in page] == whole, key
                assert sorted(whole) == sorted(runs), key
        best = listing.list_runs(session, RunFilter(owner="ann"), Order("metric", True, "accuracy"))
        worst = listing.list_runs(session, RunFilter(owner="ann"), Order("metric", False, "accuracy"))
    assert [run.id for run in best] == [runs[place] for place in (1, 3, 4, 0, 2)]
    assert [run.id for run in worst] == [runs[place] for place in (0, 4, 3, 1, 2)]  # without a figure: last


def test_a_run_is_described_by_what_it_changes(engine: Engine, runs: list[str]) -> None:
    with db.transaction(engine) as session:
        session.execute(update(Run).where(Run.id == runs[4]).values(parent_id=runs[0]))
    with db.reading(engine) as session:
        page = listing.list_runs(session, RunFilter(owner="ann"), limit=3)
        fifth, fourth, third = listing.describe(session, page, changes=True)
    assert fifth.compared_with == runs[0]
    assert fifth.changes == [{"path": "/training/epochs", "from": 5, "to": 7}]
    assert (fourth.compared_with, fourth.changes) == (runs[2], [])
    assert third.changes == [{"path": "/training/epochs", "from": 5, "to": 6}]
    assert fifth.targets == ["pric\u00e9"]
    assert fifth.scores == {"accuracy": 0.75}
    assert fifth.dataset.endswith("@1")


def test_large_runs_are_not_read_together(engine: Engine, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with db.reading(engine) as session:
        assert set(listing.get_several(session, [*runs, "run_none", "run_\0"], "ann")) == set(runs[:5])
        one = session.scalar(select(listing.stored_bytes(Run.spec, Run.resolved)).where(Run.id == runs[4]))
        assert one is not None
        monkeypatch.setattr(listing, "MAX_WHOLE_BYTES", 3 * one)
        monkeypatch.setattr(listing, "MAX_SPEC_BYTES", 3 * one // 2)
        assert len(listing.get_several(session, runs[:2], "ann")) == 2
        with pytest.raises(TooLarge, match="too large for one answer"):
            listing.get_several(session, runs, "ann")
        page = listing.list_runs(session, RunFilter(owner="ann"), limit=5)
        changes = [one.changes for one in listing.describe(session, page, changes=True)]
    assert changes[0], "of the newest runs it is said"
    assert changes[-2] is None


def test_a_page_takes_as_many_queries_however_many_runs_it_has(engine: Engine, runs: list[str]) -> None:
    counts = []
    for limit in (1, 5):
        asked: list[str] = []
        note = functools.partial(_note, asked)
        event.listen(engine, "before_cursor_execute", note)
        with db.reading(engine) as session:
            page = listing.list_runs(session, RunFilter(owner="ann"), Order("name", False), offset=0, limit=limit)
            assert len(listing.describe(session, page, changes=True)) == limit
        event.remove(engine, "before_cursor_execute", note)
        counts.append(len([one for one in asked if one.startswith(("SELECT", "WITH"))]))
    assert counts[0] == counts[1] <= 8


def _note(asked: list[str], connection: Any, cursor: Any, statement: str, *_: Any) -> None:
    asked.append(statement)


def test_scores_are_in_the_targets_units() -> None:
    metrics = {"test": {"loss": 0.5, "mae": 0.2}, "train": {"loss": 0.1}}
    assert scores_of({"metrics": metrics, "evaluation": {"test": {"price": {"mae": 200.0, "r2": 0.5}}}}) == {
        "loss": 0.5,
        "mae": 200.0,
        "r2": 0.5,
    }
    two = {"a": {"accuracy": 1.0, "note": "x"}, "b": {"mae": float("nan")}}
    assert scores_of({"metrics": {"validation": {"loss": 1}}, "evaluation": {"validation": two}}) == {
        "loss": 1.0,
        "a.accuracy": 1.0,
    }
    keras = {"loss": 0.5, "mean_absolute_error": 0.2, "root_mean_squared_error": 0.3, "mean_squared_error": 0.09}
    standardized = {
        "metrics": {"test": keras, "train": {"loss": 0.1}},
        "evaluation": {"test": {"price": {"mae": 200.0, "rmse": 300.0}}},
    }
    assert scores_by_part(standardized) == {"train": {"loss": 0.1}, "test": {"loss": 0.5, "mae": 200.0, "rmse": 300.0}}
    assert scores_of(standardized) == scores_by_part(standardized)["test"]
    assert scores_of(None) == scores_of({"metrics": None}) == scores_of({"metrics": {"test": 3}}) == {}


def test_deletion_takes_the_history_along_and_frees_the_dataset(engine: Engine, runs: list[str]) -> None:
    first, second, third = runs[:3]
    with pytest.raises(Conflict, match="queued"):
        change.delete_run(engine, first, "ann")
    with pytest.raises(NotFound):
        change.delete_run(engine, runs[5], "ann")
    for run in runs:
        finish.cancel(engine, run, None)
    with db.transaction(engine) as session:
        at = db.now(session)
        session.add(Epoch(run_id=second, trial=0, epoch=1, attempt=1, logs={}, seconds=0.1, created_at=at))
        session.add(Idempotency(owner="ann", key="k", body_sha256="0" * 64, run_id=second, created_at=at))
        session.execute(update(Run).where(Run.id == second).values(parent_id=first))
        session.execute(update(Run).where(Run.id == third).values(parent_id=second))
    change.delete_run(engine, second, "ann")
    with db.reading(engine) as session:
        with pytest.raises(NotFound):
            queries.get(session, second)
        assert queries.get(session, third).parent_id == first
        for table in (Event, Epoch, Idempotency):
            assert session.scalar(select(func.count()).where(table.run_id == second)) == 0
        assert session.scalar(select(func.count()).where(Event.run_id == first))
    for run in {*runs} - {second}:
        change.delete_run(engine, run, None)
    with db.transaction(engine) as session:
        datasets.delete(session, session.scalars(select(Dataset)).one())


def test_many_runs_are_changed_by_the_group(engine: Engine, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused for one does not hold up the others, and sent again nothing changes."""
    monkeypatch.setattr(bulk, "GROUP", 4)
    commits, noted = [0], list[str]()

    def count(_connection: Any) -> None:
        commits[0] += 1

    def note(_session: Session, ids: Sequence[str]) -> None:
        noted.extend(ids)

    event.listen(engine, "commit", count)
    asked = [*runs[:4], runs[5], runs[0], "run_none", "run_\0"]
    for _ in "12":
        refused = bulk.cancel_runs(engine, asked, "ann", note)
        assert {run: error.status for run, error in refused.items()} == {runs[5]: 404, "run_none": 404, "run_\0": 404}
    assert bulk.tag_runs(engine, runs, None, note, add="x") == {}
    assert commits[0] == 2 * 2 + 2
    assert noted == [*runs[:4], *runs[:4], *runs]
    assert found(engine, states=["cancelled"], tags=["x"]) == runs[3::-1]
    with db.transaction(engine) as session:  # each repeats the one before it
        for before, run in itertools.pairwise(runs[:5]):
            session.execute(update(Run).where(Run.id == run).values(parent_id=before))
    refused = bulk.delete_runs(engine, runs[1:5], "ann", note)
    assert {run: (error.status, error.detail) for run, error in refused.items()} == {
        runs[4]: (409, "The run is queued.")
    }
    with db.reading(engine) as session:
        assert listing.list_ids(session, RunFilter(owner="ann"), limit=9) == [runs[4], runs[0]]
        assert listing.list_ids(session, RunFilter(), before=runs[4], limit=1) == [runs[0]]
        assert queries.get(session, runs[4]).parent_id == runs[0]
        assert not session.scalar(select(func.count()).where(Event.run_id.in_(runs[1:4])))


def test_where_a_group_fails_its_runs_are_changed_one_by_one(engine: Engine, runs: list[str]) -> None:
    done: list[str] = []

    def note(_session: Session, ids: Sequence[str]) -> None:
        if len(ids) > 1 or ids[0] == runs[2]:
            raise Conflict("Something else was referred to at the same moment.")
        done.extend(ids)

    refused = bulk.cancel_runs(engine, runs, None, note)
    assert [*refused] == [runs[2]]
    assert done == [*runs[:2], *runs[3:]]
    assert found(engine, states=["queued"]) == [runs[2]]


def test_a_part_ends_with_its_run_where_both_are_cancelled_at_once(engine: Engine, runs: list[str]) -> None:
    with db.transaction(engine) as session:
        session.execute(update(Run).where(Run.id == runs[1]).values(kind=RunKind.trial, parent_id=runs[0]))
    assert bulk.cancel_runs(engine, runs[:2], "ann", lambda session, ids: None) == {}
