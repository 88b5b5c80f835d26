"""A version in other formats: made by a worker as a run of kind `export`, compared with what is served, downloaded."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response
from fastapi.responses import FileResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from fitserve import artifacts, db, exports, registry
from fitserve.errors import Conflict, NotFound
from fitserve.runs.create import NewRun
from fitserve.states import RunKind, RunState
from fitserve.tables import Run
from fitserve.wire.models import ExportInfo, ExportRequest
from fitserve.wire.runs import RunInfo
from services.control.deps import Ctx, IfNoneMatch, ModelName, Reader, Trainer, VersionNumber, has_already
from services.control.models.access import check_owner, visible_model
from services.control.runs.routes import create_and_publish, read_run_info
from services.http import Router

router = Router(tags=["models"])
_PATH = "/models/{name}/versions/{number}/exports"
_USABLE = (RunState.queued, RunState.running, RunState.succeeded)


@router.post(_PATH, status_code=202, summary="Export a version to another format", responses={200: {"model": RunInfo}})
def create_export(
    name: ModelName, number: VersionNumber, body: ExportRequest, response: Response, caller: Trainer, ctx: Ctx
) -> RunInfo:
    """A run of kind `export`. An export that exists, or is being made, answers with its run and 200.

    Refused, naming the columns, where the format cannot hold the version's encodings.
    """
    with db.reading(ctx.engine) as session:
        check_owner(session, caller, name)
        version = registry.version(session, name, number)
        artifact, trained_by = version.artifact, version.run_id
        run = session.get_one(Run, trained_by)
        made = _exports(session, run.input_dataset, artifact)
        usable = [one for one in made if one.resolved["format"] == body.format and one.state in _USABLE]
        usable_id = next((one.id for one in usable if caller.sees(one)), None)
    if usable_id is not None:
        response.status_code = 200
        return read_run_info(ctx, usable_id)
    exports.check(body.format, artifacts.read(ctx.blobs, artifact, trained_by).manifest)
    resolved = {"model": name, "version": number, "artifact": artifact, "format": body.format}
    resolved["dataset"] = run.dataset_id
    new = NewRun(
        owner=caller.owner,
        dataset_id=run.dataset_id,
        spec=body.model_dump(mode="json"),
        resolved=resolved,
        estimates={},
        kind=RunKind.export,
        parent_id=trained_by if caller.sees(run) else None,
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    created, _ = create_and_publish(ctx, new, None)
    response.headers["Location"] = f"/api/v1/runs/{created.id}"
    return read_run_info(ctx, created.id)


@router.get(_PATH, summary="List a version's exports")
def list_exports(name: ModelName, number: VersionNumber, caller: Reader, ctx: Ctx) -> list[ExportInfo]:
    """The newest export of each format. Anyone who may download the model may download them, whoever created them."""
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "download")
        return [_info(run) for run in _newest(session, name, number).values()]


@router.get(_PATH + "/{kind}", summary="Download an export", response_model=None, responses={409: {}})
def get_export(
    name: ModelName,
    number: VersionNumber,
    kind: Annotated[str, Path(max_length=32, description="The format")],
    caller: Reader,
    ctx: Ctx,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Its hash is verified first."""
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "download")
        run = _newest(session, name, number).get(kind)
    post = f"POST /api/v1/models/{name}/versions/{number}/exports"
    if run is None:
        expected = ", ".join(exports.FORMATS)
        raise NotFound("There is no such export.", received=kind, expected=expected, fix=f"Make it: {post}")
    if run.state != RunState.succeeded or run.result is None:
        fix = "Wait for its end." if run.state in _USABLE else f"Make it again: {post}"
        raise Conflict(f"The export is {run.state}.", received=str(run.state), expected="succeeded", fix=fix)
    etag = f'"{run.result["file"]}"'
    if has_already(etag, if_none_match):
        return Response(status_code=304, headers={"ETag": etag})
    path = ctx.blobs.local(run.result["file"], ctx.settings.scratch / "downloads")
    filename = f"{name}-{number}-{kind}{exports.FORMATS[kind].suffix}"
    return FileResponse(path, media_type="application/octet-stream", filename=filename, headers={"ETag": etag})


def _exports(session: Session, dataset_id: str, artifact: str) -> list[Run]:
    """Return all runs that export an artifact, oldest first."""
    of_dataset = select(Run).where(Run.kind == RunKind.export, Run.dataset_id == dataset_id).order_by(Run.id)
    return [run for run in session.scalars(of_dataset) if run.resolved["artifact"] == artifact]


def _newest(session: Session, name: str, number: int) -> dict[str, Run]:
    """Return by format the export to download: the newest that succeeded, else the newest."""
    version = registry.version(session, name, number)
    newest: dict[str, Run] = {}
    for run in _exports(session, session.get_one(Run, version.run_id).input_dataset, version.artifact):
        before = newest.get(run.resolved["format"])
        if before is None or before.state != RunState.succeeded or run.state == RunState.succeeded:
            newest[run.resolved["format"]] = run
    return newest


def _info(run: Run) -> ExportInfo:
    result = run.result or {}
    return ExportInfo(
        format=run.resolved["format"],
        run_id=run.id,
        state=run.state,
        file=result.get("file"),
        bytes=result.get("bytes"),
        parity=result.get("parity"),
        error=run.error,
    )
