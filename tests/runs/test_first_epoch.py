"""An attempt writes a run's first epoch at once: people watch for it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fitserve import db
from fitserve.blobs import FolderStore
from fitserve.runs import lease, queries
from fitserve.settings import Settings
from tests.runs.conftest import Submit
from tests.waiting import wait_until
from workers.attempt import attempt
from workers.attempt.attempt import Stopping, TrainerAttempt
from workers.attempt.trial_division import TrialDivision
from workers.trainer.channel import Channel, Message
from workers.trainer_process import TrainerSlot


class HandDrivenTrainer:
    """The supervisor's side of a trainer whose messages the test sends."""

    limit, peak = 2**40, 0

    def __init__(self, end: socket.socket) -> None:
        self.channel = Channel(end)
        self.receive = self.channel.receive

    def measure_memory(self) -> int:
        return 0


class HandDrivenSlot(TrainerSlot):
    """A slot with that trainer."""

    def __init__(self, settings: Settings, spawner: ThreadPoolExecutor, trainer: HandDrivenTrainer) -> None:
        super().__init__(settings, spawner, "worker-0")
        self.own = trainer

    def trainer(self, *_: Any, **__: Any) -> Any:
        return self.own

    def release(self, trainer: Any) -> None:
        """Keep it: the test ends it."""


def _epoch(epoch: int) -> Message:
    return {"type": "epoch", "trial": 0, "epoch": epoch, "logs": {"loss": 1.0}, "seconds": 0.1, "layers": None}


def test_the_first_epoch_is_written_at_once_and_later_ones_together(
    engine: Engine,
    store: FolderStore,
    submit: Submit,
    claim: Callable[..., lease.Claim | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempt, "WRITE_SECONDS", 3600.0)
    run_id = submit().id
    held = claim(seconds=600)
    assert held is not None

    def written() -> list[int]:
        with db.reading(engine) as session:
            return [row.epoch for row in queries.epochs(session, run_id)]

    ours, theirs = socket.socketpair()
    settings = Settings(home=tmp_path / "home")
    trainer = Channel(theirs)
    with ThreadPoolExecutor(2) as pool:
        slot = HandDrivenSlot(settings, pool, HandDrivenTrainer(ours))
        division = TrialDivision(settings, engine, store, held, slot.worker, lambda _: False)
        one = TrainerAttempt(settings, engine, store, slot, held, Stopping(), division)
        ended = pool.submit(one.run)
        try:
            assert trainer.receive(600) is not None  # the request
            trainer.send({"type": "event", "level": "info", "message": "Training", "data": {}})
            trainer.send(_epoch(1))
            wait_until(lambda: written() == [1], "the first epoch is there")
            trainer.send(_epoch(2))
            trainer.send({"type": "failed", "cause": "diverged", "message": "enough", "data": {}, "peak": 0})
            assert ended.result() == "failed"
        finally:
            theirs.close()
    assert written() == [1, 2]
