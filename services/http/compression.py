"""Compress responses according to Accept-Encoding (RFC 9110, 12.5.3), and support HEAD wherever there is GET."""

from __future__ import annotations

import gzip
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAST_BYTES = 1_000  # smaller responses fit one packet anyway
AT_ONCE_BYTES = 64 * 1024  # larger responses are compressed on a thread
_TYPES = ("application/json", "application/problem+json", "application/javascript", "image/svg+xml", "text/")
_NEVER = ("text/event-stream",)  # each event must be sent immediately


@lru_cache(1024)
def accepted(header: str, offered: tuple[str, ...] = ("gzip", "zstd")) -> str | None:
    """Return the offered encoding that the client prefers (of ties, the last); None if it accepts none."""
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, _, parameters = part.partition(";")
        weight_text = parameters.replace(" ", "").removeprefix("q=") if parameters.strip().startswith("q") else "1"
        try:
            weights[name.strip().removeprefix("x-")] = float(weight_text)
        except ValueError:
            continue
    anything = weights.get("*", 0.0)
    acceptable = [(weights.get(name, anything), place) for place, name in enumerate(offered)]
    weight, place = max(acceptable)
    return offered[place] if weight > 0 and weight >= weights.get("identity", 0.0) else None


def compressed(body: bytes, encoding: str) -> bytes:
    """Compress a whole body."""
    if encoding == "zstd":
        import pyarrow as pa  # imported here to save memory, as the prediction service needs it for nothing else

        return bytes(pa.Codec("zstd", compression_level=3).compress(body, asbytes=True))
    return gzip.compress(body, 4, mtime=0)


class ClientEncoding:
    """Pure ASGI middleware: answers HEAD as GET without the body, and compresses whole answers of text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD" and not _has_route(scope):
            await self._head(scope, receive, send)
            return
        headers = dict(scope["headers"])
        encoding = accepted(headers.get(b"accept-encoding", b"").decode("latin-1"))
        if encoding is None:
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _Compressor(send, encoding).send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the status and headers of GET's answer, without waiting for its body."""
        ended, inner = False, {**scope, "method": "GET"}

        async def head_only(message: Message) -> None:
            nonlocal ended
            if ended:
                return
            # Outer middleware reads what inner code has added to the scope, such as the route.
            scope.update({key: value for key, value in inner.items() if key != "method"})
            await send(message if message["type"] == "http.response.start" else {"type": "http.response.body"})
            ended = message["type"] != "http.response.start"

        await self.app(inner, receive, head_only)


def _has_route(scope: Scope) -> bool:
    """Return whether a route handles HEAD itself, as resumable uploads do."""
    return any(route.matches(scope)[0] == Match.FULL for route in scope["app"].routes)


class _Compressor:
    """Holds a response's headers back until its body begins: a single message is compressed, streams are not."""

    def __init__(self, send: Send, encoding: str) -> None:
        self._send, self._encoding = send, encoding
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if _may_be_compressed(message):
                self._start = message
                return
        elif self._start is not None:
            start, self._start = self._start, None
            message = await self._with_body(start, message)
            await self._send(start)
        await self._send(message)

    async def _with_body(self, start: Message, message: Message) -> Message:
        body = message.get("body", b"")
        headers = MutableHeaders(scope=start)
        headers.add_vary_header("Accept-Encoding")
        if message.get("more_body") or len(body) < LEAST_BYTES:
            return message
        if len(body) > AT_ONCE_BYTES:
            body = await run_in_threadpool(compressed, body, self._encoding)
        else:
            body = compressed(body, self._encoding)
        headers["Content-Encoding"] = self._encoding
        headers["Content-Length"] = str(len(body))
        if headers.get("ETag", "").startswith('"'):  # a weak ETag: the same content in other bytes
            headers["ETag"] = f"W/{headers['ETag']}"
        return {**message, "body": body}


def _may_be_compressed(start: Message) -> bool:
    headers: dict[bytes, Any] = dict(start["headers"])
    kind = headers.get(b"content-type", b"").decode("latin-1")
    plain = b"content-encoding" not in headers and b"content-range" not in headers
    return plain and start["status"] not in (204, 206, 304) and kind.startswith(_TYPES) and not kind.startswith(_NEVER)
