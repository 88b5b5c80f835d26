"""The harness against itself: without one of the guarantees it must fail, with all of them it must not.

Each scenario is the one that its guarantee exists for, with the same real processes.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import text

from fitserve import db
from fitserve.errors import Unavailable
from tests.faults.checker import AcknowledgedRun, Verdict, check_runs
from tests.faults.cluster import Cluster, Member, wait_for
from tests.live_files import files_under


def cluster_with(home: Path, mutant: str, **environment: str) -> Cluster:
    return Cluster(home, environment={"FITSERVE_TEST_MUTANT": mutant, **environment})


def worker_of(cluster: Cluster, run_id: str, workers: list[Member]) -> Member:
    """The member that holds a run."""
    holder = wait_for(lambda: cluster.run(run_id).worker, 20, "a claim")
    return next(member for member in workers if f"-{member.process.pid}-" in holder)


def _size(path: Path) -> int:
    """Return a file's size in bytes; 0 once it is renamed or deleted."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def pause_between_writes(cluster: Cluster, holder: Member) -> None:
    """Pause a process while it holds no lock of SQLite: the others would wait for a lock that is paused with it."""
    for number in range(100):
        holder.pause()
        try:
            with db.transaction(cluster.engine) as session:
                session.execute(text(f"PRAGMA user_version = {number}"))  # a write without effect on the tests
            return
        except Unavailable:
            holder.resume()
            time.sleep(0.02)
    raise AssertionError("the process was always writing")


def paused_past_its_lease(home: Path, mutant: str) -> Verdict:
    """A worker is paused with a finished trainer, loses the run, and is resumed."""
    with cluster_with(home, mutant, FITSERVE_LEASE_SECONDS="1") as cluster:
        if mutant:  # the database would refuse the second ending by itself, and hide the missing fence
            with db.transaction(cluster.engine) as session:
                session.execute(text("DROP TRIGGER runs_outcome_immutable"))
        workers = [cluster.start("worker"), cluster.start("worker")]
        cluster.start("reaper")
        run_id = cluster.submit(seed=5, epochs=2, seconds=0.6)
        holder = worker_of(cluster, run_id, workers)
        pause_between_writes(cluster, holder)
        wait_for(lambda: cluster.run(run_id).attempt == 2, 20, "a second attempt")
        cluster.wait_over(run_id)
        time.sleep(0.3)
        holder.resume()
        deadline = time.monotonic() + (10 if mutant else 1)
        while True:  # on a busy machine its trainer may have got the run only now
            time.sleep(1.5)
            verdict = check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 5, 2)])
            if verdict.duplicated or time.monotonic() > deadline:
                return verdict


def many_workers_one_queue(home: Path, mutant: str) -> Verdict:
    """Two workers wake up at the same moment, repeatedly."""
    with cluster_with(home, mutant) as cluster:
        wanted = [AcknowledgedRun(cluster.submit(seed=n, epochs=2, seconds=0.1), n, 2) for n in range(12)]
        for _ in range(2):
            cluster.start("worker")
        cluster.start("reaper")
        for run in wanted:
            cluster.wait_over(run.run_id, 40)
        return check_runs(cluster.engine, cluster.blobs, wanted)


def killed_while_it_stores(home: Path, mutant: str) -> Verdict:
    """A worker is killed while it writes an artifact of many pieces; the next attempt makes the same bytes."""
    with cluster_with(home, mutant, FITSERVE_LEASE_SECONDS="1") as cluster:
        worker = cluster.start("worker")
        cluster.start("reaper")
        run_id = cluster.submit(seed=3, epochs=1, bytes=40_000)
        cluster.wait_epoch(run_id, 1)
        blobs = cluster.home / "blobs"
        wait_for(lambda: any(_size(path) > 1000 for path in files_under(blobs)), 10, "a blob")
        worker.kill()
        cluster.start("worker")
        cluster.wait_over(run_id)
        return check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 3, 1)])


SCENARIOS = {
    "without_fence": (paused_past_its_lease, "duplicated"),
    "without_conditional_update": (many_workers_one_queue, "duplicated"),
    "without_fsync_and_rename": (killed_while_it_stores, "unexpected"),
}


@pytest.mark.parametrize("mutant", sorted(SCENARIOS))
def test_the_harness_catches_the_mutant(tmp_path: Path, mutant: str) -> None:
    scenario, field = SCENARIOS[mutant]
    verdict = scenario(tmp_path / "home", mutant)
    assert getattr(verdict, field), f"the harness did not notice: {verdict.fields()}"


@pytest.mark.parametrize("mutant", ["without_fence", "without_conditional_update"])
def test_the_same_scenario_passes_with_the_guarantee(tmp_path: Path, mutant: str) -> None:
    verdict = SCENARIOS[mutant][0](tmp_path / "home", "")
    assert verdict.ok, verdict
