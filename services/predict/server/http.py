"""One HTTP request of the data plane, and its answer: the plainest shapes that do."""

from __future__ import annotations

import math
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fitserve.errors import Malformed, TooLarge, UnsupportedMedia

JSON = b"application/json"
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ClientGone(Exception):
    """The client closed the connection before its request was whole."""


@dataclass(slots=True)
class Call:
    """A request. `path` is decoded; header names are lower case."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    receive: Receive
    now: float  # the event loop's time at arrival
    most_bytes: int

    def header(self, name: bytes) -> str | None:
        """A header's text."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def media_type(self) -> str:
        return (self.header(b"content-type") or "").partition(";")[0].strip().lower()

    def deadline(self) -> float | None:
        """The event loop's time by which the client wants its answer. Raises Malformed.

        `X-Request-Timeout-Ms` in milliseconds, or gRPC's `grpc-timeout` (`100m` is 100 milliseconds).
        """
        text, unit = self.header(b"x-request-timeout-ms"), 1e-3
        if text is None:
            text = self.header(b"grpc-timeout")
            if text is None:
                return None
            unit = _UNITS.get(text[-1:], math.nan)
            text = text[:-1]
        if not text.isdecimal() or len(text) > 12 or unit != unit:
            raise Malformed("The timeout cannot be read.", received=text[:40], expected="X-Request-Timeout-Ms: 250")
        return self.now + int(text) * unit

    async def body(self) -> bytes:
        """The whole body, unpacked. Raises TooLarge, Malformed, UnsupportedMedia, ClientGone."""
        length = self.headers.get(b"content-length")
        if length is not None and int(length) > self.most_bytes:
            raise self._too_large()
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await self._rest(body)
        if len(body) > self.most_bytes:
            raise self._too_large()
        encoding = self.header(b"content-encoding")
        return body if encoding in (None, "identity") else self._unpacked(body, str(encoding).lower())

    async def _rest(self, first: bytes) -> bytes:
        parts, count = [first], len(first)
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            count += len(parts[-1])
            if count > self.most_bytes:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    def _unpacked(self, body: bytes, encoding: str) -> bytes:
        if encoding not in ("gzip", "deflate"):
            raise UnsupportedMedia("This content encoding is not understood.", received=encoding[:40])
        unpacker = zlib.decompressobj(47)  # gzip or zlib, by its head
        try:
            plain = unpacker.decompress(body, self.most_bytes + 1)
        except zlib.error:
            raise Malformed(f"The body is not {encoding}.") from None
        if len(plain) > self.most_bytes:
            raise self._too_large()
        if not unpacker.eof:
            raise Malformed(f"The {encoding} body is cut short.")
        return plain

    def _too_large(self) -> TooLarge:
        return TooLarge("The request is too large.", expected=f"at most {self.most_bytes} bytes")


_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(slots=True)
class Answer:
    """What goes back. Content-Type and Content-Length come first, then `headers`."""

    body: bytes
    status: int = 200
    media_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def send(self, send: Send, head_only: bool = False) -> None:
        """Writes it as ASGI messages."""
        headers = [(b"content-type", self.media_type), (b"content-length", str(len(self.body)).encode())]
        start = {"type": "http.response.start", "status": self.status, "headers": headers + self.headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"" if head_only else self.body})
