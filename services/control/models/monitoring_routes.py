"""A served model in production: its traffic, its drift from the training rows, and the ground truth posted for it."""

from __future__ import annotations

import functools
import math
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx2
import numpy as np
from fastapi import Query, Request
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from sqlalchemy.orm import Session

from fitserve import artifacts, db, drift, live_coverage, monitoring, registry, telemetry, visibility
from fitserve.blobs import BlobStore
from fitserve.conformal import Conformal
from fitserve.decisions.apply import Decider, shares_of
from fitserve.encoding.coercion import as_label
from fitserve.errors import BadInput, Forbidden, Unavailable
from fitserve.monitoring import TRUTH_COLUMNS
from fitserve.tables import Model, StoredPrediction
from fitserve.wire.models import (
    Bucket,
    ColumnDrift,
    DriftReport,
    FeedbackAnswer,
    FeedbackRequest,
    LiveFigure,
    LiveSlice,
    Outcome,
    OutputDrift,
    Traffic,
    VersionTraffic,
)
from services.control.deps import MAX_INTEGER, Ctx, Label, ModelName, Predictor, Reader
from services.control.models.access import check_may_predict, visible_model
from services.control.models.predict_proxy import predict_address, predict_tls
from services.control.models.routes import serving_version
from services.http import Caller, Router

router = Router(tags=["models"])
_TIMEOUT = httpx2.Timeout(5.0, connect=2.0)


@router.get("/models/{name}/drift", summary="Drift of inputs and outputs from the training rows")
def get_drift(
    name: ModelName,
    caller: Reader,
    ctx: Ctx,
    version: Annotated[
        int | None, Query(ge=1, le=MAX_INTEGER, description="The version that serves if omitted")
    ] = None,
    label: Label = None,
) -> DriftReport:
    """Over the sliding window `FITSERVE_DRIFT_WINDOW_SECONDS`, summed over all prediction processes."""
    window = ctx.settings.drift_window_seconds
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "inspect")
        number, artifact = serving_version(session, name, version, label)
        totals = monitoring.window_totals(session, name, artifact, window)
        figures = monitoring.live_scores(session, ctx.settings.feedback_seconds, name)
        slices = monitoring.live_slices(session, ctx.settings.feedback_seconds, name, number)
        rates = registry.error_rates(session, [name]).get((name, number), {})
    manifest = artifacts.read(ctx.blobs, artifact).manifest
    columns = monitoring.column_drift(manifest.get("training_distribution") or {}, totals)
    outputs = monitoring.output_drift(manifest.get("prediction_distribution") or {}, totals)
    worst = max((report["psi"] for report in columns if report["psi"] is not None), default=None)
    return DriftReport(
        model=name,
        version=number,
        window_seconds=window,
        rows=totals.rows,
        psi=worst,
        verdict=drift.verdict(worst),
        columns=[ColumnDrift.model_validate(report) for report in columns],
        outputs=[OutputDrift.model_validate(report) for report in outputs],
        live=[LiveFigure.model_validate(figure) for figure in figures if figure["version"] == number],
        coverage_by=(manifest.get("interval") or {}).get("coverage_by"),
        slices=[LiveSlice.model_validate(one) for one in slices],
        bad_slices=[one["slice"] for one in slices if one["bad"]],
        levels_in_force={
            one["name"]: live_coverage.level_at(rates[one["name"]], one["task"], Conformal(manifest).rows(one["name"]))
            for one in manifest["outputs"]
            if one["name"] in rates
        },
    )


@router.get("/models/{name}/traffic", summary="Request rate and latency counters")
def get_traffic(name: ModelName, caller: Reader, ctx: Ctx) -> Traffic:
    """Counters since the prediction processes started. Behind a load balancer, those of one replica."""
    with db.reading(ctx.engine) as session:
        visible_model(session, caller, name, "inspect")
    address, verify = predict_address(ctx.settings), predict_tls(ctx.settings)
    try:
        scraped = httpx2.get(f"{address}/metrics", timeout=_TIMEOUT, trust_env=False, verify=verify)
        scraped.raise_for_status()
    except httpx2.HTTPError:
        raise Unavailable("The prediction service does not answer with its telemetry.", retry_after=5) from None
    return _parse_traffic(name, scraped.text)


