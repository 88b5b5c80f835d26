"""What a client raises: the server's problem details as `fitserve.errors`, and three of its own.

FitserveError
├── ... the tree of `fitserve.errors`, by the problem's type, else by its status
├── Unavailable
│   └── Unreachable   no answer came at all
├── RunEnded          `wait()` was asked for a success, and the run failed or was cancelled
└── WaitedTooLong     `wait(timeout=...)` ran out
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from fitserve import errors
from fitserve.client.effects import Answer
from fitserve.errors import FitserveError, Problem, Unavailable

_FIELDS = frozenset(Problem.__dataclass_fields__)
_TAKEN = frozenset(
    {"type", "title", "status", "detail", "pointer", "received", "expected", "fix", "errors", "instance"}
)


class Unreachable(Unavailable):
    """No answer came from the server."""

    slug = "unreachable"
    title = "Server not reached"
    sent = True  # whether the server may have acted on the request


class RunEnded(FitserveError):
    """The run ended without success."""

    slug = "run-ended"
    title = "Run ended without success"


class WaitedTooLong(FitserveError):
    """The run has not ended in time; it goes on."""

    slug = "waited-too-long"
    title = "Waited too long"


def _tree(root: type[FitserveError]) -> Iterator[type[FitserveError]]:
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _tree(child)


_BY_SLUG = {cls.slug: cls for cls in _tree(FitserveError)}
_BY_STATUS = {cls.status: cls for cls in reversed(list(_tree(FitserveError)))}


def error_of(answer: Answer) -> FitserveError:
    """The error that an answer of status 400 or more stands for."""
    body = _problem(answer)
    slug = str(body.get("type", "")).rpartition(":")[2]
    cls = _BY_SLUG.get(slug) or _BY_STATUS.get(answer.status) or (_kind(answer.status))
    extra = {key: value for key, value in body.items() if key not in _TAKEN and key.isidentifier()}
    extra.setdefault("request_id", answer.headers.get("x-request-id", ""))
    problems = [Problem(**_known(item)) for item in body.get("errors") or [] if isinstance(item, dict)]
    error = cls(
        str(body.get("detail") or body.get("title") or f"The server answered {answer.status}."),
        pointer=body.get("pointer"),
        received=body.get("received"),
        expected=body.get("expected"),
        fix=body.get("fix"),
        problems=problems,
        retry_after=retry_after(answer.headers),
        **{key: value for key, value in extra.items() if key not in ("problems", "retry_after", "self")},
    )
    if type(error).status != answer.status:
        error.status = answer.status  # type: ignore[misc]
    error.args = (render(error),)
    return error


def _kind(status: int) -> type[FitserveError]:
    return errors.BadInput if status < 500 else FitserveError


def _problem(answer: Answer) -> dict[str, Any]:
    """Problem details; or the prediction protocols' `{"error": "..."}`; or whatever a proxy wrote."""
    try:
        body = json.loads(answer.content)
    except ValueError:
        text = answer.content[:300].decode(errors="replace").strip()
        return {"detail": f"The server answered {answer.status}: {text}" if text else None}
    if not isinstance(body, dict):
        return {}
    if isinstance(body.get("error"), str):
        return {**{key: value for key, value in body.items() if key != "error"}, "detail": body["error"]}
    return body


def _known(item: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in item.items() if key in _FIELDS}
    if "parameter" in item:
        found.setdefault("pointer", str(item["parameter"]))
    return {"detail": "", **found}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks for, in both of its forms (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def render(error: FitserveError) -> str:
    """The error for a person: what is wrong, where, and how to mend it."""
    lines = [error.detail]
    if not error.problems:
        lines += _evidence(error.pointer, None, None, error.received, error.expected, error.fix)
    for problem in error.problems:
        if problem.detail and problem.detail != error.detail:
            lines.append(f"- {problem.detail}")
        lines += _evidence(
            problem.pointer, problem.row, problem.column, problem.received, problem.expected, problem.fix
        )
    if error.problems and error.fix:
        lines.append(f"  {error.fix}")
    if error.status >= 500 and error.extra.get("request_id"):
        lines.append(f"  request id: {error.extra['request_id']}")
    return "\n".join(lines)


def _evidence(
    pointer: str | None, row: int | None, column: str | None, received: Any, expected: str | None, fix: str | None
) -> list[str]:
    place = ", ".join(
        part for part in (pointer, row and f"row {row}", column and f"column {column}") if isinstance(part, str)
    )
    found = []
    if place:
        found.append(f"  at {place}")
    if received is not None:
        text = json.dumps(received, ensure_ascii=False, default=str)
        found.append(f"  received {text if len(text) < 200 else text[:200] + '...'}")
    if expected:
        found.append(f"  expected {expected}")
    if fix:
        found.append(f"  {fix}")
    return found
