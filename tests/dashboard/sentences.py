"""The sentences that the code writes for people, as templates: `{0}`, `{1}` for values.

Those of findings, warnings and events, and those of problems that the pages' forms are answered with.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import PROJECT

# Where sentences for people are made: the call's name, and which of its arguments they are, by place or keyword.
CALLS: dict[str, tuple[int | str, ...]] = {
    "Evidence": (0, "sentence"),
    "Advice": ("detail", "fix"),
    "_warning": (2, 3),
    "event": (1,),
    "add_event": (6, "message"),
    "_add_event": (2, "message"),
    "_event": (1,),
    "Comparison": (4, "sentence"),
    "warn": (0, 2),
    "Diverged": (0,),
    "TrainingFailed": (1,),
    "requeue": (0,),
    "lose": (2,),
    "fail": (1,),
    "prune": (0,),
    "left": (0,),
    "Finding": (3, 4, 5),
    "rule": ("threshold",),
    "EventType": (0,),
}
TABLES = ("_SENTENCES", "TYPES")  # dictionaries of sentences, or of what has one
# Functions that return sentences, or parts of them.
RETURNS = (
    *("_cause_of_stagnation", "left_out", "explain_added", "_says", "open_question", "_written", "_sentence"),
    *("why_not_stacked", "why_one_device", "stacking_obstacle", "described", "_nothing_learned"),
)
# Errors, by the class or function that makes them: the detail comes first.
PROBLEMS = (
    *("Problem", "SpecRefused", "TableRefused", "TableUnreadable", "InvalidValue", "BadInput", "Malformed", "NotFound"),
    *("Conflict", "Forbidden", "Unauthenticated", "TooLarge", "TooMany", "Unavailable", "UnsupportedMedia", "NotReady"),
)
NAMED = ("detail", "fix", "expected")
# What answers the pages: uploads, specs, runs, models, keys, automations, rollouts, webhooks, single predictions.
PAGES = (
    *("fitserve/spec", "fitserve/runs", "fitserve/datasets/readers", "fitserve/rollouts", "fitserve/automations"),
    *(
        "fitserve/encoding",
        "fitserve/decisions",
        "fitserve/api_keys.py",
        "fitserve/registry.py",
        "fitserve/webhooks.py",
    ),
    *("fitserve/datasets/ingest.py", "fitserve/datasets/split.py", "fitserve/datasets/store.py", "fitserve/explain.py"),
    *("fitserve/datasets/kinds.py", "fitserve/datasets/appends.py", "fitserve/datasets/readers/__init__.py"),
    *("fitserve/datasets/utf8.py", "fitserve/visibility.py"),
    *("fitserve/conformal.py", "fitserve/submission.py", "fitserve/exports.py", "fitserve/outgoing.py"),
    *(
        "fitserve/datasets/sources/objects.py",
        "fitserve/datasets/sources/https.py",
        "fitserve/datasets/sources/query.py",
    ),
    *("services/control", "services/predict/serving", "services/http/auth.py"),
)
FOLDERS = ("fitserve/events.py", "fitserve/findings", "fitserve/spec", "fitserve/runs", "workers")


def templates() -> dict[str, str]:
    """Return every template of a finding, warning or event with the place that it is written at."""
    return _collect(FOLDERS, _of)


def problem_templates() -> dict[str, str]:
    """Return every template of a problem that pages are answered with, and its place."""
    return _collect(PAGES, _problems_of)


def templates_in(path: Path, root: Path) -> set[str]:
    """Return all that `templates` and `problem_templates` would find in one file of a tree at `root`."""
    place = path.relative_to(root)
    readers = ((FOLDERS, _of), (PAGES, _problems_of))
    return {
        text
        for folders, read in readers
        if any(place.is_relative_to(folder) for folder in folders)
        for _, text in read(path)
    }


def _collect(folders: tuple[str, ...], read: Callable[[Path], Iterator[tuple[ast.AST, str]]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in folders:
        for path in [PROJECT / folder] if folder.endswith(".py") else sorted((PROJECT / folder).rglob("*.py")):
            for node, text in read(path):
                found.setdefault(text, f"{path.relative_to(PROJECT)}:{getattr(node, 'lineno', 0)}")
    return found


def _problems_of(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for scope in ast.walk(ast.parse(path.read_text())):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assigned = _assignments(scope)
        for node in ast.walk(scope):
            if not isinstance(node, ast.Call):
                continue
            is_problem = getattr(node.func, "attr", getattr(node.func, "id", "")) in PROBLEMS
            arguments = [keyword.value for keyword in node.keywords if keyword.arg in NAMED]
            for argument in [*(node.args[:1] if is_problem else []), *arguments]:
                for text in _texts(argument, assigned):
                    if any(c.isalpha() for c in text):
                        yield node, text


def _assignments(scope: ast.AST) -> dict[str, list[ast.expr]]:
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                _assign(target, node.value, assigned)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            _assign(node.target, node.value, assigned)
    return assigned


def _of(path: Path) -> Iterator[tuple[ast.AST, str]]:
    tree = ast.parse(path.read_text())
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.Module):
            continue
        assigned = _assignments(scope)
        if isinstance(scope, ast.Module):
            for table in (value for name in TABLES for value in assigned.get(name, ()) if isinstance(value, ast.Dict)):
                for value in table.values:
                    for sentence in _arguments(value) if isinstance(value, ast.Call) else (value,):
                        for text in _texts(sentence, {}):
                            yield value, text
            continue
        for node in ast.walk(scope):
            if isinstance(node, ast.Return) and scope.name in RETURNS and node.value is not None:
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                for text in (text for value in values for text in _texts(value, assigned)):
                    if any(c.isalpha() for c in text):
                        yield node, text
            if isinstance(node, ast.Call):
                for argument in _arguments(node):
                    for text in _texts(argument, assigned):
                        if any(c.isalpha() for c in text):
                            yield node, text


def _assign(target: ast.expr, value: ast.expr, assigned: dict[str, list[ast.expr]]) -> None:
    if isinstance(target, ast.Name):
        assigned.setdefault(target.id, []).append(value)
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        for name, own in zip(target.elts, value.elts, strict=True):
            _assign(name, own, assigned)


def _arguments(call: ast.Call) -> Iterator[ast.expr]:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    places = CALLS.get(name, ())
    for place in places:
        if isinstance(place, int) and place < len(call.args):
            yield call.args[place]
    yield from (keyword.value for keyword in call.keywords if keyword.arg in places)


def _texts(node: ast.expr, assigned: dict[str, list[ast.expr]]) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield _joined(node)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body, assigned)
        yield from _texts(node.orelse, assigned)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _texts(value, assigned)
    elif isinstance(node, ast.Name):
        others = {name: values for name, values in assigned.items() if name != node.id}  # a name made of itself
        for value in assigned.get(node.id, ()):
            yield from _texts(value, others)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        for left in _texts(node.left, assigned):
            for right in _texts(node.right, assigned):
                yield left + _renumbered(right, left.count("{"))


def _renumbered(text: str, first: int) -> str:
    """Return a template whose values are counted from `first`."""
    return re.sub(r"\{(\d+)\}", lambda match: f"{{{int(match[1]) + first}}}", text)


def _joined(node: ast.JoinedStr) -> str:
    parts: list[str] = []
    count = 0
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts.append(str(value.value))
        else:
            parts.append(f"{{{count}}}")
            count += 1
    return "".join(parts)
