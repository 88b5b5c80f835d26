"""Models, versions, labels. Every change to a model increments its `generation`, which the prediction service polls.

A version is numbered from 1 and never changes. A label is a movable name of a version; the `champion` answers
requests without a version; without a champion, the newest version does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fitserve import db, events
from fitserve.errors import BadInput, Conflict, NotFound
from fitserve.ids import NAME
from fitserve.tables import AdaptiveLevel, DecisionChange, Label, Model, Rollout, RolloutCount, RolloutStep, Version
from fitserve.visibility import SHARING, sharing, visible_to

_NAME = re.compile(NAME)
CHAMPION = "champion"
ROLLOUT = "rollout"  # the label of a version that `fitserve.rollouts` is making the champion


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """A version, for the prediction service."""

    version: int
    artifact: str
    retired: bool
    run: str  # id of the run, which the artifact's manifest must contain
    decisions: tuple[dict[str, Any], ...] | None = None  # changed decisions; None means those in the manifest
    error_rates: Mapping[str, float] = field(default_factory=dict)  # for each output, if ground truth has adjusted it


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """A label, for the prediction service. `artifact` is the version's, or a kept epoch's."""

    label: str
    version: int
    artifact: str
    weight: float
    shadow: bool


@dataclass(frozen=True, slots=True)
class RolloutFacts:
    """The active rollout of a model, for the prediction service. `share` of 0 is its shadow."""

    id: str
    step: int
    base: int
    to: int
    label: str
    share: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model at one generation."""

    name: str
    owner: str
    shared: bool
    wanted: bool  # its versions are to be in memory: the column `loaded`
    generation: int
    versions: tuple[VersionFacts, ...]
    labels: tuple[LabelFacts, ...]
    sharing: str | None = None
    rollout: RolloutFacts | None = None


def check_name(session: Session, model: str, owner: str) -> None:
    """Raise BadInput or Conflict unless that owner's runs may register under that name."""
    if not _NAME.fullmatch(model):
        raise BadInput("This is not a model's name.", received=model, expected=NAME)
    row = session.get(Model, model)
    if row is not None and row.owner != owner:
        raise Conflict(f"The model name {model} is taken.", received=model, fix="Choose another name.")


def add_version(session: Session, model: str, owner: str, run_id: str, artifact: str, metrics: dict[str, Any]) -> int:
    """Register a run's artifact and return the version's number; the same run always gets the same number.

    The blob row of `artifact` must exist. Raises BadInput, Conflict.
    """
    known = session.scalar(select(Version.version).where(Version.run_id == run_id))
    if known is not None:
        return known
    check_name(session, model, owner)
    _create_if_missing(session, model, owner)
    _change(session, model)  # on PostgreSQL this takes the model's row lock, which serialises version numbers
    highest = session.scalar(select(func.max(Version.version)).where(Version.model == model))
    row = Version(
        model=model,
        version=(highest or 0) + 1,
        run_id=run_id,
        artifact=artifact,
        metrics=metrics,
        created_at=db.now(session),
    )
    session.add(row)
    session.flush()
    data = {"model": model, "version": row.version, "run": run_id, "metrics": metrics}
    events.record(session, "version.registered", owner=owner, data=data, at=row.created_at)
    return row.version


def _create_if_missing(session: Session, model: str, owner: str) -> None:
    if session.get(Model, model) is not None:
        return
    try:
        with session.begin_nested():
            session.add(Model(name=model, owner=owner, created_at=db.now(session)))
    except IntegrityError:  # another transaction has created it meanwhile
        session.expire_all()
        check_name(session, model, owner)


def _change(session: Session, model: str, **changes: Any) -> None:
    """Increment the generation, which locks the model's row. Raises NotFound."""
    statement = update(Model).where(Model.name == model).values(generation=Model.generation + 1, **changes)
    if session.execute(statement).rowcount != 1:  # type: ignore[attr-defined]
        raise NotFound(f"No model {model}.", received=model)


def lock(session: Session, model: str) -> None:
    """Lock a model's row until the transaction ends, as every change to the model does. Raises NotFound."""
    if session.scalar(select(Model.name).where(Model.name == model).with_for_update()) is None:
        raise NotFound(f"No model {model[:63]}.", received=model[:100])


