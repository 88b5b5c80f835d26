"""How much each owner stores."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fitserve.tables import Blob, Dataset, Model, Run, UploadedWeights
from fitserve.tables.json_columns import where_readable
from fitserve.wire.operations import OwnerStorage


def by_owner(session: Session, owner: str | None = None) -> list[OwnerStorage]:
    """Return what each owner stores, the largest first; `owner` alone where it is given.

    Bytes of a file that several of an owner's datasets share count once for that owner, and once for each other owner
    that has it too.
    """
    owners: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    files = select(Dataset.owner, Dataset.blob).distinct().subquery()
    artifact = where_readable(Run.result, Run.result["artifact"].as_string())
    checkpoints = select(Run.owner, Run.checkpoint).where(Run.checkpoint.is_not(None)).distinct().subquery()
    queries = (
        ("datasets", select(Dataset.owner, func.count()).group_by(Dataset.owner), Dataset.owner),
        (
            "dataset_bytes",
            select(files.c.owner, func.sum(Blob.bytes)).join(Blob, Blob.sha256 == files.c.blob).group_by(files.c.owner),
            files.c.owner,
        ),
        ("runs", select(Run.owner, func.count()).group_by(Run.owner), Run.owner),
        ("models", select(Model.owner, func.count()).group_by(Model.owner), Model.owner),
        (
            "artifacts",
            select(Run.owner, func.count(func.distinct(artifact))).where(artifact.is_not(None)).group_by(Run.owner),
            Run.owner,
        ),
        (
            "artifact_bytes",
            select(Run.owner, func.sum(where_readable(Run.result, Run.result["bytes"].as_integer())))
            .where(artifact.is_not(None))
            .group_by(Run.owner),
            Run.owner,
        ),
        (
            "checkpoint_bytes",
            select(checkpoints.c.owner, func.sum(Blob.bytes))
            .join(Blob, Blob.sha256 == checkpoints.c.checkpoint)
            .group_by(checkpoints.c.owner),
            checkpoints.c.owner,
        ),
        (
            "weights_bytes",
            select(UploadedWeights.owner, func.sum(UploadedWeights.bytes)).group_by(UploadedWeights.owner),
            UploadedWeights.owner,
        ),
    )
    for name, query, column in queries:
        if owner is not None:
            query = query.where(column == owner)
        for row in session.execute(query):
            owners[row[0]][name] = int(row[1] or 0)
    rows = [OwnerStorage(owner=name, **counts) for name, counts in owners.items()]
    return sorted(rows, key=lambda one: (-one.bytes, one.owner))
