"""Helpers' parts: who may claim them; a released part is offered again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine

from fitserve.runs import finish, gangs, lease, worker_registry
from tests.runs.conftest import Submit
from workers.attempt.gang import LeaderAttempt
from workers.installed import versions

OURS, OTHERS = "ours", "others"


@pytest.fixture
def leads(engine: Engine, submit: Submit) -> lease.Lease:
    submit()
    return claimed(engine, OURS).lease


def claimed(engine: Engine, release: str) -> lease.Claim:
    claim = lease.claim(engine, "w", lease_seconds=30, running_limit=9, release=release)
    assert claim is not None
    return claim


def test_workers_of_another_release_do_not_help(engine: Engine, leads: lease.Lease, submit: Submit) -> None:
    (part,) = gangs.offer(engine, leads, 1, OURS)
    assert lease.claim(engine, "w", lease_seconds=30, running_limit=9, release=OTHERS) is None
    whole = submit()
    assert claimed(engine, OTHERS).run.id == whole.id, "a part that it cannot take keeps it from nothing else"
    assert claimed(engine, OURS).run.id == part


def test_a_part_that_was_given_back_is_offered_again(engine: Engine, leads: lease.Lease) -> None:
    first = gangs.offer(engine, leads, 2, OURS)
    assert gangs.offer_again(engine, leads, first, 2, OURS) == first
    helper = claimed(engine, OURS)
    finish.confirm_cancel(engine, helper.lease)  # as where it has no free port
    again = gangs.offer_again(engine, leads, first, 2, OURS)
    assert len(again) == 2
    assert helper.run.id not in again
    assert set(again) & set(first)
    assert len(gangs.offer_again(engine, leads, again, 3, OURS)) == 3, "one more, beside a worker out of reach"


def test_idle_workers_of_other_versions_are_named(engine: Engine, leads: lease.Lease) -> None:
    offered = gangs.offer(engine, leads, 1, OURS)
    for worker, run in (("a", None), ("b", leads.run_id)):
        worker_registry.register(engine, worker, f"host-{worker}", 1)
        worker_registry.report_alive(engine, worker, run)
    said: list[tuple[Any, ...]] = []
    leader: Any = SimpleNamespace(engine=engine, _report_event=lambda *event: said.append(event))
    assert LeaderAttempt._explain_absence(leader, offered)
    ((level, message, data),) = said
    assert (level, data["hosts"]) == ("warn", ["host-a"])
    assert "Idle workers have not joined, on host-a:" in message
    assert f"keras {versions()['keras']}" in data["fix"]
    claimed(engine, OURS)
    assert not LeaderAttempt._explain_absence(leader, offered), "nobody is waited for"
