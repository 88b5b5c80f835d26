"""What is wrong with the server now: the same alerts as in Prometheus, computed from our own tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fitserve import db, telemetry, webhooks
from fitserve.operations import samples
from fitserve.runs import queries, worker_registry
from fitserve.settings import Settings
from fitserve.states import INTERNAL_KINDS, RunState
from fitserve.tables import Automation, Delivery, Drifting, Run, Sample, Webhook, Worker

Severity = Literal["warning", "critical"]

QUEUE_SECONDS = 300.0
DELIVERY_SECONDS = 300.0
PREDICT_ERRORS, PREDICT_REQUESTS = 0.0144, 20  # share of errors, and least requests for it to be checked
API_ERRORS, API_ERRORS_HOUR, API_REQUESTS = 0.05, 0.01, 20
SLOW_SECONDS, SLOW_REQUESTS = 0.05, 100
SHED_PER_SECOND = 1.0
DISK_SHARE = 0.1
FAILED_SHARE, FAILED_RUNS = 0.5, 4
SILENT_SECONDS = 120.0  # seconds without a sample after which a kind of process counts as gone
SERVICES: Final = {"api": "API", "predict": "prediction service", "worker": "worker", "reaper": "reaper"}


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong. `figures` holds the values in `detail`, for pages in other languages."""

    name: str
    severity: Severity
    detail: str
    subject: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Look:
    """Input of the rules: the time, recent samples, workers and runs."""

    session: Session
    settings: Settings
    at: datetime
    recent: Sequence[Sample]  # the last five minutes, in slots of a minute
    hour: Sequence[Sample]  # the last hour, in slots of ten minutes

    def count(self, rows: Sequence[Sample], kind: str, name: str) -> float:
        return float(sum(row.figures["counts"].get(name, 0) for row in rows if row.kind == kind))

    def newest(self) -> list[Sample]:
        """Return the last sample of each process that is still writing."""
        last = {row.process: row for row in self.recent}
        oldest = self.at.timestamp() - self.silent_seconds
        return [row for row in last.values() if row.figures["gauges"].get("at", 0) >= oldest]

    @property
    def silent_seconds(self) -> float:
        return SILENT_SECONDS + 4 * self.settings.sample_seconds


Rule = Callable[[_Look], Iterator[Condition]]
RULES: list[Rule] = []


def _rule(rule: Rule) -> Rule:
    RULES.append(rule)
    return rule


def look(session: Session, settings: Settings) -> list[Condition]:
    """Return everything that is wrong now, worst first."""
    at = db.now(session)
    now = at.timestamp()
    seen = _Look(
        session,
        settings,
        at,
        samples.rows_since(session, samples.MINUTE, now - 360),
        samples.rows_since(session, samples.TEN_MINUTES, now - 4200),
    )
    conditions = [condition for rule in RULES for condition in rule(seen)]
    return sorted(conditions, key=lambda one: one.severity != "critical")


@_rule
def _workers(look: _Look) -> Iterator[Condition]:
    since = look.at - timedelta(seconds=worker_registry.WORKER_TIMEOUT)
    beats = list(look.session.scalars(select(Worker.heartbeat_at)))
    alive = sum(beat > since for beat in beats)
    lost = len(beats) - alive
    waiting_runs = select(func.count()).where(Run.state == RunState.queued, Run.kind.not_in(INTERNAL_KINDS))
    queued = look.session.scalar(waiting_runs) or 0
    if alive == 0:
        waiting = f", and {queued} runs wait" if queued else ""
        detail = f"No worker is alive{waiting}: nothing is trained until one is started."
        yield Condition("no_worker", "critical" if queued or lost else "warning", detail, figures={"queued": queued})
    elif lost:
        detail = f"{lost} workers have stopped answering; their runs go on elsewhere when the lease ends."
        yield Condition("workers_lost", "warning", detail, figures={"lost": lost})
    oldest = queries.oldest_queued_seconds(look.session)
    if oldest > QUEUE_SECONDS:
        detail = f"The oldest queued run has waited for {oldest:.0f} s ({queued} queued): more workers would help."
        yield Condition("queue_old", "warning", detail, figures={"seconds": oldest, "queued": queued})


@_rule
def _processes(look: _Look) -> Iterator[Condition]:
    """Return the kinds of process that wrote samples within the last hour but have stopped."""
    there = {row.kind for row in look.newest()}
    for kind in sorted({row.kind for row in look.hour} - there):
        if kind in SERVICES and kind != "worker":  # workers have heartbeats
            last = max(row.figures["gauges"].get("at", 0) for row in look.hour if row.kind == kind)
            seconds = max(0.0, look.at.timestamp() - last)
            if seconds > look.silent_seconds:
                detail = f"No {SERVICES[kind]} has been heard of for {seconds:.0f} s."
                yield Condition("process_down", "critical", detail, kind, {"kind": kind, "seconds": seconds})


@_rule
def _errors(look: _Look) -> Iterator[Condition]:
    for kind, name, now_limit, hour_limit, fewest in (
        ("predict", "predict_errors", PREDICT_ERRORS, PREDICT_ERRORS, PREDICT_REQUESTS),
        ("api", "api_errors", API_ERRORS, API_ERRORS_HOUR, API_REQUESTS),
    ):
        requests, errors = look.count(look.recent, kind, "requests"), look.count(look.recent, kind, "errors")
        hour = look.count(look.hour, kind, "errors") / max(1.0, look.count(look.hour, kind, "requests"))
        if requests >= fewest and errors / requests > now_limit and hour > hour_limit:
            share = errors / requests
            what = "predictions" if kind == "predict" else "requests to the API"
            detail = f"{share:.1%} of the {what} of the last five minutes failed ({errors:.0f} of {requests:.0f})."
            yield Condition(name, "critical", detail, figures={"share": share, "errors": errors, "requests": requests})


