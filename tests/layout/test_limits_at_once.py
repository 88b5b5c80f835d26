"""Limits that two requests reach at the same moment, on PostgreSQL, whose transactions do not see each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from fitserve import api_keys, browser_sessions, db, monitoring, webhooks
from fitserve.automations import store as automations
from fitserve.errors import Conflict, FitserveError, TooMany
from fitserve.settings import Limits, Settings
from fitserve.tables import Automation, BrowserSession, Key, StoredPrediction, Webhook
from fitserve.wire.automations import AutomationRequest
from fitserve.wire.webhooks import WebhookRequest
from tests.waiting import PATIENCE, wait_until

MOST = 2  # of each
LIMITS = Limits(webhooks=MOST, automations=MOST)
SPEC = {"dataset": "points", "target": "y", "model": "m"}


def _add_webhook(session: Session, number: int) -> None:
    request = WebhookRequest.model_validate({"url": "https://hooks.example.com/", "events": ["run.succeeded"]})
    webhooks.create(session, request, Settings(limits=LIMITS), owner="ada", key_id=None, is_admin=False)


def _add_automation(session: Session, number: int) -> None:
    policy = {"on": {"schedule": "0 3 * * *"}, "do": {"spec": SPEC}, "then": "nothing"}
    request = AutomationRequest.model_validate({"name": f"nightly-{number}", **policy})
    automations.create(session, request, LIMITS, owner="ada", key_id=None, sees="ada")


def _add_key(session: Session, number: int) -> None:
    api_keys.create(session, owner="ada", name="laptop", scopes=["read"])


def _add_browser_session(session: Session, number: int) -> None:
    browser_sessions.begin(session, "key_ada", 600.0)


ADDED: dict[str, tuple[Callable[[Session, int], None], Any, type[FitserveError] | None]] = {
    "webhooks": (_add_webhook, Webhook, TooMany),
    "automations": (_add_automation, Automation, TooMany),
    "keys": (_add_key, Key, Conflict),
    "browser sessions": (_add_browser_session, BrowserSession, None),  # the oldest ends
}


@pytest.fixture
def engine(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(browser_sessions, "MAX_SESSIONS", MOST)
    monkeypatch.setattr(automations, "check", lambda *_: "m")  # the spec's dataset, which there is none of
    engine = db.make_engine(postgres_url)
    yield engine
    engine.dispose()


def _meanwhile(engine: Engine, work: Callable[[], object]) -> tuple[threading.Thread, list[FitserveError]]:
    """Start `work` on a thread, and return once it has ended or waits for another transaction of this database."""
    errors: list[FitserveError] = []

    def run() -> None:
        try:
            work()
        except FitserveError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    waits = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'")

    def settled() -> bool:
        with db.reading(engine) as session:
            return not thread.is_alive() or bool(session.scalar(waits))

    wait_until(settled, "the second request waits for the first, or is done")
    return thread, errors


@pytest.mark.parametrize("what", ADDED)
def test_two_requests_at_once_stay_within_the_limit(engine: Engine, what: str) -> None:
    add, table, refusal = ADDED[what]
    with db.transaction(engine) as session:
        api_keys.ensure(session, "key_ada.secret", owner="ada", name="first", scopes=["admin"])
    with db.transaction(engine) as session:
        for number in range(MOST - 1):
            add(session, number)

    def another() -> None:
        with db.transaction(engine) as session:
            add(session, MOST)

    with db.transaction(engine) as session:
        add(session, MOST - 1)
        thread, errors = _meanwhile(engine, another)
    thread.join(PATIENCE)
    assert [type(error) for error in errors] == ([] if refusal is None else [refusal])
    with db.reading(engine) as session:
        count = session.scalar(select(func.count()).select_from(table))
    assert count == MOST + (1 if table is Key else 0)  # the first key has another name


def test_two_prediction_processes_at_once_keep_no_more_than_the_quota(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"model": "m", "version": 1, "outputs": {}, "key_id": None}
    first, second = (
        [{**facts, "owner": owner, "id": f"{n}"} for owner in order] for n, order in enumerate(("ab", "ba"))
    )
    surplus: list[int] = []
    insert = db.insert_new
    both: list[tuple[threading.Thread, list[FitserveError]]] = []

    def insert_while_another_counts(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(db, "insert_new", insert)
        both.append(_meanwhile(engine, lambda: surplus.append(monitoring.store_predictions(engine, second, 1))))
        return insert(*arguments, **options)

    monkeypatch.setattr(db, "insert_new", insert_while_another_counts)
    assert monitoring.store_predictions(engine, first, 1) == 0
    thread, errors = both[0]
    thread.join(PATIENCE)
    assert errors == []
    assert surplus == [2]
    with db.reading(engine) as session:
        counted = select(StoredPrediction.owner, func.count()).group_by(StoredPrediction.owner)
        assert dict(session.execute(counted).all()) == {"a": 1, "b": 1}  # type: ignore[arg-type]
