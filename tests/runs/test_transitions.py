"""Every transition, on SQLite and on PostgreSQL: what it changes, and what it refuses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text, update
from sqlalchemy.exc import DBAPIError

from fitserve import db, registry
from fitserve.blobs import FolderStore, StoredBlob
from fitserve.errors import BadInput, Conflict, NotFound, TooMany
from fitserve.runs import blob_references, create, finish, lease, listing, queries
from fitserve.runs.history import EpochReport, EventReport
from fitserve.runs.listing import RunFilter
from fitserve.settings import Limits
from fitserve.states import STACKED_TRIALS, TERMINAL, RunState
from fitserve.tables import Blob, Event, Run
from tests.runs.conftest import Submit

Claim = Callable[..., lease.Claim | None]


def read_run(engine: Engine, run_id: str) -> Run:
    with db.reading(engine) as session:
        return queries.get(session, run_id)


def events(engine: Engine, run_id: str) -> list[Event]:
    with db.reading(engine) as session:
        return queries.events_after(session, run_id)


def must(claimed: lease.Claim | None) -> lease.Claim:
    assert claimed is not None
    return claimed


def succeed(engine: Engine, held: lease.Lease, store: FolderStore, content: bytes = b"a model") -> RunState:
    stored = {"manifest": store.put_bytes(content)}
    result = {"artifact": stored["manifest"].sha256, "metrics": {"loss": float("nan")}}
    return finish.succeed(engine, held, result, blobs=store, stored=stored, register=lambda _: {})


def expire_lease(engine: Engine, run_id: str) -> None:
    with db.transaction(engine) as session:
        past = db.now(session).replace(year=2020)
        session.execute(update(Run).where(Run.id == run_id).values(lease_expires_at=past))


def test_t1_on_a_dataset_that_was_deleted_meanwhile_is_a_conflict(engine: Engine, submit: Submit) -> None:
    with pytest.raises(Conflict, match="deleted at the same moment"):
        submit(dataset_id="ds_deleted")


def test_t1_creates_a_queued_run_with_its_first_event(engine: Engine, submit: Submit) -> None:
    run = submit(priority=3)
    assert (run.state, run.attempt, run.priority) == ("queued", 0, 3)
    assert [(event.type, event.data) for event in events(engine, run.id)] == [("state", {"state": "queued"})]


def test_t1_the_same_key_gets_the_same_run_and_another_body_a_conflict(engine: Engine, submit: Submit) -> None:
    key = create.idempotency_key("k", b"POST", b"/runs", b"{}")
    first = submit(key=key)
    assert submit(key=key).id == first.id
    assert submit(owner="bob", key=key).id != first.id
    with pytest.raises(Conflict):
        submit(key=create.idempotency_key("k", b"POST", b"/runs", b"{1}"))


def test_t1_the_same_key_twice_at_once_creates_one_run(engine: Engine, submit: Submit) -> None:
    key = create.idempotency_key("k", b"x")
    with ThreadPoolExecutor(6) as pool:
        ids = {run.id for run in pool.map(lambda _: submit(key=key), range(6))}
    assert len(ids) == 1


@pytest.mark.parametrize("header", ["", "x" * 256, "a\nb"])
def test_t1_refuses_an_unusable_key(header: str) -> None:
    with pytest.raises(BadInput):
        create.idempotency_key(header, b"x")


def test_t1_a_full_queue_is_429_for_its_owner_alone(engine: Engine, submit: Submit) -> None:
    limits = Limits(queued_runs=2)
    submit(limits=limits)
    submit(limits=limits)
    with pytest.raises(TooMany) as refused:
        submit(limits=limits)
    assert refused.value.retry_after
    submit(owner="bob", limits=limits)


def test_t2_takes_the_highest_priority_then_the_oldest(engine: Engine, submit: Submit, claim: Claim) -> None:
    low, old, new = submit(priority=-1), submit(priority=5), submit(priority=5)
    assert [must(claim()).run.id for _ in range(3)] == [old.id, new.id, low.id]
    assert claim() is None


def test_t2_skips_an_owner_with_enough_running(engine: Engine, submit: Submit, claim: Claim) -> None:
    submit(priority=9)
    submit(priority=9)
    other = submit(owner="bob")
    must(claim(limit=1))
    assert must(claim(limit=1)).run.id == other.id
    assert claim(limit=1) is None


def test_t2_many_workers_at_once_claim_each_run_once(engine: Engine, submit: Submit, claim: Claim) -> None:
    ids = {submit().id for _ in range(12)}
    start = threading.Barrier(4)

    def worker(name: int) -> list[str]:
        start.wait()
        claimed = []
        misses = 0
        while misses < 20:
            taken = claim(worker=f"w{name}")
            if taken is None:
                misses += 1
            else:
                claimed.append(taken.run.id)
        return claimed

    with ThreadPoolExecutor(4) as pool:
        taken = [run_id for claimed in pool.map(worker, range(4)) for run_id in claimed]
    assert sorted(taken) == sorted(ids)


def test_events_say_which_trials_a_search_stacked(engine: Engine, submit: Submit, claim: Claim) -> None:
    submit()
    held = must(claim(seconds=30)).lease
    data = {STACKED_TRIALS: [0, 2], "differing": ["momentum"]}
    reports = [EventReport(1, "info", "hello"), EventReport(2, "info", "Trials 0, 2 ...", data)]
    lease.renew(engine, held, lease_seconds=9, reports=reports)
    with db.reading(engine) as session:
        stacks = [queries.stack_of(session, held.run_id, trial) for trial in range(3)]
    assert stacks == [["momentum"], None, ["momentum"]]


def test_t3_renews_the_lease_and_writes_each_report_once(engine: Engine, submit: Submit, claim: Claim) -> None:
    submit()
    held = must(claim(seconds=30)).lease
    before = read_run(engine, held.run_id).lease_expires_at
    reports = [EventReport(1, "info", "hello"), EpochReport(2, 0, 1, {"loss": float("inf")}, 0.1)]
    assert lease.renew(engine, held, lease_seconds=60, reports=reports) == (None, 1)
    assert lease.renew(engine, held, lease_seconds=60, reports=reports) == (None, 0)  # repeated: changes nothing
    run = read_run(engine, held.run_id)
    assert before is not None
    assert run.lease_expires_at is not None
    assert run.lease_expires_at > before
    assert [e.type for e in events(engine, run.id)] == ["state", "state", "message", "metrics"]
    with db.reading(engine) as session:
        assert [(e.epoch, e.logs) for e in queries.epochs(session, run.id)] == [(1, {"loss": None})]


def test_t3_writes_any_number_of_epochs_at_once(engine: Engine, submit: Submit, claim: Claim) -> None:
    """After an outage of the database, there may be more than the parameters of one statement."""
    submit()
    held = must(claim()).lease
    reports = [EpochReport(n, 0, n, {"loss": 0.5}, 0.1) for n in range(1, 10_001)]
    assert lease.renew(engine, held, lease_seconds=60, reports=reports) == (None, 10_000)
    assert len(events(engine, held.run_id)) == 500


def test_t3_an_epoch_that_comes_twice_at_once_is_one(engine: Engine, submit: Submit, claim: Claim) -> None:
    """Another worker had begun the trial, and now the run's own worker trains it."""
    submit()
    held = must(claim()).lease
    twice = [EpochReport(1, 2, 1, {"loss": 0.5}, 0.1), EpochReport(2, 2, 1, {"loss": 0.7}, 0.1)]
    assert lease.renew(engine, held, lease_seconds=60, reports=twice) == (None, 1)
    assert [e.data["logs"] for e in events(engine, held.run_id) if e.type == "metrics"] == [{"loss": 0.5}]
    with db.reading(engine) as session:
        assert [e.logs for e in queries.epochs(session, held.run_id)] == [{"loss": 0.5}]


