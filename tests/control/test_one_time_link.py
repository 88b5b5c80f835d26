"""A one-time link's token opens one session, within a time limit, with the rights of its key; and the first key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from fitserve import api_keys, browser_sessions, db
from fitserve.errors import FitserveError, Unauthenticated
from fitserve.settings import Settings
from fitserve.tables import BrowserSession, Key
from services.up import first_key


@pytest.fixture
def key_id(engine: Engine) -> str:
    with db.transaction(engine) as session:
        return api_keys.create(session, owner="ada", name="laptop", scopes=["read"])[0].id


def offered(engine: Engine, key_id: str, seconds: float = 600) -> str:
    with db.transaction(engine) as session:
        return browser_sessions.issue_one_time_token(session, key_id, seconds)


def redeem(engine: Engine, token: str) -> str:
    """Return the owner that a token signs in; the error's title where it does not."""
    try:
        with db.transaction(engine) as session:
            return browser_sessions.redeem(session, token).owner
    except FitserveError as error:
        return error.title


def test_it_is_worth_one_sign_in_however_many_try_at_once(engine: Engine, key_id: str) -> None:
    token = offered(engine, key_id)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: redeem(engine, token), range(16)))
    assert outcomes.count("ada") == 1
    assert set(outcomes) - {"ada"} == {Unauthenticated.title}


@pytest.mark.parametrize(
    "token", ["once_", "once_x", "once_" + "A" * 22, "", "session_1.x", "once_\x00", "once_" + "é" * 9]
)
def test_any_other_token_is_refused(engine: Engine, key_id: str, token: str) -> None:
    offered(engine, key_id)
    assert redeem(engine, token) == Unauthenticated.title


def test_it_expires_and_ends_with_its_key(engine: Engine, key_id: str) -> None:
    assert redeem(engine, offered(engine, key_id, -1)) == Unauthenticated.title
    token = offered(engine, key_id)
    with db.transaction(engine) as session:
        api_keys.revoke(session, key_id)
    assert redeem(engine, token) == Unauthenticated.title


def test_it_is_neither_a_session_nor_among_the_sessions_of_its_key(engine: Engine, key_id: str) -> None:
    tokens = [offered(engine, key_id) for _ in range(browser_sessions.MAX_SESSIONS + 5)]
    with db.transaction(engine) as session:
        begun = browser_sessions.begin(session, key_id, 600)
        assert [row.id for row, _ in browser_sessions.live(session)] == [begun.partition(".")[0]]
        rows = session.query(BrowserSession).filter(BrowserSession.id.startswith("once_")).all()
        assert not any(
            token.removeprefix("once_") in f"{row.id}{row.secret_sha256}" for row in rows for token in tokens
        )
        assert not list(browser_sessions.live(session, rows[0].id))
    assert redeem(engine, tokens[0]) == "ada"  # signing in by key has not used it up


def test_the_first_key_is_shown_until_somebody_has_used_it(sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=sqlite_url)
    first = first_key.prepare(settings)
    assert first is not None
    assert first.unused
    assert first.path.stat().st_mode & 0o777 == 0o600
    assert first_key.prepare(settings) == first  # the first start may have failed before it was seen
    token = first_key.one_time_token(settings, first)
    engine = db.make_engine(sqlite_url)
    assert redeem(engine, token) == "admin"
    with db.transaction(engine) as session:
        session.execute(update(Key).values(last_used_at=db.now(session)))
    engine.dispose()
    again = first_key.prepare(settings)
    assert again is not None
    assert (again.token, again.unused) == (first.token, False)
    first.path.write_text("key_1.wrong")
    assert first_key.prepare(settings) is None
    first.path.unlink()
    assert first_key.prepare(settings) is None
    assert first_key.prepare(settings.model_copy(update={"auth": False})) is None
