"""The sentences that the code writes into findings, warnings and events, as templates: `{0}`, `{1}` for values."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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
    "Finding": (3, 4, 5),
    "rule": ("threshold",),
}
TABLES = ("_SENTENCES", "TYPES")  # dictionaries of sentences
# Functions that return sentences, or parts of them.
RETURNS = (
    *("_cause_of_stagnation", "left_out", "explain_added", "_says", "open_question", "_written", "_sentence"),
    *("why_not_stacked", "stacking_obstacle", "described", "_nothing_learned"),
)
FOLDERS = ("fitserve/events.py", "fitserve/findings", "fitserve/spec", "fitserve/runs", "workers")


def templates() -> dict[str, str]:
    """Return every template with the place that it is written at."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in [PROJECT / folder] if folder.endswith(".py") else sorted((PROJECT / folder).rglob("*.py")):
            for node, text in _of(path):
                found.setdefault(text, f"{path.relative_to(PROJECT)}:{node.lineno}")
    return found


def _of(path: Path) -> Iterator[tuple[ast.AST, str]]:
    tree = ast.parse(path.read_text())
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.Module):
            continue
        assigned: dict[str, list[ast.expr]] = {}
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    _assign(target, node.value, assigned)
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                _assign(node.target, node.value, assigned)
        if isinstance(scope, ast.Module):
            for table in (value for name in TABLES for value in assigned.get(name, ()) if isinstance(value, ast.Dict)):
                for value in table.values:
                    for text in _texts(value, {}):
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
        for value in assigned.get(node.id, ()):
            if not (isinstance(value, ast.Name) and value.id == node.id):
                yield from _texts(value, assigned)
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