def test_t3_a_second_attempt_does_not_repeat_epochs(engine: Engine, submit: Submit, claim: Claim) -> None:
    submit()
    held = must(claim()).lease
    lease.renew(engine, held, lease_seconds=9, reports=[EpochReport(n, 0, n, {"loss": n / 2}, 0.1) for n in (1, 2, 3)])
    finish.release(engine, held)
    again = must(claim()).lease
    lease.renew(engine, again, lease_seconds=9, reports=[EpochReport(n, 0, n + 1, {"loss": 0}, 0.1) for n in (1, 2, 3)])
    metrics = [e.data["epoch"] for e in events(engine, held.run_id) if e.type == "metrics"]
    assert metrics == [1, 2, 3, 4]


def test_t3_stores_a_checkpoint(engine: Engine, submit: Submit, claim: Claim, store: FolderStore) -> None:
    submit()
    held = must(claim()).lease
    blob = store.put_bytes(b"weights")
    lease.renew(engine, held, lease_seconds=9, checkpoint=lease.StoredCheckpoint(blob, 7), blobs=store)
    run = read_run(engine, held.run_id)
    assert (run.checkpoint, run.checkpoint_epoch) == (blob.sha256, 7)
    assert not blob_references.delete_if_unreferenced(engine, store, blob.sha256)  # it is referred to
    finish.cancel(engine, run.id, None)
    finish.confirm_cancel(engine, held)
    assert blob_references.delete_if_unreferenced(engine, store, blob.sha256)
    assert not store.exists(blob.sha256)