def _parse_traffic(name: str, exposition: str) -> Traffic:
    """Extract one model's counters from the prediction service's Prometheus exposition."""
    seconds, rows, processes = (telemetry.PREDICT[key].name for key in ("seconds", "rows", "processes"))
    wanted = {rows, *(f"{seconds}_{part}" for part in ("bucket", "count", "sum"))}
    traffic = Traffic(model=name, at=datetime.now(UTC), processes=1, versions=[])
    versions: dict[str, VersionTraffic] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == processes:
                traffic.processes = int(sample.value)
            elif sample.labels.get("model") == name and sample.name in wanted:
                number = sample.labels["version"]
                empty = VersionTraffic(version=number, requests=0, seconds=0.0, rows=0, buckets=[])
                _add_sample(versions.setdefault(number, empty), sample, rows)
    traffic.versions = sorted(versions.values(), key=lambda version: version.version)
    return traffic


def _add_sample(version: VersionTraffic, sample: Sample, rows: str) -> None:
    """Add a counter to a version's; the counters of all protocols are summed."""
    value = float(sample.value)
    if sample.name == rows:
        version.rows += int(value)
    elif sample.name.endswith("_count"):
        version.requests += int(value)
    elif sample.name.endswith("_sum"):
        version.seconds += value
    else:
        bound = float(sample.labels["le"])
        le = None if math.isinf(bound) else bound
        for bucket in version.buckets:
            if bucket.le == le:
                bucket.count += int(value)
                return
        version.buckets.append(Bucket(le=le, count=int(value)))


@router.post("/models/{name}/feedback", summary="Post ground truth of predicted rows")
def post_feedback(
    name: ModelName, body: FeedbackRequest, request: Request, caller: Predictor, ctx: Ctx
) -> FeedbackAnswer:
    """An item refers to its prediction by `X-Prediction-ID`, or contains the `predicted` value.

    A key may post the truth of its own predictions. A key that may change the model, with the scope `train`, may post
    it for every prediction of its owner, and say what was `predicted`. Truth posted by other owners is stored, but
    counts in the live figures only if the model has `open_feedback`. An item that is posted twice counts once. An id
    can be used from about a second after its prediction until FITSERVE_FEEDBACK_SECONDS have passed.
    """
    check_may_predict(caller, name)
    request.app.state.limiter.limit_feedback(caller, len(body.items))
    with db.reading(ctx.engine) as session:
        model = visible_model(session, caller, name)
        scorer = FeedbackScorer(session, ctx.blobs, model, caller)
        shows_figures = visibility.may_use(caller.owner_filter, model, "inspect")
        rows = [scorer.score(index, item) for index, item in enumerate(body.items)]
    known = [row for row in rows if row is not None]
    unknown = [item.id for item, row in zip(body.items, rows, strict=True) if row is None]
    with db.transaction(ctx.engine) as session:
        added = monitoring.add_feedback(session, known)
        _move_levels(session, ctx.blobs, name, added)
        stored = len(added)
        figures = monitoring.live_scores(session, ctx.settings.feedback_seconds, name)
    repeated = len(known) - stored
    for outcome, count in (("stored", stored), ("repeated", repeated), ("unknown", len(unknown))):
        telemetry.FEEDBACK.labels(outcome).inc(count)
    return FeedbackAnswer(
        stored=stored,
        repeated=repeated,
        unknown=list(dict.fromkeys(unknown)),
        live=[LiveFigure.model_validate(figure) for figure in figures] if shows_figures else [],
    )


