"""What is checked when a spec is submitted, by a request or by an automation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from fitserve import db, registry
from fitserve.blobs import BlobStore
from fitserve.datasets import store
from fitserve.datasets.unusable_values import unusable_row_numbers
from fitserve.errors import Problem
from fitserve.runs import queries
from fitserve.settings import Settings
from fitserve.spec.as_written import as_sent
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.resolve_search import ResolvedSearch, resolve_search
from fitserve.spec.search import all_names, is_search, read_search
from fitserve.spec.spec import SpecRefused, parse
from fitserve.trained_weights import find_source
from fitserve.wire.runs import SearchSize, Validation


@dataclass(frozen=True, slots=True)
class CheckedSubmission:
    """A submitted spec that can be trained."""

    dataset_id: str
    written: dict[str, Any]  # the spec as sent, in its shortest form
    validation: Validation
    estimates: dict[str, Any]  # as a run stores them
    model: str | None


def check_submission(
    engine: Engine, blobs: BlobStore, settings: Settings, written: dict[str, Any], *, owner: str, sees: str | None
) -> CheckedSubmission:
    """Check a spec that `owner` submits, who sees the datasets of `sees` (None: all).

    Raises SpecRefused, NotFound, Conflict.
    """
    limits = settings.limits
    if is_search(written):
        return _check_search(engine, settings, written, owner, sees)
    spec = parse(written, limits)
    with db.reading(engine) as session:
        dataset = store.get(session, sees, spec.dataset.ref)
        facts = store.facts_of(dataset)
        if spec.model is not None:
            registry.check_name(session, spec.model, owner)
        pace = queries.measured_pace(session)
        source = find_source(session, blobs, spec, owner=owner, sees=sees)

    def find_rows(column: str, is_target: bool) -> list[int]:
        path = store.local_parquet(blobs, dataset, settings.scratch / "blobs")
        return unusable_row_numbers(path, column, is_target)

    resolved = resolve(spec, facts, limits, pace, find_rows=find_rows, source=source)
    validation = Validation(
        resolved=resolved.spec.to_json(),
        summary=resolved.summary,
        estimates=resolved.estimates,
        warnings=resolved.warnings,
    )
    return CheckedSubmission(dataset.id, as_sent(spec), validation, estimates_of(resolved), spec.model)


def _check_search(
    engine: Engine, settings: Settings, written: dict[str, Any], owner: str, sees: str | None
) -> CheckedSubmission:
    """Check a spec with searched values. Raises SpecRefused, NotFound, Conflict."""
    search, problems = read_search(written)
    if search is None:
        raise SpecRefused.because(problems)
    for name in ("dataset", "model", "target"):
        inside = name != "target"  # a target's encoding may be searched
        if any(at == f"/{name}" or (inside and at.startswith(f"/{name}/")) for at in search.ranges):
            raise SpecRefused.because([Problem(f"A search has one {name}.", f"/{name}", fix="Submit one run each.")])
    if search.body.get("initial_weights") is not None:
        detail = "A search trains each configuration from random weights."
        fix = "Leave initial_weights out, then submit the best trial's spec with them."
        raise SpecRefused.because([Problem(detail, "/initial_weights", fix=fix)])
    reference = search.body.get("dataset")
    named = parse({"dataset": reference, "target": "any", "model": search.body.get("model")})
    with db.reading(engine) as session:
        dataset = store.get(session, sees, named.dataset.ref)
        facts = store.facts_of(dataset)
        if named.model is not None:
            registry.check_name(session, named.model, owner)
        pace = queries.measured_pace(session)
    resolved = resolve_search(search, facts, settings.limits, pace)
    searched = resolved.resolved["search"]
    size = SearchSize(
        configurations=resolved.search.configurations,
        trials=searched["trials"],
        parallel=searched["parallel"],
        names=all_names(resolved.search.ranges),
        metric=searched["metric"],
        direction=searched["direction"],
    )
    validation = Validation(
        resolved=resolved.resolved,
        summary=resolved.base.summary,
        estimates=resolved.estimates,
        warnings=resolved.warnings,
        search=size,
    )
    return CheckedSubmission(dataset.id, written, validation, estimates_of(resolved), named.model)


def estimates_of(resolved: Resolved | ResolvedSearch) -> dict[str, Any]:
    """Return a spec's estimates and warnings as a run stores them."""
    warnings = [warning.model_dump(mode="json") for warning in resolved.warnings]
    return {**resolved.estimates.model_dump(mode="json"), "warnings": warnings}
