"""Find the trained weights that a spec's `initial_weights` names, for a caller who may have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from fitserve import artifacts, registry, uploaded_weights, visibility
from fitserve.artifacts import Artifact
from fitserve.blobs import BlobStore
from fitserve.encoder import Encoder
from fitserve.encoding.category import CategoryColumn
from fitserve.errors import Conflict, Forbidden, NotFound
from fitserve.runs import queries
from fitserve.spec.initial_weights import InitialWeights
from fitserve.spec.spec import Spec, parse
from fitserve.spec.warm_start import WeightsSource
from fitserve.states import RunState
from fitserve.tables import Run, Version


def find_source(
    session: Session, blobs: BlobStore, spec: Spec, *, owner: str, sees: str | None
) -> WeightsSource | None:
    """Return what a spec's network begins with; None where the spec does not say.

    `sees` is whose runs, models and uploads may be used (None: all); of others' models, those shared for download.
    What is deleted can still be named by a run of `owner` that began with it. Raises NotFound, Forbidden, Conflict.
    """
    wanted = spec.initial_weights
    if wanted is None:
        return None
    try:
        return _source_named(session, blobs, wanted, sees)
    except NotFound:
        again = select(Run.id).where(Run.owner == owner, Run.initial_weights == wanted.artifact).limit(1)
        if wanted.artifact is None or session.scalar(again) is None:
            raise
        name = f"the deleted source {wanted.reference}"
        artifact = artifacts.read(blobs, wanted.artifact)
        return source_of(artifact, name, {"run": wanted.run, "model": wanted.model, "upload": wanted.upload})


def _source_named(session: Session, blobs: BlobStore, wanted: InitialWeights, sees: str | None) -> WeightsSource:
    if wanted.upload is not None:
        upload = uploaded_weights.get(session, wanted.upload, sees)
        return source_of(artifacts.read(blobs, upload.artifact), f"the upload {upload.id}", {"upload": upload.id})
    if wanted.model is not None:
        version, number, candidates = _version(session, wanted.model, sees)
        name, ids = f"the model {number}", {"model": number, "run": version.run_id}
        run = session.get(Run, version.run_id)
        epochs = ((run.result or {}).get("kept_epochs") or {}).values() if run is not None else ()
        candidates = [*candidates, *epochs]
    else:
        run = _run(session, str(wanted.run), sees)
        name, ids = f"the run {run.id}", {"run": run.id}
        candidates = [str((run.result or {})["artifact"])]
    chosen = wanted.artifact if wanted.artifact in candidates else candidates[0]
    return source_of(artifacts.read(blobs, chosen), name, ids)


def _run(session: Session, run_id: str, sees: str | None) -> Run:
    """Return a run of the caller's that has a network. Raises NotFound, Forbidden, Conflict."""
    try:
        run = queries.get(session, run_id, sees)
    except NotFound as error:
        raise NotFound(error.detail, pointer="/initial_weights/run", received=run_id[:64]) from None
    if not visibility.owns(sees, run):
        raise Forbidden(
            f"The run {run.id} is shared with you to read it, not to take its weights.",
            pointer="/initial_weights/run",
            fix="Ask its owner to share the model it became: fitserve models share NAME --to download",
        )
    if run.state != RunState.succeeded or "artifact" not in (run.result or {}):
        what = "keeps no network" if run.state == RunState.succeeded else f"is {run.state}"
        raise Conflict(
            f"The run {run.id} {what}.",
            pointer="/initial_weights/run",
            received=str(run.state),
            expected="a run that has trained a network and succeeded",
        )
    return run


def _version(session: Session, reference: str, sees: str | None) -> tuple[Version, str, list[str]]:
    """Return a model's version, its name@version, and its artifacts, the requested one first."""
    pointer = "/initial_weights/model"
    name, _, which = reference.partition("@")
    model = registry.get(session, name)
    if not visibility.sees(sees, model):
        raise NotFound(f"No model {name}.", pointer=pointer, received=name)
    visibility.check_use(sees, model, "download", pointer)
    labels = {label.label: label for label in registry.labels(session, name)}
    label = None if which.isdecimal() else labels.get(which or registry.CHAMPION)
    if which.isdecimal():
        number = int(which)
    elif label is not None:
        number = label.version
    elif not which:
        live = [one.version for one in registry.versions(session, name) if one.retired_at is None]
        if not live:
            raise NotFound(f"The model {name} has no version in service.", pointer=pointer, received=reference)
        number = live[0]
    else:
        raise NotFound(
            f"The model {name} has no label {which!r}.",
            pointer=pointer,
            received=reference,
            expected=", ".join(labels) or "a version, such as 1",
        )
    version = registry.version(session, name, number)
    meant = [label.artifact] if label is not None and label.artifact is not None else []
    return version, f"{name}@{number}", [*meant, version.artifact]


def source_of(artifact: Artifact, name: str, ids: Mapping[str, str | None]) -> WeightsSource:
    """Return a source from its manifest. Raises Conflict where it has no file of weights."""
    entry: dict[str, Any] | None = artifact.manifest.get(uploaded_weights.WEIGHTS_BLOB)
    if entry is None:
        raise Conflict(
            f"{name[:1].upper()}{name[1:]} was trained by an earlier release, which kept no weights by layer.",
            pointer="/initial_weights",
            received=next(iter(one for one in ids.values() if one), None),
            fix="Train it again: POST /api/v1/runs/{id}/reproduce gives a run with the same weights.",
        )
    manifest = artifact.manifest
    encoder = Encoder.from_json(manifest["encoder"]) if "encoder" in manifest else None
    known = [column for column in encoder.columns if isinstance(column, CategoryColumn)] if encoder else []
    return WeightsSource(
        name=name,
        artifact=artifact.sha256,
        tensors={tensor: tuple(shape) for tensor, shape in entry["tensors"].items()},
        members=int(entry.get("members", 1)),
        run=ids.get("run"),
        model=ids.get("model"),
        upload=ids.get("upload"),
        spec=parse(manifest["spec"]) if "spec" in manifest else None,
        inputs=encoder.inputs if encoder else (),
        labels={column.name: frozenset(column.fitted["labels"]) for column in known},
    )
