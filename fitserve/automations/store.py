"""Automations and their firings as rows: create, change, list."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fitserve import db, registry, visibility
from fitserve.automations import cron
from fitserve.automations.leadership import LIVE
from fitserve.datasets import store as datasets
from fitserve.errors import BadInput, Conflict, NotFound, TooMany
from fitserve.ids import new_id
from fitserve.rollouts.lifecycle import StoredPlan, check_plan
from fitserve.settings import Limits
from fitserve.spec.spec import parse
from fitserve.tables import Automation, AutomationFiring, Dataset, Label, Run, Version
from fitserve.visibility import owned_by
from fitserve.wire.automations import AutomationRequest, Policy
from fitserve.wire.rollouts import RolloutPlan


def create(
    session: Session, request: AutomationRequest, limits: Limits, *, owner: str, key_id: str | None, sees: str | None
) -> Automation:
    """Create an automation. Raises BadInput, Conflict, NotFound, TooMany."""
    db.serialise(session, "automations", owner)
    count = session.scalar(select(func.count()).select_from(Automation).where(Automation.owner == owner)) or 0
    if count >= limits.automations:
        raise TooMany(
            f"You have {count} automations.", received=count, expected=f"fewer than {limits.automations} automations"
        )
    policy = Policy.model_validate(request.model_dump(exclude={"name", "enabled"}, exclude_unset=True))
    model = check(session, policy, owner, sees)
    at = db.now(session)
    row = Automation(
        id=new_id("auto"),
        owner=owner,
        key_id=key_id,
        name=request.name,
        model=model,
        policy=policy.to_json(),
        enabled=request.enabled,
        failures=0,
        baseline_id=_baseline(session, policy, sees),
        next_at=cron.next_after(policy.on, at) if request.enabled else None,
        created_at=at,
        updated_at=at,
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:
        raise Conflict(
            f"You have an automation {request.name} already.", pointer="/name", received=request.name
        ) from None
    return row


def check(session: Session, policy: Policy, owner: str, sees: str | None) -> str | None:
    """Return the model that a policy's runs register. Raises BadInput, NotFound, Conflict if it cannot work."""
    cron.check(policy.on)
    if policy.rollout is not None:
        _check_rollout(policy.rollout)
    model: str | None
    for name in (policy.on.drift, policy.on.live_metric, policy.do.champion):
        if name is not None and not _owns(session, name, sees):
            raise NotFound(f"No model {name}.", received=name)
    if policy.on.appended is not None:
        datasets.get(session, sees, policy.on.appended)
    if policy.do.champion is not None:
        model = policy.do.champion
        run, _ = champion_run(session, model)
        if run.resolved.get("search"):
            raise BadInput(
                "The champion comes from a search: send the spec of one trial.", pointer="/do/champion", received=model
            )
    else:
        body = policy.do.spec or {}
        spec = parse({"target": "any", **{key: body[key] for key in ("dataset", "model") if key in body}})
        datasets.get(session, sees, spec.dataset.ref)
        model = spec.model
    if model is not None:
        registry.check_name(session, model, owner)
    if model is None and (policy.gate is not None or policy.then in ("promote", "rollout")):
        raise BadInput(
            "The spec names no model, so there is nothing to compare or promote.",
            pointer="/do/spec/model",
            fix="Add `model` to the spec.",
        )
    return model


def _check_rollout(plan: RolloutPlan) -> None:
    """Raise BadInput where rollouts of this plan could not start."""
    waits = StoredPlan(hold=plan.hold, min_truths=plan.min_truths)
    options = plan.options()
    try:
        check_plan(options["steps"], options["guards"], plan.shadow, "rollout", waits)
    except BadInput as error:
        error.pointer = f"/rollout{error.pointer}"
        raise


def _owns(session: Session, model: str, sees: str | None) -> bool:
    try:
        return visibility.owns(sees, registry.get(session, model))
    except NotFound:
        return False


def champion(session: Session, model: str) -> Version | None:
    """Return the version that answers for a model; None without one."""
    label = session.get(Label, (model, registry.CHAMPION))
    if label is not None:
        return session.get(Version, (model, label.version))
    return next((row for row in registry.versions(session, model) if row.retired_at is None), None)


