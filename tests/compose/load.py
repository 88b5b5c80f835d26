"""Clients that send requests continuously; every response that is not a success is recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import httpx2

from tests.journey.test_journey import SPEC

POINTS = [{"x": 0.1, "y": -0.2, "colour": "red"}]


class Load:
    """Sends reads, writes and predictions, each from its own thread, for the duration of the block."""

    def __init__(self, base: str, authorization: str, *, pause: float = 0.05) -> None:
        self.base, self.headers, self.pause = base, {"Authorization": authorization}, pause
        self.count, self.failures = 0, list[str]()
        self._stopping = threading.Event()
        requests = (self._read, self._write, self._predict)
        self._threads = [threading.Thread(target=self._send, args=(one,), daemon=True) for one in requests]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)

    def _send(self, request: Callable[[httpx2.Client], httpx2.Response]) -> None:
        with httpx2.Client(base_url=self.base, headers=self.headers, timeout=30) as http:
            while not self._stopping.wait(self.pause):
                try:
                    response = request(http)
                    if not response.is_success:
                        self.failures.append(f"{request.__name__}: {response.status_code} {response.text[:300]}")
                except httpx2.HTTPError as error:
                    self.failures.append(f"{request.__name__}: {error!r}")
                self.count += 1

    def _read(self, http: httpx2.Client) -> httpx2.Response:
        return http.get("/api/v1/runs", params={"limit": 5})

    def _write(self, http: httpx2.Client) -> httpx2.Response:
        return http.post("/api/v1/runs", params={"validate_only": "true"}, json=SPEC)

    def _predict(self, http: httpx2.Client) -> httpx2.Response:
        return http.post("/v1/models/circle:classify", json={"examples": POINTS})