def test_t4_commits_once(engine: Engine, submit: Submit, claim: Claim, store: FolderStore) -> None:
    submit()
    held = must(claim()).lease
    assert succeed(engine, held, store) == RunState.succeeded
    with pytest.raises(lease.LeaseLost):
        succeed(engine, held, store)
    run = read_run(engine, held.run_id)
    assert run.result is not None
    assert run.result["attempt"] == 1
    assert run.result["metrics"] == {"loss": None}
    assert run.lease_token is None
    assert events(engine, run.id)[-1].data["state"] == "succeeded"


def test_t4_registers_the_version_in_its_transaction(
    engine: Engine, submit: Submit, claim: Claim, store: FolderStore
) -> None:
    submit(model="m")
    held = must(claim()).lease
    stored = {"manifest": store.put_bytes(b"x")}
    sha = stored["manifest"].sha256

    def breaks(session: object) -> dict[str, int]:
        raise Conflict("taken")

    with pytest.raises(Conflict):
        finish.succeed(engine, held, {}, blobs=store, stored=stored, register=breaks)
    assert read_run(engine, held.run_id).state == "running"  # nothing was written
    finish.succeed(
        engine,
        held,
        {},
        blobs=store,
        stored=stored,
        register=lambda session: {"version": registry.add_version(session, "m", "ann", held.run_id, sha, {})},
    )
    assert read_run(engine, held.run_id).result == {"attempt": 1, "version": 1}


def test_t4_a_blob_deleted_meanwhile_is_noticed(
    engine: Engine, submit: Submit, claim: Claim, store: FolderStore
) -> None:
    submit()
    held = must(claim()).lease
    with pytest.raises(blob_references.BlobVanished):
        gone = {"manifest": StoredBlob("0" * 64, 1)}
        finish.succeed(engine, held, {}, blobs=store, stored=gone, register=lambda _: {})
    assert read_run(engine, held.run_id).state == "running"


def test_t4_refuses_a_history_with_gaps_and_the_run_starts_over(
    engine: Engine, submit: Submit, claim: Claim, store: FolderStore
) -> None:
    submit()
    held = must(claim()).lease
    reports = [EpochReport(seq, 0, epoch, {"loss": 1.0}, 0.1) for seq, epoch in enumerate((1, 2, 4), 1)]
    checkpoint = lease.StoredCheckpoint(store.put_bytes(b"after epoch 4"), 4)
    lease.renew(engine, held, lease_seconds=30, reports=reports, checkpoint=checkpoint, blobs=store)
    with pytest.raises(finish.IncompleteHistory):
        succeed(engine, held, store)
    assert read_run(engine, held.run_id).state == "running"
    finish.lose(engine, held, 3, "incomplete_history", "Epochs are missing", start_over=True)
    run = read_run(engine, held.run_id)
    assert (run.state, run.spent_attempts, run.checkpoint, run.checkpoint_epoch) == ("queued", 1, None, None)
    again = must(claim()).lease
    reports = [EpochReport(seq, 0, seq, {"loss": 1.0}, 0.1) for seq in range(1, 5)]
    lease.renew(engine, again, lease_seconds=30, reports=reports)
    assert succeed(engine, again, store) == RunState.succeeded


def test_t5_a_deterministic_failure_is_not_tried_again(engine: Engine, submit: Submit, claim: Claim) -> None:
    submit()
    held = must(claim()).lease
    finish.fail(engine, held, "diverged", "The loss became NaN in epoch 3", {"epoch": 3})
    run = read_run(engine, held.run_id)
    assert (run.state, run.error) == (
        "failed",
        {"cause": "diverged", "detail": "The loss became NaN in epoch 3", "epoch": 3},
    )
    assert claim() is None


