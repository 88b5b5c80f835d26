"""Two API processes that start at the same moment."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine

from fitserve import api_keys, db
from fitserve.settings import Settings
from services.control.admin.callers import ensure_root_key
from tests.waiting import PATIENCE


def test_apis_that_start_together_agree_on_the_first_key(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(root_key="key_first.0123456789abcdef0123456789abcdef0123456789")  # type: ignore[arg-type]
    barrier = threading.Barrier(2, timeout=PATIENCE)
    create = api_keys.create

    def create_together(*arguments: object, **options: object) -> object:
        if engine.dialect.name == "postgresql":  # SQLite allows one writer at a time
            barrier.wait()
        return create(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(api_keys, "create", create_together)
    errors: list[Exception] = []

    def start() -> None:
        try:
            ensure_root_key(settings, engine)
        except Exception as error:
            errors.append(error)

    both = [threading.Thread(target=start) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(PATIENCE)
    assert errors == []
    with db.reading(engine) as session:
        assert [key.id for key in api_keys.listing(session)] == ["key_first"]
