"""Refusing what a client sent: problems with JSON pointers, what was received, what is allowed, the closest word.

`InvalidValue` is raised inside validators, `problems_from` turns Pydantic's errors into problems.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, get_args

from pydantic import BaseModel

from fitserve.errors import BadInput, Problem, json_pointer
from fitserve.excerpts import excerpt

MAX_LISTED = 100  # allowed names that an error lists
MAX_COMPARED = 100  # names that one word is compared with, character by character
MAX_TRANSLATED = 100  # errors of one model that become problems: each is compared with all allowed names


class InvalidValue(ValueError):
    """A value that a validator refuses; the pointers of its problems are relative to that value."""

    def __init__(
        self,
        detail: str = "",
        *,
        pointer: str = "",
        received: Any = None,
        expected: str | None = None,
        fix: str | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        own = Problem(detail, pointer, received=received, expected=expected, fix=fix)
        self.problems = tuple(problems) or (own,)
        super().__init__(self.problems[0].detail)

    def under(self, *keys: str | int) -> InvalidValue:
        """Return the same refusal with pointers relative to the container that holds the value under `keys`."""
        return InvalidValue(problems=_under(json_pointer(keys), self.problems))


def _under(prefix: str, problems: Iterable[Problem]) -> list[Problem]:
    return [replace(problem, pointer=prefix + (problem.pointer or "")) for problem in problems]


def did_you_mean(word: Any, allowed: Iterable[str]) -> str | None:
    """Return a fix that suggests the allowed name closest to `word`, case ignored; None where none is close."""
    if not isinstance(word, str) or len(word) > 100:
        return None
    by_case = {name.lower(): name for name in allowed}
    lower = word.lower()
    close = difflib.get_close_matches(lower, _likely(lower, by_case), n=1, cutoff=0.55) or _containing(lower, by_case)
    return f"Did you mean {by_case[close[0]]}?" if close else None


def _likely(word: str, names: Collection[str]) -> Collection[str]:
    """Return the names that begin or end most like `word`: to compare it with thousands of them takes a second."""
    if len(names) <= MAX_COMPARED:
        return names
    likely: dict[str, None] = {}
    for step in (1, -1):  # as written, and read backwards
        ordered = [name[::step] for name in names]
        ordered.sort()
        place = bisect_left(ordered, word[::step])
        around = ordered[max(0, place - MAX_COMPARED // 4) : place + MAX_COMPARED // 4]
        likely.update(dict.fromkeys(name[::step] for name in around))
    return likely


def _containing(word: str, allowed: Iterable[str]) -> list[str]:
    """Return the one allowed name that begins `word`, or begins with it: `binary` for `binary_classification`."""
    found = [
        name for name in allowed if min(len(name), len(word)) > 3 and (name.startswith(word) or word.startswith(name))
    ]
    return found if len(found) == 1 else []


def unknown_name(
    detail: str,
    name: Any,
    allowed: Collection[str],
    pointer: str | None = None,
    *,
    column: str | None = None,
    fix: str | None = None,
) -> Problem:
    """Return the problem of a name that is not allowed; `fix` is used where no allowed name is close."""
    return Problem(
        detail,
        pointer,
        column=column,
        received=excerpt(name),
        expected=f"one of {', '.join(list(allowed)[:MAX_LISTED])}",
        fix=did_you_mean(name, allowed) or fix,
    )


def problems_from(
    errors: Iterable[Mapping[str, Any]], model: type[BaseModel] | None = None, body: Any = None
) -> list[Problem]:
    """Translate Pydantic's errors (`ValidationError.errors()`) to problems, the first MAX_TRANSLATED of them.

    `model` is what was validated: its fields are suggested for unknown names. With `body`, pointers lead to what is
    in it, without Pydantic's union tags and without what a shorthand left out; else they are the errors' locations.
    """
    problems: list[Problem] = []
    for item in islice(errors, MAX_TRANSLATED):
        path, value = (list(item["loc"]), None) if body is None else _existing(item["loc"], body)
        pointer, cause = json_pointer(path), item.get("ctx", {}).get("error")
        if isinstance(cause, InvalidValue) or (isinstance(cause, BadInput) and cause.problems):
            problems += _under(pointer, cause.problems)
        elif item["type"] == "missing" and item["loc"]:
            name = str(item["loc"][-1])
            expected = _description(_owner(model, item["loc"]), name)
            problems.append(Problem(f"`{name}` is missing.", pointer, received=excerpt(value), expected=expected))
        elif item["type"] == "extra_forbidden":
            problems.append(_unknown_field(item["loc"], pointer, model))
        else:
            problems.append(_invalid(item, pointer, path))
    return problems


def _existing(loc: Sequence[str | int], body: Any) -> tuple[list[str | int], Any]:
    """Return the part of a location that exists in `body`, and the value there."""
    path: list[str | int] = []
    key: Any
    for key in loc:
        if (isinstance(body, dict) and key in body) or (
            isinstance(body, (list, tuple)) and isinstance(key, int) and key < len(body)
        ):
            body = body[key]
            path.append(key)
    return path, body


def _owner(model: type[BaseModel] | None, loc: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the model that the last key of a location belongs to."""
    for key in loc[:-1]:
        if model is not None and isinstance(key, str) and key in model.model_fields:
            model = _model_in(model.model_fields[key].annotation)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = [model for argument in get_args(annotation) if (model := _model_in(argument)) is not None]
    return models[0] if len(models) == 1 else None


