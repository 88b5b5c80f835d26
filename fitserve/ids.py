"""Names that people choose, and identifiers that sort by the time of their creation."""

from __future__ import annotations

import secrets
import threading
import time

# Of datasets, models, labels, keys, automations, webhooks: a part of URLs, references and names of files.
NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
NAME_PATTERN = f"^{NAME}$"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case

_last = 0
_lock = threading.Lock()


def new_id(prefix: str) -> str:
    """Return `prefix_` and a ULID of 26 characters: 48 bits of milliseconds, 80 random bits.

    Those of one process ascend, also within a millisecond.
    """
    global _last
    with _lock:
        number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(79)  # room to count up within its millisecond
        if number <= _last:
            number = _last + 1 + secrets.randbits(64)
        _last = number
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
