"""A crash at each line of the crash table, by the hooks of `fitserve.crash_points`: twice each, 20 times in long form.

Each crash uses up a token, so the next attempt gets through. Members are restarted when they end.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fitserve.errors import Unavailable
from fitserve.queue import Publisher
from tests.faults.chaos import Chaos, FaultPlan
from tests.faults.checker import AcknowledgedRun, check_runs
from tests.faults.cluster import Cluster, wait_for

pytestmark = pytest.mark.xdist_group("faults")  # one process that forks members for all

# Line of the crash table -> the point, and how it dies there.
WORKER_POINTS = {
    "dies right after the claim": "supervisor.after_claim",
    "supervisor dies mid-epoch": "supervisor.mid_epoch",
    "trainer dies mid-epoch": "trainer.mid_epoch",
    "dies between the blobs' rename and T4": "supervisor.after_blobs",
    "dies right after T4": "supervisor.after_commit",
    "the outcome of T4's commit is unknown": "supervisor.after_commit:error",
    "is paused past its lease, then resumed": "supervisor.mid_epoch:stop",
}
REAPER_POINTS = {"reaper dies in a round": "reaper.mid_round", "dispatcher dies in a round": "dispatcher.mid_round"}
API_POINTS = {"API dies before the commit": "api.before_commit", "after the commit, before the 202": "api.after_commit"}


def crash_at_points(home: Path, points: list[str], times: int, runs: int, **more: str) -> None:
    """Run runs while processes crash at these points, `times` each; all must end as if undisturbed."""
    tokens = home.parent / "tokens"
    tokens.mkdir()
    names = [point.partition(":")[0] for point in points]
    for name in names:
        # A reaper has work only after a worker crashed, and finds several lost runs in one round.
        each = 3 * times if len(names) > 1 and name == "supervisor.after_claim" else times
        for number in range(each):
            (tokens / f"{name}.{number}").touch()
    environment = {
        "FITSERVE_CRASH_AT": ",".join(points),
        "FITSERVE_CRASH_TOKENS": str(tokens),
        "FITSERVE_MAX_ATTEMPTS": "1000",
        "FITSERVE_LEASE_SECONDS": "1",
        **more,
    }
    with Cluster(home, environment=environment) as cluster:
        chaos = Chaos(FaultPlan(seed=0, runs=0), cluster)
        restarter = threading.Thread(target=chaos.restart_members)
        wanted = [
            AcknowledgedRun(cluster.submit(seed=n, epochs=3, seconds=0.1, checkpoint_every=1, model="m"), n, 3)
            for n in range(runs)
        ]
        cluster.start("worker")
        cluster.start("worker")
        cluster.start("reaper")
        restarter.start()
        try:
            spent = time.monotonic() + 30 + 10 * times
            number = runs
            while list(tokens.iterdir()) and time.monotonic() < spent:
                _resume_stopped(cluster)
                if all(_succeeded(cluster, run) for run in wanted[-4:]):
                    wanted.append(AcknowledgedRun(cluster.submit(seed=number, epochs=3, model="m"), number, 3))
                    number += 1
                time.sleep(0.1)
            assert not list(tokens.iterdir()), f"points never reached: {sorted(p.name for p in tokens.iterdir())}"
            for run in wanted:
                wait_for(lambda run=run: _resume_stopped(cluster) or _succeeded(cluster, run), 60, run.run_id)
        finally:
            chaos.over.set()
            restarter.join()
        verdict = check_runs(cluster.engine, cluster.blobs, wanted)
        assert verdict.ok, f"{verdict}\n{cluster.tail()}"


def _succeeded(cluster: Cluster, run: AcknowledgedRun) -> bool:
    """False also while a stopped member holds SQLite's lock, when the state cannot be read."""
    try:
        return cluster.run(run.run_id).state == "succeeded"
    except Unavailable:
        return False