def _unknown_field(loc: Sequence[str | int], pointer: str, model: type[BaseModel] | None) -> Problem:
    name, owner = str(loc[-1]), _owner(model, loc)
    if model is None or owner is None:
        return Problem(
            f"{excerpt(name)} is not known here.", pointer, received=excerpt(name), expected="no such member"
        )
    title = excerpt(loc[-2]) if len(loc) > 1 and isinstance(loc[-2], str) else owner.__name__
    problem = unknown_name(f"{title} has no {excerpt(name)}.", name, owner.model_fields, pointer)
    return replace(problem, fix=_where_it_belongs(name, model) or problem.fix)


def _where_it_belongs(name: str, model: type[BaseModel]) -> str | None:
    """Return a fix that says which mappings of `model` have a field of that name, such as `training: {epochs: ...}`."""
    mappings = {field: _model_in(info.annotation) for field, info in model.model_fields.items()}
    places = [
        f"{field}: {{{name}: ...}}"
        for field, inner in mappings.items()
        if inner is not None and name in inner.model_fields and not model.model_fields[field].is_required()
    ]
    if name in model.model_fields:
        return f"{name} stands beside {next(iter(model.model_fields))}, not inside."
    return f"Write it as {' or '.join(places)}." if places else None


def _description(owner: type[BaseModel] | None, name: str) -> str | None:
    if owner is None or name not in owner.model_fields:
        return None
    return owner.model_fields[name].description or f"{owner.__name__} needs {name}"


# What Pydantic expects, by the type of its error.
_EXPECTED = {
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
    "union_tag_invalid": "one of {expected_tags}",
}


def _label(loc: Sequence[str | int], path: Sequence[str | int]) -> str:
    """Return the name of what is wrong: the last of its location, or of its path, where that is a member of a union."""
    last = str(loc[-1]) if loc else ""
    types = ("int", "float", "str", "bool")
    member = last in types or last.isdigit() or last.startswith("constrained-") or any(c in last for c in "[(")
    return str(path[-1]) if member and path else last


def _invalid(item: Mapping[str, Any], pointer: str, path: Sequence[str | int]) -> Problem:
    context = {key: str(value) for key, value in item.get("ctx", {}).items()}
    template = _EXPECTED.get(item["type"])
    fix = None
    if item["type"] in ("literal_error", "union_tag_invalid"):
        allowed = context.get("expected_tags") or context["expected"].replace(" or ", ", ")
        fix = did_you_mean(context.get("tag", item["input"]), [part.strip("' ") for part in allowed.split(",")])
    detail = item["msg"].removeprefix("Value error, ")
    if item["type"] == "union_tag_invalid":
        detail = f"there is no {excerpt(context['tag'])!r} here"
    return Problem(
        f"`{label}`: {detail}." if (label := _label(item["loc"], path)) else f"{detail}.",
        pointer,
        received=excerpt(item.get("input")),
        expected=template.format(**context) if template else None,
        fix=fix,
    )
