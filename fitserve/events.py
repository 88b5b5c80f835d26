"""The outbox: events recorded in the same transaction as the change that they report.

An event exists if and only if its change does. Another process delivers it (`fitserve.webhooks`), so a slow or absent
receiver never delays a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.ids import new_id
from fitserve.strictjson import finite_json
from fitserve.tables import OutboxEvent
from fitserve.visibility import owned_by

# Every type of event, with what its `data` holds. A new type is added here and where it is recorded, its text in
# Chinese in `zh.sentences.json`.
TYPES: Final[Mapping[str, str]] = {
    "run.succeeded": "A run succeeded: run, kind, dataset, model, version, metrics, made (a dataset that it made).",
    "run.failed": "A run failed: run, kind, dataset, model, and the error's cause and detail.",
    "run.cancelled": "A run was cancelled: run, kind, dataset, model.",
    "version.registered": "A model has a new version: model, version, run, metrics.",
    "label.moved": "A label names another version: model, label, version (null: removed), previous.",
    "drift.detected": "The inputs of a served version drifted: model, version, column, psi, threshold, rows.",
    "drift.ended": "They are back below the threshold: model, version, psi, threshold.",
    "dataset.created": "A dataset has a new version that was uploaded whole: dataset, name, version, rows.",
    "dataset.appended": "Rows were appended to a dataset: dataset, name, version, rows, appended.",
    "rollout.step": "A rollout gave the new version another share: model, rollout, version, share.",
    "rollout.finished": "A rollout ended with the new version in place: model, rollout, version, why, detail.",
    "rollout.rolled_back": "A guard took a version back: model, rollout, version, guard, detail, figure.",
    "rollout.stalled": "A rollout ended, since requests or truths did not come: model, rollout, version, detail.",
    "rollout.aborted": "A rollout was given up, by hand or since its labels were moved: model, rollout, version, why.",
    "automation.fired": "An automation started: automation, name, reason, run.",
    "automation.decided": "An automation's gate decided: automation, name, decision, why, run, model, version.",
    "automation.refused": "An automation did not train on a broken table: automation, name, dataset, report.",
    "automation.paused": "An automation is paused after repeated failures: automation, name, failures, reason.",
    "alarm.started": "Something is wrong with the server: alarm, name, subject, severity, detail, figures.",
    "alarm.ended": "It is over: alarm, name, subject, severity, detail, since.",
    "webhook.test": "Someone asked for a test: webhook, message.",
    "webhook.disabled": "A webhook was disabled because its deliveries kept failing: webhook, reason, failing_since.",
}


def record(session: Session, type: str, *, owner: str, data: Mapping[str, Any], at: datetime | None = None) -> str:
    """Add an event to the outbox in the caller's transaction, and return its id, which receivers see.

    The webhooks of `owner`, whose change it is, receive it. `type` is one of TYPES.
    """
    if type not in TYPES:
        raise ValueError(f"{type!r} is no type of event: add it to fitserve.events.TYPES")
    id = new_id("evt")
    moment = at or db.now(session)
    session.add(OutboxEvent(id=id, type=type, owner=owner, data=finite_json(dict(data)), created_at=moment))
    session.flush()
    return id


def latest(
    session: Session, owner: str | None, *, limit: int, before: str | None = None, type: str | None = None
) -> list[OutboxEvent]:
    """Return the events of an owner (None: of all), newest first, older than the id `before`."""
    query = select(OutboxEvent).where(owned_by(OutboxEvent, owner)).order_by(OutboxEvent.id.desc()).limit(limit)
    if before is not None:
        query = query.where(OutboxEvent.id < before)
    if type is not None:
        query = query.where(OutboxEvent.type == type)
    return list(session.scalars(query))
