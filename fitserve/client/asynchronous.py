"""`AsyncClient`: the methods of `Client`, each in a worker thread, so that they can be awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial, wraps
from threading import Event
from types import TracebackType
from typing import Any, Self

import httpx2

from fitserve.client.client import MAX_CONNECTIONS, TIMEOUT, Client
from fitserve.client.connection import Handle, Resource, abandoned

_END = object()


class _Awaitable:
    """A resource or a handle whose methods return coroutines, and whose generators are read with `async for`."""

    def __init__(self, target: Any, threads: ThreadPoolExecutor) -> None:
        self._target = target
        self._threads = threads

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not _asks_server(name, value):
            return self._wrap(value)
        run = self._iterate if inspect.isgeneratorfunction(value) else self._run
        return wraps(value)(partial(run, value))

    def __dir__(self) -> list[str]:
        return dir(self._target)

    def __repr__(self) -> str:
        return repr(self._target)

    async def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function in a thread. Once the task is cancelled, the thread stops at its next pause or request."""
        context, event = copy_context(), Event()
        context.run(abandoned.set, event)
        call = partial(context.run, function, *args, **kwargs)
        try:
            return self._wrap(await asyncio.get_running_loop().run_in_executor(self._threads, call))
        finally:
            event.set()

    async def _iterate(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        iterator = function(*args, **kwargs)
        try:
            while (item := await self._run(next, iterator, _END)) is not _END:
                yield item
        finally:
            with suppress(ValueError):  # still running in its thread, which closes it
                iterator.close()

    def _wrap(self, value: Any) -> Any:
        if value is self._target:
            return self
        return _Awaitable(value, self._threads) if isinstance(value, Handle | Resource) else value


def _asks_server(name: str, value: Any) -> bool:
    """Return whether an attribute is a public method of our resources and handles, rather than Pydantic's."""
    if name.startswith("_") or not inspect.ismethod(value):
        return False
    return value.__module__.startswith("fitserve.client.") and not hasattr(value, "local")


class AsyncClient(_Awaitable):
    """`Client` for asyncio: its methods are awaited, its lists and events are read with `async for`.

    Each call runs a method of a `Client` in a thread. A cancelled call stops before its next request.
    The arguments are those of `Client`; `http_client` is a blocking httpx2.Client.

    Example:
        >>> async with AsyncClient() as client:
        ...     run = await client.runs.create(dataset="admissions", target="admit")
        ...     async for event in run.events():
        ...         print(event.message)
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        predict_url: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = 4,
        http_client: httpx2.Client | None = None,
    ) -> None:
        client = Client(
            base_url, api_key, predict_url=predict_url, timeout=timeout, retries=retries, http_client=http_client
        )
        # Its own threads: event streams would use up the event loop's default pool.
        super().__init__(client, ThreadPoolExecutor(MAX_CONNECTIONS, thread_name_prefix="fitserve-client"))

    async def aclose(self) -> None:
        """Close the connections."""
        self._target.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return repr(self._target).replace("<Client", "<AsyncClient", 1)
