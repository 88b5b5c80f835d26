"""Server-sent events (WHATWG HTML, 9.2): bytes in, events out, and a stream that comes back after a lost connection."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from fitserve.client.effects import Answer, Call, Item, Listing, Open, Read, Sleep
from fitserve.client.errors import Unreachable, error_of
from fitserve.client.retry import Patience, worth_repeating
from fitserve.errors import FitserveError, Unavailable

T = TypeVar("T")
_LARGEST_LINE = 16 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event as it came: `id` is what `Last-Event-ID` resumes after."""

    data: str
    type: str = "message"
    id: str = ""


class EventReader:
    """Turns the chunks of a stream into events, whatever the chunks' bounds."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: float | None = None  # seconds, where the server asked for a pause before reconnecting
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._rest = ""
        self._data: list[str] = []
        self._type = ""

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that this chunk completes. Raises Unavailable for a line without end."""
        text = self._rest + self._decoder.decode(chunk)
        keep = text.endswith("\r")  # a line feed may follow in the next chunk
        body = text[:-1] if keep else text
        *lines, rest = body.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = rest + ("\r" if keep else "")
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
    call: Call,
    *,
    after: str,
    read: Callable[[ServerEvent], T],
    ended: Callable[[T], bool],
    patience: Patience,
    silence: float,
    on_lost: Callable[[FitserveError], None] | None = None,
) -> Listing[T]:
    """Emits what `read` makes of a stream's events until `ended` says that one was the last, reconnecting after losses.

    Nothing is missed and nothing comes twice. Raises the server's error, or Unreachable when no event and no
    heartbeat came for `silence` seconds of trying.
    """
    waited, attempt = 0.0, 0
    while True:
        reader = EventReader()
        reader.last_id = after
        error: FitserveError = Unreachable("The event stream ended early.")
        try:
            answer: Answer = yield Open(replace(call, headers={**call.headers, **_resume(after)}))
            if answer.status >= 400:
                raise error_of(answer)
            if answer.status == 204:  # the specification's "do not reconnect"
                return
            while chunk := (yield Read()):
                waited, attempt = 0.0, 0
                for event in reader.feed(chunk):
                    after, found = event.id, read(event)
                    yield Item(found)
                    if ended(found):
                        return
        except FitserveError as raised:
            if not worth_repeating(raised, call, patience):
                raise
            error = raised
        if waited >= silence:
            raise error
        if on_lost is not None:
            on_lost(error)
        pause = max(reader.retry or 0.0, patience.pause(attempt, error.retry_after))
        yield Sleep(pause)
        waited, attempt = waited + pause, attempt + 1


def _resume(after: str) -> dict[str, str]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    return {**headers, "Last-Event-ID": after} if after else headers
