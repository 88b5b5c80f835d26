"""A run's plots as PNG and SVG, for people without the dashboard."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import OrderedDict
from threading import BoundedSemaphore, Lock
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Path, Query
from starlette.responses import Response

from fitserve.errors import NotFound, Unavailable
from services.control.deps import Context, context
from services.control.insight import routes, surfaces
from services.shell import Caller, Router, require

router = Router(tags=["insight"])

Kind = Literal[
    "complexity",
    "layers",
    "histograms",
    "confusion",
    "roc",
    "pr",
    "calibration",
    "predicted",
    "residuals",
    "importance",
    "surface",
    "units",
]
_TYPES = {"png": "image/png", "svg": "image/svg+xml"}
_OF_FIGURES = {
    "confusion": "confusion",
    "roc": "by_label",
    "pr": "by_label",
    "calibration": "by_label",
    "predicted": "predicted_actual",
    "residuals": "residuals",
}
_SECONDS = 60
_REMEMBERED = 64
_at_once = BoundedSemaphore(2)
_drawn: OrderedDict[str, bytes] = OrderedDict()
_lock = Lock()

Column = Annotated[str | None, Query(max_length=255, description="Of a surface")]


@router.get(
    "/runs/{run_id}/plots/{kind}.{form}",
    summary="A plot",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/svg+xml": {}}}},
)
def plot(
    run_id: str,
    kind: Kind,
    form: Annotated[Literal["png", "svg"], Path()],
    caller: Annotated[Caller, Depends(require("read"))],
    ctx: Annotated[Context, Depends(context)],
    target: routes.TargetName = None,
    trial: Annotated[int | None, Query(ge=0, description="Of layers")] = None,
    x: Column = None,
    y: Column = None,
    epoch: Annotated[int | None, Query(ge=1, description="Of a surface or of units")] = None,
    points: Annotated[int, Query(ge=2, le=200)] = 60,
    label: Annotated[str | None, Query(max_length=255)] = None,
    layer: Annotated[str | None, Query(max_length=255, description="Of units: one layer alone")] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The same figures as the JSON routes give; drawn when they are asked for, and remembered."""
    if kind in ("surface", "units"):
        asked = surfaces.get_surface(
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
        data = asked.model_dump(mode="json")
        if kind == "units" and not data["units"]:
            raise NotFound("The network has no hidden layers whose units can be shown.")
    else:
        data = _data(kind, run_id, caller, ctx, target, trial)
    body = json.dumps({"kind": kind, "format": form, "data": data}, sort_keys=True)
    etag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=60"}
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers=headers)
    headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return Response(_draw(etag, body), media_type=_TYPES[form], headers=headers)


def _data(kind: Kind, run_id: str, caller: Caller, ctx: Context, target: str | None, trial: int | None) -> Any:
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
    if figures is None or _OF_FIGURES[kind] not in figures:
        raise NotFound(f"There is no {kind} plot of this target.", received=name[:80])
    return figures


def _draw(key: str, body: str) -> bytes:
    """The plot, from memory or from a process of its own. Raises Unavailable."""
    with _lock:
        if key in _drawn:
            _drawn.move_to_end(key)
            return _drawn[key]
    if not _at_once.acquire(timeout=_SECONDS):
        raise Unavailable("Too many plots are being drawn.", retry_after=5)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.control.insight.plots"],
            input=body.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise Unavailable("The plot could not be drawn.", retry_after=10) from error
    finally:
        _at_once.release()
    with _lock:
        _drawn[key] = done.stdout
        while len(_drawn) > _REMEMBERED:
            _drawn.popitem(last=False)
    return done.stdout
