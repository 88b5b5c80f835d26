"""The connection between supervisor and trainer: JSON lines over a socket pair.

From the trainer: `ready`, `event`, `epoch`, `progress`, `checkpoint`, `search_trial`, `next_trial`, `idle`, and one of
`done`, `stopped`, `failed`. From the supervisor: `request`, `stop`, and an `assignment` in answer to each `next_trial`.
End of file means that the other process has exited.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Queue, SimpleQueue
from typing import Any, Final, Literal, TypeVar

from workers.trainer.interface import StopReason, TrialAssignment

Message = dict[str, Any]
T = TypeVar("T")
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024  # most bytes of one line; the manifest of a wide dataset takes a few MB
_PROGRESS_SECONDS = 0.5  # between two `progress` messages; the supervisor needs no more


class ChannelClosed(Exception):
    """The other process has exited."""


class Channel:
    """One end of the socket pair. `send` may be called by one thread, `receive` by another."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._buffer = bytearray()
        self._lines: deque[bytes] = deque()

    def send(self, message: Message) -> None:
        """Send one message. Paths become strings, dataclasses objects. Raises ChannelClosed."""
        try:
            self.socket.sendall(json.dumps(message, default=_to_json).encode() + b"\n")
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, timeout: float) -> Message | None:
        """Return the next message, or None after `timeout` seconds. Raises ChannelClosed."""
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
        if not data or len(self._buffer) > MAX_MESSAGE_BYTES:
            raise ChannelClosed
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        self._lines.extend(bytes(line) for line in lines if line)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()


def _to_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value):  # not `asdict`, which would copy a manifest of megabytes
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be sent")


def decoded(cls: type[T], fields: Any) -> T:
    """Rebuild a dataclass from the JSON object that `Channel.send` made of it."""
    from pydantic import TypeAdapter  # not at the top: a trainer imports it in its sandbox

    return TypeAdapter(cls).validate_python(fields)


class Sender:
    """A thread that sends queued messages. Queueing never waits, so a paused supervisor doesn't hold up training."""

    def __init__(self, channel: Channel, on_closed: Callable[[], None]) -> None:
        self._channel = channel
        self._on_closed = on_closed
        self._messages: Queue[Message] = Queue()
        self.put = self._messages.put
        self.drain = self._messages.join  # waits until every queued message is sent
        threading.Thread(target=self._run, name="sender", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self._channel.send(self._messages.get())
            except ChannelClosed:
                self._on_closed()
                return
            self._messages.task_done()


class ChannelReporter:
    """The Reporter of a trainer process."""

    def __init__(self, sender: Sender, on_epoch: Callable[[], None] = lambda: None) -> None:
        self._sender = sender
        self._on_epoch = on_epoch
        self._stop: StopReason = ""
        self._progress_at = 0.0
        self._assignments: SimpleQueue[TrialAssignment] = SimpleQueue()

    def event(self, level: Literal["info", "warn", "error"], message: str, data: dict[str, Any] | None = None) -> None:
        self._sender.put({"type": "event", "level": level, "message": message, "data": data or {}})

    def epoch(
        self, trial: int, epoch: int, logs: dict[str, float], seconds: float, layers: dict[str, Any] | None = None
    ) -> None:
        plain = {key: float(value) for key, value in logs.items()}  # NumPy's numbers cannot be written as JSON
        report = {"trial": trial, "epoch": epoch, "logs": plain, "seconds": seconds, "layers": layers}
        self._sender.put({"type": "epoch", **report})
        self._on_epoch()

    def search_trial(self, row: dict[str, Any]) -> None:
        self._sender.put({"type": "search_trial", "row": row})

    def progress(self) -> None:
        now = time.monotonic()
        if now - self._progress_at >= _PROGRESS_SECONDS:
            self._progress_at = now
            self._sender.put({"type": "progress"})

    def checkpoint(self, path: Path, epoch: int) -> None:
        self._sender.put({"type": "checkpoint", "path": path, "epoch": epoch})

    def next_trial(self, remaining: Sequence[int]) -> TrialAssignment:
        self._sender.put({"type": "next_trial", "remaining": list(remaining)})
        return self._assignments.get()

    def stop(self) -> StopReason:
        return self._stop

    def receive_assignment(self, assignment: TrialAssignment) -> None:
        """Called by the thread that listens to the supervisor."""
        self._assignments.put(assignment)

    def request_stop(self, reason: StopReason) -> None:
        """Called by the thread that listens to the supervisor. A cancel overrides a hand-back."""
        if self._stop != "cancel":
            self._stop = reason
