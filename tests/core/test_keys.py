"""API keys: only their hash is stored, and revoked or expired ones are refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from fitserve import api_keys, db
from fitserve.errors import BadInput, Conflict, Unauthenticated


def test_a_token_identifies_its_owner_and_is_not_stored(engine: Engine) -> None:
    with db.transaction(engine) as session:
        _, token = api_keys.create(
            session, owner="ada", name="laptop", scopes=["predict", "read"], models=["admissions"]
        )
    with db.reading(engine) as session:
        identity = api_keys.identify(session, token)
        stored = str(session.execute(text("SELECT * FROM keys")).all())
    assert identity.owner == "ada"
    assert identity.may("read")
    assert not identity.may("train")
    assert identity.may_predict("admissions")
    assert not identity.may_predict("other")
    assert token.split(".")[1] not in stored


@pytest.mark.parametrize("bad", ["", "x", "x.", ".y", "key_0.wrong", "ключ.секрет", "a." + "b" * 300])
def test_an_invalid_token_is_refused(engine: Engine, bad: str) -> None:
    with db.reading(engine) as session, pytest.raises(Unauthenticated):
        api_keys.identify(session, bad)


def test_revoked_expired_and_wrong_secrets_are_refused_alike(engine: Engine) -> None:
    with db.transaction(engine) as session:
        expiring, expired = api_keys.create(session, owner="a", name="x", scopes=["read"])
        expiring.expires_at = db.now(session) - timedelta(seconds=1)
        revoked_key, revoked = api_keys.create(session, owner="a", name="y", scopes=["read"])
        api_keys.revoke(session, revoked_key.id)
    messages = set()
    with db.reading(engine) as session:
        for token in (expired, revoked, f"{revoked_key.id}.wrong", f"{expiring.id}.wrong", "key_none.secret"):
            with pytest.raises(Unauthenticated) as caught:
                api_keys.identify(session, token)
            messages.add(caught.value.detail)
    assert len(messages) == 1


def test_two_live_keys_are_allowed_and_no_third(engine: Engine) -> None:
    with db.transaction(engine) as session:
        first, _ = api_keys.create(session, owner="a", name="svc", scopes=["read"])
        api_keys.create(session, owner="a", name="svc", scopes=["read"])
        with pytest.raises(Conflict):
            api_keys.create(session, owner="a", name="svc", scopes=["read"])
        api_keys.revoke(session, first.id)
        api_keys.create(session, owner="a", name="svc", scopes=["read"])


@pytest.mark.parametrize(
    ("field", "value"), [("owner", "../etc"), ("name", "a\nb"), ("scopes", ["root"]), ("scopes", [])]
)
def test_an_invalid_request_is_refused(engine: Engine, field: str, value: object) -> None:
    arguments = {"owner": "a", "name": "b", "scopes": ["read"], field: value}
    with db.transaction(engine) as session, pytest.raises(BadInput) as caught:
        api_keys.create(session, **arguments)  # type: ignore[arg-type]
    assert caught.value.pointer == f"/{field}"


def test_a_key_cannot_be_created_expired(engine: Engine) -> None:
    with db.transaction(engine) as session, pytest.raises(BadInput):
        api_keys.create(session, owner="a", name="x", scopes=["read"], expires_at=db.now(session))
