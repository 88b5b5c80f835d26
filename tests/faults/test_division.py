"""Trials of one run on several workers, with real processes: the result is that of one worker, whichever is killed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from fitserve import db
from fitserve.runs import listing, queries
from fitserve.runs.listing import RunFilter
from fitserve.states import TERMINAL
from fitserve.tables import Run, Worker
from tests.faults.chaos import Chaos, FaultPlan
from tests.faults.cluster import CALM, Cluster, Member, wait_for
from tests.faults.fake_trainer import final_trials
from tests.faults.test_mutants import pause_between_writes

pytestmark = pytest.mark.xdist_group("faults")


def idle_workers(cluster: Cluster, count: int, **environment: str) -> list[Member]:
    """Start `count` workers, and wait until they are idle."""
    members = [cluster.start("worker", **environment) for _ in range(count)]
    wait_idle(cluster, count)
    return members


def wait_idle(cluster: Cluster, count: int) -> None:
    """Wait until `count` workers are idle."""

    def idle() -> bool:
        with db.reading(cluster.engine) as session:
            return len(session.scalars(select(Worker.id).where(Worker.run_id.is_(None))).all()) == count

    wait_for(idle, 20, "idle workers")


def parts_of(cluster: Cluster, run_id: str) -> list[Run]:
    """The divided trials of a run, in order."""
    with db.reading(cluster.engine) as session:
        found = session.scalars(select(Run).where(Run.parent_id == run_id, Run.kind == "trial")).all()
    return sorted(found, key=lambda part: part.spec["trial"])


def running_part(cluster: Cluster, run_id: str) -> Run:
    """Wait for a trial on a helper that has committed an epoch."""

    def begun() -> Run | None:
        for part in parts_of(cluster, run_id):
            with db.reading(cluster.engine) as session:
                if part.state == "running" and queries.latest_epoch(session, part.id) is not None:
                    return part
        return None

    found: Run = wait_for(begun, 20, "a trial on a helper")
    return found


def holder(cluster: Cluster, run_id: str, members: list[Member]) -> Member:
    worker = cluster.run(run_id).worker or ""
    return next(member for member in members if f"-{member.process.pid}-" in worker)


def check(cluster: Cluster, run_id: str, seed: int, epochs: int, trials: int) -> list[Run]:
    """Check that the run ended as on one worker, and that all its trials are over. Returns the trials."""
    run = cluster.wait_over(run_id, 60)
    assert (run.state, run.error) == ("succeeded", None)
    assert run.result is not None
    assert run.result["trials"] == final_trials(seed, epochs, trials)
    assert run.result["weights"] == min(run.result["trials"])
    with db.reading(cluster.engine) as session:
        rows = queries.epochs(session, run_id, limit=10_000)
        events = [event.data for event in queries.events_after(session, run_id, 0, 10_000) if event.type == "metrics"]
    wanted = [(trial, epoch) for trial in range(trials) for epoch in range(1, epochs + 1)]
    assert [(row.trial, row.epoch) for row in rows] == wanted
    assert sorted((data["trial"], data["epoch"]) for data in events) == wanted
    wait_for(lambda: all(part.state in TERMINAL for part in parts_of(cluster, run_id)), 10, "the trials' end")
    return parts_of(cluster, run_id)


def test_an_idle_worker_trains_trials_of_a_run_and_their_files_go(cluster: Cluster) -> None:
    idle_workers(cluster, 2, **CALM)
    run_id = cluster.submit(seed=3, epochs=4, trials=6, seconds=0.1, model="m")
    part = running_part(cluster, run_id)
    with db.reading(cluster.engine) as session:
        assert part.id not in {run.id for run in listing.list_runs(session, RunFilter())}
    parts = check(cluster, run_id, 3, 4, 6)
    succeeded = [part for part in parts if part.state == "succeeded"]
    assert len(parts) == 5
    assert 2 <= len(succeeded) < 5  # some were trained by the run's own worker
    assert all(part.attempt == 0 for part in parts if part.state == "cancelled")
    files = [part.result["blob"] for part in succeeded if part.result]
    assert len(files) == len(succeeded)
    wait_for(lambda: not any(cluster.blobs.exists(sha256) for sha256 in files), 5, "the files' end")


def test_a_lone_worker_divides_nothing(cluster: Cluster) -> None:
    idle_workers(cluster, 1, **CALM)
    run_id = cluster.submit(seed=3, epochs=2, trials=3)
    assert check(cluster, run_id, 3, 2, 3) == []


def test_a_helper_that_is_killed_costs_time_alone(cluster: Cluster) -> None:
    members = idle_workers(cluster, 2)
    run_id = cluster.submit(seed=8, epochs=8, trials=4, seconds=0.15, checkpoint_every=2)
    part = running_part(cluster, run_id)
    wait_for(lambda: cluster.run(part.id).checkpoint_epoch, 10, "a checkpoint")
    holder(cluster, part.id, members).kill()
    parts = check(cluster, run_id, 8, 8, 4)  # there is no reaper: the run's own worker takes the trial back
    lost = next(one for one in parts if one.id == part.id)
    assert (lost.state, lost.attempt) == ("cancelled", 1 + cluster.lost_leases(part.id))
    assert cluster.run(run_id).attempt == 1 + cluster.lost_leases(run_id)


def test_a_run_whose_worker_is_killed_finds_its_trials_again(cluster: Cluster) -> None:
    members = idle_workers(cluster, 2)
    run_id = cluster.submit(seed=5, epochs=6, trials=5, seconds=0.15, checkpoint_every=2)
    part = running_part(cluster, run_id)
    holder(cluster, run_id, members).kill()
    parts = check(cluster, run_id, 5, 6, 5)
    assert cluster.run(run_id).attempt == 1 + cluster.lost_leases(run_id) >= 2
    assert next(one for one in parts if one.id == part.id).state == "succeeded"


def test_a_run_that_is_handed_back_finds_its_trials_again(cluster: Cluster) -> None:
    members = idle_workers(cluster, 2, **CALM)
    run_id = cluster.submit(seed=6, epochs=6, trials=4, seconds=0.15)
    running_part(cluster, run_id)
    holder(cluster, run_id, members).process.terminate()
    check(cluster, run_id, 6, 6, 4)
    assert (cluster.run(run_id).attempt, cluster.run(run_id).spent_attempts) == (2, 0)


def test_a_helper_that_is_paused_past_its_lease_changes_nothing(cluster: Cluster) -> None:
    members = idle_workers(cluster, 2)
    run_id = cluster.submit(seed=7, epochs=5, trials=3, seconds=0.15)
    part = running_part(cluster, run_id)
    helper = holder(cluster, part.id, members)
    pause_between_writes(cluster, helper)
    check(cluster, run_id, 7, 5, 3)
    before = (cluster.run(run_id).result, [one.state for one in parts_of(cluster, run_id)])
    helper.resume()
    time.sleep(1.0)
    assert (cluster.run(run_id).result, [one.state for one in parts_of(cluster, run_id)]) == before


def test_a_cancelled_run_cancels_its_trials(cluster: Cluster) -> None:
    idle_workers(cluster, 2, **CALM)
    run_id = cluster.submit(epochs=1000, trials=4, seconds=0.1)
    running_part(cluster, run_id)
    cluster.cancel(run_id)
    assert cluster.wait_over(run_id).state == "cancelled"
    wait_for(lambda: {part.state for part in parts_of(cluster, run_id)} == {"cancelled"}, 6, "the trials' end")


def test_a_trial_that_fails_on_a_helper_is_trained_by_its_run(cluster: Cluster) -> None:
    idle_workers(cluster, 2, **CALM)
    run_id = cluster.submit(seed=2, epochs=3, trials=3, seconds=0.1, fails="raise", at=2, apart=True)
    parts = check(cluster, run_id, 2, 3, 3)
    assert "failed" in {part.state for part in parts}
    assert cluster.run(run_id).attempt == 1


def test_divided_runs_survive_crashes_everywhere(tmp_path: Path) -> None:
    """Workers crash at each point that a divided run and its trials pass, and are restarted."""
    points = ("supervisor.after_claim", "supervisor.mid_epoch", "supervisor.after_blobs", "supervisor.after_commit")
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for name in (*points, "trainer.mid_epoch"):
        for number in range(2):
            (tokens / f"{name}.{number}").touch()
    environment = {
        "FITSERVE_CRASH_AT": ",".join((*points, "trainer.mid_epoch")),
        "FITSERVE_CRASH_TOKENS": str(tokens),
        "FITSERVE_MAX_ATTEMPTS": "1000",
        "FITSERVE_LEASE_SECONDS": "1",
    }
    with Cluster(tmp_path / "home", environment=environment) as cluster:
        runs = [(cluster.submit(seed=n, epochs=3, trials=3, seconds=0.1, checkpoint_every=1), n) for n in range(3)]
        chaos = Chaos(FaultPlan(seed=0, runs=0), cluster)
        restarter = threading.Thread(target=chaos.restart_members)
        for _ in range(3):
            cluster.start("worker")
        cluster.start("reaper")
        restarter.start()
        try:
            for run_id, seed in runs:
                check(cluster, run_id, seed, 3, 3)
        finally:
            chaos.over.set()
            restarter.join()
        assert len(list(tokens.iterdir())) < 4, "hardly a process crashed"
