"""A kill at each line between a change, its event, the delivery and its outcome: no event lost, none under two ids."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from fitserve import db, webhooks
from fitserve.tables import OutboxEvent
from fitserve.wire.webhooks import WebhookRequest
from tests.events.receiver import receiving
from tests.faults.chaos import Chaos, FaultPlan
from tests.faults.cluster import Cluster, wait_for

pytestmark = pytest.mark.xdist_group("faults")  # one process that forks members for all

POINTS = (
    *("supervisor.after_blobs", "supervisor.after_commit"),  # between a change and its event: one transaction
    *("webhooks.before_dispatched", "webhooks.after_dispatched", "webhooks.after_claim"),
    *("webhooks.after_answer", "webhooks.after_outcome"),
)


def crash_at(home: Path, points: tuple[str, ...], times: int) -> None:
    """Let processes die at these points, `times` each, while runs end; then compare what happened with what came."""
    tokens = home.parent / "tokens"
    tokens.mkdir()
    for point in points:
        for number in range(times):
            (tokens / f"{point}.{number}").touch()
    environment = {
        "FITSERVE_CRASH_AT": ",".join(points),
        "FITSERVE_CRASH_TOKENS": str(tokens),
        "FITSERVE_LEASE_SECONDS": "1",
        "FITSERVE_MAX_ATTEMPTS": "1000",
        "FITSERVE_OUTGOING_NETWORKS": "127.0.0.0/8",
        "FITSERVE_WEBHOOK_SECONDS": "2",
    }
    with receiving() as receiver, Cluster(home, environment=environment) as cluster:
        with db.transaction(cluster.engine) as session:
            request = WebhookRequest(url=receiver.url, events=["run.*"])
            webhooks.create(session, request, cluster.settings, owner="tester", key_id=None, is_admin=False)
        chaos = Chaos(FaultPlan(seed=0, runs=0), cluster)
        restarter = threading.Thread(target=chaos.restart_members)
        wanted: list[str] = []
        for role in ("worker", "reaper"):
            cluster.start(role)
        restarter.start()
        try:

            def spent() -> bool:
                if len(wanted) < 4 or cluster.run(wanted[-1]).state == "succeeded":
                    wanted.append(cluster.submit(seed=len(wanted), epochs=1))
                return not list(tokens.iterdir())

            wait_for(spent, what=f"points never reached: {sorted(one.name for one in tokens.iterdir())}")
            for run in wanted:
                cluster.wait_over(run, 60)
            with db.reading(cluster.engine) as session:
                events = {
                    row.id: row.data["run"]
                    for row in session.scalars(select(OutboxEvent).where(OutboxEvent.type == "run.succeeded"))
                }
            wait_for(lambda: set(receiver.ids) >= set(events), what=f"{len(set(receiver.ids))} of {len(events)} events")
        finally:
            chaos.over.set()
            restarter.join()
        assert sorted(events.values()) == sorted(wanted)  # one event of each run: none lost, none twice
        came = {headers["webhook-id"]: json.loads(body)["data"]["run"] for headers, body in receiver.requests}
        assert came == events  # repeated deliveries keep their id


@pytest.mark.timeout(600)
def test_no_event_is_lost_when_processes_die(tmp_path: Path) -> None:
    crash_at(tmp_path / "home", POINTS, times=1)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("point", POINTS)
def test_no_event_is_lost_when_a_process_dies_here_20_times(tmp_path: Path, point: str) -> None:
    crash_at(tmp_path / "home", (point,), times=20)
