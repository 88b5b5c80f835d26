"""`python -m services.control.insight.plots`: draw JSON from standard input as PNG or SVG on standard output.

It runs in a process of its own, so that Matplotlib takes no memory in the API. Text is drawn literally.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TRAIN, VALIDATION, GREY = "#1f77b4", "#e8710a", "#888888"
Draw = Callable[[Figure, dict[str, Any]], None]


def render(kind: str, data: dict[str, Any], form: str) -> bytes:
    """Return a plot as an image file; `form` is png or svg."""
    mpl.rcParams["text.parse_math"] = False  # a column may be named `$x`
    mpl.rcParams["svg.hashsalt"] = "fitserve"
    figure = Figure(figsize=(7.2, 4.5), dpi=120, layout="constrained")
    DRAWERS[kind](figure, data)
    sink = io.BytesIO()
    figure.savefig(sink, format=form, metadata={"Date": None} if form == "svg" else None)
    return sink.getvalue()


def _floats(values: Any) -> np.ndarray:
    """Return JSON numbers as floats, null as NaN."""
    return np.array([math.nan if value is None else value for value in values], float)


def _titled_axes(figure: Figure, title: str, x: str, y: str) -> Axes:
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return axes


def complexity(figure: Figure, data: dict[str, Any]) -> None:
    axes = _titled_axes(figure, f"Model complexity: {data['verdict']}", "epoch", data["loss"])
    marker = "o" if len(data["epochs"]) < 3 else None
    axes.plot(data["epochs"], _floats(data["train"]), color=TRAIN, label="training", marker=marker)
    if data["validation"]:
        axes.plot(data["epochs"], _floats(data["validation"]), color=VALIDATION, label="validation", marker=marker)
    if data["baseline"] is not None:
        axes.axhline(data["baseline"], color=GREY, linestyle=":", label="trivial baseline")
    if data["turned_epoch"] is not None:
        axes.axvline(data["turned_epoch"], color=VALIDATION, linestyle="--", label="validation turned")
    axes.axvline(data["kept_epoch"], color="#2a9d55", label="kept epoch")
    axes.legend()


def layers(figure: Figure, data: dict[str, Any]) -> None:
    parts = ("weights", "gradients", "ratio", "dead or saturated")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    names = list(dict.fromkeys(layer["name"] for row in data["items"] for layer in row["layers"]))[:12]
    for panel, part in zip(axes, parts, strict=True):
        for name in names:
            points = [(row["epoch"], _statistic(row, name, part)) for row in data["items"]]
            points = [(epoch, value) for epoch, value in points if value is not None]
            if points:
                panel.plot(*zip(*points, strict=True), label=name, linewidth=1)
        panel.set_title(part, fontsize=9)
        panel.grid(alpha=0.3)
        if part in ("gradients", "ratio"):
            panel.set_yscale("symlog", linthresh=1e-8)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # Matplotlib's own formatter writes formulas
    handles, labels = axes[0].get_legend_handles_labels()
    for panel in axes[2:]:
        panel.set_xlabel("epoch", fontsize=8)
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7)


def _statistic(row: dict[str, Any], name: str, part: str) -> float | None:
    """Return a statistic of one layer in one epoch, None if it was not recorded."""
    for layer in row["layers"]:
        if layer["name"] == name:
            shares = [layer[key] for key in ("dead", "saturated") if layer.get(key) is not None]
            value = (shares[0] if shares else None) if part == "dead or saturated" else layer.get(part)
            return None if value is None else float(value)
    return None


def histograms(figure: Figure, data: dict[str, Any]) -> None:
    shown = [layer for layer in data["layers"] if layer.get("histogram")][:9]
    side = max(1, math.ceil(len(shown) ** 0.5))
    for number, layer in enumerate(shown, 1):
        axes = figure.add_subplot(side, side, number)
        histogram = layer["histogram"]
        edges = np.linspace(histogram["low"], histogram["high"], len(histogram["counts"]) + 1)
        axes.stairs(histogram["counts"], edges, fill=True, color=TRAIN)
        axes.set_title(layer["name"], fontsize=8)
        axes.tick_params(labelsize=7)


def confusion(figure: Figure, data: dict[str, Any]) -> None:
    counts = np.array(data["confusion"], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [str(label)[:24] for label in data["labels"]]
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set(xlabel="predicted", ylabel="actual", title="Confusion matrix")
    for row in range(len(labels) if len(labels) <= 20 else 0):
        for column in range(len(labels)):
            dark = shares[row, column] > 0.5
            text = f"{int(counts[row, column])}"
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=8)


def _curves_by_label(
    figure: Figure, data: dict[str, Any], curve: str, x: str, y: str, title: str, area: str | None
) -> None:
    """Draw one curve per label; of two labels the second one's only, because the first one's mirrors it."""
    axes = _titled_axes(figure, title, x.replace("_", " "), y.replace("_", " "))
    entries = [entry for entry in data["by_label"] if entry.get(curve)]
    for entry in entries[1:] if len(data["by_label"]) == 2 else entries[:12]:
        label = f"{str(entry['label'])[:24]} ({entry[area]:.3f})" if area else str(entry["label"])[:24]
        axes.plot(entry[curve][x], entry[curve][y], label=label, marker=None if area else "o")
    if curve != "pr":
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if entries:
        axes.legend(fontsize=8)


def roc(figure: Figure, data: dict[str, Any]) -> None:
    _curves_by_label(figure, data, "roc", "false_positive", "true_positive", "ROC (area)", "roc_auc")


def pr(figure: Figure, data: dict[str, Any]) -> None:
    _curves_by_label(figure, data, "pr", "recall", "precision", "Precision and recall (area)", "average_precision")


def calibration(figure: Figure, data: dict[str, Any]) -> None:
    _curves_by_label(figure, data, "calibration", "predicted", "observed", "Calibration", None)


def predicted(figure: Figure, data: dict[str, Any]) -> None:
    points = data["predicted_actual"]
    axes = _titled_axes(figure, "Predicted against actual", "actual", "predicted")
    axes.scatter(points["actual"], points["predicted"], s=9, alpha=0.6, color=TRAIN)
    both = [*points["actual"], *points["predicted"]]
    axes.plot([min(both), max(both)], [min(both), max(both)], color=GREY, linestyle=":")


def residuals(figure: Figure, data: dict[str, Any]) -> None:
    rows = data["residuals"]
    axes = _titled_axes(figure, "Residuals by tenth of the predictions", "predicted", "predicted less actual")
    ticks = np.arange(len(rows))
    mean, low, high = (_floats([row[key] for row in rows]) for key in ("mean", "low", "high"))
    errors = [np.maximum(mean - low, 0), np.maximum(high - mean, 0)]
    axes.errorbar(ticks, mean, errors, fmt="o", color=TRAIN, capsize=3)
    axes.axhline(0, color=GREY, linestyle=":")
    names = [f"{row['from']:.3g} to {row['to']:.3g}" for row in rows]
    axes.set_xticks(ticks, names, rotation=45, ha="right", fontsize=7)


def importance(figure: Figure, data: dict[str, Any]) -> None:
    entries = data["items"][:25][::-1]
    axes = _titled_axes(figure, "Permutation importance", "rise of the loss", "")
    values, low, high = (_floats([entry[key] for entry in entries]) for key in ("importance", "low", "high"))
    axes.barh(range(len(entries)), values, xerr=[values - low, high - values], color=TRAIN, ecolor=GREY)
    axes.set_yticks(range(len(entries)), [str(entry["column"])[:32] for entry in entries], fontsize=8)


def surface(figure: Figure, data: dict[str, Any]) -> None:
    label = f"probability of {data['label']}" if data["label"] is not None else data["target"]
    axes = figure.add_subplot()
    axes.set(title=f"Epoch {data['epoch']}", xlabel=data["x"]["column"], ylabel=data["y"]["column"])
    drawn = _heatmap(axes, data["values"], data["x"]["values"], data["y"]["values"], data["label"] is not None)
    figure.colorbar(drawn, ax=axes, label=str(label)[:60])


def units(figure: Figure, data: dict[str, Any]) -> None:
    shown = data["units"][:36]
    side = max(1, math.ceil(len(shown) ** 0.5))
    for number, unit in enumerate(shown, 1):
        axes = figure.add_subplot(side, side, number)
        _heatmap(axes, unit["grid"], data["x"]["values"], data["y"]["values"], False)
        axes.set_title(f"{unit['layer']} {unit['unit']}"[:24], fontsize=6)
        axes.set_xticks([])
        axes.set_yticks([])


def _heatmap(axes: Axes, grid: Any, x: list[Any], y: list[Any], share: bool) -> Any:
    values = np.array([_floats(row) for row in grid])
    low, high = (0.0, 1.0) if share else (None, None)
    numeric = [all(isinstance(value, (int, float)) for value in axis) for axis in (x, y)]
    across = x if numeric[0] else range(len(x))
    down = y if numeric[1] else range(len(y))
    drawn = axes.pcolormesh(across, down, values, cmap="RdBu", shading="nearest", rasterized=True, vmin=low, vmax=high)
    if not numeric[0]:
        axes.set_xticks(range(len(x)), [str(value)[:16] for value in x], rotation=45, ha="right", fontsize=7)
    if not numeric[1]:
        axes.set_yticks(range(len(y)), [str(value)[:16] for value in y], fontsize=7)
    return drawn


DRAWERS: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (
        *(complexity, layers, histograms, confusion, roc, pr, calibration, predicted, residuals, importance),
        *(surface, units),
    )
}


def main() -> None:
    request = json.load(sys.stdin)
    sys.stdout.buffer.write(render(request["kind"], request["data"], request["format"]))


if __name__ == "__main__":
    main()
