"""Encryption at rest of what the database must hold in readable form: the secrets that sign webhooks.

The operator's keys stand in `FITSERVE_SECRET_KEYS`, newest first: the first one encrypts, all of them decrypt. Fernet
(AES-128-CBC with HMAC-SHA256) comes from the package cryptography, which the extra `encryption` brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.errors import FitserveError
from fitserve.settings import Settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class Unreadable(FitserveError):
    """A secret cannot be decrypted."""


def seals(settings: Settings) -> bool:
    """Return whether new secrets are encrypted."""
    return settings.secret_keys is not None


def seal(text: str, settings: Settings) -> str:
    """Return a text encrypted with the first key."""
    return _fernet(settings).encrypt(text.encode()).decode()


def unseal(sealed: str, settings: Settings) -> str:
    """Return a text that any of the keys encrypted. Raises Unreadable."""
    if not seals(settings):
        raise Unreadable("A secret is encrypted, and there is no key.", fix="Set FITSERVE_SECRET_KEYS.")
    from cryptography.fernet import InvalidToken

    try:
        return _fernet(settings).decrypt(sealed.encode()).decode()
    except InvalidToken:
        raise Unreadable(
            "A secret was encrypted with a key that FITSERVE_SECRET_KEYS does not hold.",
            fix="Add the older key behind the newer one.",
        ) from None


def is_current(sealed: str, settings: Settings) -> bool:
    """Return whether the first key encrypted a text."""
    from cryptography.fernet import Fernet, InvalidToken

    try:
        Fernet(settings.each_secret_key()[0].encode()).decrypt(sealed.encode())
    except InvalidToken:
        return False
    return True


def _fernet(settings: Settings) -> MultiFernet:
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(key.encode()) for key in settings.each_secret_key()])
