"""Decisions of a version: read, changed without training, and restored. Prediction processes follow by their poll."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fitserve import artifacts, db, registry
from fitserve.decisions.apply import shares_of
from fitserve.decisions.choose import Cuts, choose, curve
from fitserve.decisions.held_out import HELD_OUT_BLOB, HeldOut, HeldOutParts
from fitserve.errors import BadInput, Conflict, Problem
from fitserve.spec.decision import Decision, DecisionOutput, resolve_decision
from fitserve.wire.decisions import DecidedOutput, DecisionChangeInfo, DecisionDetail, ThresholdCurve
from services.control.deps import Context, Ctx, ModelName, Reader, Trainer, VersionNumber
from services.control.models.access import check_owner, visible_model
from services.http import Caller, Router

router = Router(tags=["models"])
_PATH = "/models/{name}/versions/{number}/decision"
POINTS = 200  # points of a curve
MAX_LABELS = 20  # labels that get a curve
HISTORY = 100  # decision changes shown


@router.get(_PATH, summary="Get a version's decisions, and what thresholds would do")
def get_decision(name: ModelName, number: VersionNumber, caller: Reader, ctx: Ctx) -> DecisionDetail:
    """How labels follow from probabilities. `curves` count the held-out rows by threshold."""
    return _detail(ctx, caller, name, number)


@router.put(_PATH, summary="Change a version's decision without training")
def put_decision(name: ModelName, number: VersionNumber, body: Decision, caller: Trainer, ctx: Ctx) -> DecisionDetail:
    """Tuned on the rows held out in training; it applies once the prediction service has polled the registry.

    Decisions on other targets stay. It needs the permission to move labels, and is recorded in `history` and the audit
    log. A key without the scope `read` gets only the decision, without figures, curves and history.
    """
    with db.reading(ctx.engine) as session:
        check_owner(session, caller, name)
    artifact, held_out = _read(ctx, name, number)
    outputs = outputs_of(artifact.manifest)
    problems: list[Problem] = []
    asked = resolve_decision(body, outputs, "", problems)
    if asked is None:
        first = problems[0]
        raise BadInput(
            first.detail,
            pointer=first.pointer,
            received=first.received,
            expected=first.expected,
            fix=first.fix,
            problems=problems,
        )
    _check_possible(asked, artifact, held_out)
    made = choose(asked, next(one for one in outputs if one.name == asked.output), held_out)
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        in_force = decisions_in_force(artifact.manifest, registry.decision_changes(session, name, number, 1))
        decisions = [*(one for one in in_force if one["output"] != asked.output), made]
        registry.set_decisions(
            session, name, number, decisions, asked=asked.to_json(), owner=caller.owner, key_id=caller.key_id
        )
    return _detail(ctx, caller, name, number)


@router.delete(_PATH, summary="Restore a version's decisions to those of its training")
def delete_decision(name: ModelName, number: VersionNumber, caller: Trainer, ctx: Ctx) -> DecisionDetail:
    """If training chose none, the likeliest label is predicted."""
    with db.reading(ctx.engine) as session:
        check_owner(session, caller, name)
    artifact, _ = _read(ctx, name, number, rows=False)
    with db.transaction(ctx.engine) as session:
        check_owner(session, caller, name)
        trained = artifact.manifest.get("decisions") or []
        registry.set_decisions(session, name, number, trained, asked=None, owner=caller.owner, key_id=caller.key_id)
    return _detail(ctx, caller, name, number)


def outputs_of(manifest: Mapping[str, Any]) -> list[DecisionOutput]:
    """Return the outputs that decisions apply to: an artifact's targets."""
    return [
        DecisionOutput(one["name"], one["task"], tuple(map(str, one.get("labels") or ())))
        for one in manifest["outputs"]
    ]