def get(session: Session, model: str) -> Model:
    """Return a model. Raises NotFound."""
    row = session.get(Model, model, populate_existing=True) if _NAME.fullmatch(model) else None
    if row is None:
        raise NotFound(f"No model {model[:63]}.", received=model[:100])
    return row


def list_models(session: Session, *, owner: str | None = None, after: str = "", limit: int = 100) -> list[Model]:
    """Return models by name, from the one after `after`; with an owner: theirs and the shared ones."""
    query = select(Model).where(Model.name > after, visible_to(Model, owner)).order_by(Model.name).limit(limit)
    return list(session.scalars(query))


def versions(session: Session, model: str) -> list[Version]:
    """Return a model's versions, newest first, including retired ones."""
    return list(session.scalars(select(Version).where(Version.model == model).order_by(Version.version.desc())))


def version(session: Session, model: str, number: int) -> Version:
    """Return one version. Raises NotFound."""
    row = session.get(Version, (model, number)) if 0 < number < 2**31 else None
    if row is None:
        raise NotFound(f"The model {model} has no version {number}.", received=number)
    return row


def labels(session: Session, model: str) -> list[Label]:
    """Return a model's labels by name."""
    return list(session.scalars(select(Label).where(Label.model == model).order_by(Label.label)))


def label(session: Session, model: str, name: str) -> Label:
    """Return one label. Raises NotFound."""
    row = session.get(Label, (model, name))
    if row is None:
        raise NotFound(f"The model {model} has no label {name[:63]}.", received=name[:100])
    return row


def set_label(
    session: Session,
    model: str,
    name: str,
    *,
    version_number: int,
    artifact: str | None = None,
    weight: float | None = None,
    shadow: bool | None = None,
) -> Label:
    """Point a label at a version, at once. `artifact` selects a kept epoch; `weight` makes the label a canary.

    `weight` and `shadow` of None change nothing. Raises BadInput, Conflict (a retired version), NotFound.
    """
    if not _NAME.fullmatch(name):
        raise BadInput("This is not a label.", received=name[:100], expected=NAME)
    _change(session, model)
    at = db.now(session)
    if version(session, model, version_number).retired_at is not None:
        raise Conflict(f"Version {version_number} of {model} is retired.", fix="Choose another version.")
    row = session.get(Label, (model, name), populate_existing=True)
    before = None if row is None else (row.version, row.artifact)
    if row is None:
        row = Label(
            model=model, label=name, version=version_number, weight=0.0, shadow=False, previous=None, updated_at=at
        )
        session.add(row)
    elif row.version != version_number:
        row.previous, row.version = row.version, version_number
    row.artifact = artifact
    row.weight = row.weight if weight is None else weight
    row.shadow = row.shadow if shadow is None else shadow
    row.updated_at = at
    _check_weights(session, model, row)
    session.flush()
    if before != (row.version, row.artifact):
        _record_move(session, model, name, row.version, None if before is None else before[0])
    return row


def _record_move(session: Session, model: str, name: str, to: int | None, previous: int | None) -> None:
    data = {"model": model, "label": name, "version": to, "previous": previous}
    events.record(session, "label.moved", owner=session.get_one(Model, model).owner, data=data)


def _check_weights(session: Session, model: str, changed: Label) -> None:
    if not 0.0 <= changed.weight <= 1.0:
        raise BadInput("A weight is a share of the traffic.", received=changed.weight, expected="0 to 1")
    if changed.label == CHAMPION and changed.weight:
        raise BadInput(
            "The champion has no weight of its own: it takes the traffic that the canaries leave.", pointer="/weight"
        )
    others = [row.weight for row in labels(session, model) if row.label != changed.label]
    if sum(others) + changed.weight > 1.0 + 1e-9:
        raise BadInput(
            "The canaries' weights add up to more than 1.", received=sum(others) + changed.weight, expected="at most 1"
        )


def remove_label(session: Session, model: str, name: str) -> None:
    """Delete a label. Raises NotFound."""
    _change(session, model)
    row = label(session, model, name)
    session.delete(row)
    session.flush()
    _record_move(session, model, name, None, row.version)


