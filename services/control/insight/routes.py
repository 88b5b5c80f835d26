"""What a run teaches: findings and their answers, evaluation, importance, surfaces, hardest rows, lineage."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Query, Request, Response
from sqlalchemy import select

from fitserve import db, telemetry
from fitserve.errors import BadInput, NotFound
from fitserve.findings import RULES, apply_patch, complexity, diagnose
from fitserve.runs import create, queries
from fitserve.runs.create import NewRun
from fitserve.spec.resolve import resolve
from fitserve.spec.spec import parse
from fitserve.tables import Epoch, Run
from fitserve.wire.insight import (
    Applied,
    Complexity,
    Evaluation,
    FindingInfo,
    Findings,
    Hardest,
    Importance,
    LayerSeries,
    Lineage,
    RuleInfo,
)
from services.control.deps import Context, context
from services.control.insight import lineage
from services.control.insight.run_insight import NotYet, Studied, ended, studied, trains
from services.control.runs.routes import whole
from services.shell import Caller, Router, require

router = Router(tags=["insight"])

Reader = Annotated[Caller, Depends(require("read"))]
Ctx = Annotated[Context, Depends(context)]
TargetName = Annotated[str | None, Query(max_length=255, description="Left out: the first")]


@router.get("/findings/rules", summary="The rules that runs are diagnosed by")
def rules(caller: Reader) -> list[RuleInfo]:
    return [RuleInfo.model_validate(rule) for rule in RULES]


@router.get("/runs/{run_id}/findings", summary="What went wrong in a run, and what would answer it")
def get_findings(run_id: str, caller: Reader, ctx: Ctx) -> Findings:
    """Also while it trains, from the epochs so far. The gravest first; the same for the same run."""
    found = studied(ctx, caller, run_id)
    items = [FindingInfo(n=n, **_plain(asdict(one))) for n, one in enumerate(diagnose(found.record), 1)]
    return Findings(items=items)


def _plain(body: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in body.items()}


@router.post("/runs/{run_id}/findings/{n}/apply", status_code=202, summary="Train again with a finding's change")
def apply_finding(
    run_id: str,
    n: Annotated[int, Path(ge=1, le=100)],
    request: Request,
    response: Response,
    caller: Annotated[Caller, Depends(require("train"))],
    ctx: Ctx,
    seeds: Annotated[
        int | None, Query(ge=2, le=50, description="Train parent and child under so many seeds, to compare them")
    ] = None,
    idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)] = None,
) -> Applied:
    """The child has this run as its parent; `lineage` says whether the change helped."""
    found = studied(ctx, caller, run_id)
    with db.reading(ctx.engine) as session:
        queries.own(session, run_id, caller.owner_filter)
    ended(found)
    findings = diagnose(found.record)
    if n > len(findings):
        raise NotFound(f"The run has {len(findings)} findings.", received=n)
    if not findings[n - 1].patch:
        raise BadInput("No change of the spec answers this finding.", received=findings[n - 1].rule)
    identity = (request.method.encode(), request.url.path.encode(), str(request.url.query).encode())
    patched = apply_patch(found.run.resolved, findings[n - 1].patch)
    child = _submit(found, caller, patched, create.key_of(idempotency_key, *identity, b"child"), seeds)
    repeated = None
    if seeds is not None and len(found.record.trials) < seeds:
        suffix = None if idempotency_key is None else f"{idempotency_key[:240]}/repeated"
        repeated = _submit(found, caller, found.run.resolved, create.key_of(suffix, *identity, b"repeated"), seeds)
    response.headers["Location"] = f"/api/v1/runs/{child.id}"
    with db.reading(ctx.engine) as session:
        told = whole(session, queries.get(session, child.id)).model_dump()
        again = whole(session, queries.get(session, repeated.id)) if repeated else None
    return Applied(**told, repeated=again)


def _submit(found: Studied, caller: Caller, body: Any, key: create.Key | None, seeds: int | None) -> Run:
    """A child run of a whole spec. Raises SpecRefused, TooMany."""
    if seeds is not None:
        body = {**body, "training": {**body["training"], "restarts": max(seeds, body["training"]["restarts"])}}
    resolved = resolve(parse(body), found.record.facts, found.ctx.settings.limits)
    new = NewRun(
        owner=found.run.owner,
        dataset_id=found.run.dataset_id,
        spec=body,
        resolved=resolved.spec.to_json(),
        estimates={
            **resolved.estimates.model_dump(mode="json"),
            "warnings": [warning.model_dump(mode="json") for warning in resolved.warnings],
        },
        model=found.run.model,
        priority=found.run.priority,
        parent_id=found.run.id,
        key_id=caller.key_id,
        quotas=caller.quotas,
    )
    run, is_new = create.create(found.ctx.engine, new, found.ctx.settings.limits, key)
    if is_new:
        telemetry.RUNS_CREATED.inc()
        found.ctx.queue.publish(run.id)
    return run


@router.get("/runs/{run_id}/lineage", summary="Which change helped, over several seeds")
def get_lineage(run_id: str, caller: Reader, ctx: Ctx) -> Lineage:
    """The run's family, by spec. Runs that differ in their seeds alone are one group."""
    with db.reading(ctx.engine) as session:
        run = trains(queries.get(session, run_id, caller.owner_filter))
        return lineage.lineage(session, run, lambda one: caller.sees(one.owner, one.shared))


