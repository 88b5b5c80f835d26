"""Check what is left after the faults, from the database and the blobs alone; the fields are Jepsen's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, func, select

from fitserve import db
from fitserve.blobs import BlobStore, Corrupt
from fitserve.errors import NotFound
from fitserve.runs import queries
from fitserve.runs.blob_references import find_digests
from fitserve.states import TERMINAL
from fitserve.tables import Epoch, Event, Run, Trial, Version
from tests.faults.fake_trainer import final_trials


@dataclass(frozen=True)
class AcknowledgedRun:
    """A run whose submission was answered with 202, and how it must end."""

    run_id: str
    seed: int
    epochs: int
    key: str = ""
    state: str = "succeeded"
    trials: int = 0  # of a search


@dataclass
class Verdict:
    """Jepsen's fields. `lost`, `unexpected`, `duplicated` and `stuck` must be empty."""

    acknowledged: int = 0
    succeeded: int = 0
    lost: list[str] = field(default_factory=list)  # acknowledged, but not in the database
    unexpected: list[str] = field(default_factory=list)  # in the database, but wrong: what and why
    duplicated: list[str] = field(default_factory=list)  # committed or started twice
    stuck: list[str] = field(default_factory=list)  # in no terminal state
    recovered: int = 0  # succeeded after losing at least one attempt
    noticed_seconds: list[float] = field(default_factory=list)  # from the last event to the queue
    recovery_seconds: list[float] = field(default_factory=list)  # from the last event to the next start

    @property
    def ok(self) -> bool:
        return not (self.lost or self.unexpected or self.duplicated or self.stuck)

    @staticmethod
    def percentile(seconds: list[float], share: float) -> float:
        ordered = sorted(seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def fields(self) -> dict[str, Any]:
        """As the harness prints them."""
        return {
            "acknowledged": self.acknowledged,
            "succeeded": self.succeeded,
            "lost": len(self.lost),
            "unexpected": len(self.unexpected),
            "duplicated": len(self.duplicated),
            "stuck": len(self.stuck),
            "recovered": self.recovered,
            "noticed_p95_s": round(self.percentile(self.noticed_seconds, 0.95), 2),
            "recovery_p50_s": round(self.percentile(self.recovery_seconds, 0.5), 2),
            "recovery_p95_s": round(self.percentile(self.recovery_seconds, 0.95), 2),
        }


def check_runs(engine: Engine, blobs: BlobStore, acknowledged: Iterable[AcknowledgedRun]) -> Verdict:
    """Check every acknowledged run."""
    verdict = Verdict()
    keys: dict[str, str] = {}
    with db.reading(engine) as session:
        for wanted in acknowledged:
            verdict.acknowledged += 1
            if wanted.key and keys.setdefault(wanted.key, wanted.run_id) != wanted.run_id:
                verdict.duplicated.append(f"{wanted.run_id}: key {wanted.key} made two runs")
            run = session.get(Run, wanted.run_id)
            if run is None:
                verdict.lost.append(wanted.run_id)
                continue
            _check_events(verdict, run, queries.events_after(session, run.id, 0, 100_000))
            if run.state not in TERMINAL:
                verdict.stuck.append(f"{run.id}: {run.state}")
            elif run.state != wanted.state:
                verdict.unexpected.append(f"{run.id}: {run.state} {run.error}")
            elif run.state == "succeeded":
                verdict.succeeded += 1
                verdict.recovered += run.attempt > 1
                _check_result(verdict, run, wanted, blobs)
                versions = session.scalar(select(func.count()).where(Version.run_id == run.id)) or 0
                if versions != (1 if run.model else 0):
                    verdict.duplicated.append(f"{run.id}: {versions} versions")
                rows = session.execute(
                    select(Epoch.trial, Epoch.epoch).where(Epoch.run_id == run.id).order_by(Epoch.trial, Epoch.epoch)
                )
                epochs = [(trial, epoch) for trial, epoch in rows]
                if epochs != [(n, at + 1) for n in range(wanted.trials or 1) for at in range(wanted.epochs)]:
                    verdict.unexpected.append(f"{run.id}: epochs {epochs}")
                _check_trials(verdict, run, wanted, queries.trials(session, run.id))
    return verdict


# The states that may follow a state, in the events that transitions write.
_NEXT_STATES: Mapping[str, frozenset[str]] = {
    "": frozenset({"queued"}),
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"queued", "succeeded", "failed", "cancelled"}),
}


def _check_events(verdict: Verdict, run: Run, events: list[Event]) -> None:
    state, last_event_at = "", None
    queued_at, latest = run.created_at, 0
    for event in events:
        if event.attempt < latest:
            verdict.duplicated.append(f"{run.id}: attempt {event.attempt} wrote {event.message!r} during {latest}")
        latest = max(latest, event.attempt)
        if event.type != "state":
            last_event_at = event.created_at
            continue
        if event.message == "Cancel requested":
            continue
        to = event.data["state"]
        if state in TERMINAL:
            verdict.duplicated.append(f"{run.id}: {to} in attempt {event.attempt} after {state}")
        elif to == state == "running":
            verdict.duplicated.append(f"{run.id}: attempt {event.attempt} started while another ran")
        elif to not in _NEXT_STATES[state]:
            verdict.unexpected.append(f"{run.id}: {to} after {state or 'nothing'}")
        if to == "running":
            if state == "queued" and last_event_at is not None and event.attempt > 1:
                verdict.recovery_seconds.append((event.created_at - last_event_at).total_seconds())
                verdict.noticed_seconds.append((queued_at - last_event_at).total_seconds())
            last_event_at = event.created_at
        queued_at = event.created_at
        state = to
    if state != run.state:
        verdict.unexpected.append(f"{run.id}: events end with {state}, the row says {run.state}")


def _check_trials(verdict: Verdict, run: Run, wanted: AcknowledgedRun, trials: list[Trial]) -> None:
    """Check that every trial of a search ended once, with the value of an undisturbed one."""
    found = [(trial.trial, trial.state, trial.value) for trial in trials]
    values = final_trials(wanted.seed, wanted.epochs, wanted.trials)
    if found != [(number, "succeeded", value) for number, value in enumerate(values)]:
        verdict.unexpected.append(f"{run.id}: trials {found}")


def _check_result(verdict: Verdict, run: Run, wanted: AcknowledgedRun, blobs: BlobStore) -> None:
    result = run.result or {}
    if result.get("weights") != min(final_trials(wanted.seed, wanted.epochs, wanted.trials or 1)):
        verdict.unexpected.append(f"{run.id}: weights {result.get('weights')}")
    if result.get("attempt") != run.attempt:
        verdict.unexpected.append(f"{run.id}: result of attempt {result.get('attempt')}, run at {run.attempt}")
    try:
        for sha256 in set(find_digests(json.loads(blobs.read(str(result["artifact"]))))):
            blobs.read(sha256)
    except (NotFound, Corrupt, KeyError, ValueError) as error:
        verdict.unexpected.append(f"{run.id}: artifact: {type(error).__name__} {error}")
