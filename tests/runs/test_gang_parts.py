"""Helpers' parts: who may claim them; a released part is offered again."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from fitserve.runs import finish, gangs, lease
from tests.runs.conftest import Submit

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
