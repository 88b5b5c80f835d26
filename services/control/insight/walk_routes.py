"""One row and the weights of a small network: what a page needs to go through a step of training number by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pyarrow as pa
from fastapi import Query

from fitserve import weights_file
from fitserve.datasets import preview, store
from fitserve.encoder import Encoder
from fitserve.encoding.category import CategoryColumn
from fitserve.errors import BadInput, Conflict, NotFound
from fitserve.target_encoder import FittedTarget
from fitserve.uploaded_weights import WEIGHTS_BLOB
from fitserve.wire.insight import Walk, WalkLayer, WalkValue
from services.control.datasets.access import visible_dataset
from services.control.deps import MAX_INTEGER, Ctx, Reader
from services.control.insight.run_insight import RunInsight, load_insight
from services.http import Router

router = Router(tags=["insight"])

MAX_INPUTS, MAX_UNITS, MAX_LAYERS = 24, 16, 6  # what a page can draw with a number on each edge
ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh")
OFF = frozenset(("Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization"))
# Losses whose derivative the page has, with the activation that the output must have.
LOSSES: Mapping[str, tuple[Literal["binary", "categorical", "squared"], str]] = {
    "BinaryCrossentropy": ("binary", "sigmoid"),
    "CategoricalCrossentropy": ("categorical", "softmax"),
    "SparseCategoricalCrossentropy": ("categorical", "softmax"),
    "MeanSquaredError": ("squared", "linear"),
}


@router.get("/runs/{run_id}/walk", summary="Get a row and a small network's weights", responses={409: {}})
def get_walk(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    row: Annotated[int, Query(ge=1, le=MAX_INTEGER, description="A row of the run's dataset, from 1")] = 1,
) -> Walk:
    """The encoded row, its target, and the kept network's weights, for a forward and a backward pass by hand.

    Of one network of Dense layers that is small enough to draw, with one target and a loss of the usual kinds.
    """
    insight = load_insight(ctx, caller, run_id)
    target, loss, entries = _small_network(insight)
    dataset = visible_dataset(ctx, caller, insight.run.input_dataset)
    if row > dataset.rows:
        raise NotFound(f"There is no row {row}.", received=row, expected=f"1 to {dataset.rows}")
    scratch = ctx.settings.scratch / "blobs"
    table = preview.read_slice(store.local_parquet(ctx.blobs, dataset, scratch), row - 1, 1)
    inputs = _inputs(insight.encoder, table)
    try:
        (truth,) = insight.targets.encode(table)[target.name]
    except BadInput:
        fix = "Take another row."
        raise Conflict(f"Row {row} has no usable value of the target {target.name!r}.", received=row, fix=fix) from None
    arrays = weights_file.read(ctx.blobs.local(insight.artifact.file(WEIGHTS_BLOB).sha256, scratch))
    optimizer = next(iter(insight.run.resolved["training"]["optimizer"].values()))
    rate = optimizer.get("learning_rate")
    return Walk(
        row=row,
        rows=dataset.rows,
        inputs=inputs,
        layers=[_layer(entry, arrays) for entry in entries],
        target=_as_units(truth, target, loss),
        target_name=target.name,
        labels=list(target.labels) if target.labels else None,
        loss=loss,
        learning_rate=rate if isinstance(rate, float) else None,
    )


def _small_network(insight: RunInsight) -> tuple[FittedTarget, Any, list[Mapping[str, Any]]]:
    """Return the target, the loss and the Dense layers in order. Raises Conflict where there is more to it."""
    resolved, targets = insight.run.resolved, insight.targets.targets
    chosen = next(iter(resolved["training"]["loss"].get(targets[0].name) or {"none": {}}))
    entries = [entry for entry in resolved["network"] if not OFF & entry.keys()]
    dense = [entry for entry in entries if "Dense" in entry]
    activations = [entry["Dense"]["activation"] for entry in dense]
    if resolved.get("ensemble") is not None or insight.artifact.manifest.get(WEIGHTS_BLOB, {}).get("members") != 1:
        why = "It averages several networks."
    elif len(targets) != 1 or chosen not in LOSSES:
        why = f"Its loss is {chosen}." if len(targets) == 1 else "It has several targets."
    elif len(dense) != len(entries) - 1 or not all(len(one.get("inputs", ())) == 1 for one in dense):
        why = "It has other layers than Dense ones in a row."
    elif not _can_be_drawn(insight.encoder, [entry["Dense"]["units"] for entry in dense]):
        why = "It has too many inputs, units or layers to draw."
    elif set(activations[:-1]) - set(ACTIVATIONS) or activations[-1] != LOSSES[chosen][1]:
        why = f"Its activations are {', '.join(map(str, activations))}."
    else:
        return targets[0], LOSSES[chosen][0], dense
    raise Conflict(
        f"This network cannot be gone through by hand. {why}",
        expected=f"one network of {MAX_INPUTS} inputs and {MAX_LAYERS} Dense layers of {MAX_UNITS} units, or less",
        fix="Train a smaller one: network: [{Dense: {units: 4, activation: tanh}}]",
    )


def _can_be_drawn(encoder: Encoder, units: list[int]) -> bool:
    inputs = sum(one.shape[-1] for one in encoder.inputs)
    return len(units) <= MAX_LAYERS and inputs <= MAX_INPUTS and max(units) <= MAX_UNITS


def _inputs(encoder: Encoder, table: pa.Table) -> list[WalkValue]:
    """Return a row's encoded numbers with their names, in the order of the network's input."""
    (values,) = encoder.encode(table).values()
    names: dict[int, str] = {}
    for column in encoder.columns:
        labels = {}
        if isinstance(column, CategoryColumn) and not column.integer:
            labels = {column.place_of(label): label for label in column.fitted["labels"]}
        for place in range(column.width):
            own = f" = {labels[place]}" if place in labels else " (any other)" if labels else f" [{place + 1}]"
            names[column.offset + place] = column.name + (own if column.width > 1 else "")
    return [WalkValue(name=names.get(at, ""), value=float(value)) for at, value in enumerate(values[0])]


def _layer(entry: Mapping[str, Any], arrays: Mapping[str, Any]) -> WalkLayer:
    settings, name = entry["Dense"], entry["name"]
    kernel, bias = arrays[f"{name}/0"], arrays.get(f"{name}/1")
    (penalty,) = (settings["kernel_regularizer"] or {"none": {}}).values()
    return WalkLayer(
        name=name,
        activation=settings["activation"],
        kernel=kernel.tolist(),
        bias=[0.0] * kernel.shape[1] if bias is None else bias.tolist(),
        l1=float(penalty.get("l1") or 0),
        l2=float(penalty.get("l2") or 0),
    )


def _as_units(truth: Any, target: FittedTarget, loss: str) -> list[float]:
    """Return a target as one number for each output unit."""
    if loss == "categorical" and target.encoding == "index":
        return [float(place == int(truth)) for place in range(len(target.labels or ()))]
    return [float(value) for value in truth]
