"""API keys: `id.secret` with 256 random bits, stored as SHA-256, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from fitserve import db, visibility
from fitserve.errors import BadInput, Conflict, Forbidden, NotFound, Unauthenticated
from fitserve.ids import NAME, new_id
from fitserve.tables import Key
from fitserve.visibility import Owned, Shareable
from fitserve.wire.admin import NO_QUOTAS, KeyInfo, KeyRequest, NewKey, Quotas

_NAME = re.compile(NAME)
MAX_LIVE_KEYS = 2  # live keys with one owner and name: the old and the new one during a rotation


class Scope(StrEnum):
    """Permission of a key. `admin` includes the others; `keys` manages the owner's keys of no more scopes."""

    read = "read"
    upload = "upload"
    train = "train"
    predict = "predict"
    keys = "keys"
    admin = "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner and permissions behind a request."""

    key_id: str
    owner: str
    scopes: frozenset[str]
    models: frozenset[str] | None  # None allows every model that the owner can read
    quotas: Quotas = NO_QUOTAS
    expires_at: datetime | None = None

    @property
    def expired(self) -> bool:
        """Whether the key has expired by this machine's clock, which works while the database does not answer."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    @property
    def is_admin(self) -> bool:
        return Scope.admin in self.scopes

    @property
    def owner_filter(self) -> str | None:
        """The owner whose rows this identity sees, for `fitserve.visibility`; None for an admin, who sees all."""
        return None if self.is_admin else self.owner

    def owns(self, row: Owned) -> bool:
        """Return whether this identity owns a row, and so may change it."""
        return visibility.owns(self.owner_filter, row)

    def sees(self, row: Shareable) -> bool:
        """Return whether this identity owns a row, or the row is shared."""
        return visibility.sees(self.owner_filter, row)

    def may(self, scope: str) -> bool:
        return scope in self.scopes or self.is_admin

    def may_predict(self, model: str) -> bool:
        return self.may(Scope.predict) and (self.models is None or model in self.models)

    def may_manage(self, key: Key) -> bool:
        """Return whether this identity may see and revoke a key: admins any key, others keys with no more rights."""
        if self.is_admin:
            return True
        within = self.models is None or (key.models is not None and set(key.models) <= self.models)
        return self.may(Scope.keys) and key.owner == self.owner and set(key.scopes) <= self.scopes and within


ANONYMOUS = Identity("anonymous", "anonymous", frozenset({Scope.admin}), None)
# stands for callers with direct access to the database
LOCAL_ADMIN = Identity("local", "admin", frozenset({Scope.admin}), None)


def digest(secret: str) -> str:
    """Return the hash under which a secret is stored. It has 256 random bits, so a plain SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create(
    session: Session,
    *,
    owner: str,
    name: str,
    scopes: Iterable[str],
    models: Iterable[str] | None = None,
    expires_at: datetime | None = None,
    quotas: Quotas | None = None,
    token: str | None = None,
) -> tuple[Key, str]:
    """Create a key and return it with its token `id.secret`, which cannot be read again.

    `token` sets the id and secret instead of random ones. Raises BadInput, Conflict.
    """
    wanted = sorted(set(scopes))
    for field, value in (("owner", owner), ("name", name)):
        if not _NAME.fullmatch(value):
            raise BadInput(f"Invalid {field}.", pointer=f"/{field}", received=value, expected=NAME)
    if not wanted or not set(wanted) <= set(Scope):
        raise BadInput("Unknown scope.", pointer="/scopes", received=wanted, expected=", ".join(Scope))
    at = db.now(session)
    if expires_at is not None and expires_at <= at:
        raise BadInput("This time is in the past.", pointer="/expires_at", received=expires_at.isoformat())
    db.serialise(session, "keys", owner)
    namesakes = session.scalars(select(Key).where(Key.owner == owner, Key.name == name, Key.revoked_at.is_(None)))
    if sum(is_live(key, at) for key in namesakes) >= MAX_LIVE_KEYS:
        raise Conflict(
            f"{owner} has {MAX_LIVE_KEYS} live keys named {name}.", fix="Revoke one of them, or choose another name."
        )
    key_id, secret = split_token(token) if token else (new_id("key"), secrets.token_urlsafe(32))
    key = Key(
        id=key_id,
        secret_sha256=digest(secret),
        owner=owner,
        name=name,
        scopes=wanted,
        models=None if models is None else sorted(set(models)),
        quotas=(quotas.model_dump(exclude_none=True) or None) if quotas else None,
        created_at=at,
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, f"{key_id}.{secret}"


def ensure(session: Session, token: str, *, owner: str, name: str, scopes: Iterable[str]) -> None:
    """Create the key of a token unless its id exists; safe when several processes do so at once."""
    key_id, secret = split_token(token)
    row = {
        "id": key_id,
        "secret_sha256": digest(secret),
        "owner": owner,
        "name": name,
        "scopes": sorted(set(scopes)),
        "created_at": db.now(session),
    }
    if session.get(Key, key_id) is None:
        db.insert_new(session, Key, [row])


def create_requested(session: Session, request: KeyRequest, maker: Identity) -> NewKey:
    """Create the key that a request describes. Raises BadInput, Conflict; Forbidden if it exceeds its creator's."""
    models: Iterable[str] | None = request.models
    expires_at = request.expires_at
    if Scope.admin not in maker.scopes:
        models, expires_at = _within(maker, request)
    key, token = create(
        session,
        owner=request.owner or maker.owner,
        name=request.name,
        scopes=request.scopes,
        models=models,
        expires_at=expires_at,
        quotas=request.quotas,
    )
    return NewKey(**KeyInfo.model_validate(key).model_dump(), token=token)


def _within(maker: Identity, request: KeyRequest) -> tuple[Iterable[str] | None, datetime | None]:
    """Return a new key's models and expiry, limited to its creator's. Raises Forbidden."""
    if request.owner not in (None, maker.owner):
        raise Forbidden("Only an admin may create keys of other owners.", pointer="/owner", received=request.owner)
    if above := sorted(set(request.scopes) - maker.scopes):
        raise Forbidden(
            "A key may not have more scopes than the key that creates it.",
            pointer="/scopes",
            received=", ".join(above),
            expected=", ".join(sorted(maker.scopes)),
        )
    if maker.quotas != NO_QUOTAS:  # each new key would get the creator's quotas again
        raise Forbidden("A key with quotas may not create keys.", fix="Ask an admin for the key.")
    models = request.models if request.models is not None else maker.models
    if maker.models is not None and (beyond := sorted(set(models or ()) - maker.models)):
        raise Forbidden(
            "A key may not predict with more models than the key that creates it.",
            pointer="/models",
            received=", ".join(beyond)[:200],
            expected=", ".join(sorted(maker.models))[:200],
        )
    expires_at = request.expires_at or maker.expires_at
    if maker.expires_at is not None and expires_at is not None and expires_at > maker.expires_at:
        raise Forbidden(
            "A key may not outlive the key that creates it.",
            pointer="/expires_at",
            received=expires_at.isoformat(),
            expected=f"at most {maker.expires_at.isoformat()}",
        )
    return models, expires_at


def split_token(token: str) -> tuple[str, str]:
    """Return a token's id and secret. Raises Unauthenticated if it does not have that form."""
    key_id, dot, secret = token.partition(".")
    if not dot or not key_id or not secret or len(token) > 200 or not token.isascii():
        raise Unauthenticated("This is not an API key.", expected="Authorization: Bearer <id>.<secret>")
    return key_id, secret


def identify(session: Session, token: str) -> Identity:
    """Return the identity of a token. Raises the same Unauthenticated if it is unknown, wrong, expired or revoked."""
    key_id, secret = split_token(token)
    key = session.get(Key, key_id)
    # compare even without a key, so that both cases take the same time
    stored = key.secret_sha256 if key else digest("")
    if not hmac.compare_digest(stored, digest(secret)) or key is None or not is_live(key, db.now(session)):
        raise not_valid()
    return identity(key)


def not_valid() -> Unauthenticated:
    """Return the one error for a key that is unknown, wrong, expired or revoked."""
    return Unauthenticated("This API key is not valid.", fix="Ask an admin for a key: fitserve keys create.")


def is_live(key: Key, at: datetime) -> bool:
    """Return whether a key is neither revoked nor expired at a time."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > at)


def identity(key: Key) -> Identity:
    """Return a key's identity."""
    models = None if key.models is None else frozenset(str(m) for m in key.models)
    quotas = Quotas.model_validate(key.quotas) if key.quotas else NO_QUOTAS
    return Identity(key.id, key.owner, frozenset(str(s) for s in key.scopes), models, quotas, key.expires_at)


def revoke(session: Session, key_id: str) -> Key:
    """Revoke a key. Raises NotFound."""
    key = session.get(Key, key_id)
    if key is None:
        raise NotFound(f"No key {key_id}.")
    if key.revoked_at is None:
        key.revoked_at = db.now(session)
    return key


def listing(session: Session, owner: str | None = None) -> list[Key]:
    """Return all keys, or those of one owner, newest first."""
    query = select(Key).where(visibility.owned_by(Key, owner)).order_by(Key.created_at.desc(), Key.id)
    return list(session.scalars(query))
