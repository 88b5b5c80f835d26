"""Partitions between hosts: every run ends once, with a complete history, and hosts that were cut off work again."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from fitserve import db
from fitserve.tables import Epoch
from tests.faults.__main__ import LEASES
from tests.faults.checker import AcknowledgedRun, Verdict, check_runs
from tests.faults.cluster import Member, wait_for
from tests.hosts.conftest import Deployment, deployment
from tests.hosts.network import missing
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("faults")
EPOCHS = 60


def epochs_of(hosts: Deployment, run_id: str) -> list[int]:
    with db.reading(hosts.cluster.engine) as session:
        return list(session.scalars(select(Epoch.epoch).where(Epoch.run_id == run_id).order_by(Epoch.epoch)))


@pytest.mark.parametrize(
    ("incoming", "outgoing"), [(True, True), (True, False), (False, True)], ids=["both ways", "deaf", "mute"]
)
def test_a_worker_cut_off_loses_its_run_to_another_and_works_again(
    hosts: Deployment, incoming: bool, outgoing: bool
) -> None:
    cluster = hosts.cluster
    worker = hosts.start("worker", "worker1")
    hosts.start("reaper", "data")
    run_id = cluster.submit(seed=5, epochs=EPOCHS, seconds=0.05)
    cluster.wait_epoch(run_id, 5, 60)
    hosts.network.hosts["worker1"].cut(incoming, outgoing)
    other = hosts.start("worker", "worker2")
    run = cluster.wait_over(run_id, 120)
    # A machine that pauses for two seconds loses leases beside the one that was cut off.
    assert (run.state, run.attempt) == ("succeeded", 1 + cluster.lost_leases(run_id)), run.error
    assert run.attempt >= 2, run.error
    assert epochs_of(hosts, run_id) == list(range(1, EPOCHS + 1))
    other.kill()
    hosts.network.hosts["worker1"].mend()
    next_id = cluster.submit(seed=6, epochs=3)
    assert cluster.wait_over(next_id, 120).state == "succeeded"
    assert worker.alive
    verdict = check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 5, EPOCHS)])
    assert verdict.ok, f"{verdict}\n{cluster.tail()}"


def test_a_worker_behind_a_bad_line_trains_without_a_gap(hosts: Deployment) -> None:
    hosts.start("worker", "worker1", FITSERVE_LEASE_SECONDS="20")
    hosts.start("reaper", "data")
    hosts.network.disturb("worker1", delay_ms=200, loss_percent=20)
    run_id = hosts.cluster.submit(seed=5, epochs=400, seconds=0.005)
    run = hosts.cluster.wait_over(run_id, 300)
    assert (run.state, run.attempt) == ("succeeded", 1), run.error
    assert epochs_of(hosts, run_id) == list(range(1, 401))


def test_readiness_tells_of_a_partition_in_time(hosts: Deployment) -> None:
    """The API and a worker, away from the database and the broker, answer that they are not ready."""
    ports = {"web": free_port(), "worker1": free_port()}
    hosts.start("api", "web", FITSERVE_PORT=str(ports["web"]))
    hosts.start("worker", "worker1", FITSERVE_WORKER_METRICS_PORT=str(ports["worker1"]))
    for name, port in ports.items():
        path = hosts.network.unix_socket(name, port, hosts.cluster.home / f"{name}.sock")
        wait_for(partial(hosts.answers, path, "/readyz"), 60, f"{name} is ready")
        hosts.network.hosts[name].cut()
        code, body = hosts.get(path, "/readyz")
        assert (code, body["checks"]["database"]) == (503, "no answer within 2 s"), body
        assert hosts.get(path, "/livez") == (200, {"status": "alive"})
        hosts.network.hosts[name].mend()
        wait_for(partial(hosts.answers, path, "/readyz"), 60, f"{name} is ready again")


@pytest.mark.long
@pytest.mark.timeout(0)
def test_random_partitions_kills_and_stops(tmp_path: Path, postgres_url: str) -> None:
    """Ten minutes, with the leases of production. Prints what happened, and how long runs took to recover."""
    if reason := missing():
        pytest.skip(f"namespaces: {reason}")
    seed = random.SystemRandom().randrange(2**32)
    for hosts in deployment(tmp_path / "home", postgres_url, **LEASES):
        verdict, faults = Storm(hosts, random.Random(seed)).blow(600)
        print(json.dumps({"seed": seed, **verdict.fields(), "faults": dict(faults)}))
        assert verdict.ok, f"{verdict}\n{hosts.cluster.tail()}"


@dataclass
class Storm:
    """Faults at random on both workers, and runs that are submitted meanwhile."""

    hosts: Deployment
    random: random.Random
    workers: dict[str, Member] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    submitted: list[AcknowledgedRun] = field(default_factory=list)

    def blow(self, seconds: float) -> tuple[Verdict, Counter[str]]:
        """Submit and disturb for so long, then mend everything and wait until every run is over."""
        for name in ("worker1", "worker2"):
            self._start(name)
        self.hosts.start("reaper", "data")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(3):
                epochs, number = self.random.randrange(5, 60), len(self.submitted)
                run_id = self.hosts.cluster.submit(seed=number, epochs=epochs, seconds=0.1)
                self.submitted.append(AcknowledgedRun(run_id, number, epochs))
            self._disturb(self.random.choice(list(self.workers)))
        for run in self.submitted:
            self.hosts.cluster.wait_over(run.run_id, 1800)
        return check_runs(self.hosts.cluster.engine, self.hosts.cluster.blobs, self.submitted), self.faults

    def _start(self, name: str) -> None:
        self.workers[name] = self.hosts.start("worker", name)

    def _disturb(self, name: str) -> None:
        host, worker = self.hosts.network.hosts[name], self.workers[name]
        fault = self.random.choice(["both", "deaf", "mute", "kill", "stop"])
        seconds = self.random.choice([1, 3, 10, 10, 40])
        self.faults[f"{fault} {seconds} s" if fault != "kill" else fault] += 1
        if fault == "kill":
            worker.kill()
            time.sleep(1)
            self._start(name)
        elif fault == "stop":
            worker.pause()
            time.sleep(seconds)
            worker.resume()
        else:
            host.cut(incoming=fault != "mute", outgoing=fault != "deaf")
            time.sleep(seconds)
            host.mend()
