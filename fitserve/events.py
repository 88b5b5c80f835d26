"""The outbox: events recorded in the same transaction as the change that they report.

An event exists if and only if its change does. Another process delivers it (`fitserve.webhooks`), so a slow or absent
receiver never delays a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from fitserve import db
from fitserve.ids import new_id
from fitserve.strictjson import finite_json
from fitserve.tables import OutboxEvent
from fitserve.visibility import owned_by


class EventType(NamedTuple):
    """One type of event: what its `data` holds, and whether it is bad news, which channels show as such."""

    description: str
    is_trouble: bool = False


# Every type of event. A new one is added here and where it is recorded, its description in Chinese in
# `zh.sentences.json`.
TYPES: Final[Mapping[str, EventType]] = {
    "run.succeeded": EventType(
        "A run succeeded: run, kind, dataset, model, version, metrics, made (a dataset that it made)."
    ),
    "run.failed": EventType(
        "A run failed: run, kind, dataset, model, and the error's cause and detail.", is_trouble=True
    ),
    "run.cancelled": EventType("A run was cancelled: run, kind, dataset, model."),
    "version.registered": EventType("A model has a new version: model, version, run, metrics."),
    "label.moved": EventType("A label names another version: model, label, version (null: removed), previous."),
    "drift.detected": EventType(
        "The inputs of a served version drifted: model, version, column, psi, threshold, rows.", is_trouble=True
    ),
    "drift.ended": EventType("They are back below the threshold: model, version, psi, threshold."),
    "dataset.created": EventType("A dataset has a new version that was uploaded whole: dataset, name, version, rows."),
    "dataset.appended": EventType("Rows were appended to a dataset: dataset, name, version, rows, appended."),
    "rollout.step": EventType("A rollout gave the new version another share: model, rollout, version, share."),
    "rollout.finished": EventType(
        "A rollout ended with the new version in place: model, rollout, version, why, detail."
    ),
    "rollout.rolled_back": EventType(
        "A guard took a version back: model, rollout, version, guard, detail, figure.", is_trouble=True
    ),
    "rollout.stalled": EventType(
        "A rollout ended, since requests or truths did not come: model, rollout, version, detail.", is_trouble=True
    ),
    "rollout.aborted": EventType(
        "A rollout was given up, by hand or since its labels were moved: model, rollout, version, why."
    ),
    "automation.fired": EventType("An automation started: automation, name, reason, run."),
    "automation.decided": EventType(
        "An automation's gate decided: automation, name, decision, why, run, model, version."
    ),
    "automation.refused": EventType(
        "An automation did not train on a broken table: automation, name, dataset, report.", is_trouble=True
    ),
    "automation.paused": EventType(
        "An automation is paused after repeated failures: automation, name, failures, reason.", is_trouble=True
    ),
    "alarm.started": EventType(
        "Something is wrong with the server: alarm, name, subject, severity, detail, figures.", is_trouble=True
    ),
    "alarm.ended": EventType("It is over: alarm, name, subject, severity, detail, since."),
    "webhook.test": EventType("Someone asked for a test: webhook, message."),
    "webhook.disabled": EventType(
        "A webhook was disabled, because its deliveries kept failing or its key ended: webhook, reason, failing_since.",
        is_trouble=True,
    ),
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
