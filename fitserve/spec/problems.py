"""From what Pydantic found to problems with JSON pointers, what was received, what is allowed, the nearest word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fitserve.errors import BadInput, Problem

MAX_SHOWN = 120  # characters of what was received that an error repeats
MAX_PROBLEMS = 50


class SpecRefused(BadInput):
    """The spec is refused."""

    slug = "spec-refused"
    title = "The spec is refused"

    @classmethod
    def because(cls, problems: Sequence[Problem]) -> SpecRefused:
        """One error for several problems; the first is its headline."""
        first = problems[0]
        return cls(
            first.detail,
            pointer=first.pointer,
            received=first.received,
            expected=first.expected,
            fix=first.fix,
            problems=problems[:MAX_PROBLEMS],
        )


class Refused(ValueError):
    """Raised inside validators: problems whose pointers are relative to the value that was read."""

    def __init__(
        self,
        detail: str = "",
        *,
        received: Any = None,
        expected: str | None = None,
        fix: str | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        self.problems = tuple(problems) or (Problem(detail, "", received=received, expected=expected, fix=fix),)
        super().__init__(self.problems[0].detail)

    def under(self, *keys: str | int) -> Refused:
        """The same, seen from further out."""
        prefix = pointer_of(keys)
        return Refused(problems=[replace(p, pointer=prefix + (p.pointer or "")) for p in self.problems])


def nearest(word: Any, allowed: Iterable[str], n: int = 1) -> list[str]:
    """The allowed words that look most like this one, case aside."""
    if not isinstance(word, str) or len(word) > 100:
        return []
    by_case = {name.lower(): name for name in allowed}
    found = difflib.get_close_matches(word.lower(), by_case, n=n, cutoff=0.55)
    return [by_case[name] for name in found]


def shown(value: Any) -> Any:
    """What was received, short enough for an error, control characters escaped."""
    if isinstance(value, (bool, type(None), float)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**30 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, (list, tuple)) and len(value) > 20:
        return f"a list of {len(value)}"
    if isinstance(value, dict) and len(value) > 20:
        return f"a mapping of {len(value)}"
    text = value if isinstance(value, str) else repr(value)[: 2 * MAX_SHOWN]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: 2 * MAX_SHOWN])
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def pointer_of(keys: Iterable[str | int]) -> str:
    """A JSON Pointer (RFC 6901)."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def problems_of(error: ValidationError, model: type[BaseModel], body: Any) -> list[Problem]:
    """Every problem in a ValidationError, with pointers into `body`."""
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        path, value = _existing(item["loc"], body)
        pointer = pointer_of(path)
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, Refused) or (isinstance(inner, BadInput) and inner.problems):
            problems += [replace(p, pointer=pointer + (p.pointer or "")) for p in inner.problems]
        elif item["type"] == "missing":
            name = str(item["loc"][-1])
            owner = _owner(model, item["loc"])
            problems.append(
                Problem(f"`{name}` is missing.", pointer, received=shown(value), expected=_described(owner, name))
            )
        elif item["type"] == "extra_forbidden":
            problems.append(_unknown(str(item["loc"][-1]), pointer, _owner(model, item["loc"]), model))
        else:
            problems.append(_other(item, pointer))
    return problems


def _existing(loc: Sequence[str | int], body: Any) -> tuple[list[str | int], Any]:
    """The part of a location that exists in the body: shorthands and Pydantic's union tags do not."""
    path: list[str | int] = []
    key: Any
    for key in loc:
        if (isinstance(body, dict) and key in body) or (
            isinstance(body, (list, tuple)) and isinstance(key, int) and key < len(body)
        ):
            body = body[key]
        else:
            continue
        path.append(key)
    return path, body


def _owner(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that the last key of a location belongs to."""
    owner: type[BaseModel] | None = model
    for key in loc[:-1]:
        if owner is None:
            return None
        if isinstance(key, str) and key in owner.model_fields:
            owner = _model_in(owner.model_fields[key].annotation)
    return owner


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_model_in(argument) for argument in get_args(annotation)]
    found = [model for model in found if model is not None]
    return found[0] if len(found) == 1 else None


def _unknown(name: str, pointer: str, owner: type[BaseModel] | None, model: type[BaseModel]) -> Problem:
    fields = list(owner.model_fields) if owner else []
    near = nearest(name, fields)
    where = owner.__name__ if owner else model.__name__
    return Problem(
        f"{where} has no {shown(name)}.",
        pointer,
        received=shown(name),
        expected=f"one of {', '.join(fields)}" if fields else "no such member",
        fix=f"Did you mean {near[0]}?" if near else None,
    )


def _described(owner: type[BaseModel] | None, name: str) -> str | None:
    if owner is None or name not in owner.model_fields:
        return None
    return owner.model_fields[name].description or f"{owner.__name__} needs {name}"


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


def _other(item: Any, pointer: str) -> Problem:
    context = {key: str(value) for key, value in item.get("ctx", {}).items()}
    template = _EXPECTED.get(item["type"])
    expected = template.format(**context) if template else None
    detail = item["msg"].removeprefix("Value error, ")
    fix = None
    if item["type"] in ("literal_error", "union_tag_invalid"):
        allowed = context.get("expected_tags") or context["expected"].replace(" or ", ", ")
        near = nearest(context.get("tag", item["input"]), [part.strip("' ") for part in allowed.split(",")])
        fix = f"Did you mean {near[0]}?" if near else None
    name = item["loc"][-1] if item["loc"] else ""
    said = f"`{name}`: {detail}." if name != "" else f"{detail}."
    return Problem(said, pointer, received=shown(item["input"]), expected=expected, fix=fix)
