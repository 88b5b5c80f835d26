"""The registry's rules, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from fitserve import registry
from fitserve.errors import BadInput, Conflict, NotFound
from fitserve.ids import new_id
from tests.predict.toy_registry import ToyRegistry, numeric


@pytest.fixture
def built(engine: Engine, database_url: str, tmp_path: Path) -> ToyRegistry:
    toys = ToyRegistry(tmp_path / "home", database_url)
    for seed in range(3):
        toys.register("m", numeric(seed, hidden=(4,)))
    return toys


def test_versions_are_numbered_and_a_run_is_registered_once(built: ToyRegistry) -> None:
    from fitserve import db

    with db.reading(built.engine) as session:
        rows = registry.versions(session, "m")
        assert [row.version for row in rows] == [3, 2, 1]
        run, artifact = rows[0].run_id, rows[0].artifact
    assert built.change(registry.add_version, "m", "ada", run, artifact, {}) == 3
    with pytest.raises(Conflict):
        built.change(registry.add_version, "m", "eve", new_id("run"), artifact, {})
    with pytest.raises(BadInput):
        built.change(registry.add_version, "../m", "ada", new_id("run"), artifact, {})


def test_labels_move_and_roll_back(built: ToyRegistry) -> None:
    move, back = registry.set_label, registry.rollback
    with pytest.raises(NotFound):
        built.change(move, "m", "champion", version_number=9)
    with pytest.raises(BadInput):
        built.change(move, "m", "../x", version_number=1)
    assert built.change(back, "m").version == 2  # nothing was named: the newest had answered
    assert built.change(back, "m").version == 3
    assert built.change(move, "m", "champion", version_number=1).previous == 3
    assert built.change(back, "m").version == 3
    with pytest.raises(Conflict):
        built.change(registry.retire, "m", 3)
    assert built.change(registry.retire, "m", 1).retired_at is not None
    with pytest.raises(Conflict):
        built.change(back, "m")
    with pytest.raises(Conflict):
        built.change(move, "m", "champion", version_number=1)


def test_weights_are_shares(built: ToyRegistry) -> None:
    move = registry.set_label
    built.change(move, "m", "a", version_number=1, weight=0.6)
    with pytest.raises(BadInput):
        built.change(move, "m", "b", version_number=2, weight=0.5)
    with pytest.raises(BadInput):
        built.change(move, "m", "champion", version_number=2, weight=0.1)
    built.change(registry.remove_label, "m", "a")
    built.change(move, "m", "b", version_number=2, weight=0.5)


def test_every_change_moves_the_generation(built: ToyRegistry) -> None:
    from fitserve import db

    def stamp() -> tuple[str, int]:
        with db.reading(built.engine) as session:
            return registry.generations(session)["m"]

    stamps = {stamp()}
    for change in (
        lambda: built.change(registry.set_label, "m", "a", version_number=1),
        lambda: built.change(registry.set_loaded, "m", False),
        lambda: built.change(registry.set_shared, "m", True),
        lambda: built.change(registry.retire, "m", 2),
        lambda: built.change(registry.remove_label, "m", "a"),
        lambda: built.register("m", numeric(9, hidden=(4,))),
    ):
        change()
        assert stamp() not in stamps
        stamps.add(stamp())
    built.change(registry.delete, "m")
    with db.reading(built.engine) as session:
        assert registry.generations(session) == {}
        with pytest.raises(NotFound):
            registry.get(session, "m")