def rollback(session: Session, model: str, name: str = CHAMPION) -> Label:
    """Point a label back at its previous version.

    A model without a champion serves its newest version, so a rollback makes the version before that the champion.
    Raises Conflict where there is no previous version, NotFound.
    """
    _change(session, model)
    row = session.get(Label, (model, name), populate_existing=True)
    if row is not None:
        if row.previous is None:
            raise Conflict(f"The label {name} of {model} has no previous version.", fix="Point it at a version.")
        return set_label(session, model, name, version_number=row.previous)
    if name != CHAMPION:
        raise NotFound(f"The model {model} has no label {name[:63]}.", received=name[:100])
    live = [row.version for row in versions(session, model) if row.retired_at is None]
    if len(live) < 2:
        raise Conflict(f"The model {model} has no earlier version.")
    champion = set_label(session, model, CHAMPION, version_number=live[1])
    champion.previous = live[0]
    return champion


def retire(session: Session, model: str, number: int) -> Version:
    """Take a version out of service permanently. Raises Conflict while a label names it, NotFound."""
    _change(session, model)
    row = version(session, model, number)
    holders = [label.label for label in labels(session, model) if label.version == number]
    if holders:
        raise Conflict(
            f"Version {number} of {model} is in use by labels.", received=holders, fix="Move these labels first."
        )
    if row.retired_at is None:
        row.retired_at = db.now(session)
    for pointer in labels(session, model):
        if pointer.previous == number:
            pointer.previous = None
    session.flush()
    return row


def set_loaded(session: Session, model: str, loaded: bool) -> None:
    """Set whether the prediction service loads and serves a model. Raises NotFound."""
    _change(session, model, loaded=loaded)


def set_shared(session: Session, model: str, shared: bool, to: str = SHARING[0]) -> None:
    """Set what other owners may use a model for: one of SHARING. Raises NotFound."""
    _change(session, model, shared=shared, sharing=to if shared else None)


def set_open_feedback(session: Session, model: str, open_feedback: bool) -> None:
    """Set whether ground truth that other owners post counts in a model's live figures. Raises NotFound."""
    _change(session, model, open_feedback=open_feedback)


def delete(session: Session, model: str) -> None:
    """Delete a model, its versions, labels and rollouts; their runs stay. Raises NotFound."""
    _change(session, model)
    rollouts = select(Rollout.id).where(Rollout.model == model)
    for part in (RolloutStep, RolloutCount):
        session.execute(sql_delete(part).where(part.rollout_id.in_(rollouts)))
    session.execute(sql_delete(Rollout).where(Rollout.model == model))
    for table in (Label, DecisionChange, AdaptiveLevel, Version):
        session.execute(sql_delete(table).where(table.model == model))
    session.execute(sql_delete(Model).where(Model.name == model))


def set_decisions(
    session: Session,
    model: str,
    number: int,
    decisions: Sequence[Mapping[str, Any]],
    *,
    asked: Mapping[str, Any] | None,
    owner: str | None,
    key_id: str | None,
) -> DecisionChange:
    """Set a version's decisions in force; earlier ones stay in its history. Raises Conflict (retired), NotFound."""
    _change(session, model)
    if version(session, model, number).retired_at is not None:
        raise Conflict(f"Version {number} of {model} is retired.", fix="Choose another version.")
    row = DecisionChange(
        model=model,
        version=number,
        decisions=[dict(decision) for decision in decisions],
        asked=None if asked is None else dict(asked),
        owner=owner,
        key_id=key_id,
        created_at=db.now(session),
    )
    session.add(row)
    session.flush()
    return row


def decision_changes(session: Session, model: str, number: int, limit: int | None = None) -> list[DecisionChange]:
    """Return the changes of a version's decisions, newest first."""
    query = select(DecisionChange).where(DecisionChange.model == model, DecisionChange.version == number)
    return list(session.scalars(query.order_by(DecisionChange.id.desc()).limit(limit)))


def _moved_decisions(session: Session, models: Sequence[str]) -> dict[tuple[str, int], tuple[dict[str, Any], ...]]:
    """Return the decisions in force for these models' versions, if they were changed since training."""
    last = (
        select(func.max(DecisionChange.id))
        .where(DecisionChange.model.in_(models))
        .group_by(DecisionChange.model, DecisionChange.version)
    )
    rows = session.scalars(select(DecisionChange).where(DecisionChange.id.in_(last)))
    return {(row.model, row.version): tuple(row.decisions) for row in rows}