def _resume_stopped(cluster: Cluster) -> None:
    """Resume members that stopped themselves, once their lease is certainly lost."""
    for member in cluster.members:
        if member.alive and _stopped(member.process.pid):
            time.sleep(1.5)
            member.resume()


def _stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


@pytest.mark.parametrize("line", sorted(WORKER_POINTS))
def test_a_worker_dies_here(tmp_path: Path, line: str) -> None:
    crash_at_points(tmp_path / "home", [WORKER_POINTS[line]], times=2, runs=3)


def test_reaper_and_dispatcher_die(tmp_path: Path) -> None:
    points = [*REAPER_POINTS.values(), "supervisor.after_claim"]  # so that there is something to reap
    crash_at_points(tmp_path / "home", points, times=2, runs=6, FITSERVE_REDISPATCH_SECONDS="0")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("line", sorted(WORKER_POINTS))
def test_a_worker_dies_here_20_times(tmp_path: Path, line: str) -> None:
    crash_at_points(tmp_path / "home", [WORKER_POINTS[line]], times=20, runs=10)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_reaper_and_dispatcher_die_20_times(tmp_path: Path) -> None:
    points = [*REAPER_POINTS.values(), "supervisor.after_claim"]
    crash_at_points(tmp_path / "home", points, times=20, runs=20, FITSERVE_REDISPATCH_SECONDS="0")


@pytest.mark.parametrize("line", sorted(API_POINTS))
def test_the_api_dies_here(tmp_path: Path, line: str) -> None:
    crash_the_api(tmp_path / "home", API_POINTS[line], times=2)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("line", sorted(API_POINTS))
def test_the_api_dies_here_20_times(tmp_path: Path, line: str) -> None:
    crash_the_api(tmp_path / "home", API_POINTS[line], times=20)


def crash_the_api(home: Path, point: str, times: int) -> None:
    """The client repeats its request with its key until it is answered; each key makes one run."""
    tokens = home.parent / "tokens"
    tokens.mkdir()
    for number in range(times):
        (tokens / f"{point}.{number}").touch()
    environment = {"FITSERVE_CRASH_AT": point, "FITSERVE_CRASH_TOKENS": str(tokens)}
    with Cluster(home, environment={k: v for k, v in environment.items() if "TOKENS" in k}) as cluster:
        chaos = Chaos(FaultPlan(seed=0, runs=0, epoch_seconds=0.01), cluster)
        chaos.parent_id = chaos.create_failed_run()
        cluster.variables.update(environment)
        chaos.wait_for_api(cluster.start("api"))
        cluster.start("worker")
        cluster.start("reaper")
        restarter = threading.Thread(target=chaos.restart_members)
        restarter.start()
        try:
            wanted = [AcknowledgedRun(chaos.submit(f"k{n}"), 7, 4, f"k{n}") for n in range(times)]
            wanted += [AcknowledgedRun(chaos.submit(f"k{n}"), 7, 4, f"k{n}") for n in range(times)]
            assert not list(tokens.iterdir())
            assert chaos.counts["unanswered"] >= times
            for run in wanted:
                cluster.wait_over(run.run_id, 40)
        finally:
            chaos.over.set()
            restarter.join()
        verdict = check_runs(cluster.engine, cluster.blobs, wanted)
        assert verdict.ok, verdict
        assert len({run.run_id for run in wanted}) == times


def test_delivered_twice_runs_once(cluster: Cluster) -> None:
    cluster.start("worker")
    cluster.start("worker")
    publisher = Publisher(cluster.settings)
    wanted = [AcknowledgedRun(cluster.submit(seed=n, epochs=2, seconds=0.1), n, 2) for n in range(6)]
    for run in wanted:
        wait_for(lambda run=run: sum(publisher.publish(run.run_id) for _ in range(5)) >= 2, 20)
    for run in wanted:
        assert cluster.wait_over(run.run_id).attempt == 1 + cluster.lost_leases(run.run_id)
    publisher.close()
    verdict = check_runs(cluster.engine, cluster.blobs, wanted)
    assert verdict.ok, verdict
