"""Performs operations over httpx2: one driver blocks, the other awaits. Nothing else here differs between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

import httpx2

from fitserve.client.effects import Answer, Body, Call, Effect, Item, Listing, Open, Operation, Read, Send, Sleep
from fitserve.client.errors import Unreachable
from fitserve.client.server_address import Address


class _Steps:
    """One operation in progress: holds what its next step is sent."""

    def __init__(self, operation: Operation[Any] | Listing[Any]) -> None:
        self.operation = operation
        self.outcome: Any = None
        self.failure: Exception | None = None
        self.result: Any = None
        self.stream: httpx2.Response | None = None
        self.chunks: Any = None

    def next(self) -> Effect | Item[Any] | None:
        """The next effect; None when the operation has its result."""
        outcome, failure = self.outcome, self.failure
        self.outcome = self.failure = None
        try:
            return self.operation.throw(failure) if failure else self.operation.send(outcome)
        except StopIteration as done:
            self.result = done.value
            return None


def request_of(http: httpx2.Client | httpx2.AsyncClient, address: Address, call: Call, content: Any) -> httpx2.Request:
    """The call as httpx2 sends it. A body's length is said where it is known, so that the server may refuse at once."""
    headers = {**address.headers(), **call.headers}
    if call.content is not None and not isinstance(call.content, bytes):
        headers.setdefault("Content-Type", call.content.content_type)
        if call.content.size is not None:
            headers["Content-Length"] = str(call.content.size)
    params = {key: value for key, value in call.query.items() if value is not None}
    timeout = (
        httpx2.USE_CLIENT_DEFAULT
        if call.timeout is None
        else httpx2.Timeout(call.timeout, connect=5.0, write=min(call.timeout, 60.0))
    )
    return http.build_request(
        call.method, address.url(call), params=params, headers=headers, content=content, timeout=timeout
    )


def _answer(response: httpx2.Response, content: bytes = b"") -> Answer:
    return Answer(response.status_code, {key.lower(): value for key, value in response.headers.items()}, content)


def raise_unreachable(error: httpx2.TransportError, address: Address, call: Call | None) -> NoReturn:
    """A broken connection as our error. Where no connection was made, the server cannot have acted."""
    base = address.base(call.service if call else "control")
    not_sent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    if isinstance(error, httpx2.TimeoutException):
        detail = f"The server at {base} did not answer in time."
    elif not_sent:
        detail = f"No server answers at {base}."
    else:
        detail = f"The connection to {base} broke."
    fix = "Start one with `fitserve up`, or say where it is: FITSERVE_URL, or --url." if not_sent else None
    raised = Unreachable(detail, fix=fix)
    raised.sent = not not_sent
    raised.args = (detail if fix is None else f"{detail} {fix}",)
    raise raised from error


class SyncDriver:
    """Performs operations one after the other, blocking."""

    def __init__(self, http: httpx2.Client, address: Address) -> None:
        self.http = http
        self.address = address

    def run(self, operation: Operation[Any]) -> Any:
        """The operation's result."""
        steps = _Steps(operation)
        try:
            while (effect := steps.next()) is not None:
                self._perform(steps, effect)
        finally:
            self._finish(steps)
        return steps.result

    def iterate(self, listing: Listing[Any]) -> Iterator[Any]:
        """What the operation emits."""
        steps = _Steps(listing)
        try:
            while (effect := steps.next()) is not None:
                if isinstance(effect, Item):
                    yield effect.item
                else:
                    self._perform(steps, effect)
        finally:
            self._finish(steps)

    def _perform(self, steps: _Steps, effect: Effect | Item[Any]) -> None:
        call = effect.call if isinstance(effect, Send | Open) else None
        try:
            match effect:
                case Send(call):
                    response = self.http.send(self._request(call))
                    steps.outcome = _answer(response, response.content)
                case Open(call):
                    self._close(steps)
                    steps.stream = self.http.send(self._request(call), stream=True)
                    steps.chunks = steps.stream.iter_bytes()
                    content = steps.stream.read() if steps.stream.status_code >= 400 else b""
                    steps.outcome = _answer(steps.stream, content)
                case Read():
                    steps.outcome = next(steps.chunks, b"")
                case Sleep(seconds):
                    time.sleep(seconds)
        except httpx2.TransportError as error:
            try:
                raise_unreachable(error, self.address, call)
            except Unreachable as unreachable:
                steps.failure = unreachable

    def _request(self, call: Call) -> httpx2.Request:
        content = call.content if call.content is None or isinstance(call.content, bytes) else call.content.chunks()
        return request_of(self.http, self.address, call, content)

    def _close(self, steps: _Steps) -> None:
        if steps.stream is not None:
            steps.stream.close()
            steps.stream = None

    def _finish(self, steps: _Steps) -> None:
        steps.operation.close()
        self._close(steps)


class AsyncDriver:
    """Performs operations on the running asyncio loop."""

    def __init__(self, http: httpx2.AsyncClient, address: Address) -> None:
        self.http = http
        self.address = address

    async def run(self, operation: Operation[Any]) -> Any:
        """The operation's result."""
        steps = _Steps(operation)
        try:
            while (effect := steps.next()) is not None:
                await self._perform(steps, effect)
        finally:
            await self._finish(steps)
        return steps.result

    async def iterate(self, listing: Listing[Any]) -> AsyncIterator[Any]:
        """What the operation emits."""
        steps = _Steps(listing)
        try:
            while (effect := steps.next()) is not None:
                if isinstance(effect, Item):
                    yield effect.item
                else:
                    await self._perform(steps, effect)
        finally:
            await self._finish(steps)

    async def _perform(self, steps: _Steps, effect: Effect | Item[Any]) -> None:
        call = effect.call if isinstance(effect, Send | Open) else None
        try:
            match effect:
                case Send(call):
                    response = await self.http.send(self._request(call))
                    steps.outcome = _answer(response, response.content)
                case Open(call):
                    await self._close(steps)
                    steps.stream = await self.http.send(self._request(call), stream=True)
                    steps.chunks = steps.stream.aiter_bytes()
                    content = await steps.stream.aread() if steps.stream.status_code >= 400 else b""
                    steps.outcome = _answer(steps.stream, content)
                case Read():
                    steps.outcome = await anext(steps.chunks, b"")
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
        except httpx2.TransportError as error:
            try:
                raise_unreachable(error, self.address, call)
            except Unreachable as unreachable:
                steps.failure = unreachable

    def _request(self, call: Call) -> httpx2.Request:
        content = call.content if call.content is None or isinstance(call.content, bytes) else _apart(call.content)
        return request_of(self.http, self.address, call, content)

    async def _close(self, steps: _Steps) -> None:
        if steps.stream is not None:
            await steps.stream.aclose()
            steps.stream = None

    async def _finish(self, steps: _Steps) -> None:
        steps.operation.close()
        await self._close(steps)


async def _apart(body: Body) -> AsyncIterator[bytes]:
    """A body's bytes, read in a thread, so that a slow disk does not stop the loop."""
    chunks = body.chunks()
    while chunk := await asyncio.to_thread(next, chunks, b""):
        yield chunk
