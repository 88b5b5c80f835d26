"""Who may predict: the API keys in memory, replaced by polling, so that no request reads the database."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from fitserve.api_keys import ANONYMOUS, Identity, digest, split_token
from fitserve.errors import Forbidden, Unauthenticated


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
        self._keys: Mapping[str, KnownKey] = {}

    def replace(self, keys: Mapping[str, KnownKey]) -> None:
        """Accept these keys, by id, and no others."""
        self._keys = keys

    def identify(self, token: str | None) -> Identity:
        """Return the identity of a token. Raises Unauthenticated."""
        if not self.required:
            return ANONYMOUS
        if token is None:
            raise Unauthenticated("An API key is required.", expected="Authorization: Bearer <id>.<secret>")
        key_id, secret = split_token(token)
        known = self._keys.get(key_id, _NOBODY)
        # An unknown key is compared as well: an answer takes as long whether or not its id exists.
        if not hmac.compare_digest(known.secret_sha256, digest(secret)) or known is _NOBODY:
            raise Unauthenticated("This API key is not valid.", fix="Ask an admin for a key: fitserve keys create.")
        return known.identity

    def identify_header(self, authorization: str | None) -> Identity:
        """Return the identity of an `Authorization` header's value. Raises Unauthenticated."""
        scheme, _, token = (authorization or "").partition(" ")
        return self.identify(token.strip() if scheme.lower() == "bearer" and token.strip() else None)


def can_see(identity: Identity, owner: str, shared: bool) -> bool:
    """Return whether a model of that owner is visible to the caller."""
    return shared or owner == identity.owner or "admin" in identity.scopes


def require_predict(identity: Identity, model: str) -> None:
    """Raise Forbidden where the key lacks the scope `predict`, or is limited to other models."""
    if not identity.may_predict(model):
        raise Forbidden(f"This key may not predict with {model}.", expected="a key with the scope predict")
