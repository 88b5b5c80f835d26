"""Write the reference pages that are derived from the code: settings, limits, telemetry, the spec and findings.

`python -m docs.tables` writes them; `tests/docs/test_tables.py` fails when they are not current.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from prometheus_client.metrics import MetricWrapperBase
from pydantic_settings import BaseSettings

from docs import spec_reference
from fitserve import telemetry
from fitserve.findings import RULES
from fitserve.settings import Limits, Settings

REFERENCE = Path(__file__).parent / "reference"


def settings_table(model: type[BaseSettings]) -> str:
    """Return the table of a settings model's variables, with type, default and meaning."""
    prefix = str(model.model_config["env_prefix"])
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
            continue
        kind = type_name(field.annotation)
        default = "" if field.default is None else f"`{field.default}`"
        lines.append(f"| `{prefix}{name.upper()}` | {kind} | {default} | {field.description} |")
    return "\n".join(lines)


def type_name(annotation: Any) -> str:
    """Return a type as readers know it, and as every Python names it: `str or None`, `Path`."""
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(type_name(part) for part in get_args(annotation))
    if annotation is NoneType:
        return "None"
    name = str(getattr(annotation, "__name__", annotation)).rpartition(".")[2]
    arguments = ", ".join(type_name(part) for part in get_args(annotation))
    return f"{name}[{arguments}]" if arguments else name


def telemetry_names() -> set[str]:
    """Return the names of all series, histograms without `_bucket`, `_sum` and `_count`."""
    return set(_series())


def _series() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return kind, labels and help text of each series."""
    rows = {}
    for metric in vars(telemetry).values():
        if isinstance(metric, MetricWrapperBase):
            described = metric.describe()[0]
            suffix = "_total" if described.type == "counter" else "_info" if described.type == "info" else ""
            rows[described.name + suffix] = (described.type, metric._labelnames, described.documentation)
    for metric in telemetry.PREDICT.values():
        rows[metric.name] = (metric.kind, metric.labels, metric.help)
    return rows


def telemetry_table() -> str:
    """Return the table of all series, with kind, labels and help text."""
    lines = ["| series | kind | labels | meaning |", "|---|---|---|---|"]
    for name, (kind, labels, text) in sorted(_series().items()):
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |")
    return "\n".join(lines)


def findings_page() -> str:
    """Return the page of all rules."""
    parts = [
        "# Findings\n\nThe rules behind `GET /api/v1/runs/{id}/findings`. Each rule reads the recorded epochs, the"
        " spec and the evaluation of the trained network; each finding has its evidence and a change to the spec, which"
        " `POST /api/v1/runs/{id}/findings/{n}/apply` trains. `GET /api/v1/findings/rules` lists the same rules."
    ]
    for rule in RULES:
        hidden = ", ".join(f"`{name}`" for name in rule.hides)
        parts.append(
            f"## {rule.title}\n\n`{rule.name}`, {rule.severity}\n\n- **Applies when** {rule.threshold}.\n"
            f"- **Change**: {rule.answer}.\n- **Source**: {rule.source}."
            + (f"\n- **Hides its symptoms**: {hidden}." if hidden else "")
        )
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    return (
        "# Settings\n\nEvery process reads these environment variables once, when it starts. A secret can also be a"
        " file of the same name in lower case in the folder `FITSERVE_SECRETS` (by default `/run/secrets`).\n\n"
        f"{settings_table(Settings)}\n\n## Limits\n\nUpper bounds, checked before memory is allocated;"
        f" `GET /api/v1/limits` lists them.\n\n{settings_table(Limits)}\n"
    )


def telemetry_page() -> str:
    return (
        "# Telemetry\n\nEach process exposes those that apply to it on `/metrics`, together with the usual `process_*`"
        " and `python_*` series. Label values are bounded: route templates (or `unmatched`), model names and versions"
        f" in the registry, states and causes.\n\n{telemetry_table()}\n"
    )


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "settings.md": settings_page,
    REFERENCE / "telemetry.md": telemetry_page,
    REFERENCE / "spec.md": spec_reference.page,
    REFERENCE / "findings.md": findings_page,
}


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    for path, page in PAGES.items():
        path.write_text(page())


if __name__ == "__main__":
    main()
