"""Authenticate requests by bearer key or by the dashboard's session cookie. A key is never part of a URL.

With FITSERVE_AUTH=false, anything that reaches the loopback address may do everything, and a browser lets any web page
reach it: through a name that resolves to it (DNS rebinding), or with a cross-origin request whose response it need not
read. Browsers reveal both in headers, so only local programs and this server's own pages are served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from fitserve.api_keys import Identity
from fitserve.errors import Forbidden, Unauthenticated
from fitserve.settings import Settings
from services.http import problems

COOKIE = "fitserve_session"
SESSION_PREFIX = "session_"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# values of Sec-Fetch-Site; another port of this machine is `same-site`
_FOREIGN = frozenset({"cross-site", "same-site"})

# Puts the scheme into the OpenAPI document; the check itself is `caller_of`.
_bearer = HTTPBearer(auto_error=False, description="An API key: `id.secret`.")


class Caller(Identity):
    """The identity behind a request."""

    def check_may_share(self) -> None:
        """Raise Forbidden unless the caller may itself read what it is about to share."""
        if not self.may("read"):
            raise Forbidden(
                "This key may not share what it may not read.", expected="a key that also has the scope read"
            )


def token_of(request: Request) -> str | None:
    """Return the key that a request carries, if any. Raises Forbidden for a forged cross-site request."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    cookie = request.cookies.get(COOKIE)
    if cookie is not None and not cookie.startswith(SESSION_PREFIX):
        return None  # cookies of earlier releases held the key itself
    if cookie and request.method not in _SAFE_METHODS:
        check_same_origin(request)
    return cookie


def check_same_origin(request: Request) -> None:
    """Raise Forbidden unless a request that carries the session cookie comes from a page of this server."""
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if not host or origin is None or _host_of(origin) != host:
        raise Forbidden("A session cookie is accepted only from this server's own pages.", received=origin)


def _host_of(origin: str) -> str:
    """Return the host and port of an origin; empty if it cannot be read, as `http://[`."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def caller_of(request: Request, _documented: Annotated[Any, Depends(_bearer)] = None) -> Caller:
    """Authenticate the caller and apply its rate limit. Raises Unauthenticated, TooMany."""
    if isinstance(known := request.scope.get("caller"), Caller):
        return known  # the route checked it before it read the body
    identify: Callable[[str | None], Identity] = request.app.state.identify
    identity = identify(token_of(request))
    caller = Caller(
        identity.key_id, identity.owner, identity.scopes, identity.models, identity.quotas, identity.expires_at
    )
    request.scope["caller"] = caller  # for the access log and the audit log
    request.app.state.limit(request, caller)
    return caller


def require(scope: str) -> Callable[..., Caller]:
    """Return a dependency: the caller, who must have that scope. It raises Unauthenticated, Forbidden."""

    def check(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
        if not caller.may(scope):
            raise Forbidden(f"This key may not {scope}.", expected=f"a key with the scope {scope}")
        return caller

    check.required_scope = scope  # type: ignore[attr-defined]  # for tests of the access matrix
    return check


def missing_key() -> Unauthenticated:
    """Return the error for a request without a key."""
    return Unauthenticated("An API key is required.", expected="Authorization: Bearer <id>.<secret>")


def refuse_unprotected_address(settings: Settings, has_keys: bool) -> None:
    """Raise SystemExit if the process would be reachable from other machines without any key to protect it."""
    if is_loopback(settings.host):
        return
    if not settings.auth:
        raise SystemExit(f"Refused: FITSERVE_AUTH is off and {settings.host} is reachable from other machines.")
    if not has_keys:
        raise SystemExit(
            f"Refused: {settings.host} is reachable from other machines and there is no API key yet. "
            "Create one with `fitserve keys create`, or set FITSERVE_ROOT_KEY."
        )


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


# --- without keys --------------------------------------------------------------------------------------------------


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
    if origin is not None and _host_of(origin.decode("latin-1")).lower() != host.lower():
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
