"""Build a model card: a document of everything recorded about a version, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from fitserve.tables import Dataset, Model, Run, Version
from fitserve.wire.insight import Fairness, Lineage, Slices
from fitserve.wire.models import DriftReport
from services.control.documents import Block, Code, Heading, Paragraph, Table

FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "f1_macro": "F1 (macro)",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
}
OTHERS = {"baseline": "guessing", "linear": "linear model", "trees": "boosted trees"}
MAX_SLICES = 10
MAX_COLUMNS = 50


@dataclass(frozen=True, slots=True)
class Recorded:
    """The records from which a card is built."""

    model: Model
    version: Version
    run: Run
    dataset: Dataset
    labels: Sequence[str]
    manifest: Mapping[str, Any]
    report: Mapping[str, Any] | None
    drift: DriftReport
    fairness: Fairness
    lineage: Lineage | None  # None if the caller may not see the run


def blocks_of(recorded: Recorded) -> list[Block]:
    """Return the card's blocks."""
    sections = (_head, _data, _network, _figures, _calibration, _slices, _fairness, _lineage, _drift, _spec)
    return [block for section in sections for block in section(recorded)]


def _head(recorded: Recorded) -> Iterator[Block]:
    version, manifest = recorded.version, recorded.manifest
    yield Heading(f"{recorded.model.name}, version {version.version}", 1)
    outputs = ", ".join(f"{one['name']} ({one['task']})" for one in manifest.get("outputs") or ())
    receipt = manifest.get("receipt") or {}
    versions = receipt.get("versions") or {}
    rows = [
        ("predicts", outputs),
        ("labels", ", ".join(recorded.labels) or "none"),
        ("owner", recorded.model.owner),
        ("trained", f"{version.created_at:%Y-%m-%d %H:%M} UTC"),
        ("retired", f"{version.retired_at:%Y-%m-%d %H:%M} UTC" if version.retired_at else "no"),
        ("run", version.run_id),
        ("artifact (SHA-256)", version.artifact),
        ("software", ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))),
        ("device", (receipt.get("device") or {}).get("name")),
    ]
    yield Table(("", ""), rows)


def _data(recorded: Recorded) -> Iterator[Block]:
    dataset, manifest = recorded.dataset, recorded.manifest
    yield Heading("Data")
    result = recorded.run.result or {}
    rows = result.get("rows") or {}
    left_out = (result.get("left_out") or {}).get("rows")
    split = recorded.run.resolved.get("split") or {}
    facts = [
        ("dataset", f"{dataset.name}@{dataset.version}"),
        ("SHA-256", dataset.sha256),
        ("imported from", _origin(dataset) if recorded.lineage is not None else None),
        ("predicted by", _predictor(dataset) if recorded.lineage is not None else None),
        ("rows", dataset.rows),
        *((f"rows for {part}", rows[part]) for part in ("train", "validation", "test") if part in rows),
        ("rows left out", left_out),
        ("split", split.get("method")),
    ]
    yield Table(("", ""), [fact for fact in facts if fact[1] is not None])
    columns = (manifest.get("encoder") or {}).get("columns") or ()
    yield Table(
        ("column", "kind", "encoding"),
        [(one["name"], one["kind"], one["encoding"]["type"]) for one in columns[:MAX_COLUMNS]],
    )
    if len(columns) > MAX_COLUMNS:
        yield Paragraph(f"{len(columns) - MAX_COLUMNS} more are in the manifest.")


def _origin(dataset: Dataset) -> str | None:
    """Return a dataset's source and its snapshot, omitting parts of queries and addresses that may be secret."""
    imported = dataset.source.get("imported")
    if imported is None:
        return None
    ((kind, stated),) = imported["from"].items()
    place = stated.get("path") or urlsplit(stated.get("url", "")).hostname or ""
    through = f" through {stated['connection']}" if stated.get("connection") else ""
    snapshot = imported["snapshot"]
    state = next(
        (f", {name} {snapshot[name]}" for name in ("version", "etag", "last_modified") if name in snapshot), ""
    )
    state = f", objects: {len(snapshot['parts'])}" if "parts" in snapshot else state
    return f"{kind} {place}".strip() + f"{through}{state}, {imported['at']}"


