"""A run's plots as PNG and SVG, for use outside the dashboard."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from threading import BoundedSemaphore, Lock
from typing import Annotated, Any, Literal

from cachetools import LRUCache, cached
from fastapi import Path, Query
from starlette.responses import Response

from fitserve.errors import NotFound, Unavailable
from services.control.deps import MAX_INTEGER, Context, Ctx, IfNoneMatch, Reader, TargetName, has_already
from services.control.insight import routes
from services.http import Caller, Router

router = Router(tags=["insight"])

EvaluationKind = Literal["confusion", "roc", "pr", "calibration", "predicted", "residuals"]
Kind = Literal["complexity", "layers", "histograms", EvaluationKind, "importance", "surface", "units"]
_MEDIA_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
# Plots of the evaluation, by the figure that they show.
_FIGURES = {
    "confusion": "confusion",
    "roc": "by_label",
    "pr": "by_label",
    "calibration": "by_label",
    "predicted": "predicted_actual",
    "residuals": "residuals",
}
_TIMEOUT_SECONDS = 60
_processes = BoundedSemaphore(2)  # drawing at the same time

Column = Annotated[str | None, Query(max_length=255, description="An axis of a surface")]


@router.get(
    "/runs/{run_id}/plots/{kind}.{form}",
    summary="Draw a plot",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/svg+xml": {}}}},
)
def plot(
    run_id: str,
    kind: Kind,
    form: Annotated[Literal["png", "svg"], Path()],
    caller: Reader,
    ctx: Ctx,
    target: TargetName = None,
    trial: Annotated[int | None, Query(ge=0, le=MAX_INTEGER, description="For layers")] = None,
    x: Column = None,
    y: Column = None,
    epoch: Annotated[int | None, Query(ge=1, le=MAX_INTEGER, description="For a surface or units")] = None,
    points: Annotated[int, Query(ge=2, le=200)] = 60,
    label: Annotated[str | None, Query(max_length=255)] = None,
    layer: Annotated[str | None, Query(max_length=255, description="For units: only this layer")] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Draws the same figures that the JSON routes return."""
    if kind in ("surface", "units"):
        surface = routes.get_surface(
            run_id,
            caller,
            ctx,
            x=x,
            y=y,
            epoch=epoch,
            points=points,
            target=target,
            label=label,
            units=kind == "units",
            layer=layer,
        )
        if kind == "units" and not surface.units:
            raise NotFound("The network has no hidden layers whose units can be shown.")
        data = surface.model_dump(mode="json")
    else:
        data = _data(kind, run_id, caller, ctx, target, trial)
    body = json.dumps({"kind": kind, "format": form, "data": data}, sort_keys=True)
    etag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=60"}
    if has_already(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return Response(_draw(body, etag), media_type=_MEDIA_TYPES[form], headers=headers)


def _data(kind: Kind, run_id: str, caller: Caller, ctx: Context, target: str | None, trial: int | None) -> Any:
    """Return what a plot other than a surface shows, as JSON. Raises NotFound, NotReady."""
    if kind == "complexity":
        return routes.get_complexity(run_id, caller, ctx).model_dump(mode="json")
    if kind == "importance":
        return routes.get_importance(run_id, caller, ctx, target).model_dump(mode="json")
    if kind in ("layers", "histograms"):
        series = routes.get_layers(run_id, caller, ctx, trial=trial, after=0, limit=1000)
        if kind == "layers":
            return series.model_dump(mode="json")
        if series.final is None:
            raise NotFound("No histograms of the kept network were recorded.")
        return series.final
    evaluation = routes.get_evaluation(run_id, caller, ctx)
    by_target = evaluation.test or evaluation.validation or {}
    name = target if target is not None else next(iter(by_target), "")
    figures = by_target.get(name)
    if figures is None or _FIGURES[kind] not in figures:
        raise NotFound(f"There is no {kind} plot of this target.", received=name[:80])
    return figures


@cached(LRUCache(64), key=lambda _, etag: etag, lock=Lock())
def _draw(body: str, etag: str) -> bytes:  # `etag` is the key
    """Draw a plot in a process of its own, so that Matplotlib takes no memory here. Raises Unavailable."""
    if not _processes.acquire(timeout=_TIMEOUT_SECONDS):
        raise Unavailable("Too many plots are being drawn.", retry_after=5)
    try:
        return subprocess.run(
            [sys.executable, "-m", "services.control.insight.plots"],
            input=body.encode(),
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        ).stdout
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise Unavailable("The plot could not be drawn.", retry_after=10) from error
    finally:
        _processes.release()
