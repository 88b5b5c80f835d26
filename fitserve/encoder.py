"""The encoder: raw columns to the network's inputs, fitted on training rows alone and frozen with the artifact.

One definition, used in training (`encode`), in the serving path (`encode_rows`) and, layer by layer, in the
exported Keras model. Both write the same numbers to the bit: numbers are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from fitserve.dataset_facts import ColumnFacts, DatasetFacts
from fitserve.encoding.coercion import clipped, labels_of, numbers_of, texts_of
from fitserve.spec.feature import NUMBERS, EncodedInput, Feature, encoded_inputs, resolve_feature, width
from fitserve.encoding.fitted_column import KEYED, TEXTS, FittedColumn, Warned
from fitserve.encoding.tokens import idf, tokenize
from fitserve.errors import BadInput, Problem

Rows = Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Encoder:
    """`columns` in feature order; `inputs` are the network's, each (rows, *shape)."""

    columns: tuple[FittedColumn, ...]
    inputs: tuple[EncodedInput, ...]

    @classmethod
    def fit(cls, features: Sequence[Feature], table: pa.Table, facts: DatasetFacts) -> Encoder:
        """Learns from `table`, the training rows alone; widths come from `facts`. Raises BadInput, NotFound."""
        offsets: dict[str, int] = {}
        columns = []
        for feature in features:
            known = facts.column(feature.column)
            resolved = resolve_feature(feature, known)
            size, target = width(resolved, known), str(resolved.input)
            columns.append(_fit_column(resolved, known, table.column(feature.column), offsets.get(target, 0), size))
            offsets[target] = offsets.get(target, 0) + size
        return cls(tuple(columns), encoded_inputs(features, facts))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` makes an equal encoder of it."""
        inputs = [
            {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "cardinality": one.cardinality}
            for one in self.inputs
        ]
        return {"format": 1, "inputs": inputs, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Encoder:
        """The encoder that `to_json` wrote. Raises BadInput for a format that is not known here."""
        if body.get("format") != 1:
            raise BadInput("This encoder's format is not known here.", received=body.get("format"), expected="1")
        inputs = [
            EncodedInput(one["name"], one["dtype"], tuple(one["shape"]), one["cardinality"]) for one in body["inputs"]
        ]
        return cls(tuple(FittedColumn(**column) for column in body["columns"]), tuple(inputs))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The raw columns, in order: what a row given as a list holds."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def _places(self) -> tuple[tuple[FittedColumn, int, slice], ...]:
        at = {one.name: place for place, one in enumerate(self.inputs)}
        return tuple((c, at[c.input], slice(c.offset, c.offset + c.width)) for c in self.columns)

    def _zeros(self, rows: int) -> list[np.ndarray]:
        return [np.zeros((rows, *one.shape), one.dtype) for one in self.inputs]

    def encode(self, table: pa.Table) -> dict[str, np.ndarray]:
        """A table's rows as network inputs, in bulk. Raises BadInput naming row and column."""
        if missing := [name for name in self.names if name not in table.column_names]:
            raise BadInput(f"The table has no column {missing[0]!r}.", received=table.column_names[:20])
        outs = self._zeros(table.num_rows)
        for column, place, part in self._places:
            column.fill(table.column(column.name), outs[place][:, part])
        return {one.name: out for one, out in zip(self.inputs, outs, strict=True)}

    def encode_rows(self, rows: Rows) -> tuple[dict[str, np.ndarray], list[list[Warned]]]:
        """Rows of JSON values, named or positional, as network inputs, with each row's warnings.

        Raises BadInput naming row (from 1) and column: up to 20 problems at once.
        """
        quick = self._quick
        if quick is not None and (found := quick(rows)) is not None:
            return {self.inputs[0].name: found}, [[] for _ in rows]
        outs = self._zeros(len(rows))
        warned: list[list[Warned]] = []
        problems: list[Problem] = []
        for at, row in enumerate(rows):
            notes: list[Warned] = []
            try:
                values = self.positional(row, at + 1)
                for value, (column, place, part) in zip(values, self._places, strict=True):
                    note = column.put(value, outs[place][at, part], at + 1)
                    if note is not None:
                        notes.append(note)
            except BadInput as error:
                problems.extend(error.problems)
                if len(problems) >= 20:
                    break
            warned.append(notes)
        if problems:
            raise BadInput(problems[0].detail, problems=problems[:20])
        return {one.name: out for one, out in zip(self.inputs, outs, strict=True)}, warned

    def positional(self, row: Any, number: int) -> Sequence[Any]:
        """A row's values in order; a column that a named row leaves out is missing. Raises BadInput."""
        if isinstance(row, Mapping):
            values = [row.get(name) for name in self.names]
            if len(row) > len(self.names) or any(name not in self._known for name in row):
                extra = next(name for name in row if name not in self._known)
                raise _row_problem(number, f"there is no column {clipped(extra)!r}", extra, ", ".join(self.names[:20]))
            return values
        if isinstance(row, (list, tuple)):
            if len(row) != len(self.names):
                raise _row_problem(number, f"it has {len(row)} values", len(row), f"{len(self.names)} values")
            return row
        if len(self.names) == 1:
            return (row,)
        raise _row_problem(number, "it is neither an object nor a list", row, "an object of columns, or a list")

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _quick(self) -> Callable[[Rows], np.ndarray | None] | None:
        """The fast path: every column a plain number without indicator, into one input."""
        plain = ("standardize", "min_max", "pass_through")
        simple = all(c.type in plain and c.kind == "numeric" and c.width == 1 for c in self.columns)
        if not simple or len(self.inputs) != 1 or not self.columns:
            return None
        return _quick_numbers(self.columns)


def _quick_numbers(columns: Sequence[FittedColumn]) -> Callable[[Rows], np.ndarray | None]:
    """Encodes rows of finite numbers within the range seen in training; None where anything else occurs."""
    names = [column.name for column in columns]
    constants = [(c.fitted["min"], c.fitted["max"], c.fitted["center"], c.fitted["scale"]) for c in columns]
    count = len(names)

    def encode(rows: Rows) -> np.ndarray | None:
        flat: list[float] = []
        add = flat.append
        for row in rows:
            if len(row) != count:
                return None
            if type(row) is dict:
                try:
                    values: Any = [row[name] for name in names]
                except KeyError:
                    return None
            elif type(row) is list:
                values = row
            else:
                return None
            for value, (low, high, center, scale) in zip(values, constants, strict=True):
                if type(value) is not float and type(value) is not int:
                    return None
                if not low <= value <= high:  # NaN as well
                    return None
                add((value - center) / scale)
        return np.array(flat, np.float32).reshape(len(rows), count)

    def guarded(rows: Rows) -> np.ndarray | None:
        try:
            return encode(rows)
        except (TypeError, OverflowError):
            return None

    return guarded


def _row_problem(number: int, what: str, received: Any, expected: str) -> BadInput:
    problem = Problem(f"Row {number}: {what}.", row=number, received=clipped(received), expected=expected)
    return BadInput(problem.detail, problems=[problem])


def _fit_column(feature: Feature, facts: ColumnFacts, values: pa.ChunkedArray, offset: int, size: int) -> FittedColumn:
    encoding = feature.encoding.model_dump(mode="json") if feature.encoding else {}
    kind = encoding["type"]
    fitted: dict[str, Any] = {}
    if kind in NUMBERS:
        fitted = _fit_numbers(encoding, numbers_of(values), facts.name)
    elif kind == "boolean":
        false, true = facts.labels if facts.labels and len(facts.labels) == 2 else ("false", "true")
        fitted = {"false": false, "true": true}
    elif kind in KEYED and kind != "hashing":
        fitted = {"labels": _frequent_labels(values, size_of_labels(encoding, size))}
    elif kind in TEXTS:
        fitted = _fit_vocabulary(encoding, texts_of(values))
    number = kind in NUMBERS or kind == "cyclic" or (kind == "boolean" and facts.storage != "string")
    return FittedColumn(
        name=facts.name,
        kind=facts.kind,
        raw="number" if number else "string",
        encoding=encoding,
        input=str(feature.input),
        offset=offset,
        width=size,
        fitted=fitted,
    )


def size_of_labels(encoding: Mapping[str, Any], size: int) -> int:
    """How many labels a one-hot of this width has a place for; an index has `max_categories`."""
    if encoding["type"] == "index":
        return int(encoding["max_categories"])
    return size - int(encoding["unknown"] == "bucket") - int(encoding["indicator"])


def _fit_numbers(encoding: Mapping[str, Any], numbers: np.ndarray, name: str) -> dict[str, Any]:
    """`fill` stands for missing (raw units); the encoded value is (f(x) - center) / scale, f log or identity."""
    kept = numbers[~np.isnan(numbers)]
    if not np.isfinite(kept).all():
        at = int(np.argmax(np.isinf(numbers)))
        problem = Problem(
            f"In column {name!r}, row {at + 1} of the training rows: {numbers[at]} is not a finite number.",
            row=at + 1,
            column=name,
            received=str(numbers[at]),
            expected="a finite number",
            fix="Leave the column out, or upload the dataset without such values.",
        )
        raise BadInput(problem.detail, problems=[problem])
    if not len(kept):
        kept = np.zeros(1)
    fill = (
        np.mean(kept) if encoding["missing"] == "mean" else np.median(kept) if encoding["missing"] == "median" else 0.0
    )
    moved = np.sign(kept) * np.log1p(np.abs(kept)) if encoding["type"] == "log" else kept
    center, scale = 0.0, 1.0
    if encoding["type"] in ("standardize", "log"):
        center, scale = float(np.mean(moved)), float(np.std(moved))
    elif encoding["type"] == "min_max":
        center, scale = float(np.min(moved)), float(np.max(moved) - np.min(moved))
    # A constant column's spread is zero, or what rounding left of it.
    if not np.isfinite(scale) or scale <= 1e-12 * max(1.0, abs(center)):
        scale = 1.0
    return {
        "fill": float(fill),
        "center": center,
        "scale": scale,
        "min": float(np.min(kept)),
        "max": float(np.max(kept)),
    }


def _frequent_labels(values: pa.ChunkedArray, places: int) -> list[str]:
    """The most frequent labels (ties by name) that have a place, sorted."""
    codes, labels = labels_of(values)
    counts = np.bincount(codes[codes >= 0], minlength=len(labels))
    ranked = sorted(range(len(labels)), key=lambda at: (-counts[at], labels[at]))
    return sorted(labels[at] for at in ranked[:places] if counts[at])


def _fit_vocabulary(encoding: Mapping[str, Any], texts: Sequence[str | None]) -> dict[str, Any]:
    documents: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for text in texts:
        if text is not None:
            tokens = tokenize(text, encoding["tokens"])
            totals.update(tokens)
            documents.update(set(tokens))
    reserved = 2 if encoding["type"] == "sequence" else 1
    ranked = sorted(totals, key=lambda token: (-totals[token], token))[: encoding["max_tokens"] - reserved]
    if encoding["type"] != "tf_idf":
        return {"vocabulary": ranked}
    weights = idf(len(texts), np.array([documents[token] for token in ranked])).astype(np.float32)
    mean = float(weights.mean(dtype=np.float32)) if len(weights) else 0.0
    return {"vocabulary": ranked, "idf": [float(w) for w in weights], "idf_unknown": mean}