def _move_levels(session: Session, blobs: BlobStore, model: str, added: list[dict[str, Any]]) -> None:
    """Move the levels of adaptive versions by new ground truth that counts."""
    counts: dict[tuple[int, str], list[int]] = {}
    for row in added:
        if row["counted"] and row["covered"] is not None:
            counts.setdefault((row["version"], row["output"]), [0, 0])[not row["covered"]] += 1
    for (version, output), (covered, missed) in sorted(counts.items()):
        manifest = artifacts.read(blobs, registry.version(session, model, version).artifact).manifest
        asked = manifest.get("interval") or {}
        if asked.get("adaptive") is None or not asked["levels"]:
            continue
        aim = 1.0 - asked["levels"][0]
        move = functools.partial(
            live_coverage.moved, asked=aim, gamma=asked["adaptive"]["gamma"], covered=covered, missed=missed
        )
        registry.move_error_rate(session, model, version, output, aim, move, covered + missed)


class FeedbackScorer:
    """Scores predictions of one model against ground truth."""

    def __init__(self, session: Session, blobs: BlobStore, model: Model, caller: Caller) -> None:
        self.session, self.blobs, self.model, self.caller = session, blobs, model.name, caller
        self._may_change_model = caller.owns(model) and caller.may("train")
        self._counted = caller.owns(model) or model.open_feedback
        self._outputs: dict[int, list[dict[str, Any]]] = {}  # by version
        self._decisions: dict[int, list[tuple[datetime | None, list[dict[str, Any]]]]] = {}  # by version, newest first

    def score(self, index: int, item: Outcome) -> dict[str, Any] | None:
        """Return the row to store for an item; None if this key has no stored prediction with that id.

        Raises BadInput, NotFound, Forbidden.
        """
        pointer = f"/items/{index}"
        stored = None
        if item.predicted is None:
            stored = monitoring.stored_prediction(self.session, self.model, self.caller.owner, item.id)
            if stored is None or not (self._may_change_model or stored.key_id == self.caller.key_id):
                return None
        elif not self._may_change_model:
            raise Forbidden(
                "This key may not state what the model predicted.",
                pointer=f"{pointer}/predicted",
                expected="an id that this key has predicted under, or a key of the model's owner with the scope train",
            )
        version = stored.version if stored is not None else int(item.version or 0)
        output = self._output(version, item.output, pointer)
        predicted: Any = item.predicted
        if stored is not None:
            rows = stored.outputs[output["name"]]
            if item.row >= len(rows):
                raise BadInput(
                    f"{len(rows)} rows were predicted under {item.id}.", pointer=f"{pointer}/row", received=item.row
                )
            predicted = _decide(output, rows[item.row], self._decision(version, output["name"], stored.created_at))
        error = _error(output, item.truth, predicted, pointer)
        more = dict.fromkeys(TRUTH_COLUMNS)
        if stored is not None:
            more |= _of_stored(stored, output, item.row, item.truth)
        return {
            **more,
            "model": self.model,
            "owner": self.caller.owner,
            "prediction_id": item.id,
            "row": item.row,
            "output": output["name"],
            "version": version,
            "task": output["task"],
            "error": error,
            "key_id": self.caller.key_id,
            "counted": self._counted,
        }

    def _decision(self, version: int, output: str, at: datetime) -> dict[str, Any] | None:
        """Return the decision that was in force when a prediction was stored."""
        in_force = next(made for since, made in self._decisions[version] if since is None or since <= at)
        return next((one for one in in_force if one["output"] == output), None)

    def _output(self, version: int, name: str | None, pointer: str) -> dict[str, Any]:
        """Return the description of the output that an item is about. Raises BadInput, NotFound."""
        if version not in self._outputs:
            manifest = artifacts.read(self.blobs, registry.version(self.session, self.model, version).artifact).manifest
            self._outputs[version] = manifest["outputs"]
            moved = registry.decision_changes(self.session, self.model, version)
            self._decisions[version] = [(row.created_at, row.decisions) for row in moved]
            self._decisions[version].append((None, manifest.get("decisions") or []))
        outputs = self._outputs[version]
        if name is None and len(outputs) == 1:
            return outputs[0]
        for output in outputs:
            if output["name"] == name:
                return output
        names = ", ".join(output["name"] for output in outputs)
        raise BadInput("Which target?", pointer=f"{pointer}/output", received=name, expected=f"one of {names}")


