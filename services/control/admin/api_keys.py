"""Routes of API keys, and the dashboard's sign-in with one of them."""

from __future__ import annotations

from fastapi import Request, Response
from pydantic import ConfigDict

from fitserve import api_keys, browser_sessions, db
from fitserve.api_keys import Identity
from fitserve.data_model import DataModel
from fitserve.errors import Forbidden, NotFound
from fitserve.tables import Key
from fitserve.wire.admin import KeyInfo, KeyRequest, NewKey
from services.control.deps import AnyCaller, Ctx, KeyManager
from services.http import Router
from services.http.auth import COOKIE, check_same_origin

router = Router(tags=["keys"])


@router.post("/keys", status_code=201, summary="Create a key")
def create(body: KeyRequest, caller: KeyManager, ctx: Ctx) -> NewKey:
    """An admin may create any key; the scope `keys` allows those of its owner with no more rights than the caller."""
    with db.transaction(ctx.engine) as session:
        return api_keys.create_requested(session, body, caller)


@router.get("/keys", summary="List keys")
def list_keys(caller: KeyManager, ctx: Ctx) -> list[KeyInfo]:
    """An admin sees every key; the scope `keys` shows those of its owner with no more rights than the caller."""
    with db.reading(ctx.engine) as session:
        keys = api_keys.listing(session, caller.owner_filter)
        return [KeyInfo.model_validate(key) for key in keys if caller.may_manage(key)]


@router.delete("/keys/{key_id}", summary="Revoke a key")
def revoke(key_id: str, request: Request, caller: KeyManager, ctx: Ctx) -> KeyInfo:
    """An admin may revoke any key; the scope `keys` allows those of its owner with no more rights than the caller."""
    with db.transaction(ctx.engine) as session:
        key = session.get(Key, key_id)
        if key is None or not caller.may_manage(key):
            raise NotFound(f"No key {key_id[:64]}.")
        revoked = KeyInfo.model_validate(api_keys.revoke(session, key_id))
    request.app.state.authenticator.forget_all()
    return revoked


class SignIn(DataModel):
    """A key to exchange for a session cookie, or the token of a one-time link."""

    model_config = ConfigDict(extra="forbid")
    token: str


class Me(DataModel):
    """The caller."""

    key_id: str
    owner: str
    scopes: list[str]


def _me(identity: Identity) -> Me:
    return Me(key_id=identity.key_id, owner=identity.owner, scopes=sorted(identity.scopes))


@router.post("/session", summary="Sign in", max_body_size=4096)
def sign_in(body: SignIn, request: Request, response: Response, ctx: Ctx) -> Me:
    """Starts a session in an HttpOnly, SameSite=Strict cookie. It ends on sign-out, on expiry, or with its key."""
    origin = request.headers.get("origin")
    if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
        raise Forbidden("Sign in from this server's own page.", received=origin)
    secure = request.url.scheme == "https"
    seconds = ctx.settings.session_seconds
    token = body.token
    if ctx.settings.auth and token.startswith(browser_sessions.ONE_TIME_PREFIX):
        with db.transaction(ctx.engine) as session:
            identity = browser_sessions.redeem(session, token)
            token = browser_sessions.begin(session, identity.key_id, seconds)
    else:
        identity = request.app.state.identify(token)
        if ctx.settings.auth and not token.startswith(browser_sessions.PREFIX):
            with db.transaction(ctx.engine) as session:
                token = browser_sessions.begin(session, identity.key_id, seconds)
    response.set_cookie(COOKIE, token, max_age=int(seconds), httponly=True, samesite="strict", secure=secure, path="/")
    return _me(identity)


@router.get("/session", summary="Show the signed-in caller")
def who(caller: AnyCaller) -> Me:
    return _me(caller)


@router.delete("/session", status_code=204, summary="Sign out")
def sign_out(request: Request, response: Response, ctx: Ctx) -> None:
    """Ends the session; its cookie, and any copy of it, is no longer valid."""
    if request.cookies.get(COOKIE):
        check_same_origin(request)
        with db.transaction(ctx.engine) as session:
            browser_sessions.end(session, request.cookies[COOKIE])
        request.app.state.authenticator.forget_all()
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
