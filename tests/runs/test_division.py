"""Divided trials, on SQLite and on PostgreSQL: who may train one, and how they end with their run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, update

from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.errors import TooMany
from fitserve.runs import blob_references, finish, lease, listing, queries, quotas, trial_runs, worker_registry
from fitserve.runs.history import TrialReport
from fitserve.runs.listing import RunFilter
from fitserve.settings import Limits
from fitserve.states import RunState
from fitserve.tables import Worker
from fitserve.wire.admin import NO_QUOTAS
from tests.runs.conftest import Submit
from tests.runs.test_transitions import expire_lease, must, read_run, succeed

Claim = Callable[..., lease.Claim | None]


@pytest.fixture
def held(submit: Submit, claim: Claim) -> lease.Lease:
    """The lease of a running run."""
    submit(priority=3)
    return must(claim()).lease


def parts(engine: Engine, run_id: str) -> dict[int, trial_runs.TrialRun]:
    with db.reading(engine) as session:
        return trial_runs.offered_trials(session, run_id)


def states(engine: Engine, run_id: str) -> dict[int, str]:
    return {trial: str(part.state) for trial, part in parts(engine, run_id).items()}


def test_an_offer_repeated_creates_no_new_runs(engine: Engine, held: lease.Lease) -> None:
    first = trial_runs.offer(engine, held, [2, 1])
    assert trial_runs.offer(engine, held, [1, 2, 3]) == [parts(engine, held.run_id)[3].run_id]
    assert [parts(engine, held.run_id)[trial].run_id for trial in (1, 2)] == first
    run, part = read_run(engine, held.run_id), read_run(engine, first[0])
    assert (part.kind, part.parent_id, part.spec) == ("trial", run.id, {"run": run.id, "trial": 1})
    same = ("owner", "dataset_id", "resolved", "estimates", "priority", "key_id")
    assert all(getattr(part, name) == getattr(run, name) for name in same)
    assert part.model is None


def test_only_the_holder_offers_and_withdraws_trials(engine: Engine, held: lease.Lease, claim: Claim) -> None:
    (part,) = trial_runs.offer(engine, held, [1])
    expire_lease(engine, held.run_id)
    finish.expire_leases(engine, 3)
    with pytest.raises(lease.LeaseLost):
        trial_runs.offer(engine, held, [2])
    with pytest.raises(lease.LeaseLost):
        finish.withdraw_trial(engine, held, part)
    again = must(claim()).lease
    assert again.run_id == held.run_id
    assert finish.withdraw_trial(engine, again, part) is not None
    assert finish.withdraw_trial(engine, again, part) is None
    assert states(engine, held.run_id) == {1: "cancelled"}


def test_a_run_cannot_withdraw_a_run_that_is_not_its_trial(engine: Engine, held: lease.Lease, submit: Submit) -> None:
    other = submit(parent_id=held.run_id)  # a retry, not a trial
    assert finish.withdraw_trial(engine, held, other.id) is None
    assert read_run(engine, other.id).state == "queued"


def test_a_trial_is_either_claimed_or_withdrawn(engine: Engine, held: lease.Lease, claim: Claim) -> None:
    trials = range(1, 13)
    ids = trial_runs.offer(engine, held, trials)
    start = threading.Barrier(2)

    def helper() -> set[str]:
        start.wait()
        return {found.run.id for _ in trials if (found := claim(worker="w2")) is not None}

    def own() -> set[str]:
        start.wait()
        return {part for part in reversed(ids) if finish.withdraw_trial(engine, held, part) is not None}

    with ThreadPoolExecutor(2) as pool:
        claimed, taken = pool.submit(helper), pool.submit(own)
        assert claimed.result() | taken.result() == set(ids)
        assert not claimed.result() & taken.result()
    assert all(read_run(engine, part).state == "running" for part in claimed.result())


def test_trials_come_after_whole_runs_and_in_order(
    engine: Engine, held: lease.Lease, submit: Submit, claim: Claim
) -> None:
    ids = trial_runs.offer(engine, held, [1, 2, 3])
    late = submit(owner="bob", priority=-9)
    assert [must(claim()).run.id for _ in range(4)] == [late.id, *ids]
    submit(owner="bob")
    trial_runs.offer(engine, held, [4])
    assert lease.claim(engine, "w", lease_seconds=30, running_limit=9, kinds=("prediction",)) is None


ENDS: dict[str, Callable[[Engine, lease.Lease, FolderStore], object]] = {
    "succeeded": succeed,
    "failed": lambda engine, held, _: finish.fail(engine, held, "diverged", "NaN"),
    "lost": lambda engine, held, _: finish.lose(engine, held, 1, "killed", "The trainer was killed"),
    "cancelled": lambda engine, held, _: finish.confirm_cancel(engine, held),
    "expired": lambda engine, held, _: (expire_lease(engine, held.run_id), finish.expire_leases(engine, 1)),
}


@pytest.mark.parametrize("end", ENDS)
def test_no_trial_outlives_its_run(
    engine: Engine, held: lease.Lease, store: FolderStore, claim: Claim, end: str
) -> None:
    trial_runs.offer(engine, held, [1, 2, 3])
    done, running = must(claim()).lease, must(claim()).lease
    succeed(engine, done, store, b"a trial")
    ENDS[end](engine, held, store)
    assert states(engine, held.run_id) == {1: "succeeded", 2: "running", 3: "cancelled"}
    assert lease.cancel_requested(engine, running)
    assert finish.lose(engine, running, 3, "killed", "The trainer was killed") == "cancelled"  # not queued again
    with pytest.raises(lease.LeaseLost):
        trial_runs.offer(engine, held, [4])


def test_a_cancel_while_queued_reaches_the_trials(engine: Engine, held: lease.Lease, claim: Claim) -> None:
    trial_runs.offer(engine, held, [1, 2])
    finish.release(engine, held)
    assert states(engine, held.run_id) == {1: "queued", 2: "queued"}  # a requeued run keeps its trials
    finish.cancel(engine, held.run_id, None)
    assert states(engine, held.run_id) == {1: "cancelled", 2: "cancelled"}


def test_trials_end_with_their_run_under_concurrent_transitions(engine: Engine, submit: Submit, claim: Claim) -> None:
    """A trial that changes between queued and running while its run ends is ended in either state."""
    for _ in range(6):
        submit()
        whole = must(claim()).lease
        ids = trial_runs.offer(engine, whole, range(1, 7))
        begun = [must(claim(worker="w2")).lease for _ in range(3)]
        start = threading.Barrier(3)

        def claims(start: threading.Barrier = start) -> None:
            start.wait()
            for _ in range(3):
                claim(worker="w3")

        def gives_back(start: threading.Barrier = start, begun: list[lease.Lease] = begun) -> None:
            start.wait()
            for one in begun:
                finish.release(engine, one)

        def ends(start: threading.Barrier = start, whole: lease.Lease = whole) -> None:
            start.wait()
            finish.fail(engine, whole, "diverged", "NaN")

        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(work) for work in (claims, gives_back, ends)]:
                future.result()
        for part in (read_run(engine, one) for one in ids):
            assert part.state == "cancelled" or (part.state == "running" and part.cancel_requested_at), part.state
        for running in (read_run(engine, one) for one in ids):
            if running.state == "running":
                finish.confirm_cancel(engine, lease.Lease(running.id, running.attempt, str(running.lease_token)))


def test_a_trial_does_not_count_as_a_run_of_its_owner(engine: Engine, held: lease.Lease, submit: Submit) -> None:
    ids = trial_runs.offer(engine, held, [1, 2, 3])
    with db.reading(engine) as session:
        assert [run.id for run in listing.list_runs(session, RunFilter(owner="ann"))] == [held.run_id]
        assert queries.get(session, ids[0], "ann").kind == "trial"
        assert (queries.count_by_state(session)["queued"], queries.oldest_queued_seconds(session)) == (0, 0.0)
        assert queries.queue_position(session, queries.get(session, ids[0])) is None
        quotas.check(session, "ann", None, NO_QUOTAS, Limits(queued_runs=1))
    mine = submit(limits=Limits(queued_runs=1))
    with db.reading(engine) as session:
        place = queries.queue_position(session, mine)
    assert place is not None
    assert place.position == 0
    with pytest.raises(TooMany) as refused:
        submit(limits=Limits(queued_runs=1))
    assert refused.value.received == 1


def test_a_trials_file_is_kept_until_its_run_is_over(
    engine: Engine, held: lease.Lease, store: FolderStore, claim: Claim
) -> None:
    trial_runs.offer(engine, held, [1])
    part = must(claim()).lease
    blob = store.put_bytes(b"weights")
    result = {"blob": blob.sha256}
    finish.succeed(engine, part, result, blobs=store, stored={"trial": blob}, register=lambda _: {})
    assert parts(engine, held.run_id)[1].blob == blob.sha256
    store.put_bytes(b"what nobody refers to")
    time.sleep(0.05)
    assert blob_references.delete_unreferenced(engine, store, age_seconds=0) == 1
    assert not blob_references.delete_if_unreferenced(engine, store, blob.sha256)
    assert store.exists(blob.sha256)
    finish.fail(engine, held, "diverged", "NaN")
    assert blob_references.delete_unreferenced(engine, store, age_seconds=0) == 1
    assert not store.exists(blob.sha256)


def test_only_workers_that_are_alive_and_without_a_run_are_idle(engine: Engine) -> None:
    for name in ("mine", "waits", "works", "gone"):
        worker_registry.register(engine, name, "host", 1)
    worker_registry.report_alive(engine, "works", "run_x")
    with db.transaction(engine) as session:
        past = db.now(session).replace(year=2020)
        session.execute(update(Worker).where(Worker.id == "gone").values(heartbeat_at=past))
    with db.reading(engine) as session:
        assert worker_registry.count_idle(session, excluding="mine") == 1


def test_no_trials_are_offered_for_a_run_with_a_requested_cancel(engine: Engine, held: lease.Lease) -> None:
    finish.cancel(engine, held.run_id, None)
    assert trial_runs.offer(engine, held, [1]) == []


def test_a_trial_of_a_run_that_is_over_is_never_requeued(
    engine: Engine, held: lease.Lease, claim: Claim, store: FolderStore
) -> None:
    trial_runs.offer(engine, held, [1])
    part = must(claim()).lease
    succeed(engine, held, store)
    expire_lease(engine, part.run_id)
    assert finish.expire_leases(engine, 3) == [(part.run_id, RunState.cancelled)]
    assert read_run(engine, part.run_id).state == "cancelled"


@pytest.mark.parametrize("how", ENDS)
def test_no_trial_of_a_search_runs_once_its_run_is_over(
    engine: Engine, held: lease.Lease, store: FolderStore, how: str
) -> None:
    ended = {"trial": 0, "point": {"/seed": 0}, "values": {"seed": 0}, "state": "succeeded", "value": 0.5, "epochs": 2}
    begun = {**ended, "trial": 1, "state": "running", "value": None}
    again = {**ended, "value": 0.1}  # a trial ends once, whoever reports it again
    reports = [TrialReport(seq, row) for seq, row in enumerate((ended, begun, again), 1)]
    lease.renew(engine, held, lease_seconds=30, reports=reports, progress=True)
    ENDS[how](engine, held, store)
    with db.reading(engine) as session:
        rows = [(row.trial, row.state, row.value, row.reason) for row in queries.trials(session, held.run_id)]
    state = str(read_run(engine, held.run_id).state)
    over = "was cancelled" if state == "cancelled" else state
    assert rows == [(0, "succeeded", 0.5, None), (1, "failed", None, f"The run {over} before this trial ended.")]


def test_a_trial_that_is_reported_with_the_result_has_ended_as_reported(
    engine: Engine, held: lease.Lease, store: FolderStore
) -> None:
    row = {"trial": 0, "point": {"/seed": 0}, "values": {"seed": 0}, "state": "running"}
    lease.renew(engine, held, lease_seconds=30, reports=[TrialReport(1, row)], progress=True)
    last = TrialReport(2, {**row, "state": "succeeded", "value": 0.5, "epochs": 2})
    stored = {"manifest": store.put_bytes(b"a model")}
    result = {"artifact": stored["manifest"].sha256, "metrics": {}}
    finish.succeed(engine, held, result, blobs=store, stored=stored, register=lambda _: {}, reports=[last])
    with db.reading(engine) as session:
        assert [(row.state, row.value) for row in queries.trials(session, held.run_id)] == [("succeeded", 0.5)]
