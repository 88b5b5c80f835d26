"""The prediction protocols over HTTP, as one ASGI layer in front of the operator's routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fitserve.errors import FitserveError
from services.predict.answers import error_answer
from services.predict.calls import Call, ClientGone, Receive, Send
from services.predict.operation import Service
from services.predict.routes import route

log = logging.getLogger(__name__)
_CLIENT_GONE = 499  # as nginx counts it
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class DataPlane:
    """`/v1/...` and `/v2...` are answered here; everything else goes on to `app`."""

    def __init__(self, app: AsgiApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _ours(scope["path"]):
            await self.app(scope, receive, send)
            return
        counters = self.service.counters
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        headers = dict(scope["headers"])
        most = self.service.settings.limits.predict_bytes
        call = Call(scope["method"], scope["path"], headers, receive, loop.time(), most)
        found, admitted = None, False
        try:
            found = route(call.method, call.path)
            self.service.admit()
            admitted = True
            answer = await found.handle(self.service, call)
        except ClientGone:
            counters.answered(
                found.protocol if found else "none", found.operation if found else "none", _CLIENT_GONE, 0.0
            )
            return
        except FitserveError as error:
            answer = error_answer(error)
        except Exception as error:
            log.error("unexpected error", exc_info=error)
            answer = error_answer(FitserveError("Something went wrong on our side."))
        finally:
            if admitted:
                counters.in_flight -= 1
        protocol = found.protocol if found else ("tfserving" if call.path.startswith("/v1") else "oip")
        status = answer.status
        try:
            await answer.send(send, call.method == "HEAD")
        except (RuntimeError, OSError):  # uvloop: the client has closed the connection meanwhile
            status = _CLIENT_GONE
        operation = found.operation if found else "unmatched"
        counters.answered(protocol, operation, status, time.perf_counter() - started)


def _ours(path: str) -> bool:
    return path.startswith(("/v1/", "/v2/")) or path == "/v2"
