"""Models, versions and labels: what is served, and under which name; batch predictions with them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from sqlalchemy.orm import Session

from fitserve import artifacts, db, monitoring, registry
from fitserve.conformal import NO_LEVEL
from fitserve.datasets import store
from fitserve.datasets.destinations import find_connection
from fitserve.errors import BadInput, NotFound, Problem
from fitserve.runs import create, queries
from fitserve.runs.create import NewRun
from fitserve.states import RunKind
from fitserve.tables import Dataset, Model, Run
from fitserve.validation import unknown_name
from fitserve.wire import Page
from fitserve.wire.destinations import Destination
from fitserve.wire.models import (
    LabelInfo,
    LabelRequest,
    ModelDetail,
    ModelInfo,
    ModelPatch,
    PredictionRequest,
    RollbackRequest,
    Sharing,
    VersionInfo,
)
from fitserve.wire.runs import PRINTABLE, RunInfo
from services.control.deps import (
    Context,
    Ctx,
    IdempotencyKey,
    IfNoneMatch,
    Limit,
    ModelName,
    Predictor,
    Reader,
    Trainer,
    VersionNumber,
    has_already,
)
from services.control.models.access import check_batch_prediction, check_owner, visible_model
from services.control.runs.routes import create_and_publish, read_run_info
from services.http import Caller, Router

router = Router(tags=["models"])

LabelName = Annotated[str, Path(max_length=100)]
_FILE_NAMES = {"keras": "model.keras", "onnx": "model.onnx", "weights": "weights.safetensors"}


@router.get("/models", summary="List models by name")
def list_models(
    caller: Reader,
    ctx: Ctx,
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(max_length=63, pattern=PRINTABLE)] = None,
) -> Page[ModelInfo]:
    """An admin sees every model, others their own and shared ones."""
    with db.reading(ctx.engine) as session:
        rows = registry.list_models(session, owner=caller.owner_filter, after=cursor or "", limit=limit + 1)
        items = [ModelInfo.model_validate(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=items[-1].name if len(rows) > limit else None)


@router.get("/models/{name}", summary="Get a model with its versions and labels")
def get_model(name: ModelName, caller: Reader, ctx: Ctx) -> ModelDetail:
    with db.reading(ctx.engine) as session:
        return _detail(session, visible_model(session, caller, name))


@router.patch("/models/{name}", summary="Share, load or unload a model")
def patch_model(name: ModelName, body: ModelPatch, caller: Trainer, ctx: Ctx) -> ModelDetail:
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        if body.shared or body.sharing:
            caller.check_may_share()
            registry.set_shared(session, name, True, body.sharing or "ask")
        elif body.shared is not None:
            registry.set_shared(session, name, False)
        if body.open_feedback is not None:
            registry.set_open_feedback(session, name, body.open_feedback)
        if body.loaded is not None:
            registry.set_loaded(session, name, body.loaded)
        return _detail(session, registry.get(session, name))


@router.delete("/models/{name}", status_code=204, summary="Delete a model; its runs remain")
def delete_model(name: ModelName, caller: Trainer, ctx: Ctx) -> None:
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        registry.delete(session, name)
        monitoring.delete_model(session, name)


@router.get("/models/{name}/versions", summary="List a model's versions, newest first")
def list_versions(name: ModelName, caller: Reader, ctx: Ctx) -> list[VersionInfo]:
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name)
        return [VersionInfo.model_validate(row) for row in registry.versions(session, name)]


@router.get("/models/{name}/versions/{number}", summary="Get a version")
def get_version(name: ModelName, number: VersionNumber, caller: Reader, ctx: Ctx) -> VersionInfo:
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name)
        return VersionInfo.model_validate(registry.version(session, name, number))


@router.delete("/models/{name}/versions/{number}", summary="Retire a version: it is no longer served")
def retire_version(name: ModelName, number: VersionNumber, caller: Trainer, ctx: Ctx) -> VersionInfo:
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        return VersionInfo.model_validate(registry.retire(session, name, number))


@router.get("/models/{name}/versions/{number}/manifest", summary="Get an artifact's manifest", response_model=None)
def get_manifest(
    name: ModelName, number: VersionNumber, caller: Reader, ctx: Ctx, if_none_match: IfNoneMatch = None
) -> Response:
    artifact = _read_artifact(ctx, caller, name, number, "inspect")
    if (not_modified := _not_modified(artifact.sha256, if_none_match)) is not None:
        return not_modified
    return JSONResponse(artifact.manifest, headers={"ETag": f'"{artifact.sha256}"'})


@router.get(
    "/models/{name}/versions/{number}/files/{kind}",
    summary="Download a file",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}, 304: {}, 404: {}},
)
def get_file(
    name: ModelName,
    number: VersionNumber,
    kind: Annotated[str, Path(max_length=32)],
    caller: Reader,
    ctx: Ctx,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """`keras` is a Keras 3 model that takes raw columns, `onnx` the serving graph. Its hash is verified first."""
    artifact = _read_artifact(ctx, caller, name, number, "download", kind)
    if kind not in artifact.kinds:
        raise NotFound("The artifact has no such file.", received=kind, expected=", ".join(artifact.kinds))
    blob = artifact.file(kind)
    if (not_modified := _not_modified(blob.sha256, if_none_match)) is not None:
        return not_modified
    path = ctx.blobs.local(blob.sha256, ctx.settings.scratch / "downloads")
    filename = f"{name}-{number}-{_FILE_NAMES.get(kind, kind)}"
    return FileResponse(
        path, media_type="application/octet-stream", filename=filename, headers={"ETag": f'"{blob.sha256}"'}
    )


@router.get("/models/{name}/labels", summary="List a model's labels")
def list_labels(name: ModelName, caller: Reader, ctx: Ctx) -> list[LabelInfo]:
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name)
        return [LabelInfo.model_validate(row) for row in registry.labels(session, name)]


@router.put("/models/{name}/labels/{label}", summary="Point a label at a version")
def put_label(name: ModelName, label: LabelName, body: LabelRequest, caller: Trainer, ctx: Ctx) -> LabelInfo:
    """`champion` answers requests that name no version; other labels may take a share of them, or a copy."""
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        artifact = None if body.epoch is None else _epoch_artifact(session, name, body.version, body.epoch)
        row = registry.set_label(
            session,
            name,
            label,
            version_number=body.version,
            artifact=artifact,
            weight=body.weight,
            shadow=body.shadow,
        )
        return LabelInfo.model_validate(row)


@router.delete("/models/{name}/labels/{label}", status_code=204, summary="Delete a label")
def delete_label(name: ModelName, label: LabelName, caller: Trainer, ctx: Ctx) -> None:
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        registry.remove_label(session, name, label)


@router.post("/models/{name}/rollback", summary="Point a label back at its previous version")
def rollback(name: ModelName, caller: Trainer, ctx: Ctx, body: RollbackRequest | None = None) -> LabelInfo:
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        return LabelInfo.model_validate(registry.rollback(session, name, (body or RollbackRequest()).label))


@router.post("/models/{name}/predictions", status_code=202, summary="Predict a whole dataset")
def predict_dataset(
    name: ModelName,
    body: PredictionRequest,
    request: Request,
    response: Response,
    caller: Predictor,
    ctx: Ctx,
    idempotency_key: IdempotencyKey = None,
) -> RunInfo:
    """A run of kind `prediction`. Its `result` names what it wrote: a new dataset, or the parts at a `destination`."""
    content = body.model_dump_json().encode()
    key = create.idempotency_key(idempotency_key, b"POST", request.url.path.encode(), b"", content)
    with db.reading(ctx.engine) as session:
        check_batch_prediction(session, caller, name)
        version, artifact = serving_version(session, name, body.version, body.label)
        dataset = store.get(session, caller.owner_filter, body.dataset)
        moved = registry.decision_changes(session, name, version, 1)
        rates = registry.error_rates(session, [name]).get((name, version), {})
        # otherwise a kept epoch, with its own artifact
        own = registry.version(session, name, version).artifact == artifact
    destination = _checked_destination(ctx, caller, body)
    _check_columns(body.columns, dataset)
    output = store.check_name(body.name or f"{dataset.name[:40]}-{name[:12]}-v{version}")
    new = NewRun(
        owner=caller.owner,
        dataset_id=dataset.id,
        spec=body.model_dump(mode="json", exclude_unset=True),
        resolved={
            "model": name,
            "version": version,
            "artifact": artifact,
            "dataset": dataset.id,
            "name": output,
            "interval": NO_LEVEL if body.interval is False else body.interval,
            "decisions": moved[0].decisions if moved and own else None,
            "error_rates": rates if own else {},
            "destination": destination.model_dump(mode="json", exclude_unset=True) if destination else None,
            "columns": body.columns,
        },
        estimates={"rows": dataset.rows},
        kind=RunKind.prediction,
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    run, _ = create_and_publish(ctx, new, key)
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return read_run_info(ctx, run.id)


def _checked_destination(ctx: Context, caller: Caller, body: PredictionRequest) -> Destination | None:
    """Return the predictions' destination; None means a dataset. Raises BadInput for a read-only connection."""
    if body.destination is None or body.destination == "download":
        return None
    if body.name is not None:
        what = "`name` is that of a new dataset, and a destination makes none."
        raise BadInput(what, problems=[Problem(what, "/name", received=body.name, fix="Leave out one of the two.")])
    find_connection(ctx.settings, body.destination, caller.owner)
    return body.destination