def _read(ctx: Context, name: str, number: int, rows: bool = True) -> tuple[artifacts.Artifact, HeldOutParts]:
    """Return a version's artifact and its held-out rows, which older ones lack. Raises NotFound."""
    with db.reading(ctx.engine) as session:
        version = registry.version(session, name, number)
    artifact = artifacts.read(ctx.blobs, version.artifact, version.run_id)
    if not rows or HELD_OUT_BLOB not in artifact.kinds:
        return artifact, HeldOutParts()
    return artifact, HeldOutParts.read(ctx.blobs.read(artifact.file(HELD_OUT_BLOB).sha256), artifact.manifest)


def _check_possible(asked: Decision, artifact: artifacts.Artifact, held_out: HeldOutParts) -> None:
    """Raise Conflict if this version lacks data that the decision needs."""
    rows = held_out.get("validation")
    abstain = asked.abstain
    if asked.needs_rows and rows is None:
        at = asked.rule if asked.rule not in (None, "threshold") else "abstain"
        raise Conflict(
            "This version has no held-out rows that a decision could be chosen on.",
            pointer=f"/{at}",
            expected="a version trained with held-out rows, or a threshold",
            fix="Train it again with split: {validation: 0.2}, or ensemble: folds",
        )
    if abstain is not None and abstain.distance is not None and (rows is None or rows.distance is None):
        raise Conflict(
            "The distance from the training rows is not measured for this version.",
            pointer="/abstain/distance",
            received=abstain.distance,
            expected="null",
            fix="abstain: {distance: null}",
        )


def decisions_in_force(manifest: Mapping[str, Any], changes: list[Any]) -> list[dict[str, Any]]:
    """Return a version's decisions: those of its newest change, or of its training."""
    return list(changes[0].decisions if changes else manifest.get("decisions") or [])


def _detail(ctx: Context, caller: Caller, name: str, number: int) -> DecisionDetail:
    with db.reading(ctx.engine) as session:
        model = visible_model(session, caller, name, "inspect")
        registry.version(session, name, number)
        changes = registry.decision_changes(session, name, number, HISTORY)
        reads = caller.may("read")
        own = reads and caller.owns(model)
        history = [DecisionChangeInfo.model_validate(row) for row in changes] if own else []
    artifact, held_out = _read(ctx, name, number, rows=reads)
    return DecisionDetail(
        model=name,
        version=number,
        decisions=[_shown(one, reads) for one in decisions_in_force(artifact.manifest, changes)],
        trained=[_shown(one, reads) for one in artifact.manifest.get("decisions") or []],
        history=history,
        outputs=[_output(one, held_out) for one in outputs_of(artifact.manifest) if one.is_classification and reads],
    )


def _shown(decision: Mapping[str, Any], reads: bool) -> dict[str, Any]:
    """Return a decision; keys without the scope `read` get it without figures from the held-out rows."""
    return {key: value for key, value in decision.items() if reads or key != "figures"}


def _output(output: DecisionOutput, held_out: HeldOutParts) -> DecidedOutput:
    rows = held_out.get("validation")
    return DecidedOutput(
        output=output.name,
        task=output.task,
        labels=list(output.labels),
        curves=[one for part, own in held_out.parts.items() for one in _curves(output, part, own)],
        measures_distance=rows is not None and rows.distance is not None,
    )


def _curves(output: DecisionOutput, part: str, rows: HeldOut) -> list[ThresholdCurve]:
    """Return a curve for the second of two labels, or for each of several."""
    values, truth = rows.values.get(output.name), rows.truth.get(output.name)
    if values is None or truth is None or (not 2 <= len(output.labels) <= MAX_LABELS and output.task != "multilabel"):
        return []
    shares = np.asarray(values, np.float64) if output.task == "multilabel" else shares_of(values, len(output.labels))
    curves = []
    for place, label in list(enumerate(output.labels))[:MAX_LABELS]:
        if output.task != "multilabel" and len(output.labels) == 2 and place == 0:
            continue
        positive = truth[:, place] > 0.5 if output.task == "multilabel" else truth == place
        cuts = Cuts(positive, shares[:, place])
        counted = curve(cuts, POINTS)
        curves.append(
            ThresholdCurve(part=part, label=label, positives=cuts.positives, negatives=cuts.negatives, **counted)
        )
    return curves
