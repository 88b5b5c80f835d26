"""Ground truth that comes later: joined with what was predicted, it tells how true a model is now."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import Depends, Path
from sqlalchemy.orm import Session

from fitserve import artifacts, db, live_statistics, registry, telemetry
from fitserve.blobs import BlobStore
from fitserve.encoding.coercion import as_label
from fitserve.errors import BadInput, Forbidden, NotFound
from fitserve.wire.models import FeedbackAnswer, FeedbackRequest, LiveFigure, Outcome
from services.control.deps import Context, context
from services.shell import Caller, Router, require

router = Router(tags=["models"])


@router.post("/models/{name}/feedback", summary="Ground truth of rows that were predicted")
def post_feedback(
    name: Annotated[str, Path(max_length=100)],
    body: FeedbackRequest,
    caller: Annotated[Caller, Depends(require("predict"))],
    ctx: Annotated[Context, Depends(context)],
) -> FeedbackAnswer:
    """An item names the `X-Prediction-ID` that its row was predicted under, or brings what was `predicted` itself.

    Posted twice, an item counts once. An id is known about a second after its answer, for FITSERVE_FEEDBACK_SECONDS.
    """
    if not caller.may_predict(name):
        raise Forbidden(f"This key may not predict with {name[:63]}.", expected="a key with the scope predict")
    with db.reading(ctx.engine) as session:
        model = registry.get(session, name)
        if not caller.sees(model.owner, model.shared):
            raise NotFound(f"No model {name[:63]}.", received=name[:100])
        judge = Judge(session, ctx.blobs, name, caller.owner)
        rows = [judge.row(at, item) for at, item in enumerate(body.items)]
    known = [row for row in rows if row is not None]
    with db.transaction(ctx.engine) as session:
        new = live_statistics.add_feedback(session, known)
        figures = live_statistics.figures(session, ctx.settings.feedback_seconds, name)
    unknown = [item.id for item, row in zip(body.items, rows, strict=True) if row is None]
    for outcome, count in (("stored", new), ("repeated", len(known) - new), ("unknown", len(unknown))):
        telemetry.FEEDBACK.labels(outcome).inc(count)
    return FeedbackAnswer(
        stored=new,
        repeated=len(known) - new,
        unknown=list(dict.fromkeys(unknown)),
        live=[LiveFigure.model_validate(figure) for figure in figures],
    )


class Judge:
    """Compares truths with predictions of one model."""

    def __init__(self, session: Session, blobs: BlobStore, model: str, owner: str) -> None:
        self.session, self.blobs, self.model, self.owner = session, blobs, model, owner
        self._outputs: dict[int, list[dict[str, Any]]] = {}

    def row(self, at: int, item: Outcome) -> dict[str, Any] | None:
        """What is stored of an item; None where nothing is kept under its id. Raises BadInput, NotFound."""
        pointer = f"/items/{at}"
        kept = None
        if item.predicted is None:
            kept = live_statistics.kept_prediction(self.session, self.model, self.owner, item.id)
            if kept is None:
                return None
        version = kept.version if kept is not None else int(item.version or 0)
        output = self._output(version, item.output, pointer)
        if kept is not None:
            rows = kept.outputs[output["name"]]
            if item.row >= len(rows):
                raise BadInput(
                    f"Under {item.id} {len(rows)} rows were predicted.", pointer=f"{pointer}/row", received=item.row
                )
            error = _error(output, item.truth, rows[item.row], pointer)
        else:
            error = _difference(output, item.truth, item.predicted, pointer)
        return {
            "model": self.model,
            "owner": self.owner,
            "prediction_id": item.id,
            "row": item.row,
            "output": output["name"],
            "version": version,
            "task": output["task"],
            "error": error,
        }

    def _output(self, version: int, name: str | None, pointer: str) -> dict[str, Any]:
        if version not in self._outputs:
            artifact = registry.version(self.session, self.model, version).artifact
            self._outputs[version] = artifacts.read(self.blobs, artifact).manifest["outputs"]
        outputs = self._outputs[version]
        found = next((one for one in outputs if one["name"] == name), outputs[0] if name is None else None)
        if found is None or (name is None and len(outputs) > 1):
            names = ", ".join(one["name"] for one in outputs)
            raise BadInput("Which target?", pointer=f"{pointer}/output", received=name, expected=f"one of {names}")
        return found


def _error(output: dict[str, Any], truth: Any, values: list[float], pointer: str) -> float:
    """How far an answer of the network is from the truth."""
    task, labels = output["task"], [str(label) for label in output.get("labels") or ()]
    if task == "regression":
        return _difference(output, truth, values, pointer)
    if task == "multilabel":
        return _difference(output, truth, [lab for lab, p in zip(labels, values, strict=True) if p > 0.5], pointer)
    best = int(values[0] > 0.5) if len(values) == 1 else values.index(max(values))
    return _difference(output, truth, labels[best], pointer)


def _difference(output: dict[str, Any], truth: Any, predicted: Any, pointer: str) -> float:
    if output["task"] == "regression":
        true, said = _numbers(truth, f"{pointer}/truth"), _numbers(predicted, f"{pointer}/predicted")
        if len(true) != len(said):
            raise BadInput(
                "Truth and prediction differ in length.",
                pointer=f"{pointer}/truth",
                received=len(true),
                expected=f"{len(said)} numbers",
            )
        if len(true) == 1:
            return said[0] - true[0]
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(said, true, strict=True)) / len(true))
    known = [str(label) for label in output.get("labels") or ()]
    true_labels, said_labels = (
        _labels(truth, known, f"{pointer}/truth"),
        _labels(predicted, known, f"{pointer}/predicted"),
    )
    if output["task"] == "multilabel":
        return len(true_labels ^ said_labels) / max(1, len(known))
    return float(true_labels != said_labels)


def _numbers(value: Any, pointer: str) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        raise BadInput("This target is a number.", pointer=pointer, received=value, expected="a number")
    numbers = [float(one) for one in values]
    if not all(math.isfinite(one) and abs(one) < 1e150 for one in numbers):
        raise BadInput("This number is too large to be compared.", pointer=pointer, expected="a finite number")
    return numbers


def _labels(value: Any, known: list[str], pointer: str) -> set[str]:
    labels = {as_label(one) for one in (value if isinstance(value, list) else [value])}
    if unknown := [label for label in labels if label not in known]:
        raise BadInput(
            "That is none of the target's labels.",
            pointer=pointer,
            received=unknown[0],
            expected="one of " + ", ".join(known[:20]),
        )
    return {label for label in labels if label is not None}
