"""One attempt at one run, from the claim to its end: spawn, heartbeat, write down, commit."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine

from fitserve.blobs import BlobStore, disk_full_is_507
from fitserve.crash import crash_point
from fitserve.errors import FitserveError, StorageFull, Unavailable
from fitserve.runs import blob_references, finish, lease
from fitserve.runs.history import EpochReport, EventReport, Report
from fitserve.settings import Settings
from fitserve.states import TERMINAL, RunState
from workers.attempt.commit import make_durable
from workers.attempt.exit_cause import Death, cause_of_death, kernel_memory_kills, out_of_memory
from workers.attempt.job import job_for
from workers.attempt.metrics import Meters
from workers.attempt.outcome import RETRY_PAUSE, Ended, Ending, StoppedByUs
from workers.attempt.trial_division import Division
from workers.trainer.channel import ChannelClosed, Message, job_to_message, result_from_message, turn_to_message
from workers.trainer.job import Turn
from workers.trainer_process import Slot, TrainerProcess

log = logging.getLogger(__name__)

TURN = 0.05  # seconds that one turn of the loop waits for the trainer
WRITE_EVERY = 0.2  # seconds between two writes of what was reported
LOOK_EVERY = 1.0  # seconds between two looks for a cancel and at the trainer's memory
CANCEL_GRACE = 2.0  # seconds that a trainer has to obey a cancel
Answer = TypeVar("Answer")


@dataclass
class Attempt:
    """A claimed run in a slot. `run()` returns the state it left the run in, None where the run was lost."""

    settings: Settings
    engine: Engine
    blobs: BlobStore
    slot: Slot
    claim: lease.Claim
    stopping: threading.Event
    division: Division
    trainer: TrainerProcess | None = None
    folder: Path = field(init=False)
    _meters: Meters = field(init=False)
    _ending: Ending = field(init=False)
    _pending: list[Report] = field(default_factory=list)
    _checkpoint: lease.Checkpoint | None = None
    _kept_checkpoint: str | None = None
    _progress: bool = False
    _cancel: bool = False
    _seq: int = 0
    _kernel_kills: int = field(default_factory=kernel_memory_kills)
    _asked_at: float | None = None
    _beat_at: float = 0.0
    _look_at: float = 0.0
    _progress_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        held = self.claim.lease
        self.folder = self.settings.scratch / "runs" / f"{held.run_id}-{held.attempt}"
        self._meters = Meters(self.claim.run, self.slot.worker.rpartition("-")[2])
        self._ending = Ending(self.engine, held, self.stopping, self.settings.graceful_seconds)
        self._kept_checkpoint = self.claim.run.checkpoint
        self._beat_at = time.monotonic()

    @property
    def lease(self) -> lease.Lease:
        return self.claim.lease

    def run(self) -> RunState | None:
        """Trains; whatever happens, the run is left in a known state or belongs to somebody else."""
        crash_point("supervisor.after_claim")
        started = time.monotonic()
        state: RunState | None = None
        try:
            with disk_full_is_507():
                self.folder.mkdir(parents=True, exist_ok=True)
            state = self._train()
        except lease.LeaseLost:
            log.warning("the run is no longer ours", extra={"run": self.lease.run_id})
            self.slot.drop()
        except StoppedByUs:
            self.slot.drop()
            state = self._let_go()
        except Ended as ended:
            self.slot.drop()
            state = self._end_badly(ended)
        except FitserveError as error:
            self.slot.drop()
            full = isinstance(error, StorageFull)
            cause = "disk_full" if full else "internal_error"
            state = self._end_badly(Ended(cause, error.detail, {"fix": error.fix} if error.fix else {}))
        except ChannelClosed:
            death = self._post_mortem()
            state = self._end_badly(Ended(death.cause, death.message, death.data, final=death.final))
        except Exception as error:
            log.exception("an attempt broke off", extra={"run": self.lease.run_id})
            self.slot.drop()
            state = self._end_badly(Ended("internal_error", f"The worker failed: {type(error).__name__}"))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._account(state, time.monotonic() - started)
        self._forget_checkpoint(state)
        return state

    def _train(self) -> RunState | None:
        job = self._meanwhile_beating(
            lambda: job_for(self.settings, self.engine, self.blobs, self.claim, self.folder), "bad_data"
        )
        self.trainer = trainer = self.slot.trainer(self._turn)
        trainer.channel.send(job_to_message(job))
        self._progress_at = time.monotonic()
        while True:
            message = trainer.receive(TURN)
            if message is not None:
                self._progress_at = time.monotonic()
                if message["type"] in ("done", "stopped", "failed"):
                    trainer.peak = max(trainer.peak, message.get("peak", 0))
                    return self._finish(trainer, message)
                self._take(message)
            self._turn()

    def _take(self, message: Message) -> None:
        """Notes what the trainer said; `_turn` writes it down."""
        self._seq += 1
        kind = message["type"]
        if kind == "event":
            self._pending.append(EventReport(self._seq, message["level"], message["message"], message["data"]))
        elif kind == "epoch":
            values = {key: message[key] for key in ("trial", "epoch", "logs", "seconds", "layers")}
            self._pending.append(EpochReport(self._seq, **values))
            crash_point("supervisor.mid_epoch")
        elif kind == "checkpoint":
            path, epoch = Path(message["path"]), message["epoch"]
            stored = self._meanwhile_beating(lambda: self.blobs.put_file(path))
            path.unlink(missing_ok=True)
            self._checkpoint = lease.Checkpoint(stored, epoch)
            self._write()  # blobs first, so that what is written never points to nothing
        elif kind == "turn":
            self._answer(message["todo"])
        self._progress = True

    def _answer(self, todo: list[int]) -> None:
        """Says which trial is next, having noted every epoch of those that are handed over."""
        try:
            turn = self._meanwhile_beating(lambda: self.division.turn(todo))
            self._note_epochs()
        except (Unavailable, StorageFull):
            turn = Turn()  # it will ask again
        if self.trainer is not None:
            self.trainer.channel.send(turn_to_message(turn))

    def _note_epochs(self) -> None:
        """Epochs of trials that other workers train are epochs of this run."""
        for row in self.division.new_epochs():
            self._seq += 1
            self._pending.append(EpochReport(self._seq, row.trial, row.epoch, row.logs, row.seconds, row.layers))

    def _turn(self) -> None:
        """Between two messages: write, keep the lease, look for a cancel, obey a stop. Raises Ended, LeaseLost."""
        now = time.monotonic()
        due = WRITE_EVERY if self._pending else self.settings.heartbeat_seconds
        if now - self._beat_at >= due:
            self._write()
        if now - self._look_at >= LOOK_EVERY:
            self._look_at = now
            self._look()
        if (self._cancel or self.stopping.is_set()) and self._asked_at is None:
            self._asked_at = now
            if self.trainer is None:
                raise StoppedByUs
            self.trainer.channel.send({"type": "stop", "why": "cancel" if self._cancel else "hand_back"})
        if self._asked_at is not None:
            grace = CANCEL_GRACE if self._cancel else self.settings.graceful_seconds
            if now - self._asked_at > grace:
                raise StoppedByUs
        if self.trainer is not None and now - self._progress_at > self.settings.no_progress_seconds:
            seconds = round(now - self._progress_at)
            raise Ended("no_progress", f"The trainer reported nothing for {seconds} s", {"seconds": seconds})

    def _write(self) -> None:
        """T3. Where the database is away, everything stays pending and is tried again."""
        batch, checkpoint = tuple(self._pending), self._checkpoint
        self._beat_at = time.monotonic()
        try:
            requested, epochs = lease.beat(
                self.engine,
                self.lease,
                lease_seconds=self.settings.lease_seconds,
                reports=batch,
                progress=self._progress,
                checkpoint=checkpoint,
                blobs=self.blobs,
            )
        except (Unavailable, StorageFull):
            log.warning("the database is away; the run goes on", extra={"run": self.lease.run_id})
            self._beat_at += RETRY_PAUSE
            return
        del self._pending[: len(batch)]
        self._progress = False
        if checkpoint is not None:
            self._checkpoint = None
            superseded, self._kept_checkpoint = self._kept_checkpoint, checkpoint.blob.sha256
            self._discard(superseded)
        self._meters.written(epochs, batch)
        if requested is not None:
            self._note_cancel()

    def _look(self) -> None:
        if self.trainer is not None:
            resident = self.trainer.look_at_memory()
            self._meters.memory(resident)
            if resident > self.trainer.limit:
                raise Ended("out_of_memory", *out_of_memory(self.trainer.peak, self.trainer.limit), final=True)
        try:
            if not self._cancel and lease.cancel_requested(self.engine, self.lease):
                self._note_cancel()
            self._note_epochs()
        except Unavailable:
            pass  # the next look will do

    def _note_cancel(self) -> None:
        if not self._cancel:
            self._cancel = True
            self._asked_at = None  # a trainer that was asked to hand back is asked again, with less patience

    def _finish(self, trainer: TrainerProcess, message: Message) -> RunState | None:
        """The trainer has ended by itself: commit what it made of the run, then let it wait for the next."""
        if message["type"] == "done":
            state = self._commit(message)
        elif message["type"] == "stopped":
            state = self._let_go()
        else:
            cause, data = message["cause"], dict(message["data"])
            text = message["message"]
            if cause == "out_of_memory":
                text, more = out_of_memory(trainer.peak, trainer.limit)
                data = {**more, **data}
            state = self._end_badly(Ended(cause, text, data, final=cause != "disk_full"))
        self.slot.release(trainer)
        return state

    def _commit(self, message: Message) -> RunState | None:
        result = result_from_message(message)
        durable = self._meanwhile_beating(lambda: make_durable(self.blobs, self.claim.run, result))
        crash_point("supervisor.after_blobs")
        while True:
            try:
                return self._ending.decide(
                    partial(durable.commit, self.engine, self.lease, self.blobs, self._reports())
                )
            except blob_references.BlobVanished:
                durable = self._meanwhile_beating(lambda: make_durable(self.blobs, self.claim.run, result))
            except finish.CancelledFirst:
                self._cancel = True
                return self._let_go()
            except FitserveError as error:  # the model's name was taken meanwhile
                return self._end_badly(Ended("registration", error.detail, final=True))

    def _let_go(self) -> RunState | None:
        """T9 or T6: cancelled, or handed back because this worker stops."""
        if self._cancel:
            return self._ending.decide(lambda: finish.cancelled(self.engine, self.lease, self._reports()))
        return self._ending.decide(lambda: finish.hand_back(self.engine, self.lease, self._reports()))

    def _end_badly(self, ended: Ended) -> RunState | None:
        """T5 where training again would end the same way, else T6 or T7."""
        cause, text, data, reports = ended.cause, str(ended), ended.data, self._reports()
        if ended.final:
            state = self._ending.decide(lambda: finish.fail(self.engine, self.lease, cause, text, data, reports))
        else:
            most = self.settings.max_attempts
            state = self._ending.decide(lambda: finish.lose(self.engine, self.lease, most, cause, text, data, reports))
        if state == RunState.failed:
            self._meters.failed(cause)
        return state

    def _reports(self) -> tuple[Report, ...]:
        return tuple(self._pending)

    def _post_mortem(self) -> Death:
        """Why the trainer has gone."""
        if self.trainer is None:
            self.slot.drop()
            return Death("trainer_start", "No trainer process would start", {}, final=False)
        code = self.trainer.kill()
        death = cause_of_death(code, self.trainer.peak, self.trainer.limit, kernel_memory_kills() - self._kernel_kills)
        self.slot.drop()
        return death

    def _meanwhile_beating(self, work: Callable[[], Answer], cause: str | None = None) -> Answer:
        """Does slow work (disk, object store) while the lease is kept. A FitserveError ends the run with `cause`."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            while not future.done():
                if time.monotonic() - self._beat_at >= self.settings.heartbeat_seconds:
                    self._write()
                wait([future], timeout=TURN)
            try:
                return future.result()
            except FitserveError as error:
                if cause is None or isinstance(error, StorageFull | Unavailable):
                    raise
                raise Ended(cause, error.detail, final=True) from error

    def _discard(self, sha256: str | None) -> None:
        if sha256 is None:
            return
        try:
            blob_references.discard(self.engine, self.blobs, sha256)
        except (FitserveError, OSError):
            log.info("a superseded checkpoint stays until it is collected")

    def _forget_checkpoint(self, state: RunState | None) -> None:
        if state in TERMINAL:
            self._discard(self._kept_checkpoint)
            self.division.forget()

    def _account(self, state: RunState | None, seconds: float) -> None:
        self._meters.over(state, seconds)
        log.info(
            "attempt over",
            extra={"run": self.lease.run_id, "attempt": self.lease.attempt, "state": state, "s": round(seconds, 3)},
        )
