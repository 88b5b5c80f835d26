"""Samples: each process's counts by minute for the last hours, and by ten minutes for the last day.

Every process writes its own rows, repeatedly while a slot lasts: a later write replaces the earlier, smaller one, so
that nothing is counted twice, whatever the number of processes, restarts or repeated writes. Samples are never merged
later: both slot lengths are written from the start, and any reader deletes old rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CursorResult, Engine, delete, select
from sqlalchemy.orm import Session

from fitserve import db, telemetry
from fitserve.tables import Model, ModelFault, Sample, TrafficSample

MINUTE, TEN_MINUTES = 60, 600
KEPT = {MINUTE: 2 * 3600, TEN_MINUTES: 25 * 3600}  # seconds, by the length of a slot
MAX_ROWS = 100_000  # rows per table and slot length; the oldest are deleted first
MAX_VERSIONS = 200  # versions per process and slot: those with the most requests
# upper bounds of buckets
BOUNDS: Mapping[str, Sequence[float]] = {"predictions": telemetry.FAST, "requests": telemetry.REQUEST}


@dataclass(slots=True)
class VersionCounts:
    """Counts of one version's requests; `buckets` counts durations between the bounds of `telemetry.FAST`."""

    requests: int = 0
    refused: int = 0  # client errors
    errors: int = 0  # server errors
    rows: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(telemetry.FAST) + 1))


@dataclass(frozen=True, slots=True)
class Fault:
    """A request of a model that failed or was refused, or a load that failed."""

    model: str
    version: int | None
    operation: str
    status: str
    code: str
    detail: str
    at: datetime


@dataclass(slots=True)
class Reading:
    """The counters of a process since it started, and its gauges now."""

    counts: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, list[int]] = field(default_factory=dict)  # keyed by a name in BOUNDS
    gauges: dict[str, float] = field(default_factory=dict)
    traffic: dict[tuple[str, int], VersionCounts] = field(default_factory=dict)  # keyed by model and version
    broken: list[str] = field(default_factory=list)  # versions that cannot be loaded, as `model/3`
    faults: list[Fault] = field(default_factory=list)  # each model's last fault


@dataclass(frozen=True, slots=True)
class Row:
    """One process's counts in one slot, ready to be written."""

    step: int
    slot: int
    figures: dict[str, Any]
    traffic: list[tuple[str, int, dict[str, Any]]]


def between(step: int, slot: int, start: Reading, end: Reading, most: Mapping[str, float]) -> Row:
    """Return a process's counts between one reading and a later one."""
    figures = {
        "counts": {name: value - start.counts.get(name, 0) for name, value in end.counts.items()},
        "buckets": {name: _less(counts, start.buckets.get(name)) for name, counts in end.buckets.items()},
        "gauges": dict(end.gauges),
        "most": dict(most),
        "broken": end.broken[:100],
    }
    traffic = []
    for key, counts in end.traffic.items():
        before = start.traffic.get(key, VersionCounts())
        requests, refused, errors = (
            getattr(counts, name) - getattr(before, name) for name in ("requests", "refused", "errors")
        )
        if requests or refused or errors:
            added = {
                "requests": requests,
                "refused": refused,
                "errors": errors,
                "rows": counts.rows - before.rows,
                "seconds": counts.seconds - before.seconds,
                "buckets": _less(counts.buckets, before.buckets),
            }
            traffic.append((*key, added))
    traffic.sort(key=lambda one: -one[2]["requests"])
    return Row(step, slot, figures, traffic[:MAX_VERSIONS])


def _less(counts: Sequence[int], before: Sequence[int] | None) -> list[int]:
    return list(counts) if before is None else [a - b for a, b in zip(counts, before, strict=True)]


def write(engine: Engine, process: str, kind: str, host: str, rows: Sequence[Row], faults: Sequence[Fault]) -> None:
    """Write the rows of a process; they replace the earlier ones of the same slots."""
    with db.transaction(engine) as session:
        insert = db.insert(session, Sample)
        own = {"process": process, "kind": kind, "host": host}
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["step", "slot", "process"], set_={"figures": insert.excluded.figures}
            ),
            [{**own, "step": row.step, "slot": row.slot, "figures": row.figures} for row in rows],
        )
        write_traffic(
            session,
            [
                {
                    "model": model,
                    "step": row.step,
                    "slot": row.slot,
                    "process": process,
                    "version": version,
                    "figures": f,
                }
                for row in rows
                for model, version, f in row.traffic
            ],
        )
        _write_faults(session, faults)


def write_traffic(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of `traffic_samples`, for models that exist."""
    names = {row["model"] for row in rows}
    known = set(session.scalars(select(Model.name).where(Model.name.in_(names)))) if names else set()
    if rows := [row for row in rows if row["model"] in known]:
        insert = db.insert(session, TrafficSample)
        keys = ["model", "step", "slot", "process", "version"]
        session.execute(
            insert.on_conflict_do_update(index_elements=keys, set_={"figures": insert.excluded.figures}), rows
        )


def _write_faults(session: Session, faults: Sequence[Fault]) -> None:
    names = {fault.model for fault in faults}
    known = set(session.scalars(select(Model.name).where(Model.name.in_(names)))) if names else set()
    rows = [
        {name: getattr(fault, name) for name in Fault.__dataclass_fields__} for fault in faults if fault.model in known
    ]
    if rows:
        insert = db.insert(session, ModelFault)
        changed = {name: insert.excluded[name] for name in Fault.__dataclass_fields__ if name != "model"}
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["model"], set_=changed, where=ModelFault.at < insert.excluded["at"]
            ),
            rows,
        )


def slots_of(at: float) -> Iterator[tuple[int, int]]:
    """Yield each slot length with the start of the slot that contains a moment."""
    for step in KEPT:
        yield step, int(at) // step * step


def delete_old(engine: Engine, most_rows: int = MAX_ROWS) -> int:
    """Delete rows that are too old or too many. Return how many."""
    removed = 0
    with db.transaction(engine) as session:
        at = db.now(session).timestamp()
        for table in (Sample, TrafficSample):
            for step, seconds in KEPT.items():
                newest = select(table.slot).where(table.step == step).order_by(table.slot.desc())
                surplus = session.scalar(newest.offset(most_rows).limit(1))
                until = max(at - seconds, -1 if surplus is None else surplus + 1)
                gone: CursorResult[Any] = session.execute(  # type: ignore[assignment]
                    delete(table).where(table.step == step, table.slot < until)
                )
                removed += gone.rowcount
    return removed


def rows_since(session: Session, step: int, since: float, kind: str | None = None) -> list[Sample]:
    """Return the rows of the slots that begin at `since` or later, the oldest first."""
    query = select(Sample).where(Sample.step == step, Sample.slot >= since).order_by(Sample.slot, Sample.process)
    if kind is not None:
        query = query.where(Sample.kind == kind)
    return list(session.scalars(query))


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """Return a quantile of counts by bucket, as Prometheus does: within a bucket, values lie evenly."""
    total = sum(counts)
    if total == 0:
        return None
    rank, below = share * total, 0
    for index, count in enumerate(counts):
        if below + count >= rank and count:
            if index >= len(bounds):
                return float(bounds[-1])
            low = bounds[index - 1] if index else 0.0
            return float(low + (bounds[index] - low) * (rank - below) / count)
        below += count
    return float(bounds[-1])


def moment(slot: float) -> datetime:
    """Return the UTC time of a slot's start."""
    return datetime.fromtimestamp(slot, UTC)