def _check_columns(columns: list[str] | None, dataset: Dataset) -> None:
    """Raise BadInput for a column that the dataset lacks, or that is named twice."""
    known = [one["name"] for one in dataset.columns]
    for place, column in enumerate(columns or ()):
        pointer = f"/columns/{place}"
        if column not in known:
            problem = unknown_name(f"{dataset.name} has no column {column[:80]!r}.", column, known, pointer)
            raise BadInput(problem.detail, problems=[problem])
        if column in (columns or ())[:place]:
            what = f"The column {column[:80]!r} is named twice."
            raise BadInput(what, problems=[Problem(what, pointer, received=column[:120])])


def serving_version(
    session: Session, name: str, version: int | None = None, label: str | None = None
) -> tuple[int, str]:
    """Return the number and artifact of the version that answers a request.

    That is the version of `label`, else `version`, else the champion, else the newest. Raises NotFound.
    """
    (model,) = registry.load_facts(session, [name])
    labels = {fact.label: fact for fact in model.labels}
    wanted = label or (registry.CHAMPION if version is None and registry.CHAMPION in labels else None)
    if wanted is not None:
        if wanted not in labels:
            raise NotFound(f"The model {name} has no label {wanted[:63]}.", received=wanted[:100])
        return labels[wanted].version, labels[wanted].artifact
    for fact in sorted(model.versions, key=lambda fact: -fact.version):
        if fact.version == version or (version is None and not fact.retired):
            return fact.version, fact.artifact
    raise NotFound(f"The model {name} has no such version.", received=version)