def test_t6_a_release_spends_no_attempt_and_keeps_the_position(engine: Engine, submit: Submit, claim: Claim) -> None:
    first, _ = submit(), submit()
    for attempt in range(1, 6):
        held = must(claim()).lease
        assert (held.run_id, held.attempt) == (first.id, attempt)
        assert finish.release(engine, held) == RunState.queued
    assert read_run(engine, first.id).spent_attempts == 0


def test_t6_then_t7_by_the_reaper(engine: Engine, submit: Submit, claim: Claim) -> None:
    run = submit()
    outcomes = []
    for _ in range(3):
        must(claim())
        assert finish.expire_leases(engine, 3) == []  # the lease holds
        expire_lease(engine, run.id)
        outcomes += finish.expire_leases(engine, 3)
    assert [state for _, state in outcomes] == ["queued", "queued", "failed"]
    failed = read_run(engine, run.id)
    assert failed.error is not None
    assert (failed.error["cause"], failed.error["attempts"]) == ("worker_lost", 3)


def test_t6_two_reapers_at_once_spend_one_attempt(engine: Engine, submit: Submit, claim: Claim) -> None:
    run = submit()
    must(claim())
    expire_lease(engine, run.id)
    with ThreadPoolExecutor(4) as pool:
        outcomes = [one for some in pool.map(lambda _: finish.expire_leases(engine, 3), range(4)) for one in some]
    assert len(outcomes) == 1
    assert read_run(engine, run.id).spent_attempts == 1


def test_t8_a_queued_run_is_cancelled_at_once(engine: Engine, submit: Submit, claim: Claim) -> None:
    run = submit()
    assert finish.cancel(engine, run.id, "ann").state == RunState.cancelled
    assert finish.cancel(engine, run.id, "ann").state == RunState.cancelled  # again: no change
    assert claim() is None
    with pytest.raises(NotFound):
        finish.cancel(engine, run.id, "bob")


def test_t9_a_requested_cancel_wins_over_the_result(
    engine: Engine, submit: Submit, claim: Claim, store: FolderStore
) -> None:
    submit()
    held = must(claim()).lease
    assert finish.cancel(engine, held.run_id, None).state == RunState.running
    assert lease.cancel_requested(engine, held)
    assert lease.renew(engine, held, lease_seconds=9)[0] is not None
    with pytest.raises(finish.CancelledFirst):
        succeed(engine, held, store)
    assert finish.confirm_cancel(engine, held) == RunState.cancelled


@pytest.mark.parametrize("end", ["fail", "release", "lose", "expire_leases"])
def test_t9_a_requested_cancel_wins_over_every_other_end(
    engine: Engine, submit: Submit, claim: Claim, end: str
) -> None:
    run = submit()
    held = must(claim()).lease
    finish.cancel(engine, run.id, None)
    if end == "fail":
        finish.fail(engine, held, "diverged", "NaN")
    elif end == "release":
        finish.release(engine, held)
    elif end == "lose":
        finish.lose(engine, held, 3, "killed", "killed")
    else:
        expire_lease(engine, run.id)
        finish.expire_leases(engine, 3)
    assert read_run(engine, run.id).state == RunState.cancelled


def test_cancel_of_a_finished_run_is_a_conflict(
    engine: Engine, submit: Submit, claim: Claim, store: FolderStore
) -> None:
    submit()
    held = must(claim()).lease
    succeed(engine, held, store)
    with pytest.raises(Conflict):
        finish.cancel(engine, held.run_id, None)


