"""One network on two hosts that are really apart: whichever line is cut, the run ends once, and says what happened."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.__main__ import LEASES
from tests.faults.checker import AcknowledgedRun, check_runs
from tests.faults.test_gang import messages, parts_of
from tests.hosts.conftest import Deployment, deployment
from tests.hosts.network import missing
from tests.hosts.test_partitions import Storm, epochs_of

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.long, pytest.mark.timeout(0)]
EPOCHS = 200


def begun(hosts: Deployment, **environment: str) -> str:
    """Start two workers, the first of which leads, and a run that both train. Returns its id."""
    run_id = ""
    for name in ("worker1", "worker2"):
        hosts.start("worker", name, FITSERVE_CLUSTER_HOST=hosts.network.hosts[name].address, **environment)
        if not run_id:
            workers = {"count": 2, "at_least": 1, "wait": 15}
            run_id = hosts.cluster.submit(seed=5, epochs=EPOCHS, seconds=0.05, checkpoint_every=5, workers=workers)
            hosts.cluster.wait_state(run_id, "running", 60)
    hosts.start("reaper", "data")
    hosts.cluster.wait_epoch(run_id, 10, 120)
    assert "2 workers train the network together" in messages(hosts.cluster, run_id)
    return run_id


def check(hosts: Deployment, run_id: str) -> Any:
    run = hosts.cluster.wait_over(run_id, 600)
    assert run.state == "succeeded", run.error
    assert epochs_of(hosts, run_id) == list(range(1, EPOCHS + 1))
    verdict = check_runs(hosts.cluster.engine, hosts.cluster.blobs, [AcknowledgedRun(run_id, 5, EPOCHS)])
    assert verdict.ok, f"{verdict}\n{hosts.cluster.tail()}"
    return run


@pytest.mark.parametrize("seconds", [10, 40, 120])
@pytest.mark.parametrize("victim", ["worker1", "worker2"], ids=["leader", "helper"])
@pytest.mark.parametrize(
    ("incoming", "outgoing"), [(True, True), (True, False), (False, True)], ids=["both ways", "deaf", "mute"]
)
def test_a_partition_costs_neither_run_nor_epoch(
    hosts: Deployment, victim: str, seconds: int, incoming: bool, outgoing: bool
) -> None:
    run_id = begun(hosts)
    parts = len(parts_of(hosts.cluster, run_id))
    cut_at, last = time.monotonic(), max(epochs_of(hosts, run_id))
    hosts.network.hosts[victim].cut(incoming, outgoing)
    hosts.cluster.wait_epoch(run_id, min(EPOCHS, last + 20), 120)
    print(json.dumps({"victim": victim, "cut_s": seconds, "recovered_s": round(time.monotonic() - cut_at, 1)}))
    time.sleep(max(0.0, cut_at + seconds - time.monotonic()))
    hosts.network.hosts[victim].mend()
    check(hosts, run_id)
    assert len(parts_of(hosts.cluster, run_id)) >= parts


def test_a_bad_line_is_slow_and_no_more(hosts: Deployment) -> None:
    if not hosts.network.hosts["worker2"].disturb(delay_ms=200, loss_percent=20):
        pytest.skip("netem: this kernel has none")
    check(hosts, begun(hosts, FITSERVE_LEASE_SECONDS="20"))


def test_random_partitions_kills_and_stops_of_gangs(tmp_path: Path, postgres_url: str) -> None:
    """Ten minutes, with the leases of production; every run is for two workers."""
    if reason := missing():
        pytest.skip(f"namespaces: {reason}")
    seed = random.SystemRandom().randrange(2**32)
    for hosts in deployment(tmp_path / "home", postgres_url, **LEASES):
        storm = Storm(hosts, random.Random(seed), together={"count": 2, "at_least": 1, "wait": 30})
        verdict, faults = storm.blow(600)
        print(json.dumps({"seed": seed, **verdict.fields(), "faults": dict(faults)}))
        assert verdict.ok, f"{verdict}\n{hosts.cluster.tail()}"
