"""A model with versions but no network, as far as rollouts need it."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from fitserve import db, registry
from fitserve.ids import new_id
from fitserve.states import RunState
from fitserve.tables import Blob, Dataset, Run


@pytest.fixture
def model(engine: Engine) -> str:
    """Return a model with versions 1 to 3, the champion being 1."""
    with db.transaction(engine) as session:
        at = db.now(session)
        session.add(Blob(sha256="e" * 64, bytes=0, kind="dataset", created_at=at))
        session.flush()
        facts = {"rows": 1, "bytes": 1, "source": {}, "columns": [], "profile": {}, "created_at": at}
        session.add(Dataset(id="ds", name="t", version=1, owner="ada", sha256="e" * 64, blob="e" * 64, **facts))
        session.flush()
        for _ in range(3):
            run = new_id("run")
            empty = {"spec": {}, "resolved": {}, "estimates": {}}
            session.add(Run(id=run, owner="ada", dataset_id="ds", state=RunState.succeeded, created_at=at, **empty))
            session.flush()
            registry.add_version(session, "m", "ada", run, "e" * 64, {})
        registry.set_label(session, "m", "champion", version_number=1)
    return "m"