def _predictor(dataset: Dataset) -> str | None:
    """Return which model's predictions a dataset contains, and for which rows."""
    predicted = dataset.source.get("predicted")
    if predicted is None:
        return None
    return f"{predicted['model']}, version {predicted['version']}, on {predicted.get('ref') or predicted['dataset']}"


def _network(recorded: Recorded) -> Iterator[Block]:
    spec, result = recorded.run.resolved, recorded.run.result or {}
    yield Heading("Network")
    training = spec.get("training") or {}
    optimizer = training.get("optimizer")
    name = next(iter(optimizer)) if isinstance(optimizer, Mapping) else optimizer
    facts = [
        ("parameters", result.get("parameters")),
        ("networks averaged", (spec.get("ensemble") or {}).get("members")),
        ("optimizer", name),
        ("batch size", training.get("batch_size")),
        ("epochs", result.get("epochs")),
        ("best epoch", result.get("best_epoch")),
        ("seed", training.get("seed")),
        ("largest difference between Keras and what is served", (recorded.manifest.get("parity") or {}).get("max_rel")),
    ]
    yield Table(("", ""), [fact for fact in facts if fact[1] is not None])


def _figures(recorded: Recorded) -> Iterator[Block]:
    yield Heading("Figures")
    targets = (recorded.report or {}).get("targets") or {}
    if not targets:
        yield Paragraph("No evaluation was recorded.")
        yield Table(("part", "figure", "value"), list(_recorded_metrics(recorded.version.metrics)))
    for name, target in targets.items():
        part = target["evaluated_on"]
        own = target["evaluation"].get(part) or {}
        rows = []
        for key, title in FIGURES.items():
            if isinstance(own.get(key), int | float):
                others = [(target["reference_figures"].get(other) or {}).get(key) for other in OTHERS]
                rows.append((title, own[key], _range((own.get("intervals") or {}).get(key)), *others))
        yield Heading(f"{name}, on {own.get('rows', 0):,} {part} rows", 3)
        yield Table(("figure", "this network", "95% interval", *OTHERS.values()), rows)
        if "confusion" in own and len(own["labels"]) <= 20:
            yield Table(("actual \\ predicted", *own["labels"]), list(_confusion(own)))


def _recorded_metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for part, figures in metrics.items():
        for name, value in (figures if isinstance(figures, Mapping) else {}).items():
            if isinstance(value, int | float):
                yield part, name, value


