"""A run's family: ancestors and descendants, grouped by spec, compared over their seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from fitserve import datasets
from fitserve.findings.lineage import Comparison, Score, changes, compare, group_of
from fitserve.findings.record import Record
from fitserve.runs import queries
from fitserve.states import TRIAL, RunState
from fitserve.tables import Dataset, Run
from fitserve.wire.insight import GroupInfo, Lineage
from services.control.insight.run_insight import recorded

MOST_RUNS = 200


def lineage(session: Session, run: Run, seen: Callable[[Run], bool]) -> Lineage:
    """All runs that it was made from or that were made from its ancestors, at most `MOST_RUNS`, oldest first.

    Those that the caller does not see are left out.
    """
    runs = [one for one in _family(session, run) if seen(one)]
    groups: dict[str, list[Run]] = {}
    for one in runs:
        groups.setdefault(group_of(one.resolved), []).append(one)
    scores = {name: [score for one in own for score in _scores(session, one)] for name, own in groups.items()}
    of_run = {one.id: name for name, own in groups.items() for one in own}
    told = []
    for name, own in groups.items():
        parent = next((of_run[one.parent_id] for one in own if one.parent_id in of_run), None)
        parent = parent if parent != name else None
        told.append(_group(name, own, scores, parent, groups))
    return Lineage(run=run.id, group=of_run[run.id], groups=told)


def _group(
    name: str, own: Sequence[Run], scores: dict[str, list[Score]], parent: str | None, groups: dict[str, list[Run]]
) -> GroupInfo:
    values = list({score.seed: score.value for score in scores[name]}.values())
    compared: Comparison | None = compare(scores[parent], scores[name]) if parent is not None else None
    return GroupInfo(
        group=name,
        runs=[one.id for one in own],
        parent=parent,
        changes=changes(groups[parent][0].resolved, own[0].resolved) if parent is not None else [],
        seeds=len(values),
        mean=sum(values) / len(values) if values else None,
        verdict=compared.verdict if compared else None,  # type: ignore[arg-type]
        difference=compared.difference if compared else None,
        interval=list(compared.interval) if compared and compared.interval else None,
        sentence=compared.sentence if compared else None,
    )


def _family(session: Session, run: Run) -> list[Run]:
    root, seen = run, {run.id}
    while root.parent_id is not None and len(seen) < MOST_RUNS:
        above = session.get(Run, root.parent_id)
        if above is None or above.id in seen or above.owner != run.owner:
            break
        root = above
        seen.add(above.id)
    found, level = {root.id: root}, [root.id]
    while level and len(found) < MOST_RUNS:
        query = select(Run).where(Run.parent_id.in_(level), Run.owner == run.owner, Run.kind != TRIAL).order_by(Run.id)
        below = [one for one in session.scalars(query.limit(MOST_RUNS - len(found))) if one.id not in found]
        found |= {one.id: one for one in below}
        level = [one.id for one in below]
    found.setdefault(run.id, queries.get(session, run.id))
    return sorted((one for one in found.values() if one.kind == "training" or one is run), key=lambda one: one.id)


def _scores(session: Session, run: Run) -> list[Score]:
    """Each trial's lowest loss without penalty, on validation rows where there are some.

    A standardised target's loss is in squared standard deviations; it is brought to the target's own units.
    """
    if run.state != RunState.succeeded:
        return []
    facts = datasets.facts_of(session.get_one(Dataset, run.dataset_id))
    record = Record(run.resolved, facts, recorded(session, run.id, set()), None, (run.result or {}).get("best_trial"))
    target = record.target
    scale = 1.0
    if target is not None and target.get("standardize") and record.loss == "MeanSquaredError":
        scale = (facts.by_name[target["columns"][0]].std or 1.0) ** 2
    seed = int(record.training.get("seed", 0))
    scores = []
    for trial in record.trials:
        if trial.best is not None:
            value = (trial.validation or trial.train)[trial.best] * scale
            if math.isfinite(value):
                scores.append(Score(seed + trial.number, value))
    return scores
