"""Look up datasets for handlers, check access, and build their responses."""

from __future__ import annotations

import heapq

from fastapi import Response

from fitserve import db, telemetry
from fitserve.datasets import store
from fitserve.errors import Forbidden
from fitserve.tables import Dataset
from fitserve.wire.datasets import Column, DatasetDetail
from services.control.deps import Context
from services.http import Caller

# Labels in one response: over all columns, and the most and fewest of one column
LABELS, MOST_LABELS, FEWEST_LABELS = 10_000, 100, 8


def visible_dataset(ctx: Context, caller: Caller, ref: str) -> Dataset:
    """Return a dataset that the caller may read. Raises NotFound."""
    with db.reading(ctx.engine) as session:
        return store.get(session, caller.owner_filter, ref)


def owned_dataset(ctx: Context, caller: Caller, ref: str) -> Dataset:
    """Return a dataset that the caller may change. Raises NotFound, Forbidden."""
    row = visible_dataset(ctx, caller, ref)
    if not caller.owns(row):
        raise Forbidden(f"{row.name} is shared with you to read.", fix="Upload a copy under a name of your own.")
    return row


def dataset_detail(row: Dataset) -> DatasetDetail:
    """Return a dataset with its columns and their most frequent labels."""
    return with_frequent_labels(DatasetDetail.model_validate(row))


def with_frequent_labels(detail: DatasetDetail) -> DatasetDetail:
    """Return a dataset with the most frequent labels of each column: a column can have a thousand."""
    most = max(FEWEST_LABELS, min(MOST_LABELS, LABELS // max(1, len(detail.columns))))
    return detail.model_copy(update={"columns": [_shorten(column, most) for column in detail.columns]})


def _shorten(column: Column, most: int) -> Column:
    """Return a column with only its most frequent labels, in their original order."""
    labels, counts = column.labels, column.label_counts
    if labels is None or counts is None or len(labels) <= most:
        return column
    frequent = sorted(heapq.nlargest(most, range(len(labels)), key=counts.__getitem__))
    fewer = {
        "labels": tuple(labels[index] for index in frequent),
        "label_counts": tuple(counts[index] for index in frequent),
    }
    return column.model_copy(update=fewer)


def answer_dataset(response: Response, row: Dataset, created: bool) -> DatasetDetail:
    """Respond with 201 for a new dataset or 200 for an existing one, with Location and ETag."""
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/api/v1/datasets/{row.id}"
    response.headers["ETag"] = f'"{row.id}"'
    if created and row.refused:
        telemetry.ROWS_REFUSED.inc(row.refused["rows"])
    return dataset_detail(row)