def _confusion(own: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for label, counts in zip(own["labels"], own["confusion"], strict=True):
        yield label, *counts


def _range(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else ""


def _calibration(recorded: Recorded) -> Iterator[Block]:
    result = recorded.run.result or {}
    calibration, intervals = result.get("calibration") or {}, result.get("intervals") or {}
    if not calibration and not intervals:
        return
    yield Heading("Calibration and intervals")
    for name, one in calibration.items():
        method, why = one.get("method"), one.get("why") or ""
        yield Paragraph(f"{name}: probabilities are {f'calibrated by {method}' if method else 'not calibrated'}. {why}")
    rows = [
        (name, f"{level['level']:.0%}", level.get("share"), _range(level.get("interval")), level.get("mean_size"))
        for name, one in intervals.items()
        for level in one.get("levels", ())
    ]
    if rows:
        yield Table(("output", "level", "share covered", "95% interval", "mean width or size"), rows)


def _slices(recorded: Recorded) -> Iterator[Block]:
    reports = {
        name: Slices(target=name, **target["slices"])
        for name, target in ((recorded.report or {}).get("targets") or {}).items()
        if target.get("slices")
    }
    if not reports:
        return
    yield Heading("Where it is worse")
    for name, report in reports.items():
        worst = report.worst[:MAX_SLICES]
        if report.rows < report.fewest_searched:
            few = f"{report.rows} held-out rows are too few to look for worse parts; it takes {report.fewest_searched}."
            yield Paragraph(f"{name}: {few}")
            continue
        if not worst:
            yield Paragraph(f"{name}: no part of the held-out rows is worse than the rest by more than chance.")
            continue
        rows = [
            (
                _conditions(one["conditions"]),
                one["rows"],
                one.get("value"),
                _range(one.get("interval")),
                one.get("rest"),
            )
            for one in worst
        ]
        yield Table((f"{name}: rows where", "rows", "value", "95% interval", "the others"), rows)


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> str:
    return " and ".join(_condition(one) for one in conditions)


def _condition(one: Mapping[str, Any]) -> str:
    if one.get("missing"):
        return f"{one['column']} is missing"
    if "equals" in one:
        return f"{one['column']} is {one['equals']}"
    if "others" in one:
        return f"{one['column']} is one of {one['others']} rare values"
    low, high = one.get("from"), one.get("to")
    bounds = [f"from {low:.4g}" if low is not None else "", f"below {high:.4g}" if high is not None else ""]
    return f"{one['column']} {' '.join(bound for bound in bounds if bound)}"


def _fairness(recorded: Recorded) -> Iterator[Block]:
    protected = recorded.run.resolved.get("protected") or []
    yield Heading("Groups")
    if not protected:
        yield Paragraph("The spec protects no column, so no groups were compared.")
        return
    for item in recorded.fairness.items:
        for part in item.get("labels") or [item.get("numbers") or {}]:
            groups = part.get("groups") or []
            names = [name for name in ("rows", "selection_rate", "true_positive_rate", "mae") if _has(groups, name)]
            rows = [(one.get("group"), *(one.get(name) for name in names)) for one in groups]
            of = f"{item.get('output', '')} {part.get('label', '')}".strip()
            yield Table((f"{item.get('column')} ({of})", *(name.replace("_", " ") for name in names)), rows)


def _has(groups: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(isinstance(one.get(name), int | float) for one in groups)


def _lineage(recorded: Recorded) -> Iterator[Block]:
    yield Heading("Lineage")
    if recorded.run.parent_id is None:
        yield Paragraph("The run has no parent.")
    else:
        yield Paragraph(f"The run's parent is {recorded.run.parent_id}.")
    if begins := (recorded.manifest.get("receipt") or {}).get("initial_weights"):
        named = begins.get("model") or begins.get("run") or begins.get("upload")
        frozen = f"; frozen: {', '.join(begins['freeze'])}" if begins.get("freeze") else ""
        yield Paragraph(f"Training began with the weights of {named} (SHA-256 {begins['artifact']}){frozen}.")
    groups = recorded.lineage.groups if recorded.lineage is not None else []
    if len(groups) > 1:
        rows = [
            (", ".join(one.runs[:3]), one.seeds, one.mean, one.sentence or "", _changes(one.changes)) for one in groups
        ]
        yield Table(("runs", "seeds", "mean loss", "compared with its parent", "changes"), rows)


def _changes(changes: Sequence[Any]) -> str:
    texts = [change if isinstance(change, str) else json.dumps(change, default=str) for change in changes[:5]]
    return "; ".join(texts)


def _drift(recorded: Recorded) -> Iterator[Block]:
    drift = recorded.drift
    yield Heading("Live")
    if not drift.rows and not drift.live:
        yield Paragraph("No requests were measured in the window, and no ground truth was posted.")
        return
    psi = "" if drift.psi is None else f" The largest population stability index is {drift.psi:.3g}: {drift.verdict}."
    yield Paragraph(f"{drift.rows:,} rows were measured in the last {drift.window_seconds / 3600:.3g} hours.{psi}")
    yield Table(("column", "PSI"), [(one.column, one.psi) for one in drift.columns[:10]])
    if drift.live:
        fields = [one.model_dump(mode="json", exclude_none=True) for one in drift.live]
        names = list(dict.fromkeys(name for one in fields for name in one if name != "version"))
        yield Table(names, [[one.get(name) for name in names] for one in fields])


def _spec(recorded: Recorded) -> Iterator[Block]:
    yield Heading("Spec")
    yield Paragraph("As submitted; the resolved spec, which repeats the run to the letter, is in the manifest.")
    yield Code(yaml.safe_dump(recorded.run.spec, sort_keys=False, allow_unicode=True), "yaml")
