"""API keys: their routes, the dashboard's sign-in with one of them, and the authentication of every request."""

from __future__ import annotations

from datetime import timedelta

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError

from fitserve import api_keys, db
from fitserve.api_keys import ANONYMOUS, Identity
from fitserve.errors import Conflict, Forbidden, NotFound
from fitserve.settings import Settings
from fitserve.tables import Key
from fitserve.wire.admin import KeyInfo, KeyRequest, NewKey
from services.control.cache import LoadingCache
from services.control.deps import Admin, AnyCaller, Ctx
from services.shell import Router
from services.shell.auth import COOKIE, missing_key

router = Router(tags=["keys"])

_CACHE_SECONDS = 2.0  # a revoked key must be refused within 5 s
_LAST_USED_STEP = timedelta(minutes=1)  # accuracy of `last_used_at`, so that not every request writes


@router.post("/keys", status_code=201, summary="Create a key")
def create(body: KeyRequest, caller: Admin, ctx: Ctx) -> NewKey:
    with db.transaction(ctx.engine) as session:
        return api_keys.create_requested(session, body, default_owner=caller.owner)


@router.get("/keys", summary="List keys")
def list_keys(caller: AnyCaller, ctx: Ctx) -> list[KeyInfo]:
    """An admin sees every key, others their own."""
    with db.reading(ctx.engine) as session:
        return [KeyInfo.model_validate(key) for key in api_keys.listing(session, caller.owner_filter)]


@router.delete("/keys/{key_id}", summary="Revoke a key")
def revoke(key_id: str, request: Request, caller: AnyCaller, ctx: Ctx) -> KeyInfo:
    """An admin may revoke any key, others their own."""
    with db.transaction(ctx.engine) as session:
        key = session.get(Key, key_id)
        if key is None or not caller.sees(key.owner):
            raise NotFound(f"No key {key_id[:64]}.")
        revoked = KeyInfo.model_validate(api_keys.revoke(session, key_id))
    request.app.state.authenticator.forget_all()
    return revoked


class SignIn(BaseModel):
    """A key to exchange for a session cookie."""

    model_config = ConfigDict(extra="forbid")
    token: str


class Me(BaseModel):
    """The caller."""

    key_id: str
    owner: str
    scopes: list[str]


def _me(identity: Identity) -> Me:
    return Me(key_id=identity.key_id, owner=identity.owner, scopes=sorted(identity.scopes))


@router.post("/session", summary="Sign in")
def sign_in(body: SignIn, request: Request, response: Response) -> Me:
    """Sets an HttpOnly, SameSite=Strict cookie, so that no script of a page ever holds the key."""
    identity = request.app.state.identify(body.token)
    origin = request.headers.get("origin")
    if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
        raise Forbidden("Sign in from this server's own page.", received=origin)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, body.token, httponly=True, samesite="strict", secure=secure, path="/")
    return _me(identity)


@router.get("/session", summary="Show the signed-in caller")
def who(caller: AnyCaller) -> Me:
    return _me(caller)


@router.delete("/session", status_code=204, summary="Sign out")
def sign_out(response: Response) -> None:
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
        return self._cache.get(api_keys.digest(token), lambda: self._load(token))

    def forget_all(self) -> None:
        """Drop the cached identities; called when a key has changed in this process."""
        self._cache.clear()

    def _load(self, token: str) -> Identity:
        with db.reading(self.engine) as session:
            identity = api_keys.identify(session, token)
            at = db.now(session)
            last = session.scalar(select(Key.last_used_at).where(Key.id == identity.key_id))
        if last is None or at - last > _LAST_USED_STEP:
            with db.transaction(self.engine) as session:
                key = session.get(Key, identity.key_id)
                if key:
                    key.last_used_at = at
        return identity


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
    try:
        with db.transaction(engine) as session:
            if session.get(Key, key_id) is None:
                name = f"root-{key_id}"[:63].lower()
                api_keys.create(session, owner="admin", name=name, scopes=["admin"], token=token)
    except (IntegrityError, Conflict):
        with db.reading(engine) as session:
            if session.get(Key, key_id) is None:  # else another API that started at the same moment created it
                raise
