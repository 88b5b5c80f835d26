"""Events reach webhooks signed, at least once under one id, retried with growing pauses, on both databases."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from fitserve import api_keys, db, events, webhooks
from fitserve.errors import BadInput, Conflict, Forbidden, TooMany
from fitserve.settings import Limits, Settings
from fitserve.tables import Delivery, Key, OutboxEvent, Webhook
from fitserve.wire.webhooks import WebhookPatch, WebhookRequest
from tests.events.receiver import Receiver, receiving
from tests.waiting import wait_until
from workers.deliveries import Deliverer, message

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def one_engine(sqlite_url: str) -> Engine:
    return db.make_engine(sqlite_url)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, outgoing_networks="127.0.0.0/8", webhook_seconds=5)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def subscribe(engine: Engine, settings: Settings, url: str | None, owner: str = "ann", **fields: Any) -> Webhook:
    fields = {"events": ["*"], "secret": SECRET if url else None, **fields}
    with db.transaction(engine) as session:
        request = WebhookRequest(url=url, **fields)
        admin = bool(fields.get("all_owners"))
        return webhooks.create(session, request, settings, owner=owner, key_id=None, is_admin=admin)[0]


def happen(engine: Engine, type: str = "run.failed", owner: str = "ann") -> str:
    with db.transaction(engine) as session:
        return events.record(session, type, owner=owner, data={"run": "run_1", "naïve": "✓"})


def deliver(engine: Engine, settings: Settings) -> list[str]:
    """Dispatch and send what is due, here; return the ids of the deliveries that were tried."""
    sender, tried = Deliverer(settings, engine, threading.Event()), []
    webhooks.dispatch(engine)
    while claimed := webhooks.claim(engine, 8, 60):
        for one in claimed:
            sender.deliver(one)
            tried.append(one.id)
    return tried


def make_due(engine: Engine) -> None:
    with db.transaction(engine) as session:
        session.execute(update(Delivery).values(next_at=db.now(session) - timedelta(seconds=1)))


def change(session: Session, webhook: Webhook, patch: WebhookPatch, settings: Settings) -> None:
    """Change a webhook as an admin."""
    row = session.get_one(Webhook, webhook.id)
    webhooks.change(session, row, patch, settings, key_id=None, is_admin=True)


def logged(engine: Engine, webhook: Webhook) -> list[Any]:
    with db.reading(engine) as session:
        return webhooks.deliveries(session, webhook.id, limit=100)


def test_an_event_is_signed_and_sent_to_those_who_want_it(
    engine: Engine, settings: Settings, receiver: Receiver
) -> None:
    happen(engine)  # before there was a webhook
    webhook = subscribe(engine, settings, receiver.url, events=["run.*", "label.moved"])
    subscribe(engine, settings, receiver.url, owner="bob")
    operator = subscribe(engine, settings, receiver.url, owner="admin", all_owners=True, events=["drift.detected"])
    first, second = happen(engine), happen(engine, "label.moved")
    happen(engine, "version.registered")
    drift = happen(engine, "drift.detected")
    deliver(engine, settings)
    assert sorted(receiver.ids) == sorted([first, second, drift])
    headers, body = receiver.requests[receiver.ids.index(first)]
    assert Verifier(SECRET).verify(body, headers)["data"] == {"run": "run_1", "naïve": "✓"}
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(body + b" ", headers)
    assert [(one.event, one.state, one.attempts) for one in logged(engine, webhook)] == [
        (second, "delivered", 1),
        (first, "delivered", 1),
    ]
    assert [one.event for one in logged(engine, operator)] == [drift]
    assert deliver(engine, settings) == []


def test_what_a_key_set_up_ends_with_it(engine: Engine, settings: Settings, receiver: Receiver) -> None:
    webhook = subscribe(engine, settings, receiver.url)
    owners = subscribe(engine, settings, receiver.url, owner="admin", all_owners=True, events=["run.*"])
    with db.transaction(engine) as session:
        for number, row in enumerate((webhook, owners)):
            api_keys.ensure(session, f"key_{number}.secret", owner=row.owner, name="one", scopes=["admin"])
            session.execute(update(Webhook).where(Webhook.id == row.id).values(key_id=f"key_{number}"))
    receiver.answers = [500, 500]
    happen(engine)
    deliver(engine, settings)
    with db.transaction(engine) as session:
        api_keys.revoke(session, "key_0")
        session.execute(update(Key).where(Key.id == "key_1").values(expires_at=db.now(session)))
    make_due(engine)
    assert webhooks.claim(engine, 8, 60) == []  # what waits is not sent either, however soon
    happen(engine)
    deliver(engine, settings)
    assert len(receiver.requests) == 2
    receiver.answers = [204]
    with db.transaction(engine) as session:
        row = webhooks.get(session, webhook.id, "ann")
        assert (row.enabled, row.disabled_reason) == (False, "the key that created it is revoked or has expired")
        told = select(OutboxEvent.owner).where(OutboxEvent.type == "webhook.disabled")
        assert sorted(session.scalars(told)) == ["admin", "ann"]
        webhooks.change(session, row, WebhookPatch(enabled=True), settings, key_id="key_2", is_admin=False)
        everybodys = webhooks.get(session, owners.id, None)
        webhooks.change(session, everybodys, WebhookPatch(enabled=True), settings, key_id="key_2", is_admin=False)
    deliver(engine, settings)
    assert {one.webhook for one in logged(engine, webhook) if one.state == "delivered"} == {webhook.id}
    with db.reading(engine) as session:
        assert not webhooks.get(session, owners.id, None).enabled  # no admin has given it a key


def test_a_failed_delivery_is_tried_with_growing_pauses_under_one_id(
    engine: Engine, settings: Settings, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 204]
    webhook = subscribe(engine, settings, receiver.url)
    event = happen(engine)
    pauses = []
    for _ in range(3):
        deliver(engine, settings)
        one = logged(engine, webhook)[0]
        pauses.append(one.next_at and (one.next_at - one.log[-1].at).total_seconds())
        make_due(engine)
    assert receiver.ids == [event] * 3
    assert len({body for _, body in receiver.requests}) == 1
    assert pauses[2] is None
    assert 4.5 <= pauses[0] <= 5.5
    assert 13.5 <= pauses[1] <= 16.5
    one = logged(engine, webhook)[0]
    assert (one.state, [attempt.status for attempt in one.log]) == ("delivered", [500, 302, 204])
    with db.reading(engine) as session:
        assert session.get_one(Webhook, webhook.id).failing_since is None


def test_pauses_grow_and_end_within_a_day() -> None:
    pauses = webhooks.pauses(5, 86_400)
    assert pauses[:3] == [5, 15, 45]
    assert max(pauses) <= webhooks.MAX_PAUSE
    assert 0.8 * 86_400 < sum(pauses) <= 86_400


def test_a_receiver_may_ask_for_time(one_engine: Engine, settings: Settings, receiver: Receiver) -> None:
    receiver.answers, receiver.retry_after = [429], "600"
    webhook = subscribe(one_engine, settings, receiver.url)
    happen(one_engine)
    deliver(one_engine, settings)
    one = logged(one_engine, webhook)[0]
    assert (one.next_at - one.log[0].at).total_seconds() >= 599


def test_a_delivery_is_given_up_and_can_be_repeated(one_engine: Engine, tmp_path: Path, receiver: Receiver) -> None:
    settings = Settings(home=tmp_path, outgoing_networks="127.0.0.0/8", webhook_give_up_seconds=6)
    receiver.answers = [503]
    webhook = subscribe(one_engine, settings, receiver.url)
    event = happen(one_engine)
    for _ in range(4):
        deliver(one_engine, settings)
        make_due(one_engine)
    one = logged(one_engine, webhook)[0]
    assert (one.state, one.attempts, len(receiver.requests)) == ("failed", 2, 2)
    receiver.answers = [200]
    with db.transaction(one_engine) as session:
        webhooks.redeliver(session, webhooks.get(session, webhook.id, "ann"), one.id)
    deliver(one_engine, settings)
    assert logged(one_engine, webhook)[0].state == "delivered"
    assert receiver.ids == [event] * 3


@pytest.mark.parametrize("status", [500, 410])
def test_a_webhook_that_only_fails_is_disabled_with_an_event(
    one_engine: Engine, settings: Settings, receiver: Receiver, status: int
) -> None:
    receiver.answers = [status]
    webhook = subscribe(one_engine, settings, receiver.url)
    happen(one_engine)
    deliver(one_engine, settings)
    with db.transaction(one_engine) as session:
        row = session.get_one(Webhook, webhook.id)
        assert row.enabled is (status != 410)
        if row.enabled:
            row.failing_since = db.now(session) - timedelta(days=6)
    make_due(one_engine)
    deliver(one_engine, settings)
    with db.reading(one_engine) as session:
        row = session.get_one(Webhook, webhook.id)
        told = session.scalars(select(OutboxEvent).where(OutboxEvent.type == "webhook.disabled")).all()
    assert (row.enabled, len(told), told[0].data["webhook"]) == (False, 1, webhook.id)
    happen(one_engine)
    make_due(one_engine)
    assert deliver(one_engine, settings) == []
    with db.transaction(one_engine) as session:
        with pytest.raises(Conflict):
            webhooks.send_test(session, session.get_one(Webhook, webhook.id))
        change(session, webhook, WebhookPatch(enabled=True), settings)
    receiver.answers = [200]
    deliver(one_engine, settings)
    assert {one.state for one in logged(one_engine, webhook)} == {"delivered"}


def test_a_replaced_secret_signs_beside_the_new_one(one_engine: Engine, settings: Settings, receiver: Receiver) -> None:
    webhook = subscribe(one_engine, settings, receiver.url)
    newer = webhooks.new_secret()
    with db.transaction(one_engine) as session:
        change(session, webhook, WebhookPatch(secret=newer), settings)
    happen(one_engine)
    deliver(one_engine, settings)
    headers, body = receiver.requests[0]
    for secret in (SECRET, newer):
        Verifier(secret).verify(body, headers)
    with db.transaction(one_engine) as session:
        session.get_one(Webhook, webhook.id).previous_until = db.now(session)
    happen(one_engine)
    deliver(one_engine, settings)
    headers, body = receiver.requests[1]
    Verifier(newer).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(body, headers)


def test_secrets_are_encrypted_where_the_operator_has_keys(
    engine: Engine, settings: Settings, receiver: Receiver
) -> None:
    old, new = (SecretStr(Fernet.generate_key().decode()) for _ in range(2))
    keyed = settings.model_copy(update={"secret_keys": old})
    rotating = settings.model_copy(
        update={"secret_keys": SecretStr(f"{new.get_secret_value()}, {old.get_secret_value()}")}
    )
    rotated = settings.model_copy(update={"secret_keys": new})
    webhook = subscribe(engine, settings, receiver.url)  # before there was a key

    def held() -> list[str | None]:
        with db.reading(engine) as session:
            row = session.get_one(Webhook, webhook.id)
            return [row.secret, row.previous_secret, row.sealed_secret, row.sealed_previous_secret]

    assert webhooks.reseal(engine, settings) == 0
    assert held() == [SECRET, None, None, None]
    assert (webhooks.reseal(engine, keyed), webhooks.reseal(engine, keyed)) == (1, 0)
    assert held()[:2] == [None, None]
    newer = webhooks.new_secret()
    with db.transaction(engine) as session:
        webhooks.change(
            session, session.get_one(Webhook, webhook.id), WebhookPatch(secret=newer), keyed, key_id=None, is_admin=True
        )
    assert [one is None for one in held()] == [True, True, False, False]
    assert not any(SECRET in str(one) or newer in str(one) for one in held())
    for known in (keyed, rotating):
        happen(engine)
        deliver(engine, known)
        headers, body = receiver.requests[-1]
        for secret in (SECRET, newer):
            Verifier(secret).verify(body, headers)
    assert (webhooks.reseal(engine, rotating), webhooks.reseal(engine, rotated)) == (2, 0)
    happen(engine)
    sent = len(receiver.requests)
    for unknown, words in ((keyed, "a key that FITSERVE_SECRET_KEYS does not hold"), (settings, "there is no key")):
        deliver(engine, unknown)
        make_due(engine)
        assert words in logged(engine, webhook)[0].log[-1].error
        assert webhooks.reseal(engine, unknown) == 0
    assert len(receiver.requests) == sent
    deliver(engine, rotated)
    assert len(receiver.requests) == sent + 1


@pytest.mark.parametrize("keys", ["short", "%", f"{Fernet.generate_key().decode()},x"], ids=["short", "sign", "second"])
def test_a_key_that_is_none_is_refused_at_the_start(keys: str) -> None:
    with pytest.raises(ValueError, match="URL-safe base64") as refused:
        Settings(secret_keys=SecretStr(keys))
    assert keys not in str(refused.value)


def test_five_processes_send_each_event_once_and_a_lost_one_is_taken_over(
    engine: Engine, settings: Settings, receiver: Receiver
) -> None:
    subscribe(engine, settings, receiver.url)
    wanted = [happen(engine) for _ in range(40)]
    stopping = threading.Event()
    senders = [Deliverer(settings, engine, stopping) for _ in range(5)]
    lost = webhooks.dispatch(engine) and webhooks.claim(engine, 1, 0.5)[0]  # by a process that dies with it
    for sender in senders:
        sender.start()
    wait_until(lambda: len(receiver.requests) >= 40, lambda: f"{len(receiver.requests)} requests")
    stopping.set()
    for sender in senders:
        sender.join()
    assert sorted(receiver.ids) == sorted(wanted)
    late = webhooks.DeliveryOutcome(delivered=False, seconds=1.0, error="late")
    assert webhooks.finish(engine, lost, late, settings) is None  # its lease is another's


def test_a_slow_receiver_delays_its_own_events_only(engine: Engine, settings: Settings, receiver: Receiver) -> None:
    slow = subscribe(engine, settings, receiver.url, events=["run.failed"])
    quick = subscribe(engine, settings, receiver.url, events=["label.moved"])
    for _ in range(10):
        happen(engine)
    happen(engine, "label.moved")
    webhooks.dispatch(engine)
    claimed = webhooks.claim(engine, 8, 60) + webhooks.claim(engine, 8, 60)
    assert sorted(one.webhook for one in claimed) == sorted([slow.id] * webhooks.AT_ONCE + [quick.id])


def test_addresses_that_turn_forbidden_are_not_sent_to(one_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    with receiving() as receiver:
        webhook = subscribe(one_engine, settings, receiver.url)
        happen(one_engine)
        deliver(one_engine, Settings(home=tmp_path))  # the operator no longer allows that network
        assert receiver.requests == []
    one = logged(one_engine, webhook)[0]
    assert "not allowed" in one.log[0].error
    assert receiver.url not in one.log[0].error


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
def test_a_channel_is_the_operators(one_engine: Engine, tmp_path: Path) -> None:
    with receiving() as receiver:
        address = receiver.url.replace("http://", "json://")
        settings = Settings(home=tmp_path, channels={"team": address, "broken": "nothing://x"})
        webhook = subscribe(one_engine, settings, None, channel="team")
        broken = subscribe(one_engine, settings, None, channel="broken")
        happen(one_engine)
        deliver(one_engine, settings)
        assert b"run.failed" in receiver.requests[0][1]
    assert logged(one_engine, webhook)[0].state == "delivered"
    assert "nothing://" not in str(logged(one_engine, broken)[0].log)
    with pytest.raises(BadInput, match="no channel"):
        subscribe(one_engine, settings, None, channel="other")


def test_what_may_be_subscribed(one_engine: Engine, tmp_path: Path, receiver: Receiver) -> None:
    settings = Settings(home=tmp_path, limits=Limits(webhooks=1))
    for pattern in ("run.exploded", "nothing.*"):
        with pytest.raises(BadInput):
            subscribe(one_engine, settings, receiver.url, events=[pattern])
    for secret in ("whsec_", "hunter2", "whsec_" + base64.b64encode(b"short").decode(), "whsec_" + "!" * 40):
        with pytest.raises(ValueError):
            WebhookRequest(url=receiver.url, events=["*"], secret=secret)
    for both in ({"url": "https://a.example", "channel": "x"}, {}):
        with pytest.raises(ValueError):
            WebhookRequest(events=["*"], **both)
    with pytest.raises(Forbidden), db.transaction(one_engine) as session:
        request = WebhookRequest(url=receiver.url, events=["*"], all_owners=True)
        webhooks.create(session, request, settings, owner="ann", key_id=None, is_admin=False)
    subscribe(one_engine, settings, receiver.url)
    with pytest.raises(TooMany):
        subscribe(one_engine, settings, receiver.url)


def test_old_events_go_and_waiting_ones_stay(engine: Engine, settings: Settings, receiver: Receiver) -> None:
    webhook = subscribe(engine, settings, receiver.url)
    happen(engine)
    deliver(engine, settings)
    happen(engine)
    assert webhooks.delete_old(engine, 0) == 1
    assert logged(engine, webhook) == []
    deliver(engine, settings)
    assert len(receiver.requests) == 2
    with db.transaction(engine) as session:
        assert webhooks.standing(session) == (0, 0.0, 0)
    receiver.answers = [500]
    happen(engine)
    deliver(engine, settings)
    make_due(engine)
    with db.transaction(engine) as session:
        pending, oldest, _ = webhooks.standing(session)
        assert (pending, oldest >= 1) == (1, True)
        change(session, webhook, WebhookPatch(enabled=False), settings)
        assert webhooks.standing(session) == (0, 0.0, 1)
        webhooks.remove(session, session.get_one(Webhook, webhook.id))


def test_networks_of_the_operator_are_checked_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        Settings(home=tmp_path, outgoing_networks="192.168.0.0/16, 10.0.0.1/8")


def test_lines_for_people() -> None:
    error = b'{"cause":"diverged","detail":"NaN"}'
    body = b'{"type":"run.failed","data":{"run":"run_1","error":' + error + b',"model":null,"psi":0.123456}}'
    claimed = webhooks.ClaimedDelivery("d", "t", "w", None, "c", (), "e", "run.failed", body)
    assert message(claimed) == "run: run_1\nerror: cause diverged, detail NaN\npsi: 0.1235"
