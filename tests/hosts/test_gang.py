"""One network on hosts that are really apart: whichever line is cut, the run ends once, and says what happened.

`python -m tests.hosts` runs the long forms at once, outside pytest.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.__main__ import LEASES
from tests.faults.test_gang import messages
from tests.hosts import gangs
from tests.hosts.conftest import Deployment, deployment
from tests.hosts.network import missing
from tests.waiting import wait_until

pytestmark = pytest.mark.xdist_group("faults")


def test_a_helper_that_is_cut_off_costs_neither_run_nor_epoch(patient_hosts: Deployment) -> None:
    cluster = patient_hosts.cluster
    gang = gangs.begun(patient_hosts, epochs=60, at_least=2, wait=0)
    run_id, helper = gang.run_id, patient_hosts.network.hosts[gang.helper]
    helper.cut()
    wait_until(lambda: "A worker of the gang was lost; training resumes" in messages(cluster, run_id))
    helper.mend()
    gangs.check(patient_hosts, run_id, 60)
    assert messages(cluster, run_id).count(gangs.TOGETHER) == 2


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seconds", [10, 40, 120])
@pytest.mark.parametrize("victim", ["leader", "helper"])
@pytest.mark.parametrize(
    ("incoming", "outgoing"), [(True, True), (True, False), (False, True)], ids=["both ways", "deaf", "mute"]
)
def test_a_partition_costs_neither_run_nor_epoch(
    patient_hosts: Deployment, victim: Literal["leader", "helper"], seconds: int, incoming: bool, outgoing: bool
) -> None:
    print(json.dumps(gangs.cut_off(patient_hosts, victim, seconds, incoming=incoming, outgoing=outgoing)))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_a_bad_line_is_slow_and_no_more(patient_hosts: Deployment) -> None:
    print(json.dumps(gangs.bad_line(patient_hosts)))


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("fault", ["cut", "line"])
def test_tensorflow_s_own_collectives_over_lines_that_break(tmp_path: Path, postgres_url: str, fault: str) -> None:
    if reason := missing():
        pytest.skip(f"namespaces: {reason}")
    for hosts in deployment(tmp_path / "home", postgres_url, **gangs.TENSORFLOW):
        print(json.dumps(gangs.with_tensorflow(hosts, fault)))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_random_partitions_kills_and_stops_of_gangs(tmp_path: Path, postgres_url: str) -> None:
    """Ten minutes, with the leases of production."""
    if reason := missing():
        pytest.skip(f"namespaces: {reason}")
    seed = random.SystemRandom().randrange(2**32)
    hosts = ("data", "worker1", "worker2", "worker3")
    found = gangs.storms(deployment(tmp_path / "home", postgres_url, hosts, **LEASES), random.Random(seed), 600)
    print(json.dumps({"seed": seed, **found}))
