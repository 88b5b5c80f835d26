"""While large requests are answered, garbage collection does not delay others; afterwards it runs again."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fitserve.errors import FitserveError
from services.predict.serving import garbage_pauses
from services.predict.serving.counters import Counters
from services.predict.serving.garbage_pauses import GarbagePauses
from services.predict.serving.protocol_request import LARGE_BODY_BYTES, ProtocolRequest


class Request(ProtocolRequest):
    def read_deadline(self) -> None:
        return None

    @property
    def sticky_key(self) -> None:
        return None


def answered(sizes: list[int], between: Callable[[], Any] = lambda: None) -> list[bool]:
    """Answer requests of these sizes, each within the one before; return what `gc.isenabled` said in each."""
    seen: list[bool] = []

    async def answer() -> None:
        loop = asyncio.get_running_loop()
        service: Any = SimpleNamespace(loop=loop, executor=None, counters=Counters(), garbage_pauses=GarbagePauses())

        async def handle(request: Request, left: list[int]) -> None:
            seen.append(await request.in_thread_if_large(left[0], gc.isenabled))
            between()
            if left[1:]:
                await Request(service, None, None).run(handle, left[1:])

        try:
            await Request(service, None, None).run(handle, sizes)
        finally:
            await asyncio.sleep(0.01)

    asyncio.run(answer())
    return seen


@pytest.fixture(autouse=True)
def _resumes_soon(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(garbage_pauses, "RESUME_SECONDS", 0.0)
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def test_collection_pauses_for_large_requests_alone() -> None:
    assert answered([10, LARGE_BODY_BYTES, LARGE_BODY_BYTES + 1, 10]) == [True, True, False, False]
    assert gc.isenabled()


def test_large_requests_without_end_do_not_end_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_pauses, "MAX_PAUSE_SECONDS", 0.01)

    async def overlapping() -> list[bool]:
        pauses, seen = GarbagePauses(), []
        for change in (pauses.begin, pauses.begin, pauses.end, pauses.begin, pauses.end, pauses.end, pauses.begin):
            change()
            seen.append(gc.isenabled())
            await asyncio.sleep(0.03)
        pauses.stop()
        return seen

    # One that hangs ends its pause, and others beside it begin none; the first after them does.
    assert asyncio.run(overlapping()) == [False, True, True, True, True, True, False]


def test_a_service_that_stops_ends_its_pause() -> None:
    async def stopped() -> bool:
        pauses = GarbagePauses()
        pauses.begin()
        pauses.end()
        pauses.stop()
        return gc.isenabled()

    assert asyncio.run(stopped())


def test_a_request_that_fails_ends_its_pause() -> None:
    def fail() -> None:
        raise ValueError("unexpected")

    with pytest.raises(FitserveError):
        answered([LARGE_BODY_BYTES + 1], fail)
