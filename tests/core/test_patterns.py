"""Regular expressions of ours need linear time, whatever bytes a user sends, and match alike on every Python."""

from __future__ import annotations

import ast
import importlib
import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fitserve", "services", "workers")
METHODS = frozenset({"match", "fullmatch", "search", "sub", "split", "findall", "finditer"})
STEP = 4  # from one size to the next; the first ones are small, because the time of some doubles with each character
SIZES = (12, 18, 24, 30, 1_000, 4_000, 16_000, 64_000)  # what is quadratic takes seconds for the last one
LONGEST = 256_000  # in the long form: minutes
MEGABYTE = 1_000_000  # there too: what is linear takes a tenth of a second, what is quadratic minutes
NOTICEABLE = 0.02  # seconds of CPU below which a growth says nothing
GROWTH = 9  # of the time over one step: 4 where it is linear, 16 where it is quadratic


@dataclass(frozen=True)
class Use:
    """A pattern and a method that it is used with."""

    where: str
    method: str
    pattern: re.Pattern[Any]


@cache
def _sources() -> dict[Path, str]:
    return {path: path.read_text() for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def _called() -> dict[str, set[str]]:
    """Return the methods by the name that they are called on."""
    called: dict[str, set[str]] = {}
    for source in _sources().values():
        for use in re.finditer(rf"\.({'|'.join(METHODS)})\(", source):
            word = re.search(r"\w+\Z", source[max(0, use.start() - 60) : use.start()])
            if word:
                called.setdefault(word[0], set()).add(use[1])
    return called


@cache
def _uses(path: Path) -> tuple[Use, ...]:
    """Return every use of a regular expression in a file."""
    return tuple(_find_uses(path))


def _find_uses(path: Path) -> Iterator[Use]:
    nodes = list(ast.walk(ast.parse(_sources()[path])))
    named = {id(node.value): node.targets[0] for node in nodes if isinstance(node, ast.Assign)}
    named |= {id(node.value): node.target for node in nodes if isinstance(node, ast.AnnAssign)}
    named |= {id(node.value): ast.Name(str(node.arg)) for node in nodes if isinstance(node, ast.keyword)}
    for call in nodes:
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        if not (isinstance(call.func.value, ast.Name) and call.func.value.id == "re"):
            continue
        where = f"{path.relative_to(ROOT)}:{call.lineno}"
        if call.func.attr == "compile":
            name = named.get(id(call))
            assert isinstance(name, ast.Name), f"{where}: give the pattern a name"
            methods = _called().get(name.id, set())
            assert methods, f"{where}: {name.id} is not used"
        elif call.func.attr in METHODS:
            methods = {call.func.attr}
        else:
            continue
        for method in sorted(methods):
            yield Use(where, method, _compiled(path, call))


def _compiled(path: Path, call: ast.Call) -> re.Pattern[Any]:
    """Compile a call's pattern: a literal, an f-string, or a constant of the module."""
    text = call.args[0]
    flags = next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "flags"), "0")
    if len(call.args) > 1 and ast.unparse(call.args[1]).startswith("re."):
        flags = ast.unparse(call.args[1])
    if isinstance(text, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "csv|tsv" for part in text.values)
        value: Any = "".join(map(str, parts))
    elif isinstance(text, ast.Name):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        value = getattr(importlib.import_module(module), text.id)
    else:
        value = ast.literal_eval(text)
    return re.compile(value, int(eval(flags, {"re": re})))  # flags of our own source


# --- inputs that make a pattern try again ----------------------------------------------------------------------------


def _texts(node: Any, pumped: Any, count: int) -> list[str]:
    """Return texts that a parsed pattern matches, each part once but `pumped`, which is repeated `count` times."""
    found = [""]
    for operation, argument in node:
        options = _options(operation, argument, pumped, count)
        found = [text + option for text in found for option in options][:6]
    return found


