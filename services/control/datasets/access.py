"""Datasets as handlers find and answer them."""

from __future__ import annotations

from fastapi import Response

from fitserve import db, telemetry
from fitserve.datasets import store
from fitserve.errors import Forbidden
from fitserve.tables import Dataset
from fitserve.wire.datasets import DatasetDetail
from services.control.deps import Context
from services.http import Caller


def visible_dataset(ctx: Context, caller: Caller, ref: str) -> Dataset:
    """Return a dataset that the caller may read. Raises NotFound."""
    with db.reading(ctx.engine) as session:
        return store.get(session, caller.owner_filter, ref)


def owned_dataset(ctx: Context, caller: Caller, ref: str) -> Dataset:
    """Return a dataset that the caller may change. Raises NotFound, Forbidden."""
    row = visible_dataset(ctx, caller, ref)
    if not caller.sees(row.owner):
        raise Forbidden(f"{row.name} is shared with you to read.", fix="Upload a copy under a name of your own.")
    return row


def answer_dataset(response: Response, row: Dataset, created: bool) -> DatasetDetail:
    """Answer 201 for a new dataset and 200 for one that was there, with Location and ETag."""
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/api/v1/datasets/{row.id}"
    response.headers["ETag"] = f'"{row.id}"'
    if created and row.refused:
        telemetry.ROWS_REFUSED.inc(row.refused["rows"])
    return DatasetDetail.model_validate(row)
