"""Profile columns: count values batch by batch, then derive each column's facts and profile."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import MAX_LABELS, ColumnFacts, Kind, Storage
from fitserve.datasets.column_parser import ColumnParser, storage_of
from fitserve.datasets.kinds import LARGEST_EXACT, Traits, check_kind, infer_kind, label_order
from fitserve.datasets.typed_values import note_typed_values
from fitserve.encoding.coercion import as_label, numbers_of, texts_of
from fitserve.encoding.text import tokenize, tokens_for
from fitserve.excerpts import excerpt_of_cell
from fitserve.wire.datasets import Column
from fitserve.wire.notices import Notice

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
BINS = 20
TOP = 20  # most frequent values or tokens listed in a profile
MAX_NUMERIC_LABELS = 100  # a numeric column with more distinct values lists none
SKETCH_SIZE = 4096  # number of smallest hashes used to estimate distinct values (error about 1.6 %)
SAMPLED_TEXTS = 5_000  # texts whose tokens are counted


class ColumnCounts:
    """Counts over all rows of one column."""

    def __init__(self, max_distinct: int) -> None:
        self.missing = 0
        self.distinct = DistinctCounter(max_distinct)
        self.moments = Moments()
        self.has_times_of_day = False
        self.increasing = True  # each value is larger than the previous one, and none is missing
        self._last: float = -np.inf

    def add(self, values: pa.Array) -> None:
        """Count a batch."""
        arrow_type = values.type
        floating = pa.types.is_floating(arrow_type)
        self.missing += pc.sum(values.is_null(nan_is_null=True)).as_py() or 0 if floating else values.null_count
        if pa.types.is_temporal(arrow_type):
            values = values.cast(pa.timestamp("us", getattr(arrow_type, "tz", None)), safe=False).cast(pa.int64())
            if not (self.has_times_of_day or pa.types.is_date32(arrow_type)):
                self.has_times_of_day = _has_times_of_day(values)
            self.moments.add(pc.divide(values.cast(pa.float64(), safe=False), 1e6))
        elif pa.types.is_integer(arrow_type) or floating or pa.types.is_decimal(arrow_type):
            narrow = pa.types.is_decimal(arrow_type) or arrow_type.bit_width < 32
            self.moments.add(values.cast(pa.float64(), safe=False) if narrow else values)
            if self.increasing and pa.types.is_integer(arrow_type):
                self._check_order(values)
        self.distinct.add(values)

    def labels(self) -> dict[str, int] | None:
        """Return the distinct texts and their counts; None if there are too many."""
        distinct, counts = self.distinct.finish()
        if counts is None or distinct > MAX_LABELS:
            return None
        return dict(zip(counts.column("v").to_pylist(), counts.column("n").to_pylist(), strict=True))

    def _check_order(self, values: pa.Array) -> None:
        if values.null_count or not len(values):
            self.increasing = not values.null_count
            return
        numbers = values.to_numpy(zero_copy_only=False)
        self.increasing = bool(numbers[0] > self._last) and bool((numbers[1:] > numbers[:-1]).all())
        self._last = float(numbers[-1])


def _has_times_of_day(microseconds: pa.Array) -> bool:
    day = 86_400_000_000
    midnights = pc.multiply(pc.divide(microseconds, day), day)
    return bool(pc.any(pc.not_equal(microseconds, midnights)).as_py())


class DistinctCounter:
    """Counts each value exactly up to `max_distinct` values; beyond that, only estimates how many there are.

    The estimate uses the k minimum values. Source: Z. Bar-Yossef et al., "Counting distinct elements in a data
    stream", 2002.
    """

    def __init__(self, max_distinct: int) -> None:
        self.max_distinct = max_distinct
        self._table: pa.Table | None = None  # values `v` and counts `n`
        self._pending: list[pa.Table | pa.Array] = []  # counts of single batches, or values that are not counted yet
        self._pending_rows = 0  # distinct values of each of them, added up
        self._smallest_hashes: np.ndarray | None = None  # sorted; set once there are too many values

    def add(self, values: pa.Array) -> None:
        """Count the values of a batch; nulls are left out."""
        if values.null_count:
            values = values.drop_null()
        if not len(values):
            return
        if self._smallest_hashes is not None:
            self._add_to_sketch(values)
            return
        distinct = _distinct_numbers(values)
        is_mostly_new = distinct is not None and 2 * distinct > len(values)
        if is_mostly_new:  # count later, if at all: a long column is only estimated, and sorting took a tenth
            self._pending.append(values)
        else:
            counted = _counts(values)
            self._pending.append(counted)
            distinct = len(counted)
            is_mostly_new = 2 * distinct > len(values)
        self._pending_rows += int(distinct or 0)
        merged_rows = self._table.num_rows if self._table is not None else 0
        if self._pending_rows <= max(self.max_distinct, 4 * merged_rows):
            return
        if is_mostly_new:  # merging would only show that they are too many
            self._switch_to_sketch(self._pending + ([self._table] if self._table is not None else []))
        else:
            self._merge()

    def _merge(self) -> None:
        counted = [one if isinstance(one, pa.Table) else _counts(one) for one in self._pending]
        tables = ([self._table] if self._table is not None else []) + counted
        self._pending, self._pending_rows = [], 0
        if not tables:
            return
        merged = pa.concat_tables(tables)
        if len(tables) > 1:
            merged = merged.group_by("v", use_threads=False).aggregate([("n", "sum")]).rename_columns(["v", "n"])
        self._table = merged
        if merged.num_rows > self.max_distinct:
            self._switch_to_sketch([merged])

    def _switch_to_sketch(self, parts: Sequence[pa.Table | pa.Array]) -> None:
        self._smallest_hashes = np.empty(0, np.uint64)
        for part in parts:
            for values in part.column("v").chunks if isinstance(part, pa.Table) else [part]:
                self._add_to_sketch(values)
        self._table, self._pending, self._pending_rows = None, [], 0

    def _add_to_sketch(self, values: pa.Array) -> None:
        assert self._smallest_hashes is not None
        hashes = hash_values(values)
        if len(self._smallest_hashes) == SKETCH_SIZE:
            hashes = hashes[hashes < self._smallest_hashes[-1]]
        if len(hashes):
            merged = np.sort(np.concatenate([self._smallest_hashes, hashes]))  # far faster than np.unique, which hashes
            is_new = np.concatenate([[True], merged[1:] != merged[:-1]])
            self._smallest_hashes = merged[is_new][:SKETCH_SIZE]

    def finish(self) -> tuple[int, pa.Table | None]:
        """Return the number of distinct values and, if exact, the table of values `v` and counts `n`."""
        self._merge()
        if self._smallest_hashes is not None:
            if len(self._smallest_hashes) < SKETCH_SIZE:
                return len(self._smallest_hashes), None
            return round((SKETCH_SIZE - 1) / (float(self._smallest_hashes[-1]) / 2.0**64)), None
        if self._table is None:
            return 0, pa.table({"v": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
        return self._table.num_rows, self._table


def _counts(values: pa.Array) -> pa.Table:
    """Return how often each value occurs: a table of values `v` and counts `n`."""
    counted = values.value_counts()
    return pa.table({"v": counted.field(0), "n": counted.field(1)})


def _distinct_numbers(values: pa.Array) -> int | None:
    """Return how many different ones there are among numbers without nulls; None for values of other types."""
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        return None
    numbers = np.sort(values.to_numpy(zero_copy_only=False))  # NaN comes last
    steps = int(np.count_nonzero(numbers[1:] != numbers[:-1]))
    unknown = int(np.count_nonzero(np.isnan(numbers))) if numbers.dtype.kind == "f" else 0  # each differs from itself
    return 1 + steps - max(0, unknown - 1)


def hash_values(values: pa.Array) -> np.ndarray:
    """Return 64-bit hashes (uint64) of values without nulls."""
    arrow_type = values.type
    if pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type):
        return _hash_texts(values)
    if pa.types.is_boolean(arrow_type):
        values = values.cast(pa.int8())
    elif not (pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type)):
        values = values.cast(pa.int64() if pa.types.is_temporal(arrow_type) else pa.float64(), safe=False)
    numbers = values.to_numpy(zero_copy_only=False)
    numbers = numbers.astype(np.float64 if numbers.dtype.kind == "f" else np.int64, copy=False)
    return _splitmix64(numbers.view(np.uint64))


def _splitmix64(words: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit words: the finaliser of SplitMix64 (S. Vigna)."""
    z = words + np.uint64(0x9E3779B97F4A7C15)
    shifted = np.empty_like(z)  # in place, as new arrays would take more time than their sums
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        np.right_shift(z, np.uint64(bits), out=shifted)
        z ^= shifted
        if factor is not None:
            z *= np.uint64(factor)
    return z


