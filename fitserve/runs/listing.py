"""List runs: filters, text search, order, pages, and each run's changes compared with the previous run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, String, and_, case, cast, func, literal, nulls_last, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, load_only

from fitserve.errors import TooLarge
from fitserve.excerpts import shorten
from fitserve.findings.lineage import spec_changes
from fitserve.runs.scores import PARTS, scores_of
from fitserve.settings import MB
from fitserve.states import INTERNAL_KINDS, RunState
from fitserve.tables import PLAYGROUND, Dataset, Run
from fitserve.tables.json_columns import where_readable
from fitserve.visibility import visible_to

SortKey = Literal["created", "finished", "duration", "name", "dataset", "model", "state", "metric"]
MAX_CHANGES = 8  # changes shown for one run
MIN_ID_PART = 4  # shortest word searched for in ids; shorter ones match too many
MAX_VALUE = 80  # characters shown of a changed value
MAX_WHOLE_BYTES = 50 * MB  # bytes of runs read whole in one request; in memory they take ten times as much
MAX_SPEC_BYTES = 20 * MB  # bytes of the specs compared for one page


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A filter of runs; all conditions must hold. `owner` selects their runs and shared ones."""

    owner: str | None = None
    states: Sequence[str] = ()
    model: str | None = None
    dataset_id: str | None = None  # dataset that the run reads, or has imported
    dataset: str | None = None  # dataset name: any version
    tags: Sequence[str] = ()
    text: str = ""  # every word must occur in the id, name, notes, tags, model, dataset or targets
    playground: bool = True
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list; `metric` is read only where `key` is that."""

    key: SortKey = "created"
    descending: bool = True
    metric: str = ""


@dataclass(frozen=True, slots=True)
class ListEntry:
    """A run in a list, with its dataset and targets, and its changes compared with the previous run."""

    run: Run
    dataset: str
    targets: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    changes: list[dict[str, Any]] | None = None
    compared_with: str | None = None


_BRIEF = (
    *(Run.id, Run.kind, Run.owner, Run.dataset_id, Run.model, Run.state, Run.priority, Run.attempt, Run.result),
    *(Run.shared, Run.error, Run.parent_id, Run.created_at, Run.started_at, Run.finished_at, Run.cancel_requested_at),
    *(Run.name, Run.tags, Run.notes, Run.scores),
)


def list_runs(
    session: Session,
    wanted: RunFilter,
    order: Order = Order(),
    *,
    before: str | None = None,
    offset: int = 0,
    limit: int = 50,
) -> list[Run]:
    """Return one page of runs, without their specs. `before`: only runs older than this id; needs the default order."""
    brief = load_only(*_BRIEF, raiseload=True)
    if order != Order() or offset:  # sort and skip ids only; sorting whole rows would be slow
        query = _filtered(select(Run.id), wanted).where(visible_to(Run, wanted.owner))
        ids = list(session.scalars(query.order_by(*_order_by(session, order)).offset(offset).limit(limit)))
        by_id = {run.id: run for run in session.scalars(select(Run).options(brief).where(Run.id.in_(ids)))}
        return [by_id[run_id] for run_id in ids if run_id in by_id]
    query = _filtered(select(Run), wanted).options(brief).order_by(Run.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Run.id < before)
    if wanted.owner is None:
        return list(session.scalars(query))
    # Two queries, each by its own index: one query with OR would scan the runs of all owners.
    owned = session.scalars(query.where(Run.owner == wanted.owner)).all()
    others = session.scalars(query.where(Run.shared, Run.owner != wanted.owner)).all()
    return sorted([*owned, *others], key=lambda run: run.id, reverse=True)[:limit]


def list_ids(session: Session, wanted: RunFilter, *, before: str | None = None, limit: int) -> list[str]:
    """Return the ids of runs, newest first; `before`: those older than this id."""
    query = _filtered(select(Run.id), wanted).where(visible_to(Run, wanted.owner))
    if before is not None:
        query = query.where(Run.id < before)
    return list(session.scalars(query.order_by(Run.id.desc()).limit(limit)))


def get_several(session: Session, ids: Sequence[str], owner: str | None) -> dict[str, Run]:
    """Return whole runs by id, omitting those that the owner may not read. Raises TooLarge before reading them."""
    possible = [run_id for run_id in ids if run_id.isprintable()]  # others are no text of PostgreSQL's
    readable = Run.id.in_(possible), visible_to(Run, owner)
    size = func.sum(stored_bytes(Run.spec, Run.resolved, Run.estimates, Run.result))
    if (stored := session.scalar(select(size).where(*readable)) or 0) > MAX_WHOLE_BYTES:
        raise TooLarge(
            "These runs are too large for one answer.",
            received=f"{stored} bytes",
            expected=f"at most {MAX_WHOLE_BYTES} bytes",
            fix="Ask for fewer of them at once.",
        )
    return {run.id: run for run in session.scalars(select(Run).where(*readable))}


def count_runs(session: Session, wanted: RunFilter) -> int:
    """Count the runs that match a filter."""
    query = _filtered(select(func.count()).select_from(Run), wanted).where(visible_to(Run, wanted.owner))
    return session.scalar(query) or 0


def tags_in_use(session: Session, owner: str | None, limit: int = 200) -> list[str]:
    """Return the tags of the newest tagged runs that an owner may read, by name."""
    query = select(Run.tags).where(cast(Run.tags, String) != "[]", visible_to(Run, owner)).order_by(Run.id.desc())
    return sorted({str(tag) for tags in session.scalars(query.limit(2000)) for tag in tags})[:limit]


def _filtered(query: Select[Any], wanted: RunFilter) -> Select[Any]:
    """Apply everything but the owner. Trials are left out: they are parts of a run."""
    query = query.where(Run.kind.not_in(INTERNAL_KINDS))
    if wanted.states:
        query = query.where(Run.state.in_(wanted.states))
    if wanted.model is not None:
        query = query.where(Run.model == wanted.model)
    if wanted.dataset_id is not None:
        query = query.where(
            or_(Run.dataset_id == wanted.dataset_id, _imports(Run.result, "dataset_id", wanted.dataset_id))
        )
    if wanted.dataset is not None:
        named = select(Dataset.id).where(Dataset.name == wanted.dataset)
        query = query.where(or_(Run.dataset_id.in_(named), _imports(Run.resolved, "name", wanted.dataset)))
    if wanted.since is not None:
        query = query.where(Run.created_at >= wanted.since)
    if not wanted.playground:
        of_playground = select(Dataset.id).where(Dataset.name.startswith(PLAYGROUND, autoescape=True))
        query = query.where(or_(Run.dataset_id.is_(None), Run.dataset_id.not_in(of_playground)))
    for tag in wanted.tags:
        query = query.where(cast(Run.tags, String).contains(_as_json(tag), autoescape=True))
    for word in wanted.text.split():
        query = query.where(_mentions(word))
    return query


def _imports(column: Any, key: str, wanted: str) -> ColumnElement[bool]:
    """Return the SQL condition that a run imports a dataset; such a run reads none, so the partial index applies."""
    return and_(Run.dataset_id.is_(None), where_readable(column, column[key].as_string()) == wanted)


def _as_json(tag: str) -> str:
    """Return a tag as the JSON column stores it; its quotation marks keep it from matching part of another tag."""
    return json.dumps(tag)


def _mentions(word: str) -> ColumnElement[bool]:
    """Return the condition that a word is in one of the texts that a list shows."""
    detail = where_readable(Run.error, Run.error["detail"].as_string())
    texts = [Run.name, Run.notes, Run.model, detail]
    if len(word) >= MIN_ID_PART:
        texts.append(Run.id)
    named = select(Dataset.id).where(Dataset.name.icontains(word, autoescape=True))
    resolved = (where_readable(Run.resolved, Run.resolved[key]) for key in ("target", "name"))
    in_json = [cast(column, String) for column in (Run.tags, *resolved)]
    # Texts beyond ASCII are escaped in JSON columns.
    escaped = _as_json(word)[1:-1]
    return or_(
        *(text.icontains(word, autoescape=True) for text in texts),
        *(text.icontains(one, autoescape=True) for text in in_json for one in {word, escaped}),
        Run.dataset_id.in_(named),
    )


def _order_by(session: Session, order: Order) -> list[ColumnElement[Any]]:
    """Return the sort columns: runs without a value come last, ties newest first."""
    if order == Order():
        return [Run.id.desc()]
    value = _sorted_by(order, session.get_bind().dialect.name)
    return [nulls_last(value.desc() if order.descending else value.asc()), Run.id.desc()]


def _sorted_by(order: Order, dialect: str) -> ColumnElement[Any]:
    if order.key == "metric":
        return metric_value(order.metric)
    if order.key == "duration":
        return _seconds(Run.finished_at, dialect) - _seconds(Run.started_at, dialect)
    if order.key == "name":
        return func.lower(func.coalesce(Run.name, Run.id))
    if order.key == "dataset":
        return select(func.lower(Dataset.name)).where(Dataset.id == Run.dataset_id).scalar_subquery()
    if order.key == "state":
        return case({state: place for place, state in enumerate(RunState)}, value=Run.state)
    columns: dict[str, Any] = {"created": Run.id, "finished": Run.finished_at, "model": func.lower(Run.model)}
    column: ColumnElement[Any] = columns[order.key]
    return column


def _seconds(column: Any, dialect: str) -> ColumnElement[Any]:
    return func.extract("epoch", column) if dialect == "postgresql" else func.julianday(column) * 86_400.0


def metric_value(name: str) -> ColumnElement[float]:
    """Return SQL for one of a run's scores, or NULL; runs older than stored scores take it from the result."""
    stored = where_readable(Run.scores, Run.scores[name].as_float())
    parts = (where_readable(Run.result, Run.result["metrics"][part][name].as_float()) for part in PARTS)
    return func.coalesce(stored, *parts)


