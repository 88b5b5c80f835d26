"""`fitserve models drift`: how far a model's requests have drifted, and how good its predictions were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from fitserve.cli import screen
from fitserve.cli.models import ModelName, group
from fitserve.cli.session import Session, command

if TYPE_CHECKING:
    from fitserve.wire.models import DriftReport

SHOWN = 12  # columns to show, most drifted first


@command(group, "drift", "fitserve models drift admissions", "fitserve models drift admissions --version 3 --json")
def drift(
    session: Session,
    model: ModelName,
    version: Annotated[int | None, typer.Option(min=1, help="The version. Default: the serving one.")] = None,
    label: Annotated[str | None, typer.Option(help="The version that has this label.")] = None,
) -> None:
    """Show how far a model's requests have drifted from its training rows, and its quality by ground truth."""
    with session.client() as client:
        report = client.models.drift(model, version=version, label=label)
    session.show(report, *_tables(report))
    if not report.live:
        session.hint("Accuracy and coverage need ground truth: POST .../feedback, client.models.feedback")
    if report.bad_slices:
        session.hint(f"Worse than the others by more than chance: {', '.join(report.bad_slices)}")


def _tables(report: DriftReport) -> list[RenderableType]:
    psi = "not known" if report.psi is None else f"PSI {report.psi:.3g}"
    shown: list[RenderableType] = [f"version {report.version}: {report.verdict}, {psi}, {report.rows} rows"]
    moved = [(one.column, one.psi, one.verdict) for one in report.columns[:SHOWN]]
    moved += [(f"{one.output} ({one.part})", one.psi, one.verdict) for one in report.outputs]
    if moved:
        shown.append(screen.table(("column or output", "psi", ""), moved))
    live = [
        (one.output, one.rows, one.accuracy, one.rmse, one.coverage, one.level, one.calibration_error)
        for one in report.live
    ]
    if live:
        names = ("output", "truths", "accuracy", "rmse", "coverage", "level", "calibration error")
        shown.append(screen.table(names, live))
    slices = [(one.slice, one.rows, one.accuracy, one.coverage, ", ".join(one.why)) for one in report.slices]
    if slices:
        shown.append(screen.table((report.coverage_by or "slice", "truths", "accuracy", "coverage", "bad"), slices))
    return shown
