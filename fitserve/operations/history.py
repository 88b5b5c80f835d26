"""The history that pages draw: one point for each slot, over all processes; a slot without samples has no figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from fitserve import db, telemetry
from fitserve.operations import samples
from fitserve.operations.conditions import add_buckets
from fitserve.tables import Drifting, ModelFault, Sample, TrafficSample
from fitserve.wire.operations import (
    FaultInfo,
    HistoryPoint,
    ModelHistory,
    ModelPoint,
    ProcessHistory,
    SystemHistory,
    VersionHistory,
)

WindowName = Literal["hour", "day"]
WINDOWS: dict[str, tuple[int, int]] = {"hour": (samples.MINUTE, 3600), "day": (samples.TEN_MINUTES, 86_400)}
MAX_PROCESSES = 50
DRIFT = "drift"  # value of `process` in rows that hold a version's drift index


def of_system(session: Session, window: WindowName) -> SystemHistory:
    """Return what all processes counted within the window."""
    step, slots, at = _slots(session, window)
    rows = samples.rows_since(session, step, slots[0])
    by_slot: defaultdict[int, list[Sample]] = defaultdict(list)
    for row in rows:
        by_slot[row.slot].append(row)
    return SystemHistory(
        window=window,
        step=step,
        at=at,
        points=[_point(slot, by_slot[slot]) for slot in slots],
        processes=_processes(rows, slots),
    )


def _slots(session: Session, window: WindowName) -> tuple[int, list[int], Any]:
    step, seconds = WINDOWS[window]
    at = db.now(session)
    last = int(at.timestamp()) // step * step
    return step, list(range(last - seconds + step, last + step, step)), at


def _point(slot: int, rows: Sequence[Sample]) -> HistoryPoint:
    queue = [row.figures for row in rows if row.kind == "queue"]
    predict, api = ([row.figures for row in rows if row.kind == kind] for kind in ("predict", "api"))
    point = HistoryPoint(at=samples.moment(slot))
    if queue:
        most = queue[-1]["most"]
        point.queued, point.running = most.get("queued"), most.get("running")
        point.oldest_queued_seconds, point.workers = most.get("oldest_queued_seconds"), most.get("workers")
    if predict:
        seconds = _covered(predict)
        point.predictions = _sum(predict, "requests") / seconds
        point.predict_errors = _sum(predict, "errors")
        point.refused = _sum(predict, "refused")
        point.loads, point.load_failures = _sum(predict, "loads"), _sum(predict, "load_failures")
        point.shed = _sum(predict, "shed")
        counts = add_buckets([one["buckets"].get("predictions") for one in predict], len(telemetry.FAST) + 1)
        point.p50, point.p99 = (samples.quantile(share, telemetry.FAST, counts) for share in (0.5, 0.99))
    if api:
        point.api_requests = _sum(api, "requests") / _covered(api)
        point.api_errors = _sum(api, "errors")
        counts = add_buckets([one["buckets"].get("requests") for one in api], len(telemetry.REQUEST) + 1)
        point.api_p50, point.api_p99 = (samples.quantile(share, telemetry.REQUEST, counts) for share in (0.5, 0.99))
    return point


def _sum(figures: Iterable[dict[str, Any]], name: str) -> float:
    return float(sum(one["counts"].get(name, 0) for one in figures))


def _covered(figures: Iterable[dict[str, Any]]) -> float:
    """Return how many seconds of a slot its samples cover; the current slot is incomplete."""
    return float(max(1.0, *(one["counts"].get("seconds", 0) for one in figures)))


def _processes(rows: Sequence[Sample], slots: Sequence[int]) -> list[ProcessHistory]:
    """Return processor time and memory of each process, most recently active first."""
    place = {slot: index for index, slot in enumerate(slots)}
    processes: dict[str, ProcessHistory] = {}
    for row in rows:
        if row.kind == "queue":
            continue
        one = processes.setdefault(
            row.process,
            ProcessHistory(
                process=row.process,
                kind=row.kind,
                host=row.host,
                seen_at=samples.moment(0),
                cpu=[None] * len(slots),
                memory_bytes=[None] * len(slots),
            ),
        )
        figures = row.figures
        one.seen_at = samples.moment(figures["gauges"].get("at", 0))
        if row.slot in place:
            one.cpu[place[row.slot]] = figures["counts"].get("cpu_seconds", 0) / _covered([figures])
            one.memory_bytes[place[row.slot]] = int(figures["most"].get("memory_bytes", 0))
    return sorted(processes.values(), key=lambda one: (-one.seen_at.timestamp(), one.process))[:MAX_PROCESSES]


def of_model(session: Session, model: str, window: WindowName) -> ModelHistory:
    """Return a model's traffic within the window, and its last fault, however old."""
    step, slots, at = _slots(session, window)
    query = select(TrafficSample).where(
        TrafficSample.model == model, TrafficSample.step == step, TrafficSample.slot >= slots[0]
    )
    rows = list(session.scalars(query.order_by(TrafficSample.slot)))
    traffic = [row for row in rows if row.process != DRIFT]
    covered = _seconds_by_slot(session, step, slots[0])
    by_slot: defaultdict[int, list[TrafficSample]] = defaultdict(list)
    for row in rows:
        by_slot[row.slot].append(row)
    fault = session.get(ModelFault, model)
    drifting = select(Drifting).where(Drifting.model == model).order_by(Drifting.psi.desc()).limit(1)
    worst = session.scalars(drifting).first()
    whole = _totals(traffic)
    return ModelHistory(
        model=model,
        window=window,
        step=step,
        at=at,
        points=[_model_point(slot, by_slot[slot], covered.get(slot)) for slot in slots],
        versions=[
            VersionHistory(version=version, **_totals([row for row in traffic if row.version == version]))
            for version in sorted({row.version for row in traffic})
        ],
        drifting_since=None if worst is None else worst.since,
        fault=None if fault is None else FaultInfo.model_validate(fault),
        **whole,
    )


