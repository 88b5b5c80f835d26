"""T4's composition: the artifact first, durable; then run, blobs' rows and model version in one transaction.

A trial that was trained apart has a file for its run in the place of an artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitserve import artifacts, registry
from fitserve.blobs import BlobStore, Stored
from fitserve.runs import finish
from fitserve.runs.history import Report
from fitserve.runs.lease import Lease
from fitserve.states import TRIAL, RunState
from fitserve.tables import Run
from workers.trainer.job import TrainingResult


@dataclass(frozen=True, slots=True)
class DurableResult:
    """A trained network whose bytes are durable and which nothing refers to yet."""

    run: Run
    artifact: str | None
    stored: Mapping[str, Stored]
    result: dict[str, Any]
    metrics: dict[str, Any]

    def commit(self, engine: Engine, lease: Lease, blobs: BlobStore, reports: tuple[Report, ...]) -> RunState:
        """T4. Raises LeaseLost, CancelledFirst, BlobVanished, and what the registry raises."""
        return finish.succeed(
            engine, lease, self.result, blobs=blobs, stored=self.stored, register=self._register, reports=reports
        )

    def _register(self, session: Session) -> int | None:
        if self.run.model is None or self.artifact is None:
            return None
        return registry.add_version(session, self.run.model, self.run.owner, self.run.id, self.artifact, self.metrics)


def make_durable(blobs: BlobStore, run: Run, trained: TrainingResult) -> DurableResult:
    """Stores a result's files and its manifest. Raises StorageFull."""
    if run.kind == TRIAL:
        own = {"trial": blobs.put_file(trained.files["trial"])}
        result = {**trained.result, "blob": own["trial"].sha256, "bytes": own["trial"].bytes}
        return DurableResult(run, None, own, result, {})
    made = {"run": run.id, "created_at": datetime.now(UTC).isoformat()}
    artifact, stored = artifacts.write(blobs, trained.files, {**trained.manifest, **made})
    kept: dict[str, str] = {}
    for epoch, one in trained.kept.items():
        network, blobs_of_it = artifacts.write(blobs, one.files, {**trained.manifest, **one.manifest, **made})
        kept[str(epoch)] = network.sha256
        stored |= {f"{kind} {epoch}": blob for kind, blob in blobs_of_it.items()}
    metrics = dict(trained.manifest.get("metrics") or trained.result.get("metrics") or {})
    size = sum(blob.bytes for blob in stored.values())
    result = {"metrics": metrics, **trained.result, "artifact": artifact.sha256, "bytes": size}
    if kept:
        result["kept_epochs"] = kept
    return DurableResult(run, artifact.sha256, stored, result, metrics)
