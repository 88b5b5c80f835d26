"""Parts of the held-out rows: slices, and the groups of protected columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query

from fitserve import artifacts, db, registry
from fitserve.artifacts import Artifact
from fitserve.decisions.fairness import fairness
from fitserve.decisions.held_out import HELD_OUT_BLOB, HeldOutParts
from fitserve.errors import NotFound
from fitserve.wire.insight import Fairness, Slices
from services.control.deps import Context, Ctx, ModelName, Reader, TargetName, VersionNumber
from services.control.insight.run_insight import load_insight
from services.control.models.access import visible_model
from services.control.models.decision_routes import decisions_in_force, outputs_of
from services.http import Router

router = Router(tags=["insight"])


@router.get("/runs/{run_id}/slices", summary="Find the rows that are predicted worst")
def get_slices(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    target: TargetName = None,
    column: Annotated[str | None, Query(max_length=1000, description="Only this column of `columns`")] = None,
) -> Slices:
    """Figures by category and range of each column, and the worst slices, of one condition or two."""
    insight = load_insight(ctx, caller, run_id)
    name = insight.target(target)
    report = insight.report["targets"][name].get("slices")
    if report is None:
        raise NotFound("This run has no slices.", fix="Train it again, with rows held out: split: {test: 0.1}")
    listed = report["columns"]
    if column is not None:
        insight.record.facts.column(column)
        listed = [one for one in listed if one["column"] == column]
    return Slices(target=name, **{**report, "columns": listed})


@router.get("/runs/{run_id}/fairness", summary="Compare the groups of protected columns")
def get_fairness(run_id: str, caller: Reader, ctx: Ctx) -> Fairness:
    """Under the decision chosen in training; empty if the spec protects no column.

    If a version's decision was changed, use the version's own `fairness`.
    """
    artifact = load_insight(ctx, caller, run_id).artifact
    return _fairness(ctx, artifact, artifact.manifest.get("decisions") or [])


@router.get(
    "/models/{name}/versions/{number}/fairness", summary="Compare the groups of protected columns, as decided now"
)
def get_version_fairness(name: ModelName, number: VersionNumber, caller: Reader, ctx: Ctx) -> Fairness:
    """Under the decision in force."""
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "inspect")
        version = registry.version(session, name, number)
        changes = registry.decision_changes(session, name, number, 1)
    artifact = artifacts.read(ctx.blobs, version.artifact, version.run_id)
    return _fairness(ctx, artifact, decisions_in_force(artifact.manifest, changes))


def _fairness(ctx: Context, artifact: Artifact, decisions: list[dict[str, Any]]) -> Fairness:
    rows = HeldOutParts()
    if HELD_OUT_BLOB in artifact.kinds:
        rows = HeldOutParts.read(ctx.blobs.read(artifact.file(HELD_OUT_BLOB).sha256), artifact.manifest)
    return Fairness(decisions=decisions, items=_items(artifact.manifest, decisions, rows))


def _items(manifest: Mapping[str, Any], decisions: list[dict[str, Any]], rows: HeldOutParts) -> list[dict[str, Any]]:
    by_output = {one["output"]: one for one in decisions}
    protected = (manifest.get("spec") or {}).get("protected") or ()  # older releases had none
    items = [
        fairness(column, output, by_output.get(output.name), rows)
        for column in protected
        for output in outputs_of(manifest)
    ]
    return [one for one in items if one is not None]