def write_drift(engine: Engine, indices: Mapping[tuple[str, int], float]) -> None:
    """Write the largest stability index of each model and version into the current slots."""
    if not indices:
        return
    with db.transaction(engine) as session:
        now = db.now(session).timestamp()
        samples.write_traffic(
            session,
            [
                {
                    "model": model,
                    "step": step,
                    "slot": slot,
                    "process": DRIFT,
                    "version": version,
                    "figures": {"psi": psi},
                }
                for (model, version), psi in indices.items()
                for step, slot in samples.slots_of(now)
            ],
        )


def _seconds_by_slot(session: Session, step: int, since: float) -> dict[int, float]:
    """Return the slots in which a prediction process wrote, with the seconds covered."""
    seconds: dict[int, float] = {}
    for row in samples.rows_since(session, step, since, "predict"):
        seconds[row.slot] = max(seconds.get(row.slot, 1.0), row.figures["counts"].get("seconds", 0))
    return seconds


def _model_point(slot: int, rows: Sequence[TrafficSample], seconds: float | None) -> ModelPoint:
    point = ModelPoint(at=samples.moment(slot))
    if seconds is not None:  # then no rows means no requests
        totals = _totals([row for row in rows if row.process != DRIFT])
        point.requests, point.refused, point.errors = totals["requests"] / seconds, totals["refused"], totals["errors"]
        point.p50, point.p99 = totals["p50"], totals["p99"]
    indices = [row.figures["psi"] for row in rows if row.process == DRIFT]
    point.psi = max(indices, default=None)
    return point


def _totals(rows: Sequence[TrafficSample]) -> dict[str, Any]:
    buckets = add_buckets([row.figures["buckets"] for row in rows], len(telemetry.FAST) + 1)
    sums = {name: sum(row.figures[name] for row in rows) for name in ("requests", "refused", "errors", "rows")}
    return {
        **sums,
        "p50": samples.quantile(0.5, telemetry.FAST, buckets),
        "p99": samples.quantile(0.99, telemetry.FAST, buckets),
    }
