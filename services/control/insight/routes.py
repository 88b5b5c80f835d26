"""What a training run teaches: findings, lineage, evaluation, importance, layers, surfaces, explanations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Path, Query
from sqlalchemy import select

from fitserve import db, explain
from fitserve.datasets import store
from fitserve.errors import BadInput, NotFound
from fitserve.findings import RULES, apply_patch, complexity, diagnose
from fitserve.runs import queries
from fitserve.strictjson import finite_json
from fitserve.tables import Epoch
from fitserve.wire.insight import (
    Applied,
    AxisInfo,
    Complexity,
    Evaluation,
    ExplainRequest,
    Explanation,
    FindingInfo,
    Findings,
    Hardest,
    Importance,
    LayerSeries,
    Lineage,
    RuleInfo,
    SurfaceInfo,
    UnitSurface,
)
from services.control.deps import MAX_INTEGER, Ctx, Limit, Reader, TargetName
from services.control.insight import lineage
from services.control.insight.child_runs import over_seeds, submit_child
from services.control.insight.run_insight import (
    NotReady,
    RunInsight,
    load_insight,
    predictor,
    require_ended,
    require_training,
)
from services.control.runs.routes import Submitting
from services.http import Router

router = Router(tags=["insight"])

_MAX_UNITS = 64  # most units of a layer in a surface
_DIGITS = 5  # significant digits of a surface's values


@router.get("/findings/rules", summary="List the rules by which runs are diagnosed")
def rules(caller: Reader) -> list[RuleInfo]:
    return [RuleInfo.model_validate(rule) for rule in RULES]


@router.get("/runs/{run_id}/findings", summary="Diagnose a run")
def get_findings(run_id: str, caller: Reader, ctx: Ctx) -> Findings:
    """Findings, most severe first. While the run trains, they are based on its epochs so far."""
    findings = diagnose(load_insight(ctx, caller, run_id).record)
    return Findings(items=[FindingInfo(n=n, **asdict(finding)) for n, finding in enumerate(findings, 1)])


@router.post("/runs/{run_id}/findings/{n}/apply", status_code=202, summary="Train again with a finding's change")
def apply_finding(
    run_id: str,
    n: Annotated[int, Path(ge=1, le=100)],
    submission: Submitting,
    seeds: Annotated[
        int | None, Query(ge=2, le=50, description="Train parent and child under so many seeds, to compare them")
    ] = None,
) -> Applied:
    """The child has this run as its parent; `lineage` shows whether the change helped."""
    ctx, caller = submission.ctx, submission.caller
    insight = load_insight(ctx, caller, run_id)
    with db.reading(ctx.engine) as session:
        queries.get_owned(session, run_id, caller.owner_filter)
        store.check_visible(session, caller.owner_filter, insight.run.dataset_id)
    require_ended(insight.run)
    findings = diagnose(insight.record)
    if n > len(findings):
        raise NotFound(f"The run has {len(findings)} findings.", received=n)
    finding = findings[n - 1]
    if not finding.patch:
        raise BadInput("This finding has no change to the spec.", received=finding.rule)
    patched = apply_patch(insight.run.resolved, finding.patch)
    child = submit_child(submission, insight, over_seeds(patched, seeds), submission.key(b"child"))
    repeated = None
    if seeds is not None and len(insight.record.trials) < seeds:
        key = submission.key(b"repeated", suffix="/repeated")
        repeated = submit_child(submission, insight, over_seeds(insight.run.resolved, seeds), key)
    submission.response.headers["Location"] = f"/api/v1/runs/{child.id}"
    return Applied(**child.model_dump(), repeated=repeated)


@router.get("/runs/{run_id}/lineage", summary="Compare a run with its relatives over several seeds")
def get_lineage(run_id: str, caller: Reader, ctx: Ctx) -> Lineage:
    """Ancestors and descendants, grouped by spec: runs that differ only in their seeds are one group."""
    with db.reading(ctx.engine) as session:
        run = require_training(queries.get(session, run_id, caller.owner_filter))
        return lineage.lineage(session, run, caller.sees)


@router.get("/runs/{run_id}/complexity", summary="Get the model complexity graph and its verdict")
def get_complexity(run_id: str, caller: Reader, ctx: Ctx) -> Complexity:
    graph = complexity(load_insight(ctx, caller, run_id).record)
    if graph is None:
        raise NotReady("No epoch has ended yet.")
    return Complexity(**graph)


@router.get("/runs/{run_id}/evaluation", summary="Evaluate the network on held-out rows")
def get_evaluation(run_id: str, caller: Reader, ctx: Ctx) -> Evaluation:
    """Compared with the trivial baseline, a linear model and boosted trees on the same rows; 95% intervals."""
    targets = load_insight(ctx, caller, run_id).report["targets"]
    part = next(iter(targets.values()))["evaluated_on"]
    return Evaluation(
        part=part,
        test=_figures(targets, "test", part),
        validation=_figures(targets, "validation", part),
        fit={name: target["fit"] for name, target in targets.items()},
    )


def _figures(targets: dict[str, Any], part: str, evaluated_on: str) -> dict[str, dict[str, Any]] | None:
    """Return one part's figures by target; those of the decisive part include the other models'."""
    figures = {
        name: dict(target["evaluation"][part]) for name, target in targets.items() if part in target["evaluation"]
    }
    if part == evaluated_on:
        for name, own in figures.items():
            own |= {"references": targets[name]["reference_figures"], "against": targets[name]["against"]}
            own["calibrated"] = targets[name].get("calibration")  # missing in runs of older releases
    return figures or None


@router.get("/runs/{run_id}/importance", summary="Rank columns by importance")
def get_importance(run_id: str, caller: Reader, ctx: Ctx, target: TargetName = None) -> Importance:
    insight = load_insight(ctx, caller, run_id)
    name = insight.target(target)
    report = insight.report["targets"][name]
    return Importance(
        target=name, part=report["evaluated_on"], items=report["importance"], left_out=report["importance_left_out"]
    )


@router.get("/runs/{run_id}/hardest", summary="List the hardest rows and rows that are probably mislabelled")
def get_hardest(run_id: str, caller: Reader, ctx: Ctx, target: TargetName = None) -> Hardest:
    insight = load_insight(ctx, caller, run_id)
    name = insight.target(target)
    report = dict(insight.report["targets"][name]["hardest"])
    return Hardest(target=name, items=report.pop("hardest"), **report)


@router.get("/runs/{run_id}/layers", summary="Get the layers' statistics by epoch")
def get_layers(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    trial: Annotated[int | None, Query(ge=0, le=MAX_INTEGER, description="The kept trial if omitted")] = None,
    after: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="Epochs after this one")] = 0,
    limit: Limit = 200,
) -> LayerSeries:
    """Norms of weights, gradients and updates, saturated and dead units, sparsity; in some epochs also histograms.

    For a network of at most 512 weights also the weights themselves (`values`), so that it can be drawn.
    """
    insight = load_insight(ctx, caller, run_id)
    record = insight.record
    number = trial if trial is not None else record.trial.number if record.trial else 0
    with db.reading(ctx.engine) as session:
        query = select(Epoch).where(Epoch.run_id == insight.run.id, Epoch.trial == number, Epoch.epoch > after)
        query = query.where(Epoch.layers.is_not(None)).order_by(Epoch.epoch).limit(limit + 1)
        rows = [{"epoch": row.epoch, **(row.layers or {})} for row in session.scalars(query)]
    final = (record.insight or {}).get("final") if number == record.kept_trial else None
    cursor = rows[limit - 1]["epoch"] if len(rows) > limit else None
    return LayerSeries(trial=number, items=rows[:limit], final=final, next_cursor=cursor)


@router.get("/runs/{run_id}/surface", summary="Get the network's output over two columns")
def get_surface(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    x: Annotated[str | None, Query(max_length=255, description="The most important column if omitted")] = None,
    y: Annotated[str | None, Query(max_length=255, description="The next one if omitted")] = None,
    epoch: Annotated[
        int | None, Query(ge=1, le=MAX_INTEGER, description="One of `epochs`; the kept one if omitted")
    ] = None,
    points: Annotated[int, Query(ge=2, le=200, description="Number of values of a numeric axis")] = 50,
    x_low: float | None = None,
    x_high: float | None = None,
    y_low: float | None = None,
    y_high: float | None = None,
    target: TargetName = None,
    label: Annotated[str | None, Query(max_length=255, description="The label whose probability to return")] = None,
    units: Annotated[bool, Query(description="Also the surfaces of the hidden units")] = False,
    layer: Annotated[str | None, Query(max_length=255, description="Only the units of this layer")] = None,
) -> SurfaceInfo:
    """All other columns keep their median or most frequent value on the training rows."""
    insight = load_insight(ctx, caller, run_id)
    name = insight.target(target)
    encoder, reference = insight.encoder, insight.report["reference"]
    x_name, y_name = _axis_columns(insight, name, x, y)
    x_axis = explain.axis_of(encoder, x_name, points, x_low, x_high)
    y_axis = explain.axis_of(encoder, y_name, points, y_low, y_high)
    session = insight.network(epoch)
    output, unit, labels = _output_unit(insight, name, label)
    values = explain.surface(encoder, reference, predictor(session, output), x_axis, y_axis)
    return SurfaceInfo(
        target=name,
        label=labels[unit if values.shape[-1] > 1 else 1] if labels else None,
        labels=labels,
        x=AxisInfo(column=x_name, values=list(x_axis.values)),
        y=AxisInfo(column=y_name, values=list(y_axis.values)),
        values=finite_json(values[:, :, unit], _DIGITS),
        epoch=epoch or insight.report["kept_epoch"],
        epochs=insight.epochs,
        reference=reference,
        axes=[column for column in encoder.names if _can_be_axis(insight, column)],
        units=_unit_surfaces(insight, session, x_axis, y_axis, layer) if units or layer else [],
    )


def _axis_columns(insight: RunInsight, target: str, x: str | None, y: str | None) -> tuple[str, str]:
    """Return the requested columns, or else the most important ones that can be an axis. Raises BadInput."""
    ranked = [entry["column"] for entry in insight.report["targets"][target]["importance"]]
    columns = dict.fromkeys([*ranked, *insight.encoder.names])
    rest = [name for name in columns if _can_be_axis(insight, name) and name not in (x, y)]
    if len(rest) + (x is not None) + (y is not None) < 2:
        raise BadInput(
            "The network has no two columns to draw a surface over.", received=list(insight.encoder.names)[:20]
        )
    x_name = x if x is not None else rest.pop(0)
    return x_name, y if y is not None else rest.pop(0)


def _can_be_axis(insight: RunInsight, column: str) -> bool:
    try:
        explain.axis_of(insight.encoder, column, 2)
    except (BadInput, NotFound):
        return False
    return True


def _output_unit(insight: RunInsight, target: str, label: str | None) -> tuple[str, int, list[str] | None]:
    """Return the graph's output for a target, the unit in it for a label, and all labels. Raises NotFound, BadInput.

    Without a label it is the last one's unit: of a yes-or-no target the probability of yes.
    """
    labels: list[str] | None = insight.report["targets"][target]["labels"]
    for fitted in insight.targets.targets:
        if fitted.name == target:
            single = fitted.encoding == "binary" or not labels
            if label is None or labels is None:
                return fitted.name, 0 if single else len(labels or ()) - 1, labels
            if label not in labels:
                raise NotFound(
                    f"There is no label {label[:80]!r}.", received=label[:80], expected=", ".join(labels[:20])
                )
            if single and label != labels[1]:
                raise BadInput(
                    "The network outputs the probability of the other label.", received=label, expected=labels[1]
                )
            return fitted.name, 0 if single else labels.index(label), labels
        if fitted.task == "multilabel" and target in fitted.columns:
            return fitted.name, fitted.columns.index(target), labels
    raise NotFound(f"There is no target {target[:80]!r}.", received=target[:80])


def _unit_surfaces(
    insight: RunInsight, session: Any, x: explain.Axis, y: explain.Axis, layer: str | None
) -> list[UnitSurface]:
    """Return the surfaces of the hidden units of all layers, or of one. Raises NotFound."""
    layers = (insight.report.get("networks") or {}).get("layers") or []
    if layer is not None and layer not in [hidden["name"] for hidden in layers]:
        names = ", ".join(str(hidden["name"]) for hidden in layers) or "none"
        raise NotFound(f"There is no hidden layer {layer[:80]!r} to show.", received=layer[:80], expected=names)
    surfaces = []
    for hidden in layers:
        if layer is None or hidden["name"] == layer:
            predict = predictor(session, f"layer:{hidden['name']}")
            values = explain.surface(insight.encoder, insight.report["reference"], predict, x, y)
            for unit in range(min(int(hidden["units"]), _MAX_UNITS)):
                grid = finite_json(values[:, :, unit], _DIGITS)
                surfaces.append(UnitSurface(layer=hidden["name"], unit=unit, grid=grid))
    return surfaces


@router.post("/runs/{run_id}/explain", summary="Explain the prediction of one row")
def explain_row(run_id: str, body: ExplainRequest, caller: Reader, ctx: Ctx) -> Explanation:
    """Integrated gradients from the reference row, by column."""
    insight = load_insight(ctx, caller, run_id)
    name = insight.target(body.target)
    reference = body.reference or insight.report["reference"]
    output, unit, labels = _output_unit(insight, name, body.label)
    predict = predictor(insight.network(None), output)
    if labels and body.label is None and len(labels) > 2:
        encoded, _ = insight.encoder.encode_rows([body.row])
        unit = int(predict(encoded)[0].argmax())
    attribution = explain.attribute(insight.encoder, reference, body.row, predict, unit)
    ordered = sorted(attribution.contributions.items(), key=lambda item: -abs(item[1]))
    return Explanation(
        target=name,
        label=(labels[unit] if len(labels) > 2 else labels[-1]) if labels else None,
        output=attribution.output,
        reference_output=attribution.reference_output,
        contributions=dict(ordered),
        completeness_error=attribution.completeness_error,
        steps=attribution.steps,
        reference=reference,
    )
