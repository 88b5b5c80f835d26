"""One attempt at one run, from the claim to its end: start the trainer, renew the lease, write reports, commit.

`TrainerAttempt.run` orchestrates; `outcome` decides how the attempt ended and commits it, `trial_division` shares a
run's trials with idle workers.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from sqlalchemy import Engine

from fitserve import artifacts, db
from fitserve.blobs import BlobStore, disk_full_is_507, sha256_of
from fitserve.crash_points import crash_point
from fitserve.datasets import store
from fitserve.errors import BadInput, FitserveError, NotFound, StorageFull, Unavailable
from fitserve.runs import blob_references, finish, lease, queries
from fitserve.runs.history import EpochReport, EventReport, Report, TrialReport
from fitserve.settings import Settings
from fitserve.states import TERMINAL, FailureCause, RunKind, RunState
from fitserve.tables import Dataset, Trial
from fitserve.wire.datasets import UploadOptions
from workers.attempt.outcome import (
    RETRY_SECONDS,
    AttemptFailed,
    TrainerStopped,
    commit_outcome,
    exit_failure,
    kernel_memory_kills,
    make_durable,
    memory_failure,
)
from workers.attempt.telemetry import AttemptTelemetry
from workers.attempt.trial_division import TrialDivision, delete_blob, local_or_none
from workers.trainer.channel import ChannelClosed, Message, decoded
from workers.trainer.interface import OUT_OF_FOLD, TrainingRequest, TrainingResult, TrialAssignment
from workers.trainer_process import TrainerProcess, TrainerSlot

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # waiting for a trainer's message, between two rounds of housekeeping
BATCH_SECONDS = 0.5  # spent on queued messages before the next round of housekeeping
WRITE_SECONDS = 0.2  # between two writes of reports; the first epoch does not wait
CHECK_SECONDS = 1.0  # between two checks for a cancel and of the trainer's memory
CANCEL_GRACE_SECONDS = 2.0  # for a trainer to obey a cancel before it is killed
T = TypeVar("T")


class Stopping(threading.Event):
    """Event that is set once this worker shuts down."""

    hurried = False  # release the runs now: no trainer gets to finish its epoch


@dataclass
class TrainerAttempt:
    """One attempt at a claimed run, by a slot's trainer process; `SideAttempt` is for runs without a trainer."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    slot: TrainerSlot
    claim: lease.Claim
    stopping: Stopping
    division: TrialDivision
    trainer: TrainerProcess | None = None
    folder: Path = field(init=False)
    _metrics: AttemptTelemetry = field(init=False)
    _pending: list[Report] = field(default_factory=list)  # reported, not in the database yet
    _checkpoint_file: tuple[Path, int] | None = None  # the newest reported checkpoint and its epoch, not stored yet
    _new_checkpoint: lease.StoredCheckpoint | None = None  # its blob is stored, the run's row does not refer to it yet
    _checkpoint_blob: str | None = None  # the checkpoint that the run's row refers to
    _progress: bool = False  # something was reported since the last write
    _first_epoch: Literal["awaited", "pending", "written"] = "awaited"  # people wait for it, so it is written at once
    _cancel_requested: bool = False
    _seq: int = 0  # sequence number of the last report
    _kernel_kills: int = field(default_factory=kernel_memory_kills)
    _stop_sent_at: float | None = None
    _written_at: float = field(default_factory=time.monotonic)
    _renewed_at: float = field(default_factory=time.monotonic)  # start of the last successful renewal
    _checked_at: float = 0.0
    _progress_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder = self.settings.scratch / "runs" / f"{self.lease.run_id}-{self.lease.attempt}"
        self._metrics = AttemptTelemetry(self.claim.run, self.slot.worker.rpartition("-")[2])
        self._checkpoint_blob = self.claim.run.checkpoint

    @property
    def lease(self) -> lease.Lease:
        return self.claim.lease

    def run(self) -> RunState | None:
        """Train, then end the run, requeue it, or leave it to its next holder.

        Returns the state in which this attempt left the run; None if the lease was lost.
        """
        crash_point("supervisor.after_claim")
        started = time.monotonic()
        state: RunState | None = None
        try:
            with disk_full_is_507():
                self.folder.mkdir(parents=True, exist_ok=True)
            state = self._train()
        except lease.LeaseLost:
            log.warning("lease lost", extra={"run": self.lease.run_id})
            self.slot.drop()
        except TrainerStopped:
            self.slot.drop()
            state = self._cancel_or_release()
        except AttemptFailed as failure:
            self.slot.drop()
            state = self._fail_or_requeue(failure)
        except ChannelClosed:
            state = self._fail_or_requeue(self._trainer_exit())
        except FitserveError as error:
            self.slot.drop()
            cause = FailureCause.disk_full if isinstance(error, StorageFull) else FailureCause.internal_error
            data = {"fix": error.fix} if error.fix else {}
            state = self._fail_or_requeue(AttemptFailed(cause, error.detail, data))
        except Exception as error:
            log.exception("attempt failed", extra={"run": self.lease.run_id})
            self.slot.drop()
            message = f"The worker failed: {type(error).__name__}"
            state = self._fail_or_requeue(AttemptFailed(FailureCause.internal_error, message))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            seconds = time.monotonic() - started
            self._metrics.attempt_over(state, seconds)
            extra = {"run": self.lease.run_id, "attempt": self.lease.attempt, "state": state, "s": round(seconds, 3)}
            log.info("attempt over", extra=extra)
        if state in TERMINAL:
            delete_blob(self.engine, self.blobs, self._checkpoint_blob)
            self.division.delete_files()
        return state

    # --- training --------------------------------------------------------------------------------------

    def _train(self) -> RunState | None:
        request = self._renewing_lease(self._request, FailureCause.bad_data)
        self.trainer = self.slot.trainer(self._housekeep)
        return self._finish(self.trainer, self._train_to_end(self.trainer, request))

    def _train_to_end(self, trainer: TrainerProcess, request: TrainingRequest) -> Message:
        """Have a trainer train, and return its last message."""
        trainer.channel.send({"type": "request", "request": request})
        self._progress_at = time.monotonic()
        while True:
            try:
                ended = self._receive(trainer)
            finally:
                self._store_checkpoint()  # also of a trainer that has just died
            if ended is not None:
                trainer.peak = max(trainer.peak, ended.get("peak", 0))
                return ended
            self._housekeep()

    def _receive(self, trainer: TrainerProcess) -> Message | None:
        """Handle every queued message; return the trainer's last message once it has arrived.

        Messages are handled in bulk, so that database round trips limit how often we write, not how fast epochs arrive.
        """
        deadline = time.monotonic() + BATCH_SECONDS
        message = trainer.receive(POLL_SECONDS)
        while message is not None:
            self._progress_at = time.monotonic()
            if message["type"] in ("done", "stopped", "failed"):
                return message
            self._handle(message)
            more = time.monotonic() < deadline and self._first_epoch != "pending"
            message = trainer.receive(0.0) if more else None
        return None

    def _request(self) -> TrainingRequest:
        """Build the trainer's request; its files are local and verified.

        Raises NotFound or Corrupt if the data are gone.
        """
        run, cache = self.claim.run, self.settings.scratch / "blobs"
        with db.reading(self.engine) as session:
            dataset = session.get(Dataset, run.dataset_id)
            if dataset is None:
                raise NotFound("The run's dataset is gone.")
            facts, table = store.facts_of(dataset), store.local_parquet(self.blobs, dataset, cache, again=True)
            searching = run.parent_id if run.kind == RunKind.trial else run.id
            begun = (
                [_as_row(trial) for trial in queries.trials(session, str(searching))]
                if run.resolved.get("search")
                else []
            )
        source, weights = self._initial_weights(cache)
        return TrainingRequest(
            run_id=run.id,
            attempt=self.lease.attempt,
            spec=run.resolved,  # `run.spec` is the spec as it was sent
            facts=facts.model_dump(mode="json"),
            table=table,
            folder=self.folder,
            checkpoint=local_or_none(self.blobs, run.checkpoint, cache),
            threads=self.settings.trainer_threads,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            trials=begun,
            pace=float((run.estimates or {}).get("pace") or 1.0),
            limits=self.settings.limits.model_dump(mode="json"),
            trial=run.spec["trial"] if run.kind == RunKind.trial else None,
            source=source,
            weights=weights,
        )

    def _initial_weights(self, cache: Path) -> tuple[Path | None, Path | None]:
        """Return the manifest and the weights of the artifact that the network starts from.

        Raises NotFound, Corrupt.
        """
        artifact = self.claim.run.initial_weights
        if artifact is None:
            return None, None
        weights = artifacts.read(self.blobs, artifact).file("weights").sha256
        return self.blobs.local(artifact, cache), self.blobs.local(weights, cache)

    def _handle(self, message: Message) -> None:
        """Queue a trainer's report, or answer its question. `_housekeep` writes the reports."""
        self._seq += 1
        kind = message["type"]
        if kind == "event":
            self._pending.append(EventReport(self._seq, message["level"], message["message"], message["data"]))
        elif kind == "epoch":
            values = {key: message[key] for key in ("trial", "epoch", "logs", "seconds", "layers")}
            self._pending.append(EpochReport(self._seq, **values))
            if self._first_epoch == "awaited":
                self._first_epoch = "pending"
            crash_point("supervisor.mid_epoch")
        elif kind == "checkpoint":
            if self._checkpoint_file is not None:
                self._checkpoint_file[0].unlink(missing_ok=True)  # superseded before it was stored
            self._checkpoint_file = Path(message["path"]), message["epoch"]
        elif kind == "search_trial":
            self._pending.append(TrialReport(self._seq, message["row"]))
        elif kind == "next_trial":
            self._assign_trial(message["remaining"])
        self._progress = True

    def _store_checkpoint(self) -> None:
        """Store the newest reported checkpoint, and write it together with all epochs before it.

        The blob is stored first, so that a row never refers to missing bytes.
        """
        if self._checkpoint_file is None:
            return
        (path, epoch), self._checkpoint_file = self._checkpoint_file, None
        stored = self._renewing_lease(lambda: self.blobs.put_file(path))
        path.unlink(missing_ok=True)
        self._new_checkpoint = lease.StoredCheckpoint(stored, epoch)
        self._write()

    def _assign_trial(self, remaining: list[int]) -> None:
        """Tell the trainer which trial is next, once all epochs of the trials handed over are queued for writing."""
        try:
            assignment = self._renewing_lease(lambda: self.division.assign(remaining))
            self._collect_divided_epochs()
        except (Unavailable, StorageFull):
            assignment = TrialAssignment()  # the trainer asks again
        if self.trainer is not None:
            self.trainer.channel.send({"type": "assignment", "assignment": assignment})

    def _collect_divided_epochs(self) -> None:
        """Queue the epochs of trials that other workers train: the run shows them too."""
        for row in self.division.new_epochs():
            self._seq += 1
            self._pending.append(EpochReport(self._seq, row.trial, row.epoch, row.logs, row.seconds, row.layers))

    # --- between two messages ---------------------------------------------------------------------------

    def _housekeep(self) -> None:
        """Write reports, renew the lease, forward a cancel or a shutdown, detect a stuck trainer.

        Raises AttemptFailed, TrainerStopped, LeaseLost.
        """
        now = time.monotonic()
        due = WRITE_SECONDS if self._pending else self.settings.heartbeat_seconds
        if now - self._written_at >= due or self._first_epoch == "pending":
            self._write()
        if now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._check_memory_and_cancel()
        stop = self._cancel_requested or self.stopping.is_set() or self._lease_is_over(now)
        if stop and self._stop_sent_at is None:
            self._stop_sent_at = now
            if self.trainer is None:
                raise TrainerStopped
            reason = "cancel" if self._cancel_requested else "release"
            self.trainer.channel.send({"type": "stop", "reason": reason})
        if self._stop_sent_at is not None:
            grace = CANCEL_GRACE_SECONDS if self._cancel_requested else self.settings.graceful_seconds
            if now - self._stop_sent_at > grace or self.stopping.hurried:
                raise TrainerStopped
        if self.trainer is not None and now - self._progress_at > self.settings.no_progress_seconds:
            seconds = round(now - self._progress_at)
            message = f"The trainer reported nothing for {seconds} s"
            raise AttemptFailed(FailureCause.no_progress, message, {"seconds": seconds})

    def _lease_is_over(self, now: float) -> bool:
        """Return whether our own clock says that the lease has expired: another worker may then claim the run."""
        return now - self._renewed_at > self.settings.lease_seconds

    def _write(self) -> None:
        """T3: renew the lease and write pending reports. While the database is unavailable, they stay pending."""
        began_at = time.monotonic()
        if self._first_epoch == "pending":
            self._first_epoch = "written"  # or it is retried with all others
        try:
            self._renew()
        except (Unavailable, StorageFull):
            log.warning("database unavailable; training continues", extra={"run": self.lease.run_id})
            began_at += RETRY_SECONDS
        self._written_at = began_at

    def _renew(self) -> None:
        """Renew the lease and write pending reports in one transaction. Raises LeaseLost, Unavailable, StorageFull."""
        batch, checkpoint, began_at = tuple(self._pending), self._new_checkpoint, time.monotonic()
        requested, epochs = lease.renew(
            self.engine,
            self.lease,
            lease_seconds=self.settings.lease_seconds,
            reports=batch,
            progress=self._progress,
            checkpoint=checkpoint,
            blobs=self.blobs,
        )
        self._renewed_at = began_at
        del self._pending[: len(batch)]
        self._progress = False
        if checkpoint is not None:
            self._new_checkpoint = None
            superseded, self._checkpoint_blob = self._checkpoint_blob, checkpoint.blob.sha256
            delete_blob(self.engine, self.blobs, superseded)
        self._metrics.epochs_committed(epochs, batch)
        if requested is not None:
            self._note_cancel()

    def _check_memory_and_cancel(self) -> None:
        if self.trainer is not None:
            resident = self.trainer.measure_memory()
            self._metrics.memory(resident)
            if resident > self.trainer.limit:
                raise memory_failure(self.trainer.peak, self.trainer.limit)
        try:
            if not self._cancel_requested and lease.cancel_requested(self.engine, self.lease):
                self._note_cancel()
            self._collect_divided_epochs()
        except Unavailable:
            pass  # the next check is soon

    def _note_cancel(self) -> None:
        if not self._cancel_requested:
            self._cancel_requested = True
            # A trainer that was asked to hand the run back is now asked to cancel it, with less time.
            self._stop_sent_at = None

    def _renewing_lease(self, work: Callable[[], T], cause: FailureCause | None = None) -> T:
        """Do slow work (disk, object store) in a thread while the lease is renewed.

        If `cause` is given, a FitserveError in the work fails the run with that cause, for good.
        """
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            while not future.done():
                if time.monotonic() - self._written_at >= self.settings.heartbeat_seconds:
                    self._write()
                wait([future], timeout=POLL_SECONDS)
            try:
                return future.result()
            except FitserveError as error:
                if cause is None or isinstance(error, StorageFull | Unavailable):
                    raise
                raise AttemptFailed(cause, error.detail, final=True) from error

    # --- the end ----------------------------------------------------------------------------------------

    def _finish(self, trainer: TrainerProcess, message: Message) -> RunState | None:
        """Commit the outcome that the trainer reported, then keep the trainer for the next run."""
        if message["type"] == "done":
            state = self._commit_result(decoded(TrainingResult, message["result"]))
        elif message["type"] == "stopped":
            state = self._cancel_or_release()
        elif message["cause"] == FailureCause.out_of_memory:
            failure = memory_failure(trainer.peak, trainer.limit)
            failure.data |= message["data"]
            state = self._fail_or_requeue(failure)
        else:
            cause = FailureCause(message["cause"])
            final = cause != FailureCause.disk_full
            failure = AttemptFailed(cause, message["message"], message["data"], final=final)
            state = self._fail_or_requeue(failure)
        self.slot.release(trainer)
        return state

    def _commit_result(self, result: TrainingResult) -> RunState | None:
        if OUT_OF_FOLD in result.files:
            result = self._renewing_lease(lambda: self._keep_out_of_fold(result))
        durable = self._renewing_lease(lambda: make_durable(self.blobs, self.claim.run, result))
        crash_point("supervisor.after_blobs")
        while True:
            try:
                return self._commit_end(
                    partial(durable.commit, self.engine, self.lease, self.blobs, tuple(self._pending))
                )
            except blob_references.BlobVanished:
                durable = self._renewing_lease(lambda: make_durable(self.blobs, self.claim.run, result))
            except finish.CancelledFirst:
                self._cancel_requested = True
                return self._cancel_or_release()
            except finish.IncompleteHistory as gap:
                return self._fail_or_requeue(AttemptFailed(FailureCause.incomplete_history, str(gap), start_over=True))
            except FitserveError as error:  # another run took the model's name meanwhile
                return self._fail_or_requeue(AttemptFailed(FailureCause.registration, error.detail, final=True))

    def _keep_out_of_fold(self, result: TrainingResult) -> TrainingResult:
        """Store the predictions for held-back rows as a dataset. Repeating this makes no second dataset."""
        run, files = self.claim.run, dict(result.files)
        path = files.pop(OUT_OF_FOLD)
        name = f"{run.resolved['dataset']['ref'].partition('@')[0][:50].lower()}-out-of-fold"
        try:
            dataset, _ = store.create(
                self.engine,
                self.blobs,
                store.ReceivedFile(path, sha256_of(path), path.stat().st_size, f"{name}.parquet"),
                owner=run.owner,
                options=UploadOptions(format="parquet"),
                limits=self.settings.limits,
                scratch=self.settings.scratch,
                name=name,
                as_version=True,
                origin={"out_of_fold": {"run": run.id}},
            )
        except BadInput as error:
            self._seq += 1
            message = f"The predictions out of the folds are not kept as a dataset: {error.detail}"
            self._pending.append(EventReport(self._seq, "warn", message, {}))
            return replace(result, files=files)
        own = {"dataset": f"{dataset.name}@{dataset.version}", "dataset_id": dataset.id, "rows": dataset.rows}
        return replace(result, files=files, result={**result.result, "out_of_fold": own})

    def _cancel_or_release(self) -> RunState | None:
        """Confirm a cancel (T9), or requeue the run on a graceful shutdown (T6)."""

        def end() -> RunState:
            if self._new_checkpoint is not None:
                with contextlib.suppress(blob_references.BlobVanished):  # collected meanwhile
                    self._renew()  # the next attempt resumes from it
                self._new_checkpoint = None
            ending = finish.confirm_cancel if self._cancel_requested else finish.release
            return ending(self.engine, self.lease, tuple(self._pending))

        return self._commit_end(end)

    def _fail_or_requeue(self, failure: AttemptFailed) -> RunState | None:
        """Fail the run if a retry would fail too (T5); else requeue it (T6), or fail it after the last attempt (T7)."""
        reason = (failure.cause, str(failure), failure.data, tuple(self._pending))
        if failure.final:
            state = self._commit_end(partial(finish.fail, self.engine, self.lease, *reason))
        else:
            lose = partial(finish.lose, self.engine, self.lease, self.settings.max_attempts, *reason)
            state = self._commit_end(partial(lose, start_over=failure.start_over))
        if state == RunState.failed:
            self._metrics.run_failed(failure.cause)
        return state

    def _commit_end(self, end_run: Callable[[], RunState]) -> RunState | None:
        return commit_outcome(self.engine, self.lease, end_run, self.stopping, self.settings.graceful_seconds)

    def _trainer_exit(self) -> AttemptFailed:
        """Return why the trainer closed its channel."""
        if self.trainer is None:
            failure = AttemptFailed(FailureCause.trainer_start, "No trainer process would start")
        else:
            code, kills = self.trainer.kill(), kernel_memory_kills() - self._kernel_kills
            failure = exit_failure(code, self.trainer.peak, self.trainer.limit, kills)
            if lines := self.trainer.output.last_lines():
                failure.data["last_lines"] = lines
        self.slot.drop()
        return failure


def _as_row(trial: Trial) -> dict[str, Any]:
    """Convert a search trial from the trainer's report to a database row."""
    names = ("trial", "state", "point", "value", "epochs", "best_epoch", "seconds", "reason", "rungs")
    return {**{name: getattr(trial, name) for name in names}, "values": trial.chosen}
