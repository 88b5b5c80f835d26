"""API keys: their routes, the dashboard's sign-in with one of them, and the authentication of every request."""

from __future__ import annotations

import hmac
from datetime import timedelta

from fastapi import Request, Response
from pydantic import ConfigDict
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from fitserve import api_keys, browser_sessions, db
from fitserve.api_keys import ANONYMOUS, Identity
from fitserve.data_model import DataModel
from fitserve.errors import Forbidden, NotFound
from fitserve.settings import Settings
from fitserve.tables import Key
from fitserve.wire.admin import KeyInfo, KeyRequest, NewKey
from services.control.cache import LoadingCache
from services.control.deps import AnyCaller, Ctx, KeyManager
from services.http import Router
from services.http.auth import COOKIE, check_same_origin, missing_key

router = Router(tags=["keys"])

_CACHE_SECONDS = 2.0  # a revoked key must be refused within 5 s
_LAST_USED_STEP = timedelta(minutes=1)  # accuracy of `last_used_at`, so that not every request writes


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
    """Ends the session: its cookie is worth nothing afterwards, also a copy of it."""
    if request.cookies.get(COOKIE):
        check_same_origin(request)
        with db.transaction(ctx.engine) as session:
            browser_sessions.end(session, request.cookies[COOKIE])
        request.app.state.authenticator.forget_all()
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")


class Authenticator:
    """Turns tokens into identities; the database's answer is cached for `_CACHE_SECONDS`."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.auth = settings.auth
        self.engine = engine
        self._cache: LoadingCache[Identity] = LoadingCache(10_000, seconds=_CACHE_SECONDS)

    def identify(self, token: str | None) -> Identity:
        """Return the identity of a token. Raises Unauthenticated."""
        if not self.auth:
            return ANONYMOUS
        if token is None:
            raise missing_key()
        # By the digest, so that secrets do not stay in memory.
        identity = self._cache.get(api_keys.digest(token), lambda: self._load(token))
        if identity.expired:
            raise api_keys.not_valid()
        return identity

    def forget_all(self) -> None:
        """Drop the cached identities; called when a key has changed in this process."""
        self._cache.clear()

    def _load(self, token: str) -> Identity:
        with db.reading(self.engine) as session:
            if token.startswith(browser_sessions.PREFIX):
                identity = self._session_identity(session, token)
            else:
                identity = api_keys.identify(session, token)
            at = db.now(session)
            last = session.scalar(select(Key.last_used_at).where(Key.id == identity.key_id))
        if last is None or at - last > _LAST_USED_STEP:
            with db.transaction(self.engine) as session:
                key = session.get(Key, identity.key_id)
                if key:
                    key.last_used_at = at
        return identity

    @staticmethod
    def _session_identity(session: Session, token: str) -> Identity:
        id, secret = api_keys.split_token(token)
        for row, identity in browser_sessions.live(session, id):
            if hmac.compare_digest(row.secret_sha256, api_keys.digest(secret)):
                return identity
        raise api_keys.not_valid()


def has_live_key(engine: Engine) -> bool:
    """Return whether any key is neither revoked nor expired."""
    with db.reading(engine) as session:
        at = db.now(session)
        query = select(func.count()).select_from(Key).where(Key.revoked_at.is_(None))
        return bool(session.scalar(query.where((Key.expires_at.is_(None)) | (Key.expires_at > at))))


def ensure_root_key(settings: Settings, engine: Engine) -> None:
    """Create the admin key that FITSERVE_ROOT_KEY holds, unless it exists."""
    if settings.root_key is None:
        return
    token = settings.root_key.get_secret_value().strip()
    key_id, _ = api_keys.split_token(token)
    with db.transaction(engine) as session:
        api_keys.ensure(session, token, owner="admin", name=f"root-{key_id}"[:63].lower(), scopes=["admin"])
