"""What a trained network says: over a plane of two columns, unit by unit, and why of one row."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from fitserve import explain
from fitserve.errors import BadInput, NotFound
from fitserve.wire.insight import AxisInfo, ExplainRequest, Explanation, SurfaceInfo, UnitSurface
from services.control.insight.routes import Ctx, Reader, TargetName
from services.control.insight.run_insight import Studied, predictor, studied
from services.shell import Router

router = Router(tags=["insight"])

_MOST_UNITS = 64


@router.get("/runs/{run_id}/surface", summary="What it says over any two columns")
def get_surface(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    x: Annotated[str | None, Query(max_length=255, description="Left out: the column that matters most")] = None,
    y: Annotated[str | None, Query(max_length=255, description="Left out: the next one")] = None,
    epoch: Annotated[int | None, Query(ge=1, description="One of `epochs`; left out: the kept one")] = None,
    points: Annotated[int, Query(ge=2, le=200, description="Along each numeric axis")] = 50,
    x_low: float | None = None,
    x_high: float | None = None,
    y_low: float | None = None,
    y_high: float | None = None,
    target: TargetName = None,
    label: Annotated[str | None, Query(max_length=255, description="Whose probability")] = None,
    units: Annotated[bool, Query(description="Hidden units' own surfaces too")] = False,
    layer: Annotated[str | None, Query(max_length=255, description="Units of this layer alone")] = None,
) -> SurfaceInfo:
    """The other columns stay at their median or most frequent value on the training rows."""
    found = studied(ctx, caller, run_id)
    name = found.target(target)
    encoder, reference = found.encoder, found.insight["reference"]
    first, second = _axes(found, name, x, y)
    across = explain.axis_of(encoder, first, points, x_low, x_high)
    down = explain.axis_of(encoder, second, points, y_low, y_high)
    session = found.network(epoch)
    output, unit, labels = _output(found, name, label)
    said = explain.surface(encoder, reference, predictor(session, output), across, down)
    drawn = said[:, :, unit]
    return SurfaceInfo(
        target=name,
        label=labels[unit if said.shape[-1] > 1 else 1] if labels else None,
        labels=labels,
        x=AxisInfo(column=first, values=list(across.values)),
        y=AxisInfo(column=second, values=list(down.values)),
        values=_grid(drawn),
        epoch=epoch or found.insight["kept_epoch"],
        epochs=found.epochs,
        reference=reference,
        units=_units(found, session, across, down, layer) if units or layer else [],
    )


def _axes(found: Studied, target: str, x: str | None, y: str | None) -> tuple[str, str]:
    """The columns asked for; else those that matter most and that an axis can show."""
    ranked = [entry["column"] for entry in found.insight["targets"][target]["importance"]]
    shown = [name for name in dict.fromkeys([*ranked, *found.encoder.names]) if _can_be_an_axis(found, name)]
    rest = [name for name in shown if name not in (x, y)]
    if len(rest) + (x is not None) + (y is not None) < 2:
        raise BadInput(
            "The network has no two columns to draw a surface over.", received=list(found.encoder.names)[:20]
        )
    first = x if x is not None else rest.pop(0)
    return first, y if y is not None else rest.pop(0)


def _can_be_an_axis(found: Studied, name: str) -> bool:
    try:
        explain.axis_of(found.encoder, name, 2)
    except (BadInput, NotFound):
        return False
    return True


def _output(found: Studied, name: str, label: str | None) -> tuple[str, int, list[str] | None]:
    """The graph's output for a question, the column in it, and the labels. Raises NotFound."""
    labels: list[str] | None = found.insight["targets"][name]["labels"]
    for target in found.targets.targets:
        if target.name == name:
            single = target.encoding == "binary" or not labels
            if label is None or labels is None:
                return target.name, 0 if single else len(labels or ()) - 1, labels
            if label not in labels:
                raise NotFound(
                    f"There is no label {label[:80]!r}.", received=label[:80], expected=", ".join(labels[:20])
                )
            if single and label != labels[1]:
                raise BadInput(
                    "The network says the probability of the other label.", received=label, expected=labels[1]
                )
            return target.name, 0 if single else labels.index(label), labels
        if target.task == "multilabel" and name in target.columns:
            return target.name, target.columns.index(name), labels
    raise NotFound(f"There is no target {name[:80]!r}.", received=name[:80])


def _units(found: Studied, session: Any, x: explain.Axis, y: explain.Axis, layer: str | None) -> list[UnitSurface]:
    known = (found.insight.get("networks") or {}).get("layers") or []
    if layer is not None and layer not in [one["name"] for one in known]:
        names = ", ".join(str(one["name"]) for one in known) or "none"
        raise NotFound(f"No hidden layer {layer[:80]!r} can be shown.", received=layer[:80], expected=names)
    surfaces = []
    for one in known:
        if layer is None or one["name"] == layer:
            said = explain.surface(
                found.encoder, found.insight["reference"], predictor(session, f"layer:{one['name']}"), x, y
            )
            shown = min(int(one["units"]), _MOST_UNITS)
            surfaces += [UnitSurface(layer=one["name"], unit=at, grid=_grid(said[:, :, at])) for at in range(shown)]
    return surfaces


def _grid(values: Any) -> list[list[float | None]]:
    return [[float(f"{v:.5g}") if v == v and abs(v) != float("inf") else None for v in row] for row in values.tolist()]


@router.post("/runs/{run_id}/explain", summary="Why it says what it says of one row")
def explain_row(run_id: str, body: ExplainRequest, caller: Reader, ctx: Ctx) -> Explanation:
    """Integrated gradients from the reference row, by column."""
    found = studied(ctx, caller, run_id)
    name = found.target(body.target)
    reference = body.reference or found.insight["reference"]
    output, unit, labels = _output(found, name, body.label)
    predict = predictor(found.network(None), output)
    if labels and body.label is None and len(labels) > 2:
        encoded, _ = found.encoder.encode_rows([body.row])
        unit = int(predict(encoded)[0].argmax())
    told = explain.attribute(found.encoder, reference, body.row, predict, unit)
    ordered = sorted(told.contributions.items(), key=lambda item: -abs(item[1]))
    return Explanation(
        target=name,
        label=(labels[unit] if len(labels) > 2 else labels[-1]) if labels else None,
        output=told.output,
        reference_output=told.reference_output,
        contributions=dict(ordered),
        completeness_error=told.completeness_error,
        steps=told.steps,
        reference=reference,
    )
