"""Who may predict: the keys in memory, refreshed by polling. No database on the way of a request."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from fitserve.api_keys import ANONYMOUS, Identity, digest, split_token
from fitserve.errors import Forbidden, Unauthenticated


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A live key: its secret's SHA-256 and who it speaks for."""

    secret_sha256: str
    identity: Identity


_NOBODY = KnownKey(digest(""), ANONYMOUS)


class Access:
    """The live keys. `replace` is called from the event loop's thread when a poll saw a change."""

    def __init__(self, required: bool) -> None:
        self.required = required
        self._keys: Mapping[str, KnownKey] = {}

    def replace(self, known: Mapping[str, KnownKey]) -> None:
        """From now on these keys are valid, and no others."""
        self._keys = known

    def identify(self, token: str | None) -> Identity:
        """Whose token this is. Raises Unauthenticated."""
        if not self.required:
            return ANONYMOUS
        if token is None:
            raise Unauthenticated("An API key is required.", expected="Authorization: Bearer <id>.<secret>")
        key_id, secret = split_token(token)
        known = self._keys.get(key_id, _NOBODY)
        if not hmac.compare_digest(known.secret_sha256, digest(secret)) or known is _NOBODY:
            raise Unauthenticated("This API key is not valid.", fix="Ask an admin for a key: fitserve keys create.")
        return known.identity

    def identify_header(self, value: str | None) -> Identity:
        """The same from the value of an `Authorization` header."""
        scheme, _, token = (value or "").partition(" ")
        return self.identify(token.strip() if scheme.lower() == "bearer" and token.strip() else None)


def sees(identity: Identity, owner: str, shared: bool) -> bool:
    """Whether a model of that owner is visible to this caller."""
    return shared or owner == identity.owner or "admin" in identity.scopes


def check_predict(identity: Identity, model: str) -> None:
    """Raises Forbidden where the key has not the scope, or is limited to other models."""
    if not identity.may_predict(model):
        raise Forbidden(f"This key may not predict with {model}.", expected="a key with the scope predict")
