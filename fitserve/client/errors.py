"""Errors that a client raises: the server's problem details as `fitserve.errors`, and three errors of its own.

FitserveError
├── ... the tree of `fitserve.errors`, by the problem's type, else by its status
├── Unavailable
│   └── Unreachable   no answer came at all
├── RunEnded          `wait()` expected success, and the run failed or was cancelled
└── WaitedTooLong     `wait(timeout=...)` ran out
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from fitserve import errors
from fitserve.errors import FitserveError, Problem, Unavailable
from fitserve.excerpts import shorten

if TYPE_CHECKING:
    import httpx2

_PROBLEM_FIELDS = frozenset(Problem.__dataclass_fields__)
_OWN_MEMBERS = frozenset(  # members of problem details; all others go into an error's `extra`
    {"type", "title", "status", "detail", "pointer", "received", "expected", "fix", "errors", "instance"}
    | {"problems", "retry_after", "self"}
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
    """The run has not ended in time; it continues."""

    slug = "waited-too-long"
    title = "Waited too long"


def _tree(root: type[FitserveError]) -> Iterator[type[FitserveError]]:
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _tree(child)


_BY_SLUG = {cls.slug: cls for cls in _tree(FitserveError)}
_BY_STATUS = {cls.status: cls for cls in reversed(list(_tree(FitserveError)))}


def error_of(response: httpx2.Response) -> FitserveError:
    """Return the error that a response of status 400 or more stands for."""
    error = error_of_problem(response.status_code, _problem_details(response))
    error.extra.setdefault("request_id", response.headers.get("x-request-id", ""))
    error.retry_after = retry_after(response.headers)
    error.args = (render(error),)
    return error


def error_of_problem(status: int, body: Mapping[str, Any]) -> FitserveError:
    """Return the error that problem details stand for."""
    slug = str(body.get("type", "")).rpartition(":")[2]
    by_class = errors.BadInput if status < 500 else FitserveError
    cls = _BY_SLUG.get(slug) or _BY_STATUS.get(status) or by_class
    extra = {key: value for key, value in body.items() if key not in _OWN_MEMBERS and key.isidentifier()}
    error = cls(
        str(body.get("detail") or body.get("title") or f"The server answered {status}."),
        pointer=body.get("pointer"),
        received=body.get("received"),
        expected=body.get("expected"),
        fix=body.get("fix"),
        problems=[_problem(item) for item in body.get("errors") or [] if isinstance(item, dict)],
        **extra,
    )
    if type(error).status != status:
        error.status = status  # type: ignore[misc]
    error.args = (render(error),)
    return error


def _problem_details(response: httpx2.Response) -> dict[str, Any]:
    """Return problem details, converting a proxy's text or a protocol's `{"error": "..."}` if needed."""
    try:
        body = response.json()
    except ValueError:
        text = response.content[:300].decode(errors="replace").strip()
        return {"detail": f"The server answered {response.status_code}: {text}" if text else None}
    if not isinstance(body, dict):
        return {}
    if isinstance(body.get("error"), str):
        return {**{key: value for key, value in body.items() if key != "error"}, "detail": body["error"]}
    return body


def _problem(item: Mapping[str, Any]) -> Problem:
    """Return an entry of `errors`, which names a field by `pointer` or `parameter`. Unknown members are ignored."""
    known = {key: value for key, value in item.items() if key in _PROBLEM_FIELDS}
    if "parameter" in item:
        known.setdefault("pointer", str(item["parameter"]))
    return Problem(**{"detail": "", **known})


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `Retry-After`, in either of its forms (RFC 9110, 10.2.3)."""
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
    """Return the error as text: what is wrong, where, and how to fix it."""
    lines = [error.detail]
    if not error.problems:
        lines += _evidence(error)
    for problem in error.problems:
        if problem.detail and problem.detail != error.detail:
            lines.append(f"- {problem.detail}")
        lines += _evidence(problem)
    if error.problems and error.fix and error.fix not in {problem.fix for problem in error.problems}:
        lines.append(f"  {error.fix}")
    if error.status >= 500 and error.extra.get("request_id"):
        lines.append(f"  request id: {error.extra['request_id']}")
    return "\n".join(lines)


def _evidence(item: FitserveError | Problem) -> Iterator[str]:
    where = [item.pointer] if item.pointer else []
    if isinstance(item, Problem):
        where += [f"{name} {value}" for name, value in (("row", item.row), ("column", item.column)) if value]
    if where:
        yield f"  at {', '.join(where)}"
    if item.received is not None:
        text = json.dumps(item.received, ensure_ascii=False, default=str)
        yield f"  received {shorten(text, 200)}"
    if item.expected:
        yield f"  expected {item.expected}"
    if item.fix:
        yield f"  {item.fix}"
