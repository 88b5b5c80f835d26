"""Requests without keys, FITSERVE_AUTH=false: from programs of this machine and this server's own pages only.

Without keys, whatever reaches the loopback address may do everything, and a browser lets any web page reach it: by a
name that resolves to it (DNS rebinding), or by a request that needs no answer (cross-origin). A browser states both.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from fitserve.errors import Forbidden
from services.http import problems
from services.http.auth import is_loopback

_FOREIGN = frozenset({"cross-site", "same-site"})  # of Sec-Fetch-Site; another port of this machine is `same-site`


def check_local(headers: Mapping[bytes, bytes]) -> None:
    """Raise Forbidden unless a request is addressed to this machine, and not sent by a page of another origin."""
    host = headers.get(b"host", b"").decode("latin-1")
    if not is_local_host(host):
        raise Forbidden(
            "Without API keys, only requests to a loopback address are answered.",
            received=host[:100],
            expected="localhost, 127.0.0.1 or [::1] as the host",
            fix="Turn keys on: FITSERVE_AUTH=true.",
        )
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host.lower():
        raise Forbidden(
            "Without API keys, only this server's own pages are answered.", received=origin[:100].decode("latin-1")
        )
    foreign = headers.get(b"sec-fetch-site", b"").decode("latin-1") in _FOREIGN
    if foreign and headers.get(b"sec-fetch-mode") != b"navigate":  # a link to a page is harmless
        raise Forbidden("Without API keys, only this server's own pages are answered.", received="Sec-Fetch-Site")


def is_local_host(host: str) -> bool:
    """Return whether a Host header names this machine, with any port."""
    try:
        return is_loopback((urlsplit(f"//{host}").hostname or "").rstrip("."))
    except ValueError:
        return False


class LocalPagesOnly:
    """Pure ASGI middleware: applies `check_local` to every request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check_local(dict(scope["headers"]))
            except Forbidden as error:
                await problems.on_fitserve_error(Request(scope), error)(scope, receive, send)
                return
        await self.app(scope, receive, send)