def describe(session: Session, runs: Sequence[Run], *, changes: bool = False) -> list[ListEntry]:
    """Add each run's dataset and targets.

    With `changes`, add also the differences between its spec and its parent's, or that of the previous run on the same
    dataset.
    """
    ids = [run.id for run in runs]
    datasets = {run.dataset_id for run in runs}
    names = session.execute(select(Dataset.id, Dataset.name, Dataset.version).where(Dataset.id.in_(datasets)))
    refs = {dataset_id: f"{name}@{version}" for dataset_id, name, version in names}
    targets = {run_id: _names(target) for run_id, target in _targets(session, ids)}
    before = _compared(session, runs) if changes else {}
    specs = _specs(session, {*ids, *before.values()}) if changes else {}
    return [
        ListEntry(
            run,
            refs.get(run.dataset_id or "", run.dataset_id) or _imported(run),
            targets.get(run.id, []),
            run.scores if run.scores is not None else scores_of(run.result),
            _changes(specs, run.id, before.get(run.id)),
            before.get(run.id),
        )
        for run in runs
    ]


def _imported(run: Run) -> str:
    """Return the version that an import has made; before its end, nothing."""
    return str((run.result or {}).get("dataset", ""))


def _targets(session: Session, ids: Sequence[str]) -> Iterable[Any]:
    target = where_readable(Run.resolved, Run.resolved["target"])
    return session.execute(select(Run.id, target).where(Run.id.in_(ids)))


