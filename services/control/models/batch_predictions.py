"""Batch predictions: a dataset in, a dataset with predictions out, as a run on the workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from fitserve import db, registry, telemetry
from fitserve.datasets import store
from fitserve.errors import Forbidden, NotFound
from fitserve.runs import create, queries
from fitserve.runs.create import NewRun
from fitserve.wire.runs import RunInfo
from services.control.deps import Context, context
from services.control.runs.routes import whole
from services.shell import Caller, Router, require

router = Router(tags=["models"])


class PredictionRequest(BaseModel):
    """What to predict, and by whom. Without `version` and `label`, the champion or the newest version predicts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset: str = Field(max_length=120, description="A dataset's id, name, or name@version")
    version: int | None = Field(None, ge=1, le=2**31)
    label: str | None = Field(None, max_length=63)
    name: str | None = Field(None, max_length=63, description="Of the dataset that is made")


@router.post("/models/{name}/predictions", status_code=202, summary="Predict a whole dataset")
def predict_dataset(
    name: Annotated[str, Path(max_length=100)],
    body: PredictionRequest,
    request: Request,
    response: Response,
    caller: Annotated[Caller, Depends(require("predict"))],
    ctx: Annotated[Context, Depends(context)],
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)] = None,
) -> RunInfo:
    """A run of kind `prediction`: its `result` names the dataset that it made."""
    if not caller.may_predict(name):
        raise Forbidden(f"This key may not predict with {name[:63]}.", expected="a key with the scope predict")
    text = body.model_dump_json().encode()
    key = create.key_of(idempotency_key, b"POST", request.url.path.encode(), b"", text)
    with db.reading(ctx.engine) as session:
        model = registry.get(session, name)
        if not caller.sees(model.owner, model.shared):
            raise NotFound(f"No model {name[:63]}.", received=name[:100])
        version, artifact = _chosen(session, name, body)
        dataset = store.get(session, caller.owner_filter, body.dataset)
    wanted = store.check_name(body.name or f"{dataset.name[:40]}-{name[:12]}-v{version}")
    resolved = {"model": name, "version": version, "artifact": artifact, "dataset": dataset.id, "name": wanted}
    new = NewRun(
        owner=caller.owner,
        dataset_id=dataset.id,
        spec=body.model_dump(mode="json", exclude_unset=True),
        resolved=resolved,
        estimates={"rows": dataset.rows},
        kind="prediction",
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    run, is_new = create.create(ctx.engine, new, ctx.settings.limits, key)
    if is_new:
        telemetry.RUNS_CREATED.inc()
        ctx.queue.publish(run.id)
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    with db.reading(ctx.engine) as session:
        return whole(session, queries.get(session, run.id))


def _chosen(session: Session, name: str, body: PredictionRequest) -> tuple[int, str]:
    """Version and artifact that predict. Raises NotFound."""
    label = body.label
    pointers = {row.label: row for row in registry.labels(session, name)}
    if label is None and body.version is None and registry.CHAMPION in pointers:
        label = registry.CHAMPION
    if label is not None:
        pointer = pointers.get(label)
        if pointer is None:
            raise NotFound(f"The model {name} has no label {label}.", received=label)
        return pointer.version, pointer.artifact or registry.version(session, name, pointer.version).artifact
    if body.version is not None:
        return body.version, registry.version(session, name, body.version).artifact
    newest = next((row for row in registry.versions(session, name) if row.retired_at is None), None)
    if newest is None:
        raise NotFound(f"The model {name} has no version.")
    return newest.version, newest.artifact