def champion_run(session: Session, model: str) -> tuple[Run, Version]:
    """Return the run of a model's champion. Raises NotFound."""
    version = champion(session, model)
    if version is None:
        raise NotFound(f"The model {model} has no version.", received=model)
    return session.get_one(Run, version.run_id), version


def _baseline(session: Session, policy: Policy, sees: str | None) -> str | None:
    """Return the dataset version that new rows are counted from: the champion's, else the newest."""
    if policy.do.champion is not None:
        run = champion_run(session, policy.do.champion)[0]
        if policy.on.appended is None or _name_of(session, run.input_dataset) == policy.on.appended:
            return run.dataset_id
    if policy.on.appended is not None:
        return datasets.get(session, sees, policy.on.appended).id
    return None


def _name_of(session: Session, dataset_id: str) -> str | None:
    return session.scalar(select(Dataset.name).where(Dataset.id == dataset_id))


def get(session: Session, id: str, owner: str | None) -> Automation:
    """Return an automation by id or name, among the owner's, or among all for owner None. Raises NotFound."""
    query = select(Automation).where(or_(Automation.id == id, Automation.name == id), owned_by(Automation, owner))
    row = session.scalars(query.order_by(Automation.id.desc()).limit(1)).first()
    if row is None:
        raise NotFound(f"No automation {id[:64]}.", received=id[:64])
    return row


def listing(session: Session, owner: str | None) -> list[Automation]:
    """Return the automations of an owner, or all, newest first."""
    query = select(Automation).where(owned_by(Automation, owner)).order_by(Automation.id.desc())
    return list(session.scalars(query))


def change(
    session: Session,
    row: Automation,
    *,
    enabled: bool | None,
    policy: Policy | None,
    sees: str | None,
    key_id: str | None,
) -> Automation:
    """Change an automation; enabling it ends a pause, and gives it the caller's key. Raises BadInput, NotFound."""
    at = db.now(session)
    if policy is not None:
        row.model = check(session, policy, row.owner, sees)
        if policy.on.appended != row.policy["on"].get("appended"):
            row.baseline_id = _baseline(session, policy, sees)
        row.policy = policy.to_json()
    if enabled is not None:
        row.enabled = enabled
        if enabled:
            row.paused_reason, row.failures, row.key_id = None, 0, key_id
    row.next_at = cron.next_after(read(row).on, at) if row.enabled else None
    row.updated_at = at
    session.flush()
    return row


def remove(session: Session, row: Automation) -> None:
    """Delete an automation and its history; its runs stay."""
    session.execute(delete(AutomationFiring).where(AutomationFiring.automation_id == row.id))
    session.delete(row)
    session.flush()


def read(row: Automation) -> Policy:
    """Return the policy of an automation."""
    return Policy.model_validate(row.policy)


def history(session: Session, automation: str, *, limit: int, before: str | None = None) -> list[AutomationFiring]:
    """Return an automation's firings, newest first, older than the id `before`."""
    query = select(AutomationFiring).where(AutomationFiring.automation_id == automation)
    if before is not None:
        query = query.where(AutomationFiring.id < before)
    return list(session.scalars(query.order_by(AutomationFiring.id.desc()).limit(limit)))


def live_firings(session: Session, automation: str | None = None) -> list[AutomationFiring]:
    """Return the firings that are not over, oldest first."""
    query = select(AutomationFiring).where(AutomationFiring.state.in_(LIVE)).order_by(AutomationFiring.id)
    return list(
        session.scalars(query if automation is None else query.where(AutomationFiring.automation_id == automation))
    )


def spent_today(session: Session, automation: str, at: datetime) -> tuple[int, float]:
    """Return how many runs an automation has started today (UTC), and their seconds of training."""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    mine = select(AutomationFiring.run_id).where(
        AutomationFiring.automation_id == automation, AutomationFiring.created_at >= day
    )
    runs = session.execute(select(Run.started_at, Run.finished_at).where(Run.id.in_(mine))).all()
    seconds = sum(((ended or at) - began).total_seconds() for began, ended in runs if began is not None)
    return len(runs), seconds
