"""What an automation trains: the spec, the table, and which of the table's rows the champion knows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from fitserve.automations import store
from fitserve.spec.column_patterns import is_pattern
from fitserve.tables import Dataset, Run, Version
from fitserve.wire.automations import Policy


def written_spec(session: Session, policy: Policy) -> dict[str, Any]:
    """Return the spec to train: as written, on the newest version of its dataset. Raises NotFound."""
    if policy.do.spec is not None:
        return copy.deepcopy(policy.do.spec)
    run, _ = store.champion_run(session, policy.do.champion or "")
    written = copy.deepcopy(run.spec)
    written["dataset"] = session.get_one(Dataset, run.dataset_id).name
    written["model"] = run.model
    return written


def dataset_of(written: Mapping[str, Any]) -> Any:
    """Return the dataset that a spec names, as it is written."""
    reference = written.get("dataset")
    return reference.get("ref") or reference.get("name") if isinstance(reference, Mapping) else reference


def columns_of(written: Mapping[str, Any]) -> list[str] | None:
    """Return the columns that a spec reads; None where it takes all, or those of a pattern."""
    features, target = written.get("features"), written.get("target")
    if not isinstance(features, list) or not all(isinstance(one, str) for one in features):
        return None
    if any(is_pattern(one) for one in features):
        return None
    targets = target if isinstance(target, list) else [target]
    return [*features, *(one for one in targets if isinstance(one, str))]


def trained_on(session: Session, model: str | None, name: str) -> Dataset | None:
    """Return the version of a dataset that a model's champion was trained on."""
    version = store.champion(session, model) if model else None
    run = session.get(Run, version.run_id) if version is not None else None
    dataset = session.get(Dataset, run.dataset_id) if run is not None else None
    return dataset if dataset is not None and dataset.name == name else None


def known_rows(session: Session, incumbent: Version | None, dataset: Dataset | None) -> int | None:
    """Return how many of a table's first rows the champion may have seen; None where that is not known."""
    run = session.get(Run, incumbent.run_id) if incumbent is not None else None
    before = session.get(Dataset, run.dataset_id) if run is not None else None
    if before is None or dataset is None:
        return None
    step: Dataset | None = dataset
    # Appending leaves the earlier rows in their places; other changes may not.
    while step is not None and step.id != before.id:
        appended = step.source.get("appended") or {}
        step = session.get(Dataset, step.parent_id) if appended.get("to") == step.parent_id and step.parent_id else None
    return before.rows if step is not None else None
