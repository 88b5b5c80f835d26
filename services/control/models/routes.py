"""Models, versions and labels: what is served, and under which name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query
from sqlalchemy.orm import Session
from starlette.responses import FileResponse, JSONResponse, Response

from fitserve import artifacts, db, live_statistics, registry
from fitserve.errors import Forbidden, NotFound
from fitserve.tables import Model, Run
from fitserve.wire import Page
from fitserve.wire.models import (
    LabelInfo,
    LabelRequest,
    ModelDetail,
    ModelInfo,
    ModelPatch,
    RollbackRequest,
    VersionInfo,
)
from services.control.deps import Context, context
from services.shell import Caller, Router, require

router = Router(tags=["models"])

Reader = Annotated[Caller, Depends(require("read"))]
Trainer = Annotated[Caller, Depends(require("train"))]
Ctx = Annotated[Context, Depends(context)]
Name = Annotated[str, Path(max_length=100)]
Number = Annotated[int, Path(ge=1, le=2**31)]
_FILES = {"keras": "model.keras", "onnx": "model.onnx"}


@router.get("/models", summary="The models that you see, by name")
def list_models(
    caller: Reader,
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=63)] = None,
) -> Page[ModelInfo]:
    owner = caller.owner_filter
    with db.reading(ctx.engine) as session:
        rows = registry.listing(session, owner=owner, after=cursor or "", limit=limit + 1)
        items = [ModelInfo.model_validate(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=items[-1].name if len(rows) > limit else None)


@router.get("/models/{name}", summary="A model with its versions and labels")
def get_model(name: Name, caller: Reader, ctx: Ctx) -> ModelDetail:
    with db.reading(ctx.engine) as session:
        return _detail(session, _seen(session, caller, name))


@router.patch("/models/{name}", summary="Share, load or unload a model")
def patch_model(name: Name, body: ModelPatch, caller: Trainer, ctx: Ctx) -> ModelDetail:
    with db.transaction(ctx.engine) as session:
        _owned(session, caller, name)
        if body.shared is not None:
            registry.set_shared(session, name, body.shared)
        if body.loaded is not None:
            registry.set_loaded(session, name, body.loaded)
        return _detail(session, registry.get(session, name))


@router.delete("/models/{name}", status_code=204, summary="Forget a model; its runs stay")
def delete_model(name: Name, caller: Trainer, ctx: Ctx) -> None:
    with db.transaction(ctx.engine) as session:
        _owned(session, caller, name)
        registry.delete(session, name)
        live_statistics.forget(session, name)


@router.get("/models/{name}/versions", summary="A model's versions, newest first")
def list_versions(name: Name, caller: Reader, ctx: Ctx) -> list[VersionInfo]:
    with db.reading(ctx.engine) as session:
        _seen(session, caller, name)
        return [VersionInfo.model_validate(row) for row in registry.versions(session, name)]


@router.get("/models/{name}/versions/{number}", summary="One version")
def get_version(name: Name, number: Number, caller: Reader, ctx: Ctx) -> VersionInfo:
    with db.reading(ctx.engine) as session:
        _seen(session, caller, name)
        return VersionInfo.model_validate(registry.version(session, name, number))


@router.delete("/models/{name}/versions/{number}", summary="Retire a version: it is served no more")
def retire_version(name: Name, number: Number, caller: Trainer, ctx: Ctx) -> VersionInfo:
    with db.transaction(ctx.engine) as session:
        _owned(session, caller, name)
        return VersionInfo.model_validate(registry.retire(session, name, number))


@router.get("/models/{name}/versions/{number}/manifest", summary="What the artifact is made of", response_model=None)
def get_manifest(
    name: Name, number: Number, caller: Reader, ctx: Ctx, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    found = _artifact(ctx, caller, name, number)
    if (known := _not_modified(found.sha256, if_none_match)) is not None:
        return known
    return JSONResponse(found.manifest, headers={"ETag": f'"{found.sha256}"'})


@router.get("/models/{name}/versions/{number}/files/{kind}", summary="A file of the artifact", response_model=None)
def get_file(
    name: Name,
    number: Number,
    kind: Annotated[str, Path(max_length=32)],
    caller: Reader,
    ctx: Ctx,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """`keras` is a Keras 3 model that takes raw columns; `onnx` the serving graph. Verified before it is sent."""
    found = _artifact(ctx, caller, name, number)
    if kind not in found.kinds:
        raise NotFound("The artifact has no such file.", received=kind, expected=", ".join(found.kinds))
    blob = found.file(kind)
    if (known := _not_modified(blob.sha256, if_none_match)) is not None:
        return known
    path = ctx.blobs.local(blob.sha256, ctx.settings.scratch / "downloads")
    filename = f"{name}-{number}-{_FILES.get(kind, kind)}"
    return FileResponse(
        path, media_type="application/octet-stream", filename=filename, headers={"ETag": f'"{blob.sha256}"'}
    )


@router.get("/models/{name}/labels", summary="A model's labels")
def list_labels(name: Name, caller: Reader, ctx: Ctx) -> list[LabelInfo]:
    with db.reading(ctx.engine) as session:
        _seen(session, caller, name)
        return [LabelInfo.model_validate(row) for row in registry.labels(session, name)]


@router.put("/models/{name}/labels/{label}", summary="Point a label at a version, at once")
def put_label(name: Name, label: Name, body: LabelRequest, caller: Trainer, ctx: Ctx) -> LabelInfo:
    """`champion` answers the requests without a version; others may take a share of them, or a copy."""
    with db.transaction(ctx.engine) as session:
        _owned(session, caller, name)
        artifact = None if body.epoch is None else _kept_epoch(session, name, body.version, body.epoch)
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


@router.delete("/models/{name}/labels/{label}", status_code=204, summary="Forget a label")
def delete_label(name: Name, label: Name, caller: Trainer, ctx: Ctx) -> None:
    with db.transaction(ctx.engine) as session:
        _owned(session, caller, name)
        registry.remove_label(session, name, label)


@router.post("/models/{name}/rollback", summary="Point a label back at the version it named before")
def rollback(name: Name, caller: Trainer, ctx: Ctx, body: RollbackRequest | None = None) -> LabelInfo:
    with db.transaction(ctx.engine) as session:
        _owned(session, caller, name)
        return LabelInfo.model_validate(registry.rollback(session, name, (body or RollbackRequest()).label))


def _seen(session: Session, caller: Caller, name: str) -> Model:
    """A model that this caller sees. Raises NotFound."""
    model = registry.get(session, name)
    if not caller.sees(model.owner, model.shared):
        raise NotFound(f"No model {name[:63]}.", received=name[:100])
    return model


def _owned(session: Session, caller: Caller, name: str) -> Model:
    """A model that this caller may change. Raises NotFound, Forbidden."""
    model = _seen(session, caller, name)
    if not caller.sees(model.owner):
        raise Forbidden("Only its owner and admins may change a model.")
    return model


def _detail(session: Session, model: Model) -> ModelDetail:
    versions = [VersionInfo.model_validate(row) for row in registry.versions(session, model.name)]
    labels = [LabelInfo.model_validate(row) for row in registry.labels(session, model.name)]
    champion = next((label.version for label in labels if label.label == registry.CHAMPION), None)
    newest = next((version.version for version in versions if version.retired_at is None), None)
    info = ModelInfo.model_validate(model).model_dump()
    return ModelDetail(**info, serving=champion or newest, versions=versions, labels=labels)


def _artifact(ctx: Context, caller: Caller, name: str, number: int) -> artifacts.Artifact:
    with db.reading(ctx.engine) as session:
        _seen(session, caller, name)
        sha256 = registry.version(session, name, number).artifact
    return artifacts.read(ctx.blobs, sha256)


def _not_modified(sha256: str, if_none_match: str | None) -> Response | None:
    """304 where the client has these bytes: an artifact never changes."""
    known = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    return Response(status_code=304, headers={"ETag": f'"{sha256}"'}) if f'"{sha256}"' in known else None


def _kept_epoch(session: Session, name: str, number: int, epoch: int) -> str:
    """The artifact of an epoch that the version's run has kept. Raises NotFound."""
    run = session.get(Run, registry.version(session, name, number).run_id)
    kept: dict[str, Any] = (run.result or {}).get("kept_epochs", {}) if run else {}
    if str(epoch) not in kept:
        raise NotFound(
            f"The run of version {number} kept no epoch {epoch}.",
            received=epoch,
            expected=", ".join(kept) or "none kept",
        )
    return str(kept[str(epoch)])
