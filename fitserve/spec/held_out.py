"""What is fitted on rows that training does not see: calibration."""

from __future__ import annotations

from collections.abc import Sequence

from fitserve.errors import Problem
from fitserve.spec.output import Output
from fitserve.spec.plan import Plan
from fitserve.spec.spec import Spec
from fitserve.spec.target import is_classification

MOST_ISOTONIC_LABELS = 100


def check_calibration(spec: Spec, plan: Plan, outputs: Sequence[Output], problems: list[Problem]) -> None:
    """Check a `calibrate` that asks for something. Appends to `problems`."""
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
    if not holds_out(plan):
        detail = "Calibration is fitted on rows that training does not see; the split holds none out."
        fix = "split: {validation: 0.2}, or ensemble: folds"
        problems.append(Problem(detail, "/calibrate", received=spec.calibrate, fix=fix))
    many = next((one for one in classified if one.units > MOST_ISOTONIC_LABELS), None)
    if spec.calibrate == "isotonic" and many is not None:
        detail = f"Isotonic calibration takes at most {MOST_ISOTONIC_LABELS} labels; {many.name!r} has {many.units}."
        problems.append(Problem(detail, "/calibrate", received="isotonic", fix="calibrate: temperature"))


def holds_out(plan: Plan) -> bool:
    """Return whether there are rows that training does not see, other than the test part."""
    folds = plan.ensemble is not None and plan.ensemble.validation == "folds"
    return folds or plan.split.method == "column" or plan.split.validation > 0