def error_rates(session: Session, models: Sequence[str]) -> dict[tuple[str, int], dict[str, float]]:
    """Return error rates that ground truth has moved, by model and version, then by output."""
    rates: dict[tuple[str, int], dict[str, float]] = {}
    for row in session.scalars(select(AdaptiveLevel).where(AdaptiveLevel.model.in_(models))):
        rates.setdefault((row.model, row.version), {})[row.output] = row.error_rate
    return rates


def move_error_rate(
    session: Session, model: str, number: int, output: str, asked: float, move: Callable[[float], float], rows: int
) -> float:
    """Move the error rate of an output; the first move starts from `asked`. Returns the new rate. Raises NotFound.

    Incrementing the generation locks the model's row, so that moves follow one another.
    """
    _change(session, model)
    known = session.get(AdaptiveLevel, (model, number, output), populate_existing=True)
    row = known or AdaptiveLevel(model=model, version=number, output=output, error_rate=asked, rows=0)
    row.error_rate, row.rows, row.changed_at = move(row.error_rate), row.rows + rows, db.now(session)
    if known is None:
        session.add(row)
    session.flush()
    return row.error_rate


def generations(session: Session) -> dict[str, tuple[str, int]]:
    """Return every model's creation time and generation, which a poll compares."""
    rows = session.execute(select(Model.name, Model.created_at, Model.generation))
    return {name: (created.isoformat(), generation) for name, created, generation in rows}


def load_facts(session: Session, names: Iterable[str]) -> list[ModelFacts]:
    """Return the named models that exist, with their versions and labels."""
    all_names = list(names)
    facts: list[ModelFacts] = []
    for start in range(0, len(all_names), 200):
        some = all_names[start : start + 200]
        by_model: dict[str, tuple[list[Version], list[Label]]] = {}
        for row in session.scalars(select(Version).where(Version.model.in_(some)).order_by(Version.version)):
            by_model.setdefault(row.model, ([], []))[0].append(row)
        for pointer in session.scalars(select(Label).where(Label.model.in_(some)).order_by(Label.label)):
            by_model.setdefault(pointer.model, ([], []))[1].append(pointer)
        models, moved = session.scalars(select(Model).where(Model.name.in_(some))), _moved_decisions(session, some)
        rates = error_rates(session, some)
        active = {row.model: row for row in session.scalars(_active_rollouts(some))}
        facts.extend(
            _model_facts(model, *by_model.get(model.name, ([], [])), moved, rates, active.get(model.name))
            for model in models
        )
    return facts


def _active_rollouts(models: Sequence[str]) -> Select[Rollout]:
    return select(Rollout).where(Rollout.model.in_(models), Rollout.state.in_(("running", "paused")))


def _model_facts(
    model: Model,
    rows: list[Version],
    pointers: list[Label],
    moved: Mapping[tuple[str, int], tuple[dict[str, Any], ...]],
    rates: Mapping[tuple[str, int], Mapping[str, float]],
    rollout: Rollout | None,
) -> ModelFacts:
    artifacts = {row.version: row.artifact for row in rows}
    shares = {pointer.version: pointer.weight for pointer in pointers if pointer.label == ROLLOUT}
    return ModelFacts(
        name=model.name,
        owner=model.owner,
        shared=model.shared,
        wanted=model.loaded,
        generation=model.generation,
        versions=tuple(
            VersionFacts(
                row.version,
                row.artifact,
                row.retired_at is not None,
                row.run_id,
                moved.get((model.name, row.version)),
                rates.get((model.name, row.version), {}),
            )
            for row in rows
        ),
        labels=tuple(
            LabelFacts(p.label, p.version, p.artifact or artifacts[p.version], p.weight, p.shadow)
            for p in pointers
            if p.version in artifacts
        ),
        sharing=sharing(model),
        rollout=None
        if rollout is None or rollout.to not in shares
        else RolloutFacts(rollout.id, rollout.step, rollout.base, rollout.to, ROLLOUT, shares[rollout.to]),
    )
