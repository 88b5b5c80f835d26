"""A run's epochs as a frame, as a plot, and as HTML for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fitserve.client import dataframes

if TYPE_CHECKING:
    import pandas
    import polars
    from matplotlib.figure import Figure

_COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#64748b")


class History(Sequence[Mapping[str, Any]]):
    """Rows of `trial` (from 0), `epoch` (from 1), `seconds` and Keras's logs (`loss`, `val_loss`, metrics)."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return History(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return f"<History: {len(self)} epochs of {len(self.trials)} trials, {', '.join(self.figures)}>"

    @property
    def figures(self) -> list[str]:
        """The names of the measured figures, losses first."""
        names = {name for row in self.rows for name, value in row.items() if isinstance(value, float | int)}
        return sorted(names - {"trial", "epoch", "seconds"}, key=lambda name: ("loss" not in name, name))

    @property
    def trials(self) -> list[int]:
        """The numbers of the trials, from 0."""
        return sorted({int(row["trial"]) for row in self.rows})

    def curve(self, name: str, trial: int | None = None) -> list[tuple[int, float]]:
        """Return (epoch, value) of one figure in one trial, by default the first."""
        chosen = (self.trials or [0])[0] if trial is None else trial
        values = ((int(row["epoch"]), row.get(name)) for row in self.rows if row["trial"] == chosen)
        return [(epoch, float(value)) for epoch, value in values if isinstance(value, float | int)]

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row for each epoch. Raises ImportError where pandas is not installed."""
        return dataframes.to_pandas(self.rows)

    def to_polars(self) -> polars.DataFrame:
        """Return one row for each epoch. Raises ImportError where polars is not installed."""
        return dataframes.to_polars(self.rows)

    def plot(self, title: str = "", best_epoch: int | None = None) -> Figure:
        """Plot training and validation curves, a panel for each figure. Raises ImportError without matplotlib."""
        from matplotlib.figure import Figure

        names = [name for name in self.figures if not name.startswith("val_") and name != "learning_rate"] or ["loss"]
        columns = min(len(names), 3)
        rows = math.ceil(len(names) / columns)
        figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
        if title:
            figure.suptitle(title)
        for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names, strict=False):
            self._panel(axes, name, best_epoch)
        for axes in list(figure.axes)[len(names) :]:
            axes.remove()
        return figure

    def _panel(self, axes: Any, name: str, best_epoch: int | None) -> None:
        several = len(self.trials) > 1
        for number, (key, label) in enumerate(((name, "training"), (f"val_{name}", "validation"))):
            for trial in self.trials:
                curve = self.curve(key, trial)
                if curve:
                    axes.plot(
                        *zip(*curve, strict=True),
                        color=_COLOURS[number],
                        alpha=0.45 if several else 1.0,
                        linewidth=1.5,
                        label=label if trial == self.trials[0] else None,
                    )
        if best_epoch is not None:
            axes.axvline(best_epoch, color="#94a3b8", linestyle=":", label="kept epoch")
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.legend(frameon=False)

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}<br>{svg(self)}</div>"


def svg(history: History, width: int = 360, height: int = 120) -> str:
    """Return the training and validation loss of the first trial as an SVG element."""
    curves = {name: history.curve(name) for name in ("loss", "val_loss")}
    values = [value for curve in curves.values() for _, value in curve]
    if not values:
        return ""
    low, high = min(values), max(values)
    last = max(epoch for curve in curves.values() for epoch, _ in curve)

    def point(epoch: int, value: float) -> str:
        x = 4 + (width - 8) * (epoch - 1) / max(1, last - 1)
        y = 4 + (height - 8) * (1 - (value - low) / ((high - low) or 1.0))
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"><title>{name}</title></polyline>'
        for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False)
        if (points := " ".join(point(epoch, value) for epoch, value in curve))
    ]
    return f'<svg width="{width}" height="{height}" role="img" aria-label="loss">{"".join(lines)}</svg>'


def card(title: str, values: Mapping[str, Any], extra: str = "") -> str:
    """Return names and values as an HTML table; `extra` is trusted HTML below it."""
    cell = 'style="text-align:left;padding:1px 12px 1px 0"'
    rows = "".join(
        f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(_text(value))}</td></tr>"
        for name, value in values.items()
        if value is not None and value != ""
    )
    return f"<div><strong>{escape(title)}</strong><table>{rows}</table>{extra}</div>"


def grid(rows: Sequence[Mapping[str, Any]], most: int = 20) -> str:
    """Return the first `most` rows as an HTML table with a header."""
    names = list(dict.fromkeys(name for row in rows[:most] for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_text(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows[:most]
    )
    rest = f"<p>{len(rows)} rows</p>" if len(rows) > most else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return "" if value is None else str(value)
