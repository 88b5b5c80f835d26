"""Errors and the version as the protocols' answers carry them."""

from __future__ import annotations

import json

from fitserve.errors import BadInput, FitserveError, NotFound
from services.predict.catalog.loaded_model import Prediction
from services.predict.protocols.oip import rest
from services.predict.server.http import Answer


def error_answer(error: FitserveError) -> Answer:
    """`{"error": message}`, as both protocols have it; what was refused as bad input is 400 there."""
    status = 400 if type(error).status == 422 or isinstance(error, BadInput) else error.status
    headers: list[tuple[bytes, bytes]] = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="fitserve"'))
    if status == 405:
        headers.append((b"allow", str(error.expected or "").encode()))
    text = json.dumps({"error": message_of(error)}, ensure_ascii=True)
    return Answer(text.encode(), status, headers=headers)


def message_of(error: FitserveError) -> str:
    """An error in one line: what is wrong, what was received, what was expected, how to mend it."""
    parts = [error.detail]
    if error.received is not None and not error.problems:
        parts.append(f"Received: {str(error.received)[:200]}.")
    if error.expected:
        parts.append(f"Expected: {error.expected}.")
    parts += [problem.detail for problem in error.problems[1:20]]
    if error.fix:
        parts.append(error.fix)
    return " ".join(parts).encode("utf-8", "backslashreplace").decode()


def version_headers(prediction: Prediction) -> list[tuple[bytes, bytes]]:
    """Which version answered, and what was warned of."""
    network = prediction.network
    headers = [(b"x-model-version", network.version_text.encode())]
    if network.label:
        headers.append((b"x-model-label", network.label.encode()))
    if prediction.warnings is not None:
        warnings = rest.flat_warnings(prediction, 20)
        while len(told := json.dumps(warnings, ensure_ascii=True)) > 4000:
            warnings.pop()
        headers.append((b"x-model-warnings", told.encode()))
        count = sum(map(len, prediction.warnings))
        headers.append((b"x-model-warnings-count", str(count).encode()))
    return headers


class MethodNotAllowed(NotFound):
    """This path does not take this method."""

    status = 405
    slug = "method-not-allowed"
    title = "Method not allowed"
