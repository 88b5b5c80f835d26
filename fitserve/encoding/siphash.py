"""SipHash-2-4, as Keras's `Hashing(salt=...)` layer uses it (TensorFlow's `string_to_hash_bucket_strong`).

Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012; its test vector is in the tests.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = ((v1 << 13) | (v1 >> 51)) & _MASK ^ v0
    v0 = ((v0 << 32) | (v0 >> 32)) & _MASK
    v2 = (v2 + v3) & _MASK
    v3 = ((v3 << 16) | (v3 >> 48)) & _MASK ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = ((v3 << 21) | (v3 >> 43)) & _MASK ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = ((v1 << 17) | (v1 >> 47)) & _MASK ^ v2
    v2 = ((v2 << 32) | (v2 >> 32)) & _MASK
    return v0, v1, v2, v3


def siphash24(data: bytes, key: tuple[int, int]) -> int:
    """The 64-bit SipHash-2-4 of some bytes under a key of two 64-bit integers."""
    k0, k1 = key[0] & _MASK, key[1] & _MASK
    state = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    whole = len(data) & ~7
    last = int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56
    for word in [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)] + [last]:
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = _round(*_round(v0, v1, v2, v3 ^ word))
        state = (v0 ^ word, v1, v2, v3)
    v0, v1, v2, v3 = state
    v2 ^= 0xFF
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def hash_bin(label: str, bins: int, salt: tuple[int, int]) -> int:
    """Keras's `Hashing(num_bins=bins, mask_value="", salt=salt)`: 0 for the empty string, else 1 to bins - 1."""
    if not label:
        return 0
    return 1 + siphash24(label.encode("utf-8", "replace"), salt) % (bins - 1)