def _names(target: Any) -> list[str]:
    """Return the names in a resolved or written `target`."""
    several = target if isinstance(target, list) else [target]
    named = [one.get("name") or one.get("column") if isinstance(one, dict) else one for one in several]
    return [str(name) for name in named if name is not None]


def _compared(session: Session, runs: Sequence[Run]) -> dict[str, str]:
    """Return, for each run, the run to compare it with: its parent, else the previous run on its dataset."""
    compared = {run.id: run.parent_id for run in runs if run.parent_id is not None}
    alone = [run.id for run in runs if run.id not in compared]
    earlier = aliased(Run)
    before = select(earlier.id).where(earlier.dataset_id == Run.dataset_id, earlier.id < Run.id)
    before = before.where(earlier.kind == Run.kind, earlier.owner == Run.owner).order_by(earlier.id.desc()).limit(1)
    rows = session.execute(select(Run.id, before.scalar_subquery()).where(Run.id.in_(alone)))
    compared |= {run_id: previous for run_id, previous in rows if previous is not None}
    return compared


def _specs(session: Session, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the specs of runs, newest first, without those that would exceed `MAX_SPEC_BYTES` together."""
    sizes = select(Run.id, stored_bytes(Run.spec)).where(Run.id.in_(list(ids))).order_by(Run.id.desc())
    few, total = [], 0
    for run_id, size in session.execute(sizes):
        if total + size <= MAX_SPEC_BYTES:
            total += size
            few.append(run_id)
    rows = session.execute(select(Run.id, Run.spec).where(Run.id.in_(few)))
    return {row.id: row.spec for row in rows}


def stored_bytes(*columns: ColumnElement[Any] | InstrumentedAttribute[Any]) -> ColumnElement[int]:
    """Return about how many bytes a row's JSON columns take as text, without reading them."""
    return sum((func.coalesce(func.length(cast(column, String)), 0) for column in columns), literal(0))


def _changes(specs: Mapping[str, Any], run_id: str, compared: str | None) -> list[dict[str, Any]] | None:
    """Return the changes from another run's spec to this one's; None if one of them was not loaded."""
    if compared is None or compared not in specs or run_id not in specs:
        return None
    return _brief(spec_changes(specs[compared], specs[run_id]))


def _brief(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first changes, with long values cut."""
    return [{**change, "from": _cut(change["from"]), "to": _cut(change["to"])} for change in changes[:MAX_CHANGES]]


def _cut(value: Any) -> Any:
    value = _in_words(value)
    return shorten(value, MAX_VALUE) if isinstance(value, str) else value


def _in_words(value: Any) -> Any:
    """Summarise a part of a spec: `Dense 64, Dropout 0.2` for a list of layers."""
    if isinstance(value, list):
        return ", ".join(str(_in_words(one)) for one in value) or "none"
    if not isinstance(value, Mapping):
        return value
    name, inner = next(iter(value.items()), ("none", {}))
    if isinstance(inner, Mapping):
        inner = next((one for one in inner.values() if isinstance(one, str | int | float)), "")
    return f"{name} {_in_words(inner)}".strip()
