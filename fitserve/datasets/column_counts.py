"""What is counted of a column as its batches go by: distinct values, moments."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEPT = 4096  # smallest hashes kept for an estimate of the distinct values (error about 1.6 %)


class Counts:
    """How often each value occurs: exact up to `most` distinct values, an estimate of their number beyond."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.table: pa.Table | None = None
        self.pending: list[pa.Table] = []
        self.pending_rows = 0
        self.smallest: np.ndarray | None = None  # set once there are too many

    @property
    def exact(self) -> bool:
        """Whether every value was counted."""
        return self.smallest is None

    def add(self, values: pa.Array) -> None:
        """Counts the values of a batch; nulls are left out."""
        if values.null_count:
            values = values.drop_null()
        if not len(values):
            return
        if self.smallest is not None:
            self._sketch(values)
            return
        counted = values.value_counts()
        self.pending.append(pa.table({"v": counted.field(0), "n": counted.field(1)}))
        self.pending_rows += len(counted)
        if self.pending_rows <= max(self.most, 4 * (self.table.num_rows if self.table is not None else 0)):
            return
        if 2 * len(counted) > len(values):  # still mostly new values: merging would only tell that they are too many
            self._give_up(self.pending + ([self.table] if self.table is not None else []))
        else:
            self._merge()

    def _give_up(self, tables: list[pa.Table]) -> None:
        self.smallest = np.empty(0, np.uint64)
        for chunk in (chunk for table in tables for chunk in table.column("v").chunks):
            self._sketch(chunk)
        self.table, self.pending, self.pending_rows = None, [], 0

    def _merge(self) -> None:
        tables = ([self.table] if self.table is not None else []) + self.pending
        self.pending, self.pending_rows = [], 0
        if not tables:
            return
        merged = pa.concat_tables(tables)
        if len(tables) > 1:
            merged = merged.group_by("v", use_threads=False).aggregate([("n", "sum")]).rename_columns(["v", "n"])
        self.table = merged
        if merged.num_rows > self.most:
            self._give_up([merged])

    def _sketch(self, values: pa.Array) -> None:
        assert self.smallest is not None
        hashes = hash_values(values)
        if len(self.smallest) == KEPT:
            hashes = hashes[hashes < self.smallest[-1]]
        if len(hashes):
            self.smallest = np.unique(np.concatenate([self.smallest, hashes]))[:KEPT]

    def finish(self) -> tuple[int, pa.Table | None]:
        """The number of distinct values, and where it is exact the table of values `v` and counts `n`."""
        self._merge()
        if self.smallest is not None:
            if len(self.smallest) < KEPT:
                return len(self.smallest), None
            return round((KEPT - 1) / (float(self.smallest[-1]) / 2.0**64)), None
        if self.table is None:
            return 0, pa.table({"v": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
        return self.table.num_rows, self.table


def hash_values(values: pa.Array) -> np.ndarray:
    """64-bit hashes, uint64, of values without nulls; of texts the length, both ends and the middle are hashed."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        mixed = _text_words(values)
    else:
        if pa.types.is_boolean(kind):
            values = values.cast(pa.int8())
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            values = values.cast(pa.int64() if pa.types.is_temporal(kind) else pa.float64(), safe=False)
        plain = values.to_numpy(zero_copy_only=False)
        plain = plain.astype(np.float64 if plain.dtype.kind == "f" else np.int64, copy=False)
        mixed = plain.view(np.uint64)
    return _mix(mixed)


def _mix(words: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (S. Vigna)."""
    z = words + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _text_words(values: pa.Array) -> np.ndarray:
    wide = pa.types.is_large_string(values.type)
    buffers = values.buffers()
    offsets = np.frombuffer(buffers[1], np.int64 if wide else np.int32)[values.offset : values.offset + len(values) + 1]
    starts, lengths = offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64)
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.empty(0, np.uint8)
    if not len(data):
        return np.zeros(len(values), np.uint64)
    padded = np.concatenate([data[starts[0] : offsets[-1]], np.zeros(8, np.uint8)])
    words = np.lib.stride_tricks.as_strided(padded[:8].view(np.uint64), (len(padded) - 7,), (1,))
    base = starts - starts[0]

    def at(places: np.ndarray) -> np.ndarray:
        """The eight bytes from each place, those beyond the text's end masked."""
        left = np.clip(lengths - (places - base), 0, 8).astype(np.uint64)
        mask = np.where(left >= 8, np.uint64(2**64 - 1), (np.uint64(1) << (left * np.uint64(8))) - np.uint64(1))
        return np.asarray(words[np.minimum(places, len(words) - 1)] & mask)

    result = _mix(lengths.astype(np.uint64))
    for places in (base, base + np.maximum(lengths // 2 - 4, 0), base + np.maximum(lengths - 8, 0)):
        result = _mix(result ^ at(places))
    return result


class Moments:
    """Count, minimum, maximum, mean and population variance of finite numbers, merged batch by batch.

    Source: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """

    def __init__(self) -> None:
        self.count, self.infinite = 0, 0
        self.mean = self.squares = 0.0
        self.min, self.max = math.inf, -math.inf

    def add(self, numbers: pa.Array) -> None:
        """Takes in a numeric array; nulls and NaN are left out, infinities counted apart."""
        count = len(numbers) - numbers.null_count
        if not count:
            return
        low, high = (value.as_py() for value in pc.min_max(numbers).values())
        if low is None or high is None:
            return
        if not (math.isfinite(low) and math.isfinite(high)):
            self.infinite += pc.sum(pc.is_inf(numbers)).as_py() or 0
            numbers = numbers.filter(pc.is_finite(numbers))
            self.add(numbers)
            return
        mean = pc.mean(numbers).as_py()
        variance = pc.variance(numbers).as_py()
        if mean != mean:  # NaN values in a typed column
            self.add(numbers.filter(pc.is_finite(numbers)))
            return
        self._merge(count, float(mean), float(variance) * count)
        self.min, self.max = min(self.min, float(low)), max(self.max, float(high))

    def _merge(self, count: int, mean: float, squares: float) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * count / total
        self.squares += squares + delta * delta * self.count * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(max(0.0, self.squares / self.count)) if self.count else 0.0
