"""The model card of a version, as Markdown or HTML."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Response

from fitserve import artifacts, db, registry
from fitserve.artifacts import Artifact
from fitserve.tables import Dataset, Run
from services.control.deps import Ctx, ModelName, Reader, VersionNumber
from services.control.documents import to_html, to_markdown
from services.control.insight import lineage
from services.control.insight.run_insight import report_of
from services.control.insight.slice_routes import get_version_fairness
from services.control.models.access import visible_model
from services.control.models.model_card import Recorded, blocks_of
from services.control.models.monitoring_routes import get_drift
from services.http import Router

router = Router(tags=["models"])
_TYPES = {"markdown": "text/markdown", "html": "text/html"}


@router.get(
    "/models/{name}/versions/{number}/card",
    summary="Get a version's model card",
    response_class=Response,
    responses={200: {"content": {media_type: {"schema": {"type": "string"}} for media_type in _TYPES.values()}}},
)
def get_card(
    name: ModelName,
    number: VersionNumber,
    caller: Reader,
    ctx: Ctx,
    format: Annotated[Literal["markdown", "html"], Query(description="How it is written")] = "markdown",
) -> Response:
    """Data, network, figures with intervals, calibration, slices, groups, lineage, drift and spec, as recorded."""
    with db.reading(ctx.engine) as session:
        model = visible_model(session, caller, name, "inspect")
        version = registry.version(session, name, number)
        run = session.get_one(Run, version.run_id)
        dataset = session.get_one(Dataset, run.dataset_id)
        labels = [row.label for row in registry.labels(session, name) if row.version == number]
        sees_run = caller.sees(run)
        has_lineage = sees_run and "training" in run.resolved
        relatives = lineage.lineage(session, run, caller.sees) if has_lineage else None
    artifact: Artifact = artifacts.read(ctx.blobs, version.artifact, version.run_id)
    recorded = Recorded(
        model=model,
        version=version,
        run=run,
        dataset=dataset,
        labels=labels,
        manifest=artifact.manifest,
        report=report_of(ctx, artifact) if sees_run else None,  # it holds values of training rows
        drift=get_drift(name, caller, ctx, number),
        fairness=get_version_fairness(name, number, caller, ctx),
        lineage=relatives,
    )
    blocks = blocks_of(recorded)
    text = to_html(blocks, f"{name}, version {number}") if format == "html" else to_markdown(blocks)
    suffix = "html" if format == "html" else "md"
    headers = {
        "Content-Disposition": f'inline; filename="{name}-{number}-card.{suffix}"',
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",  # its own style, nothing else
    }
    return Response(text, media_type=_TYPES[format], headers=headers)
