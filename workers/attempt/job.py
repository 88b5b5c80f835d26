"""What a trainer needs, fetched for it: it has neither database nor blob store."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Engine

from fitserve import db
from fitserve.blobs import BlobStore, Corrupt
from fitserve.datasets import store
from fitserve.errors import NotFound
from fitserve.runs.lease import Claim
from fitserve.settings import Settings
from fitserve.states import TRIAL
from fitserve.tables import Dataset
from workers.trainer.job import TrainingJob

log = logging.getLogger(__name__)


def job_for(settings: Settings, engine: Engine, blobs: BlobStore, claim: Claim, folder: Path) -> TrainingJob:
    """The job of a claimed run, with local and verified files. Raises NotFound, Corrupt where the data are gone."""
    run, cache = claim.run, settings.scratch / "blobs"
    with db.reading(engine) as session:
        dataset = session.get(Dataset, run.dataset_id)
        if dataset is None:
            raise NotFound("The run's dataset is gone.")
        facts, table = store.facts_of(dataset), store.local_parquet(blobs, dataset, cache)
    return TrainingJob(
        run_id=run.id,
        attempt=claim.lease.attempt,
        spec=run.resolved,
        facts=facts.model_dump(mode="json"),
        table=table,
        folder=folder,
        checkpoint=_checkpoint(blobs, run.checkpoint, cache),
        threads=settings.trainer_threads,
        checkpoint_seconds=settings.checkpoint_seconds,
        trial=run.spec["trial"] if run.kind == TRIAL else None,
    )


def _checkpoint(blobs: BlobStore, sha256: str | None, cache: Path) -> Path | None:
    """The last checkpoint, or None: a run without one starts from its first epoch, which costs time and no truth."""
    if sha256 is None:
        return None
    try:
        return blobs.local(sha256, cache)
    except (NotFound, Corrupt) as error:
        log.error("a checkpoint cannot be used; the run starts anew", extra={"error": str(error)})
        return None
