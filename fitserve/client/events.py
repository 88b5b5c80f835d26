"""Server-sent events (WHATWG HTML, 9.2): a parser, and a stream that reconnects after a lost connection."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from fitserve.client.connection import Connection, chunks, pause
from fitserve.client.errors import Unreachable
from fitserve.errors import FitserveError, Unavailable

T = TypeVar("T")
_LARGEST_LINE = 16 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; a `Last-Event-ID` of its `id` resumes after it."""

    data: str
    type: str = "message"
    id: str = ""


class EventReader:
    """A parser that turns a stream's chunks into events, wherever the chunks are cut."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: float | None = None  # seconds, where the server asked for a pause before reconnecting
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._rest = ""
        self._data: list[str] = []
        self._type = ""

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """Yield the events that this chunk completes. Raises Unavailable for a line without end."""
        text = self._rest + self._decoder.decode(chunk)
        incomplete = text.endswith("\r")  # a line feed may follow in the next chunk
        body = text[:-1] if incomplete else text
        *lines, rest = body.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = rest + ("\r" if incomplete else "")
        if len(self._rest) > _LARGEST_LINE:
            raise Unavailable("The event stream holds a line without end.")
        for line in lines:
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                yield event

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        elif name == "retry" and value.isdecimal():
            self.retry = int(value) / 1000

    def _dispatch(self) -> ServerEvent | None:
        data, kind = self._data, self._type
        self._data, self._type = [], ""
        return ServerEvent("\n".join(data), kind or "message", self.last_id) if data else None


def follow(
    connection: Connection,
    path: str,
    *,
    after: str,
    read: Callable[[ServerEvent], T],
    is_last: Callable[[T], bool],
    silence: float,
    on_lost: Callable[[FitserveError], None] | None = None,
) -> Iterator[T]:
    """Yield `read(event)` for each event of a stream until `is_last` holds, reconnecting after lost connections.

    No event is missed or repeated. Raises the server's error, or Unreachable after `silence` seconds of trying without
    an event or a heartbeat.
    """
    waited, retry = 0.0, 0
    while True:
        reader = EventReader()
        reader.last_id = after
        error: FitserveError = Unreachable("The event stream ended early.")
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after:
            headers["Last-Event-ID"] = after
        try:
            with connection.stream("GET", path, headers=headers) as response:
                if response.status_code == 204:  # the specification's "do not reconnect"
                    return
                for chunk in chunks(response):
                    waited, retry = 0.0, 0
                    for event in reader.feed(chunk):
                        after, value = event.id, read(event)
                        yield value
                        if is_last(value):
                            return
        except FitserveError as raised:
            if not connection.policy.covers(raised, repeatable=True):
                raise
            error = raised
        if waited >= silence:
            raise error
        if on_lost is not None:
            on_lost(error)
        seconds = max(reader.retry or 0.0, connection.policy.pause_before(retry, error.retry_after))
        pause(seconds)
        waited, retry = waited + seconds, retry + 1
