"""The append-only rows of a run: events and epochs.

An event is added after an update of the run's row in the same transaction. The row lock therefore commits a run's
events in id order: a reader that has seen id 11 cannot have missed id 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import update
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.strictjson import finite_json
from fitserve.tables import Blob, Epoch, Event, Trial

Level = Literal["info", "warn", "error"]

# `seq` of the events added by transitions. Each happens at most once per attempt: the table is unique on
# (run, attempt, seq). A worker's own reports count up from 1.
CREATED, CANCEL_REQUESTED, CLAIMED, RELEASED, FINISHED, CLEANED_UP = 0, -1, -2, -3, -4, -5


@dataclass(frozen=True, slots=True)
class EventReport:
    """A message of a worker about its run. `seq` counts from 1 within the attempt."""

    seq: int
    level: Level
    message: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EpochReport:
    """A finished epoch: `trial` from 0, `epoch` from 1, duration in seconds."""

    seq: int
    trial: int
    epoch: int
    logs: dict[str, Any]
    seconds: float
    layers: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TrialReport:
    """A report that a search's trial begins or has ended. `row` holds the known columns of `tables.Trial`."""

    seq: int
    row: dict[str, Any]


Report = EventReport | EpochReport | TrialReport


def record_trials(session: Session, run_id: str, attempt: int, reports: Sequence[Report], at: datetime) -> None:
    """Write trials that begin or end. Each begins once and ends once; repeated reports change nothing."""
    for report in reports:
        if not isinstance(report, TrialReport):
            continue
        row = finite_json(report.row)
        number, state = int(row["trial"]), str(row["state"])
        first = {"run_id": run_id, "trial": number, "attempt": attempt, "state": "running", "created_at": at}
        first |= {"point": row["point"], "chosen": row["values"], "seconds": 0.0}
        db.insert_new(session, Trial, [first])
        if state == "running":
            continue
        names = ("value", "epochs", "best_epoch", "reason", "rungs")
        ended = {name: row.get(name) for name in names} | {"seconds": float(row.get("seconds") or 0.0)}
        session.execute(
            update(Trial)
            .where(Trial.run_id == run_id, Trial.trial == number, Trial.state == "running")
            .values(state=state, attempt=attempt, finished_at=at, **ended)
            .execution_options(synchronize_session=False)
        )


def add_event(
    session: Session,
    run_id: str,
    attempt: int,
    seq: int,
    at: datetime,
    state: str,
    message: str,
    *,
    level: Level = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Add the event of a transition. A second one of the same attempt raises IntegrityError."""
    session.add(
        Event(
            run_id=run_id,
            attempt=attempt,
            seq=seq,
            level=level,
            type="state",
            message=message,
            data={"state": state, **finite_json(data or {})},
            created_at=at,
        )
    )
    session.flush()


def record_reports(session: Session, run_id: str, attempt: int, reports: Sequence[Report], at: datetime) -> int:
    """Add a worker's reports, skipping those that exist. Return the number of new epochs.

    Rows and events are never written twice, although a resumed attempt repeats the epochs after its checkpoint, and two
    workers may have begun the same trial.
    """
    record_trials(session, run_id, attempt, reports, at)
    epochs: dict[tuple[int, int], EpochReport] = {}
    for report in reports:
        if isinstance(report, EpochReport):
            epochs.setdefault((report.trial, report.epoch), report)
    new = {
        (row.trial, row.epoch)
        for row in db.insert_new(
            session,
            Epoch,
            [
                {
                    "run_id": run_id,
                    "trial": report.trial,
                    "epoch": report.epoch,
                    "attempt": attempt,
                    "logs": finite_json(report.logs),
                    "seconds": report.seconds,
                    "layers": finite_json(report.layers),
                    "created_at": at,
                }
                for report in epochs.values()
            ],
            returning=(Epoch.__table__.c.trial, Epoch.__table__.c.epoch),
        )
    }
    rows = []
    for report in reports:
        if isinstance(report, EventReport):
            row = {
                "level": report.level,
                "type": "message",
                "message": report.message,
                "data": finite_json(report.data),
            }
        elif (
            isinstance(report, EpochReport)
            and (report.trial, report.epoch) in new
            and epochs[report.trial, report.epoch] is report
        ):
            data = {"trial": report.trial, "epoch": report.epoch, "logs": report.logs, "seconds": report.seconds}
            row = {"level": "info", "type": "metrics", "message": f"Epoch {report.epoch}", "data": finite_json(data)}
        else:
            continue
        rows.append({"run_id": run_id, "attempt": attempt, "seq": report.seq, "created_at": at, **row})
    db.insert_new(session, Event, rows)
    return len(new)


def add_blob_rows(session: Session, blobs: Sequence[tuple[str, int, str]], at: datetime) -> None:
    """Add rows of durable blobs, as (sha256, bytes, kind), skipping those that exist."""
    unique = {sha256: (size, kind) for sha256, size, kind in blobs}
    db.insert_new(
        session,
        Blob,
        [{"sha256": key, "bytes": size, "kind": kind, "created_at": at} for key, (size, kind) in unique.items()],
    )