def _options(operation: Any, argument: Any, pumped: Any, count: int) -> list[str]:
    if operation in (sre.LITERAL, sre.NOT_LITERAL):
        return [chr(argument) if operation is sre.LITERAL else "a"]
    if operation is sre.ANY:
        return ["a"]
    if operation is sre.IN:
        return list(_members(argument))[:2]
    if operation in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, _, body = argument
        times = count if body is pumped else max(1, least)
        texts = _texts(body, pumped, count)
        longest = max(map(len, texts), default=0)
        return texts if longest >= count else [text * times for text in texts]
    if operation in (sre.SUBPATTERN, sre.ATOMIC_GROUP):
        return _texts(argument[-1] if operation is sre.SUBPATTERN else argument, pumped, count)
    if operation is sre.BRANCH:
        return [text for branch in argument[1] for text in _texts(branch, pumped, count)[:2]]
    return [""]  # anchors and assertions


def _members(items: Any) -> Iterator[str]:
    """Yield a few characters of a set."""
    if items[0][0] is sre.NEGATE:
        excluded = {chr(value) for kind, value in items if kind is sre.LITERAL}
        yield from (character for character in ("a", "1", " ", "{") if character not in excluded)
        return
    for kind, value in items:
        if kind is sre.LITERAL:
            yield chr(value)
        elif kind is sre.RANGE:
            yield chr(value[0])
        elif kind is sre.CATEGORY:
            yield {sre.CATEGORY_DIGIT: "1", sre.CATEGORY_SPACE: " ", sre.CATEGORY_WORD: "a"}.get(value, "-")


def _repeats(node: Any) -> Iterator[Any]:
    """Yield the body of every repetition in a parsed pattern."""
    for operation, argument in node:
        if operation in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            if argument[1] > 1:
                yield argument[2]
            yield from _repeats(argument[2])
        elif operation is sre.SUBPATTERN:
            yield from _repeats(argument[-1])
        elif operation is sre.ATOMIC_GROUP:
            yield from _repeats(argument)
        elif operation is sre.BRANCH:
            for branch in argument[1]:
                yield from _repeats(branch)


