"""How an attempt ends: a durable result or a cause of failure, committed by one conditional update."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from fitserve import artifacts, db, registry
from fitserve.blobs import BlobStore, StoredBlob
from fitserve.crash_points import crash_point
from fitserve.errors import StorageFull, Unavailable
from fitserve.runs import finish
from fitserve.runs.blob_references import BlobVanished
from fitserve.runs.history import Report
from fitserve.runs.lease import Lease, LeaseLost
from fitserve.runs.scores import scores_by_part
from fitserve.settings import MB
from fitserve.states import TERMINAL, FailureCause, RunKind, RunState
from fitserve.tables import Run
from workers.trainer.interface import TrainingResult

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5  # pause before another try while the database is unavailable
_NEAR_LIMIT = 0.8  # share of the memory limit above which a crash is attributed to memory
_CGROUP_EVENTS = Path("/sys/fs/cgroup/memory.events")


class AttemptFailed(Exception):
    """An attempt with a trainer failed, with this cause.

    `final`: another attempt would fail too, so none is made. `start_over`: the next attempt ignores the checkpoint.
    """

    def __init__(
        self,
        cause: FailureCause,
        message: str,
        data: dict[str, Any] | None = None,
        *,
        final: bool = False,
        start_over: bool = False,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.data = data or {}
        self.final = final
        self.start_over = start_over


class TrainerStopped(Exception):
    """The trainer had to stop because of a cancel or a graceful shutdown."""


# --- why a trainer failed ------------------------------------------------------------------------------


def exit_failure(code: int, peak: int, limit: int, kernel_kills: int = 0) -> AttemptFailed:
    """Return why a trainer process exited.

    Args:
        code: `Popen.returncode`, negative for a signal.
        peak: most bytes that the process held.
        limit: bytes that it was allowed to hold.
        kernel_kills: out-of-memory kills in our control group since the attempt began.
    """
    name = signal.Signals(-code).name if code < 0 and -code in set(signal.Signals) else f"exit code {code}"
    data: dict[str, Any] = {"exit": name, "peak_bytes": peak, "limit_bytes": limit}
    crashed = code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
    if (code == -signal.SIGKILL and kernel_kills > 0) or (crashed and peak >= _NEAR_LIMIT * limit):
        how = "the kernel killed it" if kernel_kills else f"it exited with {name}"
        data["fix"] = "Use a smaller batch_size or network, or give the worker more memory."
        message = f"The trainer ran out of memory at {peak // MB} MB of {limit // MB} MB: {how}"
        return AttemptFailed(FailureCause.out_of_memory, message, data, final=True)
    return AttemptFailed(FailureCause.killed, f"The trainer was killed ({name})", data)


def memory_failure(peak: int, limit: int) -> AttemptFailed:
    """Return the failure of a trainer that reached `peak` of `limit` bytes."""
    fix = "Use a smaller batch_size or network, or raise FITSERVE_TRAINER_MEMORY_BYTES."
    return AttemptFailed(
        FailureCause.out_of_memory,
        f"The trainer ran out of memory: it reached {peak // MB} MB of {limit // MB} MB",
        {"limit_bytes": limit, "peak_bytes": peak, "fix": fix},
        final=True,
    )


def kernel_memory_kills() -> int:
    """Return the number of out-of-memory kills in our control group so far; 0 where it cannot be read."""
    try:
        lines = _CGROUP_EVENTS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


# --- what a trainer made -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DurableResult:
    """A training result whose files are stored as blobs that no row refers to yet."""

    run: Run
    artifact: str | None
    stored: Mapping[str, StoredBlob]
    result: dict[str, Any]
    metrics: dict[str, Any]

    def commit(self, engine: Engine, lease: Lease, blobs: BlobStore, reports: tuple[Report, ...]) -> RunState:
        """T4: commit the run's result, its blob rows and the model version in one transaction.

        Raises LeaseLost, CancelledFirst, BlobVanished, and the registry's errors.
        """
        return finish.succeed(
            engine, lease, self.result, blobs=blobs, stored=self.stored, register=self._register, reports=reports
        )

    def _register(self, session: Session) -> dict[str, Any]:
        run = self.run
        if run.model is None or self.artifact is None:
            return {}
        return {"version": registry.add_version(session, run.model, run.owner, run.id, self.artifact, self.metrics)}


def make_durable(blobs: BlobStore, run: Run, trained: TrainingResult) -> DurableResult:
    """Store a result's files and manifest, or a divided trial's one file, as blobs. Raises StorageFull."""
    if run.kind == RunKind.trial:
        file = blobs.put_file(trained.files["trial"])
        result = {**trained.result, "blob": file.sha256, "bytes": file.bytes}
        return DurableResult(run, None, {"trial": file}, result, {})
    if not trained.files:  # neither a check nor a helper has a network to store
        return DurableResult(run, None, {}, {**trained.result, "bytes": 0}, {})
    origin = {"run": run.id, "created_at": datetime.now(UTC).isoformat()}
    artifact, stored = artifacts.write(blobs, trained.files, {**trained.manifest, **origin})
    epoch_artifacts: dict[str, str] = {}
    for epoch, epoch_result in trained.kept_epochs.items():
        manifest = {**trained.manifest, **epoch_result.manifest, **origin}
        epoch_artifact, epoch_blobs = artifacts.write(blobs, epoch_result.files, manifest)
        epoch_artifacts[str(epoch)] = epoch_artifact.sha256
        stored |= {f"{kind} {epoch}": blob for kind, blob in epoch_blobs.items()}
    metrics = dict(trained.manifest.get("metrics") or trained.result.get("metrics") or {})
    size = sum(blob.bytes for blob in stored.values())
    result = {"metrics": metrics, **trained.result, "artifact": artifact.sha256, "bytes": size}
    if epoch_artifacts:
        result["kept_epochs"] = epoch_artifacts
    return DurableResult(run, artifact.sha256, stored, result, scores_by_part(result) or metrics)


# --- the commit ----------------------------------------------------------------------------------------


def commit_outcome(
    engine: Engine, lease: Lease, end_run: Callable[[], RunState], stopping: threading.Event, patience: float
) -> RunState | None:
    """Commit the outcome, retrying; give up after `patience` seconds once shutdown has begun.

    If the result of a commit is unknown, the row is read again; success is never assumed. Returns the state in which
    this attempt left the run; None if the run is no longer ours, or if the lease is left to expire.
    """
    deadline: float | None = None
    while True:
        try:
            state = end_run()
            crash_point("supervisor.after_commit")
            return state
        except LeaseLost:
            # A commit that went through before its connection broke has ended our lease itself.
            if (committed := _committed_state(engine, lease)) is None:
                log.warning("lease lost at the end of a run", extra={"run": lease.run_id})
            return committed
        except BlobVanished:
            raise  # the caller stores the blobs again
        except (ConnectionError, Unavailable, StorageFull):
            log.warning("database unavailable at the end of a run", extra={"run": lease.run_id})
        if stopping.is_set():
            deadline = deadline or time.monotonic() + patience
            if time.monotonic() > deadline:
                return None
        time.sleep(RETRY_SECONDS)


def _committed_state(engine: Engine, lease: Lease) -> RunState | None:
    """Return the terminal state of the run, if this attempt wrote it."""
    try:
        with db.reading(engine) as session:
            run = session.get(Run, lease.run_id)
    except Unavailable:
        return None
    if run is None or run.attempt != lease.attempt or run.state not in TERMINAL:
        return None
    return RunState(run.state)
