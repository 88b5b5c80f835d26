"""What a served model is asked and answers, beside its training rows."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query

from fitserve import artifacts, db, drift, live_statistics, registry
from fitserve.errors import NotFound
from fitserve.wire.models import ColumnDrift, DriftReport, LiveFigure, OutputDrift
from services.control.deps import Context, context
from services.shell import Caller, Router, require

router = Router(tags=["models"])


@router.get("/models/{name}/drift", summary="How far what is asked has moved from training")
def get_drift(
    name: Annotated[str, Path(max_length=100)],
    caller: Annotated[Caller, Depends(require("read"))],
    ctx: Annotated[Context, Depends(context)],
    version: Annotated[int | None, Query(ge=1, le=2**31, description="Else the one that answers")] = None,
    label: Annotated[str | None, Query(max_length=63)] = None,
) -> DriftReport:
    """Over the sliding window `FITSERVE_DRIFT_WINDOW_SECONDS`, of all prediction processes together."""
    window = ctx.settings.drift_window_seconds
    with db.reading(ctx.engine) as session:
        model = registry.get(session, name)
        if not caller.sees(model.owner, model.shared):
            raise NotFound(f"No model {name[:63]}.", received=name[:100])
        (facts,) = registry.facts(session, [name])
        number, artifact = _chosen(facts, version, label)
        found = live_statistics.totals(session, name, artifact, window)
        figures = live_statistics.figures(session, ctx.settings.feedback_seconds, name)
    manifest = artifacts.read(ctx.blobs, artifact).manifest
    columns = live_statistics.column_reports(manifest.get("training_distribution") or {}, found)
    outputs = live_statistics.output_reports(manifest.get("prediction_distribution") or {}, found)
    worst = max((one["psi"] for one in columns if one["psi"] is not None), default=None)
    return DriftReport(
        model=name,
        version=number,
        window_seconds=window,
        rows=found.rows,
        psi=worst,
        verdict=drift.verdict(worst),
        columns=[ColumnDrift.model_validate(one) for one in columns],
        outputs=[OutputDrift.model_validate(one) for one in outputs],
        live=[LiveFigure.model_validate(one) for one in figures if one["version"] == number],
    )


def _chosen(facts: registry.ModelFacts, version: int | None, label: str | None) -> tuple[int, str]:
    """The version and artifact that are meant. Raises NotFound."""
    labels = {one.label: one for one in facts.labels}
    wanted = label or (registry.CHAMPION if version is None and registry.CHAMPION in labels else None)
    if wanted is not None:
        if wanted not in labels:
            raise NotFound(f"The model {facts.name} has no label {wanted[:63]}.", received=wanted[:100])
        return labels[wanted].version, labels[wanted].artifact
    live_versions = [one for one in facts.versions if not one.retired] if version is None else facts.versions
    for one in sorted(live_versions, key=lambda row: -row.version):
        if version in (None, one.version):
            return one.version, one.artifact
    raise NotFound(f"The model {facts.name} has no such version.", received=version)
