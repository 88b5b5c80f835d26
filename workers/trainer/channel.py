"""What supervisor and trainer say to each other: JSON lines over a socket pair of their own.

From the trainer: `ready`, `event`, `epoch`, `progress`, `checkpoint`, `turn`, and one of `done`, `stopped`, `failed`.
From the supervisor: `job`, `stop`, and a `turn` in answer to each. End of file either way means that the other one
has gone.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Literal

from workers.trainer.job import KeptEpoch, Stop, TrainingJob, TrainingResult, Turn

Message = dict[str, Any]
LONGEST_MESSAGE: Final = 64 * 1024 * 1024  # bytes of one line; a manifest of a wide dataset is a few MB
_PROGRESS_EVERY = 0.5  # seconds between two signs of life; more say nothing new


class ChannelClosed(Exception):
    """The other process has gone."""


class Channel:
    """One end of the socket pair. `send` may be called by one thread, `receive` by another."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._buffer = bytearray()
        self._lines: deque[bytes] = deque()

    def send(self, message: Message) -> None:
        """Sends one message. Raises ChannelClosed."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, timeout: float) -> Message | None:
        """The next message, or None after `timeout` seconds. Raises ChannelClosed."""
        deadline = time.monotonic() + timeout
        while not self._lines:
            ready, _, _ = select.select([self.socket], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            self._fill()
        message = json.loads(self._lines.popleft())
        if not isinstance(message, dict):
            raise ChannelClosed
        return message

    def _fill(self) -> None:
        try:
            data = self.socket.recv(1024 * 1024)
        except OSError as error:
            raise ChannelClosed from error
        if not data or len(self._buffer) > LONGEST_MESSAGE:
            raise ChannelClosed
        self._buffer += data
        *whole, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        self._lines.extend(bytes(line) for line in whole if line)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()


class ChannelReporter:
    """The Reporter that a trainer is given: every call puts a message into a queue and returns at once.

    So a supervisor that is paused does not hold up training; what was reported waits for it.
    """

    def __init__(self, outgoing: Outgoing, on_epoch: Callable[[], None] = lambda: None) -> None:
        self._outgoing = outgoing
        self._on_epoch = on_epoch
        self._stop: Stop = ""
        self._last_progress = 0.0
        self._turns: SimpleQueue[Turn] = SimpleQueue()

    def event(self, level: Literal["info", "warn", "error"], message: str, data: dict[str, Any] | None = None) -> None:
        self._outgoing.put({"type": "event", "level": level, "message": message, "data": data or {}})

    def epoch(
        self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: dict[str, Any] | None = None
    ) -> None:
        plain = {key: float(value) for key, value in logs.items()}
        report = {"trial": trial, "epoch": epoch, "logs": plain, "seconds": seconds, "layers": layers}
        self._outgoing.put({"type": "epoch", **report})
        self._on_epoch()

    def progress(self) -> None:
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_EVERY:
            self._last_progress = now
            self._outgoing.put({"type": "progress"})

    def checkpoint(self, path: Path, epoch: int) -> None:
        self._outgoing.put({"type": "checkpoint", "path": str(path), "epoch": epoch})

    def turn(self, todo: Sequence[int]) -> Turn:
        self._outgoing.put({"type": "turn", "todo": list(todo)})
        return self._turns.get()

    def answer(self, turn: Turn) -> None:
        """From the thread that listens to the supervisor."""
        self._turns.put(turn)

    def stop(self) -> Stop:
        return self._stop

    def ask_to_stop(self, why: Stop) -> None:
        """From the thread that listens to the supervisor. A cancel outweighs a hand-back."""
        if self._stop != "cancel":
            self._stop = why


class Outgoing:
    """A thread that sends what was put; the putter never waits."""

    def __init__(self, channel: Channel, on_closed: Callable[[], None]) -> None:
        self._channel = channel
        self._on_closed = on_closed
        self._messages: deque[Message] = deque()
        self._wake = threading.Condition()
        self._idle = True
        threading.Thread(target=self._run, name="outgoing", daemon=True).start()

    def put(self, message: Message) -> None:
        with self._wake:
            self._messages.append(message)
            self._wake.notify_all()

    def drain(self) -> None:
        """Returns when all that was put has been sent."""
        with self._wake:
            self._wake.wait_for(lambda: not self._messages and self._idle)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._idle = True
                self._wake.notify_all()
                self._wake.wait_for(lambda: bool(self._messages))
                message = self._messages.popleft()
                self._idle = False
            try:
                self._channel.send(message)
            except ChannelClosed:
                self._on_closed()
                return


def job_to_message(job: TrainingJob) -> Message:
    """As JSON: paths become strings."""
    return {
        "type": "job",
        "run_id": job.run_id,
        "attempt": job.attempt,
        "spec": job.spec,
        "facts": job.facts,
        "table": str(job.table),
        "folder": str(job.folder),
        "checkpoint": str(job.checkpoint) if job.checkpoint else None,
        "threads": job.threads,
        "checkpoint_seconds": job.checkpoint_seconds,
        "trial": job.trial,
    }


def job_from_message(message: Message) -> TrainingJob:
    """The inverse of `job_to_message`."""
    fields = {key: value for key, value in message.items() if key != "type"}
    checkpoint = fields.pop("checkpoint")
    table, folder = Path(fields.pop("table")), Path(fields.pop("folder"))
    return TrainingJob(**fields, table=table, folder=folder, checkpoint=Path(checkpoint) if checkpoint else None)


def turn_to_message(turn: Turn) -> Message:
    """As JSON: paths become strings."""
    checkpoint = str(turn.checkpoint) if turn.checkpoint else None
    done = {str(trial): str(path) for trial, path in turn.done.items()}
    return {"type": "turn", "trial": turn.trial, "checkpoint": checkpoint, "done": done}


def turn_from_message(message: Message) -> Turn:
    """The inverse of `turn_to_message`."""
    checkpoint = message["checkpoint"]
    done = {int(trial): Path(path) for trial, path in message["done"].items()}
    return Turn(message["trial"], Path(checkpoint) if checkpoint else None, done)


def result_to_message(result: TrainingResult) -> Message:
    """As JSON: the files stay on disk and go by their paths."""
    kept = {str(epoch): {"files": _texts(one.files), "manifest": one.manifest} for epoch, one in result.kept.items()}
    return {
        "type": "done",
        "files": _texts(result.files),
        "manifest": result.manifest,
        "result": result.result,
        "kept": kept,
    }


def result_from_message(message: Message) -> TrainingResult:
    """The inverse of `result_to_message`."""
    kept = {int(epoch): KeptEpoch(_paths(one["files"]), one["manifest"]) for epoch, one in message["kept"].items()}
    return TrainingResult(_paths(message["files"]), message["manifest"], message["result"], kept)


def _texts(files: dict[str, Path]) -> dict[str, str]:
    return {kind: str(path) for kind, path in files.items()}


def _paths(files: dict[str, str]) -> dict[str, Path]:
    return {kind: Path(path) for kind, path in files.items()}
