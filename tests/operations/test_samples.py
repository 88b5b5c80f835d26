"""Samples of processes and of models, the history made of them, and what each owner stores, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from fitserve import db, monitoring, telemetry
from fitserve.errors import Unavailable
from fitserve.operations import history, samples, storage
from fitserve.operations.sampler import Sampler
from fitserve.operations.samples import Fault, Reading, VersionCounts
from fitserve.tables import Blob, Dataset, Model, ModelFault, Sample, TrafficSample

BUCKETS = len(telemetry.FAST) + 1


def counted(requests: int, errors: int = 0, bucket: int = 3) -> Reading:
    """What a prediction process has answered since it started."""
    counts = [0] * BUCKETS
    counts[bucket] = requests
    version = VersionCounts(requests=requests, errors=errors, rows=2 * requests, buckets=counts)
    numbers = {"requests": requests, "errors": errors}
    return Reading(counts=dict(numbers), buckets={"predictions": counts}, traffic={("m", 1): version})


def sampler(engine: Engine, tmp_path: Path, readings: list[Reading]) -> Sampler:
    """A sampler whose process has the next of these readings at each look."""
    made = Sampler(engine, "predict", 15.0, tmp_path, lambda: readings.pop(0))
    made._written = made._whole_reading()
    return made


def now_of(engine: Engine) -> float:
    with db.reading(engine) as session:
        return db.now(session).timestamp() // 600 * 600 + 300.0  # within one slot of each length


def add_model(engine: Engine, name: str = "m") -> None:
    with db.transaction(engine) as session:
        session.add(Model(name=name, owner="ada", created_at=db.now(session)))


def test_each_request_is_counted_once_whoever_writes_and_however_often(engine: Engine, tmp_path: Path) -> None:
    add_model(engine)
    at = now_of(engine)
    first = sampler(engine, tmp_path, [counted(5), counted(15), counted(25, errors=1), counted(25, errors=1)])
    second = sampler(engine, tmp_path, [counted(0), counted(100)])
    first.sample(at)  # 10 since it started; 5 were before
    first.sample(at + 15)  # 20, in place of those 10
    first.sample(at + 15)
    second.sample(at + 15)
    with db.reading(engine) as session:
        rows = samples.rows_since(session, samples.MINUTE, at - 60, "predict")
        assert sorted(row.figures["counts"]["requests"] for row in rows) == [20, 100]
        found = history.of_model(session, "m", "day")
        assert (found.requests, found.errors, found.rows) == (120, 1, 240)
        assert [(one.version, one.requests) for one in found.versions] == [(1, 120)]
        assert telemetry.FAST[2] < (found.p50 or 0) < (found.p99 or 0) <= telemetry.FAST[3]
        system = history.of_system(session, "day")
    (point,) = [point for point in system.points if point.predictions is not None]
    assert point.predict_errors == 1
    assert len(system.points) == 144
    assert {one.kind for one in system.processes} == {"predict"}
    assert len(system.processes) == 2
    assert all(any(one.memory_bytes) for one in system.processes)


def test_counts_of_an_outage_come_with_the_next_write(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(engine)
    at = now_of(engine)
    one = sampler(engine, tmp_path, [counted(0), counted(3), counted(7), counted(9)])
    one.sample(at)
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise Unavailable("away")

        patch.setattr(samples, "write", away)
        one.sample(at + 60)
    one.sample(at + 120)
    with db.reading(engine) as session:
        rows = samples.rows_since(session, samples.MINUTE, at - 60, "predict")
        assert [row.figures["counts"]["requests"] for row in rows] == [3, 6]
        (ten,) = samples.rows_since(session, samples.TEN_MINUTES, at - 600, "predict")
        assert ten.figures["counts"]["requests"] == 9


def test_rows_are_bounded_by_age_and_number(engine: Engine, tmp_path: Path) -> None:
    add_model(engine)
    at = now_of(engine)
    one = sampler(engine, tmp_path, [counted(n) for n in range(12)])
    for minutes in (-60 * 30, -60 * 3, -5, -4, -3, -2, -1, 0):
        one.sample(at + 60 * minutes)
    samples.delete_old(engine)
    with db.reading(engine) as session:
        for table in (Sample, TrafficSample):
            assert min(session.scalars(select(table.slot).where(table.step == samples.MINUTE))) > at - 7200 - 60
            assert min(session.scalars(select(table.slot).where(table.step == samples.TEN_MINUTES))) > at - 25 * 3600
    samples.delete_old(engine, most_rows=2)
    with db.reading(engine) as session:
        count = select(func.count()).select_from(Sample).where(Sample.step == samples.MINUTE)
        assert session.scalar(count) == 2


def test_a_models_last_fault_and_drift_go_with_the_model(engine: Engine, tmp_path: Path) -> None:
    add_model(engine)
    at = now_of(engine)
    with db.reading(engine) as session:
        when = db.now(session)
    readings = [counted(0), counted(1), counted(2)]
    readings[1].faults = [Fault("m", 1, "predict", "400", "bad-input", "Bad input", when)]
    readings[2].faults = [Fault("gone", 1, "predict", "500", "internal-error", "", when), *readings[1].faults]
    one = sampler(engine, tmp_path, readings)
    one.sample(at)
    one.sample(at + 15)
    history.write_drift(engine, {("m", 1): 0.4, ("gone", 1): 0.1})
    history.write_drift(engine, {("m", 1): 0.5})
    with db.reading(engine) as session:
        found = history.of_model(session, "m", "hour")
        assert found.fault is not None
        assert (found.fault.code, found.fault.version) == ("bad-input", 1)
        assert [point.psi for point in found.points if point.psi is not None] == [0.5]
        assert list(session.scalars(select(ModelFault.model))) == ["m"]
    with db.transaction(engine) as session:
        monitoring.delete_model(session, "m")
    with db.reading(engine) as session:
        assert history.of_model(session, "m", "day").fault is None
        assert session.scalar(select(func.count()).select_from(TrafficSample)) == 0


def test_a_file_that_two_datasets_share_counts_once_for_its_owner(engine: Engine) -> None:
    with db.transaction(engine) as session:
        at = db.now(session)
        session.add(Blob(sha256="b" * 64, bytes=100, kind="dataset", created_at=at))
        session.flush()
        for number, owner in enumerate(["ada", "ada", "eve"]):
            facts = {"sha256": "s", "blob": "b" * 64, "rows": 1, "bytes": 1, "source": {}, "columns": [], "profile": {}}
            row = Dataset(id=f"d{number}", name=f"t{number}", version=1, owner=owner, created_at=at, **facts)
            session.add(row)
    with db.reading(engine) as session:
        everyone = storage.by_owner(session)
        assert {one.owner: (one.datasets, one.bytes) for one in everyone} == {"ada": (2, 100), "eve": (1, 100)}
        assert [one.owner for one in storage.by_owner(session, "eve")] == ["eve"]


def test_quantiles_are_prometheus_ones() -> None:
    assert samples.quantile(0.5, (1.0, 2.0), (0, 0, 0)) is None
    assert samples.quantile(0.5, (1.0, 2.0), (10, 0, 0)) == 0.5
    assert samples.quantile(0.75, (1.0, 2.0), (10, 10, 0)) == 1.5
    assert samples.quantile(0.99, (1.0, 2.0), (1, 0, 99)) == 2.0
