"""Staged rows as the database has them: what a process needs that only looks whether any are due."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine, delete, func, select

from fitserve import db
from fitserve.tables import Dataset, StagedRows

KEPT = timedelta(days=7)  # how long the key of a committed batch is remembered


def names_due(engine: Engine, seconds: float) -> list[str]:
    """Return the names of datasets for which a batch has waited for that long."""
    with db.reading(engine) as session:
        before = db.now(session) - timedelta(seconds=seconds)
        oldest = select(StagedRows.name).where(StagedRows.dataset_id.is_(None)).group_by(StagedRows.name)
        return list(session.scalars(oldest.having(func.min(StagedRows.created_at) < before).limit(100)))


def delete_old(engine: Engine) -> None:
    """Delete keys of batches committed long ago, and batches that wait for deleted names."""
    with db.transaction(engine) as session:
        before = db.now(session) - KEPT
        gone = StagedRows.name.not_in(select(Dataset.name))
        old = StagedRows.created_at < before
        session.execute(delete(StagedRows).where(old, StagedRows.dataset_id.is_not(None) | gone))
