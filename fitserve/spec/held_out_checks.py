"""Check that targets and split allow calibration, intervals and sets, which are fitted on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

from fitserve import conformal
from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.spec.decision import Decision, DecisionOutput
from fitserve.spec.feature import Feature
from fitserve.spec.interval import Interval
from fitserve.spec.output import Output
from fitserve.spec.plan import TrainingPlan
from fitserve.spec.spec import Spec
from fitserve.spec.target import is_classification, unknown_column

MAX_ISOTONIC_LABELS = 100


def check_calibration(spec: Spec, plan: TrainingPlan, outputs: Sequence[Output], problems: list[Problem]) -> None:
    """Check a `calibrate` that is not empty. Appends to `problems`."""
    if spec.calibrate in ("auto", "none"):
        return
    classified = [one.target for one in outputs if is_classification(one.target.task)]
    if not classified:
        problems.append(
            Problem(
                "Only probabilities can be calibrated; every target is a number.",
                "/calibrate",
                received=spec.calibrate,
                expected="auto or none",
                fix="Leave calibrate out; interval: 0.9 bounds a number.",
            )
        )
    if not plan.holds_out:
        detail = "Calibration is fitted on rows that training does not see; the split holds none out."
        fix = "split: {validation: 0.2}, or ensemble: folds"
        problems.append(Problem(detail, "/calibrate", received=spec.calibrate, fix=fix))
    many = next((one for one in classified if one.units > MAX_ISOTONIC_LABELS), None)
    if spec.calibrate == "isotonic" and many is not None:
        detail = f"Isotonic calibration takes at most {MAX_ISOTONIC_LABELS} labels; {many.name!r} has {many.units}."
        problems.append(Problem(detail, "/calibrate", received="isotonic", fix="calibrate: temperature"))


def check_interval(
    interval: Interval | None,
    plan: TrainingPlan,
    outputs: Sequence[Output],
    facts: DatasetFacts,
    problems: list[Problem],
) -> None:
    """Check that the split leaves enough rows for each level. Appends to `problems`."""
    if interval is None:
        return
    tasks = [str(one.target.task) for one in outputs if one.target.task in conformal.TASKS]
    if not tasks:
        detail = "A multi-label target has no interval and no set: each of its labels is a probability by itself."
        problems.append(Problem(detail, "/interval", received=list(interval.level), fix="Leave interval out."))
    elif not plan.holds_out:
        detail = "An interval is promised by rows that training does not see; the split holds none out."
        fix = "split: {validation: 0.2}, or ensemble: folds"
        problems.append(Problem(detail, "/interval", received=list(interval.level), fix=fix))
    elif (rows := _held_out_rows(plan, facts)) is not None:
        for index, level in enumerate(interval.level):
            pointer = "/interval" if len(interval.level) == 1 else f"/interval/level/{index}"
            _check_rows(level, tasks, rows, pointer, problems)


def check_abstain(
    decisions: Sequence[Decision],
    outputs: Sequence[DecisionOutput],
    plan: TrainingPlan,
    facts: DatasetFacts,
    problems: list[Problem],
) -> None:
    """Check that the split leaves rows enough for the prediction set that a decision abstains by.

    Whole groups may be more rows than their share: there, only training can tell.
    """
    rows, tasks = _held_out_rows(plan, facts), {one.name: one.task for one in outputs}
    if plan.split.method == "group" and not _has_folds(plan):
        return
    for index, decision in enumerate(decisions):
        if decision.abstain is None or (level := decision.abstain.prediction_set) is None:
            continue
        if plan.holds_out and rows is not None:
            pointer = "/decision" if len(decisions) == 1 else f"/decision/{index}"
            task = tasks[str(decision.output)]
            _check_rows(level, [task], rows, f"{pointer}/abstain/prediction_set", problems)


def _check_rows(level: float, tasks: Sequence[str], rows: int, pointer: str, problems: list[Problem]) -> None:
    needed = max(conformal.rows_needed(task, level) for task in tasks)
    if rows < needed:
        detail = f"The level {level:g} needs {needed} held-out rows; the split holds out {rows}."
        highest = min(conformal.highest_level(task, rows) for task in tasks)
        expected = f"at most {int(highest * 1e4) / 1e4:g}, or {needed} rows" if highest > 0 else f"{needed} rows"
        fix = "Ask for a lower level, hold out a larger share, or use ensemble: folds."
        problems.append(Problem(detail, pointer, received=level, expected=expected, fix=fix))


def _has_folds(plan: TrainingPlan) -> bool:
    return plan.ensemble is not None and plan.ensemble.validation == "folds"


def _held_out_rows(plan: TrainingPlan, facts: DatasetFacts) -> int | None:
    """Estimate how many rows outside the test part training does not see; None if a column assigns the parts."""
    if plan.split.method == "column":
        return None
    if _has_folds(plan):
        return round(facts.rows * (1 - plan.split.test))
    return max(1, round(facts.rows * plan.split.validation))


def check_coverage_by(
    name: str | None, plan: TrainingPlan, features: Sequence[Feature], facts: DatasetFacts, problems: list[Problem]
) -> None:
    """Check the column by whose groups coverage is calibrated separately. Appends to `problems`."""
    pointer = "/coverage_by"
    if name is None:
        return
    column = facts.by_name.get(name)
    if column is None:
        problems.append(unknown_column(name, facts, pointer))
        return
    kinds = "a column of labels, of truth values, or of few distinct numbers"
    if name not in {feature.column for feature in features}:
        detail = f"{name!r} is no feature: a request does not say which group its rows belong to."
        problems.append(Problem(detail, pointer, column=name, received=name, fix="Name it in features."))
    elif column.kind in ("text", "datetime"):
        detail = f"{name!r} is {column.kind}: its values are no groups."
        problems.append(Problem(detail, pointer, column=name, received=column.kind, expected=kinds))
    elif column.kind == "numeric" and column.distinct > conformal.MAX_GROUPS:
        detail = f"{name!r} has {column.distinct} distinct numbers, which are no groups."
        expected = f"at most {conformal.MAX_GROUPS} of them, or {kinds}"
        fix = "Divide it into ranges, in a column of its own."
        problems.append(Problem(detail, pointer, column=name, received=column.distinct, expected=expected, fix=fix))
    elif column.labels is None:
        detail = f"{name!r} has {column.distinct} labels, of which few have rows enough to be covered by themselves."
        problems.append(Problem(detail, pointer, column=name, received=column.distinct, expected="at most 1000"))
    elif not plan.holds_out:
        detail = "Groups are covered by rows that training does not see; the split holds none out."
        fix = "split: {validation: 0.2}, or ensemble: folds"
        problems.append(Problem(detail, pointer, received=name, fix=fix))