@router.get("/runs/{run_id}/complexity", summary="The model complexity graph, and its verdict")
def get_complexity(run_id: str, caller: Reader, ctx: Ctx) -> Complexity:
    drawn = complexity(studied(ctx, caller, run_id).record)
    if drawn is None:
        raise NotYet("No epoch has ended yet.")
    return Complexity(**drawn)


@router.get("/runs/{run_id}/evaluation", summary="How good it is on rows that it never saw")
def get_evaluation(run_id: str, caller: Reader, ctx: Ctx) -> Evaluation:
    """Beside the trivial baseline, a linear model and boosted trees on the same rows; with 95% intervals."""
    answers = studied(ctx, caller, run_id).insight["targets"]
    part = next(iter(answers.values()))["evaluated_on"]
    return Evaluation(
        part=part,
        test=_figures(answers, "test", part),
        validation=_figures(answers, "validation", part),
        fit={name: answer["fit"] for name, answer in answers.items()},
    )


def _figures(answers: dict[str, Any], part: str, counts: str) -> dict[str, dict[str, Any]] | None:
    found = {name: answer["evaluation"][part] for name, answer in answers.items() if part in answer["evaluation"]}
    if part == counts:
        beside = ("reference_figures", "references"), ("against", "against")
        for name, figures in found.items():
            found[name] = {**figures, **{new: answers[name][old] for old, new in beside}}
    return found or None


@router.get("/runs/{run_id}/importance", summary="Which columns matter")
def get_importance(run_id: str, caller: Reader, ctx: Ctx, target: TargetName = None) -> Importance:
    found = studied(ctx, caller, run_id)
    name = found.target(target)
    answer = found.insight["targets"][name]
    return Importance(
        target=name, part=answer["evaluated_on"], items=answer["importance"], left_out=answer["importance_left_out"]
    )


@router.get("/runs/{run_id}/hardest", summary="The rows it finds hardest, and rows that are probably mislabelled")
def get_hardest(run_id: str, caller: Reader, ctx: Ctx, target: TargetName = None) -> Hardest:
    found = studied(ctx, caller, run_id)
    name = found.target(target)
    answer = dict(found.insight["targets"][name]["hardest"])
    return Hardest(target=name, items=answer.pop("hardest"), **answer)


@router.get("/runs/{run_id}/layers", summary="What happened in the layers, epoch by epoch")
def get_layers(
    run_id: str,
    caller: Reader,
    ctx: Ctx,
    trial: Annotated[int | None, Query(ge=0, description="Left out: the one that was kept")] = None,
    after: Annotated[int, Query(ge=0, description="Epochs after this one")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> LayerSeries:
    """Norms of weights, gradients and updates, saturated and dead units, sparsity; histograms now and then.

    Of a network of at most 512 weights also the weights themselves (`values`), so that it can be drawn.
    """
    found = studied(ctx, caller, run_id)
    number = trial if trial is not None else found.record.trial.number if found.record.trial else 0
    with db.reading(ctx.engine) as session:
        query = select(Epoch).where(Epoch.run_id == found.run.id, Epoch.trial == number, Epoch.epoch > after)
        query = query.where(Epoch.layers.is_not(None)).order_by(Epoch.epoch).limit(limit + 1)
        rows = [{"epoch": row.epoch, **(row.layers or {})} for row in session.scalars(query)]
    final = (found.record.insight or {}).get("final") if number == found.record.kept else None
    more = rows[limit - 1]["epoch"] if len(rows) > limit else None
    return LayerSeries(trial=number, items=rows[:limit], final=final, next_cursor=more)
