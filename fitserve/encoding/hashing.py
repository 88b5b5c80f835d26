"""`hashing`: a label by its hash, without a list of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.category import Category, LabelColumn
from fitserve.encoding.encoding import Encoding


class HashedColumn(LabelColumn):
    """Bin 0 is missing; every other label has its bin, known or not."""

    encoding: Hashing
    missing_place = 0

    @cached_property
    def integer(self) -> bool:
        return self.encoding.output == "index"

    def place_of(self, label: str) -> int:
        return hash_bin(label, self.encoding.bins, self.encoding.salt)

    def places_of(self, labels: Sequence[str]) -> np.ndarray:
        return hash_bins(labels, self.encoding.bins, self.encoding.salt)


class Hashing(Encoding):
    """Keras's `Hashing` (SipHash-2-4 with `salt`): bin 0 is missing, others are 1 + hash mod (bins - 1)."""

    kinds = Category.kinds
    column_class = HashedColumn
    in_code = True

    type: Literal["hashing"] = "hashing"
    bins: int = Field(default=64, ge=2, le=1_000_000)
    salt: tuple[int, int] = (133, 137)
    output: Literal["one_hot", "index"] = "one_hot"
    missing: Literal["zero", "refuse"] = Field(default="zero", description="zero: bin 0")

    def width(self, facts: ColumnFacts) -> int:
        return self.bins if self.output == "one_hot" else 1

    def cardinality(self, facts: ColumnFacts) -> int | None:
        return self.bins if self.output == "index" else None


def hash_bin(label: str, bins: int, salt: tuple[int, int]) -> int:
    """Return Keras's `Hashing(num_bins=bins, mask_value="", salt=salt)`: 0 for "", else 1 to bins - 1."""
    if not label:
        return 0
    return 1 + siphash24(label.encode("utf-8", "replace"), salt) % (bins - 1)


def hash_bins(labels: Sequence[str], bins: int, salt: tuple[int, int]) -> np.ndarray:
    """Return `hash_bin` of each label, int64; labels of similar length are hashed together."""
    texts = [label.encode("utf-8", "replace") for label in labels]
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    places = np.zeros(len(texts), np.int64)
    for words in np.unique(lengths >> 3).tolist():
        rows = np.flatnonzero((lengths >> 3) == words)
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            size = 8 * (words + 1)
            padded = b"".join([texts[row].ljust(size, b"\0") for row in some.tolist()])
            data = np.frombuffer(padded, "<u8").reshape(len(some), words + 1).copy()
            data[:, words] |= (lengths[some].astype(np.uint64) & np.uint64(0xFF)) << np.uint64(56)
            hashed = _siphash24_words([data[:, word] for word in range(words + 1)], salt)
            places[some] = 1 + (hashed % np.uint64(bins - 1)).astype(np.int64)
    return np.where(lengths == 0, 0, places)


_MASK = (1 << 64) - 1
_AT_ONCE = 16_384  # labels hashed at once


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
    """Return the 64-bit SipHash-2-4 of some bytes under a key of two 64-bit integers.

    Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012.
    """
    k0, k1 = key[0] & _MASK, key[1] & _MASK
    state = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    whole = len(data) & ~7
    last = int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56
    for word in [int.from_bytes(data[index : index + 8], "little") for index in range(0, whole, 8)] + [last]:
        v0, v1, v2, v3 = state
        v0, v1, v2, v3 = _round(*_round(v0, v1, v2, v3 ^ word))
        state = (v0 ^ word, v1, v2, v3)
    v0, v1, v2, v3 = state
    v2 ^= 0xFF
    for _ in range(4):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def _siphash24_words(words: Sequence[np.ndarray], key: tuple[int, int]) -> np.ndarray:
    """Return `siphash24` of many texts with the same number of 64-bit words, the last of which holds their lengths."""
    k0, k1 = np.uint64(key[0] & _MASK), np.uint64(key[1] & _MASK)
    start = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    v0, v1, v2, v3 = (np.full(len(words[0]), k ^ np.uint64(s)) for k, s in zip((k0, k1, k0, k1), start, strict=True))
    for word in words:
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3 ^ word, 2)
        v0 = v0 ^ word
    v0, v1, v2, v3 = _rounds(v0, v1, v2 ^ np.uint64(0xFF), v3, 4)
    return np.asarray(v0 ^ v1 ^ v2 ^ v3)


def _rounds(v0: Any, v1: Any, v2: Any, v3: Any, count: int) -> tuple[Any, Any, Any, Any]:
    """Apply `_round` `count` times on arrays of uint64, whose sums wrap around by themselves."""

    def rotated(v: Any, bits: int) -> Any:
        return (v << np.uint64(bits)) | (v >> np.uint64(64 - bits))

    for _ in range(count):
        v0 = v0 + v1
        v1 = rotated(v1, 13) ^ v0
        v0 = rotated(v0, 32)
        v2 = v2 + v3
        v3 = rotated(v3, 16) ^ v2
        v0 = v0 + v3
        v3 = rotated(v3, 21) ^ v0
        v2 = v2 + v1
        v1 = rotated(v1, 17) ^ v2
        v2 = rotated(v2, 32)
    return v0, v1, v2, v3
