"""The command to run after an error that names none itself."""

from __future__ import annotations

import re

from fitserve.errors import FitserveError

_COMMAND = re.compile(r"\bfitserve (--\w+ )?[a-z]+")
_NOUNS = {  # words in a message, and the command that lists what exists
    "run": "List the runs: fitserve runs list",
    "finding": "List the findings: fitserve runs findings RUN",
    "dataset": "List the datasets: fitserve datasets list",
    "sample": "List the built-in tables: fitserve datasets sample",
    "column": "Show the columns: fitserve datasets show DATASET",
    "version": "List the versions: fitserve models show MODEL",
    "label": "List the versions and labels: fitserve models show MODEL",
    "model": "List the models: fitserve models list",
    "key": "List the keys: fitserve keys list",
}
_GROUPS = {"runs": "run", "datasets": "dataset", "models": "model", "keys": "key", "train": "dataset"}


def next_command_after(error: FitserveError, command: str) -> str | None:
    """Return the command to run after an error, such as `fitserve runs show`; None if the error names it."""
    if any(_COMMAND.search(text) for text in (error.fix or "", error.detail)):
        return None
    words = command.split()[1:] or ["--help"]
    return _by_status(error, words) or f"How to call it: fitserve {' '.join(words)} --help"


def _by_status(error: FitserveError, words: list[str]) -> str | None:
    status = error.status
    if error.slug == "run-ended":
        return f"See what went wrong: fitserve runs findings {error.extra.get('run', 'RUN')}"
    if error.slug == "unreachable":
        return "See whether it is ready: fitserve status    Its logs: fitserve logs"
    if status == 401:
        return "On the server's machine, create a key: fitserve keys create NAME --scope admin"
    if status == 403:
        scope = re.search(r"\bscope (\w+)", f"{error.expected or ''} {error.detail}")
        return f"A key that may: fitserve keys create NAME --scope {scope[1] if scope else 'SCOPE'}"
    if status in (404, 409):
        return _listing(error.detail, words[0])
    if status == 429:
        return "See what is queued and running: fitserve runs list"
    if status in (413, 507):
        return "See what there is room for: fitserve doctor"
    if status in (502, 503, 504, 408):
        return "See what it waits for: fitserve status    Its logs: fitserve logs"
    if status >= 500:
        return "Its log may tell more: fitserve logs api"
    return _for_input(error, words)


def _for_input(error: FitserveError, words: list[str]) -> str | None:
    """Return the command that helps with refused input."""
    if words[:2] == ["datasets", "upload"] and any(problem.row is not None for problem in error.problems):
        return "Skip such rows and have them reported: fitserve datasets upload FILE --lenient"
    pointed = error.pointer is not None or any(problem.pointer is not None for problem in error.problems)
    if words[0] == "train" and pointed:
        return "What a spec may hold: fitserve spec schema    Check one: fitserve spec check SPEC"
    if words[0] == "spec" and pointed:
        return "What a spec may hold: fitserve spec schema"
    if words[:2] == ["models", "predict"] and len(words) > 1:
        return "What a model takes: fitserve models show MODEL    fitserve models predict --help"
    return None


def _listing(detail: str, group: str) -> str:
    noun = re.search(rf"\b({'|'.join(_NOUNS)})s?\b", detail.lower())
    return _NOUNS[noun[1] if noun else _GROUPS.get(group, "run")]
