"""API keys in memory, for authentication and permissions. Polling replaces them, so no request reads the database."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fitserve.api_keys import ANONYMOUS, Identity, digest, not_valid, split_token
from fitserve.errors import Forbidden, Unauthenticated, Unavailable
from fitserve.registry import ModelFacts
from fitserve.visibility import is_shared_to


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A live key: its secret's SHA-256 and its identity."""

    secret_sha256: str
    identity: Identity


_NOBODY = KnownKey(digest(""), ANONYMOUS)


class Access:
    """The live keys. `replace` is called from the event loop's thread after a poll that saw a change."""

    def __init__(self, required: bool) -> None:
        self.required = required
        self._keys: Mapping[str, KnownKey] | None = None  # before the first poll

    def replace(self, keys: Mapping[str, KnownKey]) -> None:
        """Accept these keys, by id, and no others."""
        self._keys = keys

    def identify(self, token: str | None) -> Identity:
        """Return the identity of a token. Raises Unauthenticated, and Unavailable before the keys have been read."""
        if not self.required:
            return ANONYMOUS
        if token is None:
            raise Unauthenticated("An API key is required.", expected="Authorization: Bearer <id>.<secret>")
        key_id, secret = split_token(token)
        if self._keys is None:
            raise Unavailable("The API keys have not been read yet.", retry_after=1)
        known = self._keys.get(key_id, _NOBODY)
        # An unknown key is compared too, so that response times do not reveal whether an id exists.
        if not hmac.compare_digest(known.secret_sha256, digest(secret)) or known is _NOBODY or known.identity.expired:
            raise not_valid()
        return known.identity

    def drop_expired(self) -> bool:
        """Drop expired keys; return whether there were any. Needs no database."""
        known_keys = self._keys or {}
        live = {id: known for id, known in known_keys.items() if not known.identity.expired}
        dropped = len(live) < len(known_keys)
        if dropped:
            self._keys = live
        return dropped

    @property
    def next_expiry(self) -> datetime | None:
        """Return when the next key expires."""
        keys = (self._keys or {}).values()
        return min((key.identity.expires_at for key in keys if key.identity.expires_at), default=None)

    def identify_header(self, authorization: str | None) -> Identity:
        """Return the identity of an `Authorization` header's value. Raises Unauthenticated."""
        scheme, _, token = (authorization or "").partition(" ")
        return self.identify(token.strip() if scheme.lower() == "bearer" and token.strip() else None)


def may_use(identity: Identity, model: str) -> bool:
    """Return whether a key may see a model that its owner sees: not if it is for uploads or for other models only."""
    return identity.may("read") or identity.may("train") or identity.may_predict(model)


def require_use(identity: Identity, model: str) -> None:
    """Raise Forbidden unless the key may see a model."""
    if not may_use(identity, model):
        raise Forbidden(
            f"This key may not use {model[:63]}.",
            expected="a key with the scope read, train, or predict for this model",
        )


def require_inspect(identity: Identity, model: ModelFacts) -> None:
    """Raise Forbidden if a model is shared with the caller for predictions only."""
    if not identity.owns(model) and not is_shared_to(model.sharing, "inspect"):
        raise Forbidden(
            f"The model {model.name} is shared with you to ask, not to inspect: an explanation shows training rows.",
            fix=f"Ask its owner: fitserve models share {model.name} --to inspect",
        )


def require_predict(identity: Identity, model: str) -> None:
    """Raise Forbidden if the key lacks the scope `predict`, or is limited to other models."""
    if not identity.may_predict(model):
        raise Forbidden(f"This key may not predict with {model}.", expected="a key with the scope predict")