def _hash_texts(values: pa.Array) -> np.ndarray:
    """Hash each text's length and 24 of its bytes (the first eight, eight in the middle, the last eight)."""
    wide = pa.types.is_large_string(values.type)
    buffers = values.buffers()
    offsets = np.frombuffer(buffers[1], np.int64 if wide else np.int32)[values.offset : values.offset + len(values) + 1]
    starts, lengths = offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64)
    data = np.frombuffer(buffers[2], np.uint8) if buffers[2] is not None else np.empty(0, np.uint8)
    if not len(data):
        return _splitmix64(np.zeros(len(values), np.uint64))
    padded = np.concatenate([data[starts[0] : offsets[-1]], np.zeros(8, np.uint8)])
    words = np.lib.stride_tricks.as_strided(padded[:8].view(np.uint64), (len(padded) - 7,), (1,))
    starts = starts - starts[0]
    are_long = bool(lengths.min() >= 8)  # all texts: none has bytes beyond its end to leave out

    def eight_bytes_at(positions: np.ndarray) -> np.ndarray:
        if are_long:
            return np.asarray(words[positions])
        left = np.clip(lengths - (positions - starts), 0, 8).astype(np.uint64)
        mask = np.where(left >= 8, np.uint64(2**64 - 1), (np.uint64(1) << (left * np.uint64(8))) - np.uint64(1))
        return np.asarray(words[np.minimum(positions, len(words) - 1)] & mask)  # bytes after the text's end are 0

    hashes = _splitmix64(lengths.astype(np.uint64))
    for positions in (starts, starts + np.maximum(lengths // 2 - 4, 0), starts + np.maximum(lengths - 8, 0)):
        hashes = _splitmix64(hashes ^ eight_bytes_at(positions))
    return _splitmix64(hashes)


class Moments:
    """Count, minimum, maximum, mean and population variance of finite numbers, merged batch by batch.

    Source: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """

    def __init__(self) -> None:
        self.count, self.infinite = 0, 0
        self.mean = self._squares = 0.0  # `_squares`: sum of squared deviations from the mean
        self.min, self.max = math.inf, -math.inf

    def add(self, numbers: pa.Array) -> None:
        """Add a numeric array; nulls and NaN are left out, infinities counted separately."""
        count = len(numbers) - numbers.null_count
        if not count:
            return
        low, high = (value.as_py() for value in pc.min_max(numbers).values())
        if low is None or high is None:
            return
        if not (math.isfinite(low) and math.isfinite(high)):
            self.infinite += pc.sum(pc.is_inf(numbers)).as_py() or 0
            self.add(numbers.filter(pc.is_finite(numbers)))
            return
        mean = pc.mean(numbers).as_py()
        if mean != mean:  # a typed column contains NaN
            self.add(numbers.filter(pc.is_finite(numbers)))
            return
        self._merge(count, float(mean), float(pc.variance(numbers).as_py()) * count)
        self.min, self.max = min(self.min, float(low)), max(self.max, float(high))

    def _merge(self, count: int, mean: float, squares: float) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * count / total
        self._squares += squares + delta * delta * self.count * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(max(0.0, self._squares / self.count)) if self.count else 0.0


# --- from counts to facts and a profile ----------------------------------------------------------------------------


def describe_columns(
    parsers: Sequence[ColumnParser],
    counts: Sequence[ColumnCounts],
    sample: pa.Table,
    rows: int,
    stated_kinds: Mapping[str, Kind],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the columns (wire.Column as JSON) and the profile (wire.Profile as JSON) of a table.

    Raises TableRefused where a column cannot be of its stated kind.
    """
    columns, profiles = [], {}
    for position, (parser, counted) in enumerate(zip(parsers, counts, strict=True)):
        column, profile = _describe(
            parser,
            counted,
            sample.column(parser.name),
            rows,
            stated_kinds.get(parser.name),
            is_first_of_many=position == 0 and len(parsers) >= 4,
        )
        columns.append(column.model_dump(mode="json"))
        profiles[parser.name] = profile
    return columns, {"rows": rows, "sampled_rows": sample.num_rows, "columns": profiles}


def _describe(
    parser: ColumnParser,
    counts: ColumnCounts,
    sample: pa.ChunkedArray,
    rows: int,
    stated: Kind | None,
    *,
    is_first_of_many: bool,
) -> tuple[Column, dict[str, Any]]:
    distinct, value_counts = counts.distinct.finish()
    storage, moments = storage_of(sample.type), counts.moments
    labels, label_counts = _labels(value_counts, storage)
    facts: dict[str, Any] = {
        "name": parser.name,
        "storage": storage,
        "rows": rows,
        "missing": counts.missing,
        "infinite": int(moments.infinite),
        "distinct": distinct,
        "distinct_exact": value_counts is not None,
        "labels": labels,
        "label_counts": label_counts,
        "date_only": storage == "timestamp" and not counts.has_times_of_day,
        "format": parser.format,
    }
    if moments.count:
        facts |= {"min": moments.min, "max": moments.max, "mean": moments.mean, "std": moments.std}
    traits = Traits(is_first_of_many, counts.increasing, bad=parser.bad, whole=_are_whole(sample, labels))
    text = _text_traits(sample) if storage == "string" else None
    if text:
        facts |= {"tokens": text["tokens"], "max_tokens": text["max_tokens"]}
        traits = replace(traits, words=text["words"], letters=text["letters"], texts=text["texts"])
    inferred, evidence = infer_kind(ColumnFacts(kind="ignored", **facts), traits)
    if stated is not None:
        check_kind(parser.name, stated, storage, labels)
    if (stated or inferred) == "numeric" and labels is not None and len(labels) > MAX_NUMERIC_LABELS:
        facts |= {"labels": None, "label_counts": None}
    if inferred == "ignored" and stated is None and storage == "int64" and moments.max > LARGEST_EXACT:
        parser.notices.append(_beyond_float64(parser.name))
    if parser.plan.typed and stated is None:
        parser.notices += note_typed_values(parser.name, sample, moments.max if moments.count else None)
    parser.finish(dict(zip(labels or (), label_counts or (), strict=True)))
    if parser.plan.evidence:
        evidence += f"; {parser.plan.evidence}"
    if parser.plan.storage != "string" and (words := sorted(parser.read_as_missing)):
        evidence += f"; {', '.join(words[:3])} read as missing"
    column = Column(kind=stated or inferred, inferred=inferred, evidence=evidence, **facts)
    return column, _profile(column, sample, value_counts, moments.infinite, text)


def _are_whole(sample: pa.ChunkedArray, labels: Sequence[str] | None) -> bool:
    """Return whether all numbers are whole, as far as the labels or the sample show."""
    if not pa.types.is_floating(sample.type):
        return storage_of(sample.type) == "int64"
    if labels is not None:
        return all(label.lstrip("-").isdecimal() for label in labels)
    numbers = numbers_of(sample)
    numbers = numbers[~np.isnan(numbers)]
    return bool(np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all())


def _beyond_float64(name: str) -> Notice:
    return Notice(
        code="digits_kept",
        message=f"{name!r} is left out as an identifier: a network would see its values without their last digits.",
        column=name,
        evidence="whole numbers beyond 2^53",
        option=f"kinds.{name}=categorical",
    )


def _labels(value_counts: pa.Table | None, storage: Storage) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
    """Return the distinct values as sorted labels with their counts; None if there are too many."""
    most = MAX_NUMERIC_LABELS if storage == "float64" else MAX_LABELS
    if value_counts is None or value_counts.num_rows > most or storage == "timestamp":
        return None, None
    counts: dict[str, int] = {}
    for value, count in zip(value_counts.column("v").to_pylist(), value_counts.column("n").to_pylist(), strict=True):
        label = as_label(value)
        if label is not None:
            counts[label] = counts.get(label, 0) + count
    labels = label_order(list(counts), storage)
    return tuple(labels), tuple(counts[label] for label in labels)


def _text_traits(values: pa.ChunkedArray) -> dict[str, Any]:
    """Return traits of a column of texts, from at most SAMPLED_TEXTS of them.

    `texts` are those that are not missing, `words` and `letters` means over them, `tokens` says how they are tokenized,
    `max_tokens` counts the tokens of the longest text, `top_tokens` are the most frequent ones.
    """
    sampled, rest = values[:SAMPLED_TEXTS], values[SAMPLED_TEXTS:]
    present = [text for text in texts_of(sampled) if text is not None]
    how = tokens_for(present)
    lengths, counts = [], Counter[str]()
    for text in present:
        tokens = tokenize(text, how)
        lengths.append(len(tokens))
        counts.update(token for token in tokens if not token.isspace())
    most = max(lengths, default=0)
    if present and len(rest) and how == "whitespace":
        longest = pc.max(pc.binary_length(rest)).as_py() or 0
        if 0 < longest < 1 << 20:  # counting the blanks of a megabyte of text takes long, and it is no sentence
            blanks = pc.count_substring_regex(rest, r"\s+") if _has_blanks(rest) else pa.array([0])
            most = max(most, (pc.max(blanks).as_py() or 0) + 1)
    return {
        "texts": present,
        "words": float(np.mean(lengths)) if present else 0.0,
        "letters": float(np.mean([len(text) for text in present])) if present else 0.0,
        "tokens": how,
        "max_tokens": most,
        "top_tokens": [{"token": excerpt_of_cell(token), "count": count} for token, count in counts.most_common(TOP)],
    }


def _has_blanks(texts: pa.ChunkedArray) -> bool:
    """Return whether there is a blank, or a character below it, anywhere near these texts."""
    return any(bool((np.frombuffer(one.buffers()[2] or b"", np.uint8) <= 32).any()) for one in texts.chunks)


def _profile(
    facts: ColumnFacts,
    sample: pa.ChunkedArray,
    value_counts: pa.Table | None,
    infinite: int,
    text: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return one column's profile. `value_counts` is None where there are too many distinct values."""
    body: dict[str, Any] = {
        "kind": facts.kind,
        "rows": facts.rows,
        "missing": facts.missing,
        "distinct": facts.distinct,
        "distinct_exact": facts.distinct_exact,
        "top": _top_values(value_counts, sample, facts),
        "top_sampled": value_counts is None,
    }
    if facts.storage in ("int64", "float64", "timestamp"):
        body |= {"min": facts.min, "max": facts.max, "mean": facts.mean, "std": facts.std}
        if infinite:
            body["infinite"] = infinite
        body |= _distribution(numbers_of(sample), facts)
    if text is not None and facts.kind == "text":
        body |= {"tokens": text["top_tokens"], "mean_tokens": text["words"], "max_tokens": text["max_tokens"]}
        body["tokenised_by"] = text["tokens"]
    return body


def _distribution(numbers: np.ndarray, facts: ColumnFacts) -> dict[str, Any]:
    """Return quantiles and a histogram of sampled numbers; the histogram spans the whole column's range."""
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers) or facts.min is None or facts.max is None:
        return {"quantiles": None, "histogram": None}
    # Cannot interpolate between two numbers whose difference overflows float64.
    is_wide = facts.max / 2 - facts.min / 2 > np.finfo(np.float64).max / 2
    quantiles = np.quantile(numbers, QUANTILES, method="nearest" if is_wide else "linear")
    quantiles[0], quantiles[-1] = facts.min, facts.max
    by_level = {str(level): float(value) for level, value in zip(QUANTILES, quantiles, strict=True)}
    bins, low, high = BINS, facts.min, facts.max
    if not np.isfinite(high - low):
        return {"quantiles": by_level, "histogram": None}
    if facts.storage == "int64" and high - low < BINS:
        bins, low, high = int(high - low) + 1, low - 0.5, high + 0.5
    elif low == high:
        bins, low, high = 1, low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    if not (np.diff(edges) > 0).all():  # numbers so large that float64 cannot tell the edges apart
        edges = np.array([facts.min, facts.max])
    places = np.clip(np.searchsorted(edges, numbers, "right") - 1, 0, len(edges) - 2)
    counts = np.bincount(places, minlength=len(edges) - 1)
    return {"quantiles": by_level, "histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _top_values(value_counts: pa.Table | None, sample: pa.ChunkedArray, facts: ColumnFacts) -> list[dict[str, Any]]:
    if value_counts is None:
        values = sample.drop_null().value_counts()
        value_counts = pa.table({"v": values.field(0), "n": values.field(1)})
    if value_counts.num_rows:
        value_counts = value_counts.take(pc.select_k_unstable(value_counts, TOP, [("n", "descending")]))
    rows = [
        {"value": _shown(value, facts), "count": count}
        for value, count in zip(value_counts.column("v").to_pylist(), value_counts.column("n").to_pylist(), strict=True)
    ]
    return sorted(rows, key=lambda row: (-int(str(row["count"])), str(row["value"])))


def _shown(value: Any, facts: ColumnFacts) -> Any:
    if facts.storage == "timestamp" and isinstance(value, int):
        return datetime.fromtimestamp(value / 1e6, UTC).replace(tzinfo=None).isoformat()
    return excerpt_of_cell(as_label(value)) if not isinstance(value, (int, float)) else excerpt_of_cell(value)
