"""A run's lineage: its ancestors and descendants, grouped by spec and compared over their seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from fitserve import visibility
from fitserve.datasets import store
from fitserve.findings.lineage import Comparison, SeedScore, compare_scores, group_key, spec_changes
from fitserve.findings.record import RunRecord
from fitserve.runs import queries
from fitserve.states import INTERNAL_KINDS, RunKind, RunState
from fitserve.tables import Dataset, Run, Version
from fitserve.wire.insight import DataOrigin, GroupInfo, Lineage
from services.control.insight.run_insight import read_epochs

MAX_RUNS = 200
MAX_DATASETS = 20  # predictions on predictions on ...


def lineage(session: Session, run: Run, visible: Callable[[Run], bool]) -> Lineage:
    """Return the visible runs among the run's ancestors and their descendants, oldest first, at most `MAX_RUNS`."""
    groups: dict[str, list[Run]] = {}
    for relative in _relatives(session, run):
        if visible(relative):
            groups.setdefault(group_key(relative.resolved), []).append(relative)
    scores = {
        key: [score for member in members for score in _scores(session, member)] for key, members in groups.items()
    }
    group_of = {member.id: key for key, members in groups.items() for member in members}
    infos = []
    for key, members in groups.items():
        parents = (group_of[origin] for member in members if (origin := _origin(member)) in group_of)
        parent = next(parents, None)
        infos.append(_group_info(key, groups, scores, parent if parent != key else None))
    return Lineage(run=run.id, group=group_of[run.id], groups=infos, data=list(_origins(session, run, visible)))


def _origins(session: Session, run: Run, visible: Callable[[Run], bool]) -> Iterator[DataOrigin]:
    """Yield the run's dataset, and from each that holds predictions on to the one that they were made on."""
    dataset = session.get_one(Dataset, run.dataset_id)
    for _ in range(MAX_DATASETS):
        predicted = dataset.source.get("predicted") or {}
        version = session.get(Version, (predicted["model"], predicted["version"])) if predicted else None
        trained_by = session.get(Run, version.run_id) if version is not None else None
        yield DataOrigin(
            dataset=f"{dataset.name}@{dataset.version}",
            dataset_id=dataset.id,
            made="predicted" if predicted else "imported" if "imported" in dataset.source else "uploaded",
            model=predicted.get("model"),
            version=predicted.get("version"),
            run=predicted.get("run"),
            trained_by=trained_by.id if trained_by is not None and visible(trained_by) else None,
        )
        source = session.get(Dataset, predicted["dataset"]) if predicted else None
        if source is None or not visibility.sees(run.owner, source):
            return
        dataset = source


def _group_info(
    key: str, groups: dict[str, list[Run]], scores: dict[str, list[SeedScore]], parent: str | None
) -> GroupInfo:
    members = groups[key]
    values = list({score.seed: score.value for score in scores[key]}.values())
    compared: Comparison | None = compare_scores(scores[parent], scores[key]) if parent is not None else None
    return GroupInfo(
        group=key,
        runs=[member.id for member in members],
        parent=parent,
        changes=spec_changes(groups[parent][0].resolved, members[0].resolved) if parent is not None else [],
        seeds=len(values),
        mean=sum(values) / len(values) if values else None,
        verdict=compared.verdict if compared else None,  # type: ignore[arg-type]
        difference=compared.difference if compared else None,
        interval=list(compared.interval) if compared and compared.interval else None,
        sentence=compared.sentence if compared else None,
    )


def _origin(run: Run) -> str | None:
    """Return the run that this one changes or repeats, or else the one whose weights it began with."""
    return run.parent_id or (run.resolved.get("initial_weights") or {}).get("run")


def _relatives(session: Session, run: Run) -> Sequence[Run]:
    """Return the trainings of one owner in the tree that the run belongs to, from its oldest ancestor down."""
    root, ancestors = run, {run.id}
    while (origin := _origin(root)) is not None and len(ancestors) < MAX_RUNS:
        parent = session.get(Run, origin)
        if parent is None or parent.id in ancestors or parent.owner != run.owner:
            break
        root = parent
        ancestors.add(parent.id)
    runs, level = {root.id: root}, [root]
    while level and len(runs) < MAX_RUNS:
        weights = [artifact for one in level if (artifact := (one.result or {}).get("artifact"))]
        descends = or_(Run.parent_id.in_([one.id for one in level]), Run.initial_weights.in_(weights))
        query = select(Run).where(descends, Run.owner == run.owner, Run.kind.not_in(INTERNAL_KINDS)).order_by(Run.id)
        children = [child for child in session.scalars(query.limit(MAX_RUNS - len(runs))) if child.id not in runs]
        runs |= {child.id: child for child in children}
        level = children
    runs.setdefault(run.id, queries.get(session, run.id))  # in a large tree it may lie beyond the limit
    return sorted((one for one in runs.values() if one.kind == RunKind.training or one is run), key=lambda one: one.id)


def _scores(session: Session, run: Run) -> list[SeedScore]:
    """Return each trial's lowest loss without penalty, on validation rows if there are any.

    A standardized target's loss is in squared standard deviations; it is converted to the target's own units.
    """
    if run.state != RunState.succeeded:
        return []
    facts = store.facts_of(session.get_one(Dataset, run.dataset_id))
    best_trial = (run.result or {}).get("best_trial")
    record = RunRecord(run.resolved, facts, read_epochs(session, run.id), kept_trial=best_trial)
    target = record.target
    scale = 1.0
    if target is not None and target.get("standardize") and record.loss == "MeanSquaredError":
        scale = (facts.by_name[target["columns"][0]].std or 1.0) ** 2
    seed = int(record.training.get("seed", 0))
    scores = []
    for trial in record.trials:
        if trial.best is not None:
            value = trial.scores[trial.best] * scale
            if math.isfinite(value):
                scores.append(SeedScore(seed + trial.number, value))
    return scores
