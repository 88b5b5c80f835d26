"""One network on several workers, with real processes: the result is that of one worker, whichever is lost."""

from __future__ import annotations

import signal
import socket

import pytest
from sqlalchemy import select

from fitserve import db
from fitserve.runs import listing, queries
from fitserve.runs.listing import RunFilter
from fitserve.states import TERMINAL
from fitserve.tables import Run
from tests.conftest import free_ports
from tests.faults.checker import AcknowledgedRun, check_runs
from tests.faults.cluster import CALM, Cluster, Member, wait_for
from tests.faults.test_division import holder, idle_workers

pytestmark = pytest.mark.xdist_group("faults")


def parts_of(cluster: Cluster, run_id: str) -> list[Run]:
    """The helpers' parts of a run, the oldest first."""
    with db.reading(cluster.engine) as session:
        return list(session.scalars(select(Run).where(Run.parent_id == run_id, Run.kind == "helper").order_by(Run.id)))


def messages(cluster: Cluster, run_id: str) -> str:
    with db.reading(cluster.engine) as session:
        return "\n".join(event.message or "" for event in queries.events_after(session, run_id, 0, 10_000))


def check(cluster: Cluster, run_id: str, epochs: int, kills: int = 0) -> str:
    """Check that the run ended as on one worker, and that no part is left. Returns its events' messages."""
    run = cluster.wait_over(run_id, 60)
    assert (run.state, run.error) == ("succeeded", None), cluster.tail()
    lost = cluster.lost_leases(run_id)
    assert lost >= kills
    assert run.attempt == 1 + lost, cluster.tail()
    verdict = check_runs(cluster.engine, cluster.blobs, [AcknowledgedRun(run_id, 1, epochs)])
    assert verdict.ok, verdict
    wait_for(lambda: all(part.state in TERMINAL for part in parts_of(cluster, run_id)), 10, "the parts' end")
    return messages(cluster, run_id)


def helper(cluster: Cluster, run_id: str, members: list[Member]) -> Member:
    """The worker of a part that is being trained."""

    def found() -> Run | None:
        return next((part for part in parts_of(cluster, run_id) if part.state == "running"), None)

    part: Run = wait_for(found, 20, "a helper")
    return next(member for member in members if f"-{member.process.pid}-" in (part.worker or ""))


TWO = {"count": 2, "at_least": 2, "wait": 0}


def test_a_run_goes_on_whoever_is_lost(cluster: Cluster) -> None:
    members = idle_workers(cluster, 2)
    cluster.start("reaper")
    run_id = cluster.submit(epochs=60, seconds=0.05, checkpoint_every=2, workers=TWO)
    cluster.wait_epoch(run_id, 5)
    with db.reading(cluster.engine) as session:  # nobody submitted the part
        assert listing.count_runs(session, RunFilter()) == 1
    lost = helper(cluster, run_id, members)
    members.append(cluster.start("worker"))
    lost.kill()  # it costs no attempt
    said = check(cluster, run_id, 60)
    assert "A worker of the gang was lost; training resumes" in said
    assert said.count("2 workers train the network together.") >= 2
    # Cancelled if the run ended before its helper, which had trained all epochs too, came to say so.
    assert parts_of(cluster, run_id)[-1].state in ("succeeded", "cancelled")
    members.remove(lost)

    run_id = cluster.submit(epochs=60, seconds=0.05, checkpoint_every=2, workers=TWO)
    cluster.wait_epoch(run_id, 5)
    leader = holder(cluster, run_id, members)
    members.append(cluster.start("worker"))
    leader.kill()
    check(cluster, run_id, 60, kills=1)


def test_nobody_waits_in_a_gang_while_runs_are_queued(cluster: Cluster) -> None:
    (port,) = free_ports(1)
    cluster.start("worker", FITSERVE_CLUSTER_PORTS=str(port), **CALM)
    alone = cluster.submit(workers={**TWO, "at_least": 1})
    assert "this one trains the network alone" in check(cluster, alone, 3)
    with socket.create_server(("", port)):
        waits = cluster.submit(workers=TWO)
        wait_for(lambda: "Waiting for a free port" in messages(cluster, waits), 20, "a leader without a port")
    wait_for(lambda: "Waiting for 1 more worker" in messages(cluster, waits), 20, "a leader that has found one")
    other = cluster.submit(epochs=3)
    assert cluster.wait_over(other, 60).state == "succeeded"
    assert "other runs go first" in messages(cluster, waits)
    cluster.start("worker", **CALM)
    cluster.start("reaper")
    run = cluster.wait_over(waits, 60)
    assert run.state == "succeeded", run.error
    assert run.spent_attempts == 0


def test_a_helper_that_shuts_down_and_a_cancel(cluster: Cluster) -> None:
    members = idle_workers(cluster, 2, **CALM)
    run_id = cluster.submit(epochs=10_000, seconds=0.02, workers=TWO)
    cluster.wait_epoch(run_id, 3)
    helper(cluster, run_id, members).process.send_signal(signal.SIGTERM)
    # The leader hears of it, or finds that the part has been given back, whichever comes first.
    reasons = ("(it shuts down)", "(it no longer holds its part)")
    wait_for(lambda: any(why in messages(cluster, run_id) for why in reasons), 30, "the leader notices")
    cluster.cancel(run_id)
    assert cluster.wait_over(run_id, 30).state == "cancelled"
    wait_for(lambda: all(part.state in TERMINAL for part in parts_of(cluster, run_id)), 10, "the parts' end")


@pytest.mark.long
@pytest.mark.timeout(0)
def test_workers_that_cannot_help_keep_nobody_from_helping(cluster: Cluster) -> None:
    """The first has no free port, the second an unknown host name, the third an address that does not answer."""
    patient = {"FITSERVE_LEASE_SECONDS": "60", "FITSERVE_HEARTBEAT_SECONDS": "2"}
    cluster.start("worker", **patient)
    run_id = cluster.submit(epochs=10, workers=TWO, meet=1)
    cluster.wait_state(run_id, "running", 60)
    with socket.create_server(("", 0)) as taken:
        cluster.start("worker", FITSERVE_CLUSTER_PORTS=str(taken.getsockname()[1]), **patient)
        wait_for(lambda: any(part.state == "cancelled" for part in parts_of(cluster, run_id)), 60, "a part given back")
        unknown = {"FITSERVE_CLUSTER_HOST": "no.such.host.invalid", "FITSERVE_CLUSTER_PUBLIC": "true"}
        cluster.start("worker", **unknown, **patient)
        wait_for(lambda: "cannot be reached from here" in messages(cluster, run_id), 60, "a helper out of reach")
        cluster.start("worker", FITSERVE_CLUSTER_HOST="::1", **patient)  # the fake trainer listens to IPv4 alone
        wait_for(lambda: "nothing answers at its address" in messages(cluster, run_id), 60, "a helper that is silent")
        assert cluster.run(run_id).spent_attempts == 0
        cluster.start("worker", **patient)
        assert "2 workers train the network together" in check(cluster, run_id, 10)