def _detail(session: Session, model: Model) -> ModelDetail:
    versions = [VersionInfo.model_validate(row) for row in registry.versions(session, model.name)]
    labels = [LabelInfo.model_validate(row) for row in registry.labels(session, model.name)]
    champion = next((label.version for label in labels if label.label == registry.CHAMPION), None)
    newest = next((version.version for version in versions if version.retired_at is None), None)
    info = ModelInfo.model_validate(model).model_dump()
    return ModelDetail(**info, serving=champion or newest, versions=versions, labels=labels)


def _read_artifact(
    ctx: Context, caller: Caller, name: str, number: int, to: Sharing, kind: str | None = None
) -> artifacts.Artifact:
    """Read a version's artifact. Raises NotFound; Forbidden, also if `kind` belongs to a run that is not shared."""
    with db.reading(ctx.engine) as session:
        model = visible_model(session, caller, name, to)
        version = registry.version(session, name, number)
        sha256, run = version.artifact, version.run_id
        if kind is not None and kind not in _FILE_NAMES and not caller.owns(model):
            # the run's report contains training rows and their labels
            queries.get(session, version.run_id, caller.owner_filter)
    return artifacts.read(ctx.blobs, sha256, run)


def _not_modified(sha256: str, if_none_match: str | None) -> Response | None:
    """Return 304 if the client has this content, which never changes."""
    etag = f'"{sha256}"'
    return Response(status_code=304, headers={"ETag": etag}) if has_already(etag, if_none_match) else None


def _epoch_artifact(session: Session, name: str, number: int, epoch: int) -> str:
    """Return the artifact that the version's run kept of an epoch. Raises NotFound."""
    run = session.get(Run, registry.version(session, name, number).run_id)
    artifacts_by_epoch: dict[str, Any] = (run.result or {}).get("kept_epochs", {}) if run else {}
    if str(epoch) not in artifacts_by_epoch:
        raise NotFound(
            f"The run of version {number} kept no epoch {epoch}.",
            received=epoch,
            expected=", ".join(artifacts_by_epoch) or "no epoch was kept",
        )
    return str(artifacts_by_epoch[str(epoch)])
