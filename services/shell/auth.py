"""Who is calling: a bearer key, or the dashboard's session cookie. Never a key in an address."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from fitserve.api_keys import Identity
from fitserve.errors import Forbidden, Unauthenticated
from fitserve.settings import Settings

COOKIE = "fitserve_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

# Documents the scheme in the OpenAPI document; the check itself is `caller_of`.
_bearer = HTTPBearer(auto_error=False, description="An API key: `id.secret`.")


class Caller(Identity):
    """The identity behind this request."""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    @property
    def owner_filter(self) -> str | None:
        """The owner to restrict a query to; None for an admin, who sees every owner's."""
        return None if self.is_admin else self.owner

    def sees(self, owner: str, shared: bool = False) -> bool:
        """Return whether something of `owner` is visible to this caller."""
        return self.is_admin or shared or owner == self.owner


def token_of(request: Request) -> str | None:
    """The key that a request carries, if any. Raises Forbidden for a forged cross-site request."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    cookie = request.cookies.get(COOKIE)
    if cookie and request.method not in _SAFE:
        origin = request.headers.get("origin")
        if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
            raise Forbidden("A signed-in page may only be used from its own origin.", received=origin)
    return cookie


def caller_of(request: Request, _documented: Annotated[Any, Depends(_bearer)] = None) -> Caller:
    """Who is calling. Raises Unauthenticated, TooMany. `app.state.identify` knows the keys, `limit` their limits."""
    identify: Callable[[str | None], Identity] = request.app.state.identify
    found = identify(token_of(request))
    caller = Caller(found.key_id, found.owner, found.scopes, found.models, found.quotas)
    request.scope["caller"] = caller
    request.app.state.limit(request, caller)
    return caller


def require(scope: str) -> Callable[..., Caller]:
    """A dependency: the caller, who must have that scope. Raises Unauthenticated, Forbidden."""

    def check(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
        if not caller.may(scope):
            raise Forbidden(f"This key may not {scope}.", expected=f"a key with the scope {scope}")
        return caller

    check.required_scope = scope  # type: ignore[attr-defined]
    return check


def no_key() -> Unauthenticated:
    """What a request without a key is told."""
    return Unauthenticated("An API key is needed.", expected="Authorization: Bearer <id>.<secret>")


def refuse_open_door(settings: Settings, has_keys: bool) -> None:
    """Raises SystemExit where a process would listen to other machines without asking for keys."""
    if is_loopback(settings.host):
        return
    if not settings.auth:
        raise SystemExit(f"Refused: FITSERVE_AUTH is off and {settings.host} can be reached from other machines.")
    if not has_keys:
        raise SystemExit(
            f"Refused: {settings.host} can be reached from other machines and there is no API key yet. "
            "Make one with `fitserve keys create`, or set FITSERVE_ROOT_KEY."
        )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