def _of_stored(stored: StoredPrediction, output: dict[str, Any], row: int, truth: Any) -> dict[str, Any]:
    """Score one row's truth against the stored interval or set, and against the probabilities."""
    name, task = output["name"], output["task"]
    if task == "multilabel" or (isinstance(truth, list) and len(truth) != 1):
        return live_coverage.coverage_of(stored.bounds, "", row, None)
    actual = truth[0] if isinstance(truth, list) else truth
    if task == "regression":
        return live_coverage.coverage_of(stored.bounds, name, row, float(actual))
    labels, label = [str(one) for one in output.get("labels") or ()], as_label(actual)
    coverage = live_coverage.coverage_of(stored.bounds, name, row, label)
    shares = shares_of(np.array([stored.outputs[name][row]]), len(labels))[0].tolist()
    if label in labels and len(shares) == len(labels) and all(map(math.isfinite, shares)):
        coverage |= live_coverage.calibration_of(shares, labels.index(label))
    return coverage


def _decide(output: dict[str, Any], values: list[float], decision: dict[str, Any] | None) -> Any:
    """Turn a network's output for one row into numbers (regression), a label, or labels (multilabel).

    A row that the decision abstains from counts with the label that it would have been given.
    """
    task, labels = output["task"], [str(label) for label in output.get("labels") or ()]
    if task == "regression":
        return values
    default = {"method": "thresholds" if task == "multilabel" else "likeliest"}
    decider, row = Decider(decision or default, labels), np.array([values])
    if task == "multilabel":
        return [label for label, applies in zip(labels, decider.applies(row)[0], strict=True) if applies]
    return labels[int(decider.places(row)[0])]


def _error(output: dict[str, Any], truth: Any, predicted: Any, pointer: str) -> float:
    """Return the error of one row.

    Regression: the signed difference, or the RMS of several. Classification: 0 or 1. Multilabel: the share of wrong
    labels. Raises BadInput.
    """
    if output["task"] == "regression":
        expected, received = _numbers(truth, f"{pointer}/truth"), _numbers(predicted, f"{pointer}/predicted")
        if len(expected) != len(received):
            raise BadInput(
                "Truth and prediction differ in length.",
                pointer=f"{pointer}/truth",
                received=len(expected),
                expected=f"{len(received)} numbers",
            )
        if len(expected) == 1:
            return received[0] - expected[0]
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(received, expected, strict=True)) / len(expected))
    known = [str(label) for label in output.get("labels") or ()]
    true_labels = _labels(truth, known, f"{pointer}/truth")
    predicted_labels = _labels(predicted, known, f"{pointer}/predicted")
    if output["task"] == "multilabel":
        return len(true_labels ^ predicted_labels) / max(1, len(known))
    return float(true_labels != predicted_labels)


def _numbers(value: Any, pointer: str) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, int | float) and not isinstance(item, bool) for item in values):
        raise BadInput("This target is numeric.", pointer=pointer, received=value, expected="a number")
    numbers = [float(item) for item in values]
    # The square must not overflow.
    if not all(math.isfinite(number) and abs(number) < 1e150 for number in numbers):
        raise BadInput("This number is too large to compare.", pointer=pointer, expected="a finite number")
    return numbers


def _labels(value: Any, known: list[str], pointer: str) -> set[str]:
    labels = {as_label(item) for item in (value if isinstance(value, list) else [value])}
    if unknown := [label for label in labels if label not in known]:
        raise BadInput(
            "This is not a label of the target.",
            pointer=pointer,
            received=unknown[0],
            expected="one of " + ", ".join(known[:20]),
        )
    return {label for label in labels if label is not None}
