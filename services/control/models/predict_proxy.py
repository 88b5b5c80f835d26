"""Forwarding of `/v1`, `/v2` and their like to the prediction service, so that the dashboard needs one origin only.

The session cookie of a signed-in page becomes the bearer key that the prediction service requires. Clients that need
the lowest latency call the prediction service directly.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping

import httpx2
from fastapi import APIRouter, Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response, StreamingResponse

from fitserve import browser_sessions, tracing
from fitserve.errors import FitserveError, NotFound, Unauthenticated, Unavailable
from fitserve.settings import Settings
from services.http.auth import token_of


class _Number(Convertor[str]):
    """The number of a protocol in a path. Starlette's own `int` fails at thousands of digits."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("protocol", _Number())
router = APIRouter(include_in_schema=False)

_TIMEOUT = httpx2.Timeout(60.0, connect=2.0)
_SESSION_SECONDS = 3.0  # time within which the prediction service learns of a new session
# Headers of one connection, and those that each side sets itself.
_NOT_FORWARDED = frozenset(
    {"host", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authorization"}
    | {"authorization", "cookie", "origin", "content-length", "x-request-id", "set-cookie", "server", "date"}
)


@router.api_route("/v{number:protocol}/{path:path}", methods=["GET", "POST"])
@router.api_route("/v{number:protocol}", methods=["GET"])
async def forward(request: Request) -> Response:
    """Stream the prediction service's answer. Raises Unavailable (503) if it does not answer."""
    token = token_of(request)
    if request.method == "POST":
        await _refuse_unknown(request, token)
    headers = _forwarded(request.headers)
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    headers["x-request-id"] = str(request.scope.get("request_id", ""))
    if (parent := tracing.traceparent()) is not None:
        headers["traceparent"] = parent
    raw = request.scope.get("raw_path") or request.url.path.encode()
    if b".." in raw:  # httpx would normalize it, and so leave the protocols' paths
        raise NotFound("There is nothing at this address.")
    client: httpx2.AsyncClient = request.app.state.predict_client
    url = httpx2.URL(raw.decode("latin-1") + (f"?{request.url.query}" if request.url.query else ""))
    outgoing = client.build_request(request.method, url, headers=headers, content=await request.body())
    answer = await _send(client, outgoing)
    until = time.monotonic() + _SESSION_SECONDS
    while answer.status_code == 401 and time.monotonic() < until and await _is_signed_in(request, token):
        await answer.aclose()
        await asyncio.sleep(0.1)
        answer = await _send(client, outgoing)
    return StreamingResponse(
        answer.aiter_raw(), answer.status_code, _forwarded(answer.headers), background=BackgroundTask(answer.aclose)
    )


async def _send(client: httpx2.AsyncClient, outgoing: httpx2.Request) -> httpx2.Response:
    try:
        return await client.send(outgoing, stream=True)
    except httpx2.TransportError:
        raise Unavailable("The prediction service does not answer.", retry_after=2) from None


async def _refuse_unknown(request: Request, token: str | None) -> None:
    """Raise Unauthenticated before a body is read; the prediction service decides everything else."""
    try:
        await run_in_threadpool(request.app.state.identify, token)
    except Unauthenticated:
        raise
    except FitserveError:
        return  # an unavailable database must not stop predictions


async def _is_signed_in(request: Request, token: str | None) -> bool:
    """Return whether a token is a live session's, which the prediction service will know after its next poll."""
    if token is None or not token.startswith(browser_sessions.PREFIX):
        return False
    try:
        await run_in_threadpool(request.app.state.identify, token)
    except FitserveError:
        return False
    return True


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_FORWARDED}


def make_client(settings: Settings) -> httpx2.AsyncClient:
    """Open a connection pool to the prediction service."""
    return httpx2.AsyncClient(
        base_url=predict_address(settings),
        verify=predict_tls(settings),
        timeout=_TIMEOUT,
        follow_redirects=False,
        trust_env=False,
    )


def predict_address(settings: Settings) -> str:
    """Return the prediction service's URL: the configured one, else the local one started with this process."""
    if settings.predict_url:
        return settings.predict_url.rstrip("/")
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"{'https' if settings.tls_certificate else 'http'}://{host}:{settings.predict_port}"


def predict_tls(settings: Settings) -> ssl.SSLContext | bool:
    """Return how to verify the prediction service's certificate; a local service must present our own."""
    if predict_address(settings).startswith("http://"):
        return False  # nothing to verify, and loading the trusted certificates is slow
    if settings.predict_url or settings.tls_certificate is None:
        return True
    pinned = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pinned.check_hostname = False  # it is addressed by IP, which the certificate need not contain
    pinned.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    pinned.load_verify_locations(settings.tls_certificate)
    return pinned