@pytest.mark.parametrize("write", ["heartbeat", "succeed", "fail", "release", "lose", "confirm_cancel"])
def test_the_fence_a_stale_holder_changes_nothing(
    engine: Engine, submit: Submit, claim: Claim, store: FolderStore, write: str
) -> None:
    run = submit()
    stale = must(claim()).lease
    expire_lease(engine, run.id)
    finish.expire_leases(engine, 3)
    must(claim())  # another worker has it now
    before = (read_run(engine, run.id).lease_token, len(events(engine, run.id)))
    with pytest.raises(lease.LeaseLost):
        {
            "heartbeat": lambda: lease.renew(engine, stale, lease_seconds=9, reports=[EventReport(1, "info", "late")]),
            "succeed": lambda: succeed(engine, stale, store),
            "fail": lambda: finish.fail(engine, stale, "diverged", "NaN"),
            "release": lambda: finish.release(engine, stale),
            "lose": lambda: finish.lose(engine, stale, 3, "killed", "killed"),
            "confirm_cancel": lambda: finish.confirm_cancel(engine, stale),
        }[write]()
    assert (read_run(engine, run.id).lease_token, len(events(engine, run.id))) == before


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_terminal_states_are_immutable_whoever_writes(engine: Engine, submit: Submit, state: str) -> None:
    run = submit()
    with engine.begin() as connection:
        connection.execute(text("UPDATE runs SET state = :state WHERE id = :id"), {"state": state, "id": run.id})
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text("UPDATE runs SET state = 'queued' WHERE id = :id"), {"id": run.id})
    assert read_run(engine, run.id).state == state


def test_t10_returns_the_runs_that_may_be_undelivered(engine: Engine, submit: Submit, claim: Claim) -> None:
    heard, unheard = submit(), submit(priority=1)
    with db.transaction(engine) as session:
        session.execute(update(Run).where(Run.id == unheard.id).values(dispatched_at=None))
    assert create.undelivered_runs(engine, 30, 10) == [unheard.id]
    assert create.undelivered_runs(engine, 0, 10) == [unheard.id, heard.id]
    create.mark_published(engine, [unheard.id])
    assert create.undelivered_runs(engine, 30, 10) == []


def test_young_or_referenced_blobs_are_not_deleted(
    engine: Engine, submit: Submit, claim: Claim, store: FolderStore
) -> None:
    submit()
    held = must(claim()).lease
    network = store.put_bytes(b"network")
    manifest = store.put_bytes(json.dumps({"onnx": {"sha256": network.sha256}}).encode())
    stored = {"manifest": manifest, "onnx": network}
    finish.succeed(engine, held, {"artifact": manifest.sha256}, blobs=store, stored=stored, register=lambda _: {})
    orphan = store.put_bytes(b"an orphan")
    assert blob_references.delete_unreferenced(engine, store, age_seconds=3600) == 0
    assert blob_references.delete_unreferenced(engine, store, age_seconds=-1) == 1
    assert not store.exists(orphan.sha256)
    assert store.exists(network.sha256)
    assert store.exists(manifest.sha256)
    with db.reading(engine) as session:
        assert session.get(Blob, network.sha256) is not None


def test_position_in_the_queue(engine: Engine, submit: Submit) -> None:
    first, second, urgent = submit(), submit(), submit(priority=1)
    with db.reading(engine) as session:
        positions = [queries.queue_position(session, run) for run in (urgent, first, second)]
    assert [one.position for one in positions if one] == [0, 1, 2]
    assert all(one and one.estimated_start is None for one in positions)  # there are no workers


def test_a_listing_pages_newest_first(engine: Engine, submit: Submit) -> None:
    ids = [submit().id for _ in range(5)]
    submit(owner="bob")
    with db.reading(engine) as session:
        first = listing.list_runs(session, RunFilter(owner="ann"), limit=3)
        rest = listing.list_runs(session, RunFilter(owner="ann"), limit=3, before=first[-1].id)
    assert [run.id for run in [*first, *rest]] == sorted(ids, reverse=True)


def test_only_fitserve_runs_writes_runs() -> None:
    """Only `fitserve.runs` inserts or updates rows of runs, events and epochs."""
    import ast

    root = Path(__file__).resolve().parents[2]
    writers = set()
    for path in [p for top in ("fitserve", "services", "workers") for p in (root / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            first = {argument.id for argument in node.args[:2] if isinstance(argument, ast.Name)}
            if name in ("Run", "Event", "Epoch") and node.keywords and path.parent.name != "tables":
                writers.add(path)
            if name in ("update", "insert", "delete", "merge", "insert_new") and first & {"Run", "Event", "Epoch"}:
                writers.add(path)
    inside = {path for path in writers if path.is_relative_to(root / "fitserve" / "runs")}
    assert {path.name for path in inside} >= {"create.py", "lease.py", "finish.py", "history.py"}
    assert not {str(p.relative_to(root)) for p in writers - inside if "client" not in p.parts}