@_rule
def _slow_predictions(look: _Look) -> Iterator[Condition]:
    counts = [row.figures["buckets"].get("predictions") for row in look.recent if row.kind == "predict"]
    summed = add_buckets(counts, len(telemetry.FAST) + 1)
    p99 = samples.quantile(0.99, telemetry.FAST, summed)
    if p99 is not None and sum(summed) >= SLOW_REQUESTS and p99 > SLOW_SECONDS:
        detail = f"1 in 100 predictions of the last five minutes took longer than {1000 * p99:.0f} ms."
        yield Condition("predict_slow", "warning", detail, figures={"seconds": p99})


@_rule
def _shedding(look: _Look) -> Iterator[Condition]:
    shed = look.count(look.recent, "predict", "shed") / 300
    if shed > SHED_PER_SECOND:
        detail = f"The prediction service turns {shed:.1f} requests a second away: add replicas."
        yield Condition("predict_shedding", "warning", detail, figures={"rate": shed})


@_rule
def _broken_versions(look: _Look) -> Iterator[Condition]:
    for name in sorted({name for row in look.newest() for name in row.figures.get("broken", ())}):
        model, _, version = name.rpartition("/")
        detail = f"{model} version {version} cannot be loaded; the previous version is still serving."
        yield Condition("version_broken", "critical", detail, name, {"model": model, "version": version})


@_rule
def _disks(look: _Look) -> Iterator[Condition]:
    left: dict[str, tuple[float, float]] = {}
    for row in look.newest():
        size, free = row.figures["gauges"].get("disk_size"), row.figures["gauges"].get("disk_free")
        if size:
            left[row.host] = min(left.get(row.host, (1.0, 0.0)), (free / size, free))
    for host, (share, free) in sorted(left.items()):
        if share < DISK_SHARE:
            detail = f"{host} has {share:.1%} of its disk left ({free / 1e9:.1f} GB)."
            yield Condition("disk_full", "critical", detail, host, {"host": host, "share": share, "bytes": free})


@_rule
def _runs(look: _Look) -> Iterator[Condition]:
    ended = select(Run.state, func.count()).where(
        Run.finished_at > look.at - timedelta(minutes=30),
        Run.kind.not_in(INTERNAL_KINDS),
        Run.state != RunState.cancelled,
    )
    counts: dict[str, int] = {row[0]: row[1] for row in look.session.execute(ended.group_by(Run.state))}
    failed, total = counts.get(RunState.failed, 0), sum(counts.values())
    if total >= FAILED_RUNS and failed / total > FAILED_SHARE:
        detail = f"{failed} of the {total} runs that ended in the last half hour failed."
        yield Condition("runs_failing", "warning", detail, figures={"failed": failed, "total": total})


@_rule
def _deliveries(look: _Look) -> Iterator[Condition]:
    _, oldest, _ = webhooks.standing(look.session)
    if oldest > DELIVERY_SECONDS:
        detail = f"Events have been due for {oldest:.0f} s: does a worker or the reaper run, and can it reach them?"
        yield Condition("deliveries_late", "warning", detail, figures={"seconds": oldest})
    hour = look.at - timedelta(hours=1)
    given_up = select(func.count()).where(Delivery.state == "failed", Delivery.next_at > hour)
    if failed := look.session.scalar(given_up) or 0:
        detail = f"{failed} deliveries to webhooks were given up within the last hour."
        yield Condition("deliveries_failed", "warning", detail, figures={"failed": failed})
    disabled = select(func.count()).where(
        Webhook.enabled.is_(False), Webhook.disabled_reason.is_not(None), Webhook.updated_at > hour
    )
    if count := look.session.scalar(disabled) or 0:
        why = "because their deliveries kept failing or their keys ended"
        detail = f"{count} webhooks were disabled within the last hour, {why}."
        yield Condition("webhooks_disabled", "warning", detail, figures={"count": count})


@_rule
def _automations(look: _Look) -> Iterator[Condition]:
    paused = select(func.count()).where(Automation.enabled.is_(False), Automation.paused_reason.is_not(None))
    if count := look.session.scalar(paused) or 0:
        detail = f"{count} automations are paused after repeated failures."
        yield Condition("automations_paused", "warning", detail, figures={"count": count})


@_rule
def _drift(look: _Look) -> Iterator[Condition]:
    for row in look.session.scalars(select(Drifting).order_by(Drifting.model, Drifting.version).limit(100)):
        detail = f"{row.model} version {row.version} receives inputs unlike its training rows (PSI {row.psi:.2f})."
        figures = {"model": row.model, "version": row.version, "psi": row.psi}
        yield Condition("drift", "warning", detail, f"{row.model}/{row.version}", figures)


def add_buckets(rows: Sequence[Sequence[int] | None], size: int) -> list[int]:
    """Return the sums of counts by bucket; rows of another release with other buckets are left out."""
    summed = [0] * size
    for row in rows:
        if row is not None and len(row) == size:
            summed = [a + b for a, b in zip(summed, row, strict=True)]
    return summed


def worst(conditions: Sequence[Condition]) -> Literal["good", "warning", "critical"]:
    """Return the worst severity; `good` if nothing is wrong."""
    levels = {one.severity for one in conditions}
    return "critical" if "critical" in levels else "warning" if levels else "good"