def hostile(pattern: re.Pattern[Any], count: int) -> Iterator[str]:
    """Yield about `count` characters each that match almost: one repetition goes on and on, then the end is wrong."""
    tree = parser.parse(pattern.pattern, pattern.flags)
    for body in _repeats(tree):
        for text in _texts(tree, body, count):
            yield text[: count + 200] + "\0"
    for whole in dict.fromkeys(_texts(tree, None, 0)):
        if whole:
            yield (whole * (count // len(whole) + 1))[:count] + "\0"
            yield (whole[:1] * count) + "\0"
            yield (whole[:-1] * (count // len(whole) + 1))[:count] + "\0"


def _seconds(use: Use, text: str) -> float:
    data = text.encode("utf-8", "replace") if isinstance(use.pattern.pattern, bytes) else text
    call = getattr(use.pattern, use.method)
    arguments = (b"" if isinstance(data, bytes) else "", data) if use.method == "sub" else (data,)
    begun = time.thread_time()
    result = call(*arguments)
    if use.method == "finditer":
        for _ in result:
            pass
    return time.thread_time() - begun


def superlinear(use: Use, *longer: int) -> str | None:
    """Return what makes a pattern slow, or None: sizes are stepped up, so that a slow one is seen while it is short."""
    before: dict[int, float] = {}
    for size in (*SIZES, *longer):
        for number, text in enumerate(dict.fromkeys(hostile(use.pattern, size))):
            seconds = _seconds(use, text)
            smaller = before.get(number, seconds)
            if seconds > NOTICEABLE and seconds > GROWTH * max(smaller, NOTICEABLE / GROWTH / 2):
                # Once more, because another process may have spoilt the cache.
                seconds = min(_seconds(use, text) for _ in range(2))
                if seconds > GROWTH * smaller:
                    return (
                        f"{len(text)} characters {text[:20]!r}... take {seconds:.3f} s, the size before {smaller:.4f} s"
                    )
            before[number] = seconds
    return None


# Of those with a regular expression; parsing the others, and these at collection, would take seconds.
PATHS = [path for path, source in _sources().items() if re.search(r"\bre\.[a-z]", source)]


def test_there_are_patterns_to_check() -> None:
    assert len(PATHS) > 30
    assert any(_uses(next(path for path in PATHS if path.stem == "csv_dialect")))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_pattern_takes_linear_time(path: Path) -> None:
    slow = {f"{use.where}-{use.method}": what for use in _uses(path) if (what := superlinear(use))}
    assert not slow


# --- what Python before 3.11.5 matches wrongly -----------------------------------------------------------------------


def _fixed(node: Any) -> bool:
    """Tell whether a parsed pattern matches a fixed number of single characters, such as a backslash and one more."""
    return all(operation in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN) for operation, _ in node)


def _run(node: Any) -> bool:
    """Tell whether a parsed pattern is one run of characters of a set: it takes nothing where it fails."""
    repeated = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)
    return len(node) == 1 and node[0][0] in repeated and node[0][1][0] <= 1 and _fixed(node[0][1][2])


def _leaves_off_midway(body: Any) -> bool:
    """Tell whether a repetition's body may take characters and fail after them.

    After such a failure, a possessive repetition goes on behind those characters: CPython issue 106052, in Debian 12.
    """
    while len(body) == 1 and body[0][0] is sre.SUBPATTERN:
        body = body[0][1][-1]
    branches = body[0][1][1] if len(body) == 1 and body[0][0] is sre.BRANCH else [body]
    # A branch begins where the one before it began, so the last one counts, unless all are harmless.
    return not (_run(branches[-1]) or all(_fixed(branch) or _run(branch) for branch in branches))


def _possessive(node: Any) -> Iterator[Any]:
    """Yield the body of every possessive repetition in a parsed pattern."""
    for operation, argument in node:
        if operation is sre.POSSESSIVE_REPEAT:
            yield argument[2]
        if operation in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            yield from _possessive(argument[2])
        elif operation is sre.SUBPATTERN:
            yield from _possessive(argument[-1])
        elif operation in (sre.ASSERT, sre.ASSERT_NOT):
            yield from _possessive(argument[1])
        elif operation is sre.ATOMIC_GROUP:
            yield from _possessive(argument)
        elif operation is sre.BRANCH:
            for branch in argument[1]:
                yield from _possessive(branch)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_pattern_matches_alike_on_python_3_11_2(path: Path) -> None:
    """Ask for `(?>(...)*)` in place of `(...)*+` where the group may fail after its first characters."""
    patterns = {use.where: use.pattern for use in _uses(path)}
    trees = {where: parser.parse(pattern.pattern, pattern.flags) for where, pattern in patterns.items()}
    assert not [where for where, tree in trees.items() if any(map(_leaves_off_midway, _possessive(tree)))]


@pytest.mark.parametrize(
    ("pattern", "wrong"),
    [
        (r"\d++([,.' ]\d{3})*+([.,]\d++)?", True),
        (r"(?:a++:b\r\n)++\r\n", True),
        (r"x(?:[^*]|\*(?!/))*+", True),
        (r"(?>(\.\d{3})+)", False),
        (r'"(?:[^"]++|""|\\.)*+"', False),
        (r"(?:a(?=b)|[,\n]++)*+", False),
    ],
)
def test_a_pattern_that_older_pythons_match_wrongly_is_found(pattern: str, wrong: bool) -> None:
    assert any(map(_leaves_off_midway, _possessive(parser.parse(pattern)))) is wrong


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_pattern_takes_linear_time_for_longer_texts(path: Path) -> None:
    assert not [what for use in _uses(path) if (what := superlinear(use, LONGEST))]
    hostile_texts = ((use, text) for use in _uses(path) for text in dict.fromkeys(hostile(use.pattern, MEGABYTE)))
    assert not [f"{use.where}: {text[:20]!r}" for use, text in hostile_texts if _seconds(use, text) > 1]


@pytest.mark.parametrize(
    "slow", [r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*", r"\{[^}]*\}", r"(a|b|ab)*c", r"\s+$", r"(\w+\s?)*!"]
)
def test_a_slow_pattern_is_found(slow: str) -> None:
    method = "sub" if slow.startswith((r"\{", r"\s+$")) else "fullmatch"
    assert superlinear(Use("here", method, re.compile(slow))) is not None
