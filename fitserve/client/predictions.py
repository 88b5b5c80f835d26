"""Predictions as the prediction service returned them: a sequence with one entry per row, or a frame on request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from fitserve.client import dataframes
from fitserve.client.history import grid

if TYPE_CHECKING:
    import pandas
    import polars


@dataclass(frozen=True)
class Predictions(Sequence[Any]):
    """Predictions, one entry per row, as the prediction service returned them.

    From `predict`: a list with a number for each unit of the output; with several outputs, a mapping of their names to
    such lists. From `classify`: a mapping of each label to its score. From `regress`: a number.
    """

    model: str
    version: int
    url: str
    items: list[Any]
    label: str | None = None
    decisions: list[dict[str, Any]] | None = None  # from `classify`: one per row, if a decision is in force
    warnings: list[dict[str, Any]] = field(default_factory=list)  # values unlike those of training: row, column, code
    # from `classify` and `regress`: for each name, one entry per row
    bounds: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy

        return numpy.asarray(self.items, dtype=dtype)

    @property
    def labels(self) -> list[Any]:
        """From `classify`: each row's decided label (multi-label: a list; None: abstained), else the likeliest."""
        if self.decisions is not None:
            return [one.get("labels", one.get("label")) for one in self.decisions]
        return [max(item, key=item.__getitem__) for item in self.items]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat mapping for each row, for a frame."""
        own = [dict(zip(self.bounds, values, strict=True)) for values in zip(*self.bounds.values(), strict=True)]
        return [_flat(item) | bounds for item, bounds in zip(self.items, own or [{}] * len(self), strict=True)]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas frame. Raises ImportError where pandas is not installed."""
        return dataframes.to_pandas(self.rows)

    def to_polars(self) -> polars.DataFrame:
        """Return a polars frame. Raises ImportError where polars is not installed."""
        return dataframes.to_polars(self.rows)

    def __repr__(self) -> str:
        shown = ", ".join(repr(item) for item in self.items[:3]) + (", ..." if len(self) > 3 else "")
        return f"<Predictions of {self.model} version {self.version}: [{shown}]>"

    def _repr_html_(self) -> str:
        return f"<div>{self.model} version {self.version}{grid(self.rows)}</div>"


def _flat(item: Any) -> dict[str, Any]:
    """Return an entry as columns: `prediction`, or one for each unit, output or label."""
    if isinstance(item, Mapping):
        columns: dict[str, Any] = {}
        for name, value in item.items():
            columns |= _numbered(name, value)
        return columns
    return _numbered("prediction", item)


def _numbered(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, list):
        return {name: value}
    if len(value) == 1:
        return {name: value[0]}
    return {f"{name}_{index}": number for index, number in enumerate(value)}


def predictions_of(model: str, answer: httpx2.Response, items: list[Any]) -> Predictions:
    """Return the entries of an answer, with the information in its headers."""
    headers = answer.headers
    return Predictions(
        model,
        int(headers.get("x-model-version") or 0),
        str(answer.url),
        items,
        headers.get("x-model-label"),
        warnings=json.loads(headers.get("x-model-warnings") or "[]"),
    )
