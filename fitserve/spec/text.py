"""A spec's bytes, JSON or YAML, as plain values: bounded before anything is built.

YAML is read event by event with the core schema of YAML 1.2 (`no` and `on` are text, `1e-3` is a number), without
tags, without merge keys, each key once, under limits of depth, size, values and repeated anchors. Nothing is built
from it but mappings, lists, text, numbers, booleans and null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from fitserve import strictjson
from fitserve.errors import Malformed, UnsupportedMedia
from fitserve.settings import Limits
from fitserve.spec.spec import Spec, parse
from fitserve.validation import SpecRefused, shown

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
JSON_TYPES = ("application/json", "text/json")
YAML_BYTES = 256 * 1024
YAML_VALUES = 10_000  # scalars, lists and mappings, repeated ones counted each time
_INT = re.compile(r"[-+]?[0-9]{1,400}\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}\Z")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def parse_text(data: bytes, content_type: str = "application/json", limits: Limits | None = None) -> Spec:
    """A spec from JSON or YAML, as the content type says.

    Raises SpecRefused (422) for what nests too deep or is no spec, Malformed (400) for bytes that cannot be read,
    UnsupportedMedia (415) for any other content type.
    """
    limits = limits or Limits()
    return parse(values_of(data, content_type, limits), limits)


def values_of(data: bytes, content_type: str = "application/json", limits: Limits | None = None) -> Any:
    """Plain values from JSON or YAML. Raises as `parse_text`."""
    limits = limits or Limits()
    kind = content_type.partition(";")[0].strip().lower()
    if kind in JSON_TYPES or kind.endswith("+json"):
        return _json(data, limits)
    if kind in YAML_TYPES or kind.endswith("+yaml"):
        return read_yaml(data, limits.json_depth)
    raise UnsupportedMedia(
        "A spec is JSON or YAML.", received=shown(content_type), expected="application/json or application/yaml"
    )


def _json(data: bytes, limits: Limits) -> Any:
    if len(data) > limits.json_bytes:
        raise SpecRefused(
            f"A spec has at most {limits.json_bytes} bytes.",
            received=len(data),
            expected=f"at most {limits.json_bytes}",
        )
    try:
        return strictjson.loads(data, limits.json_depth)
    except Malformed as error:
        if "nests deeper" in error.detail:
            raise SpecRefused(error.detail, expected=error.expected) from None
        raise


def read_yaml(data: bytes, max_depth: int = 64) -> Any:
    """The one document of a YAML text. Raises SpecRefused above a limit, Malformed where it is no YAML."""
    if len(data) > YAML_BYTES:
        raise SpecRefused(
            f"A spec in YAML has at most {YAML_BYTES} bytes.", received=len(data), expected=f"at most {YAML_BYTES}"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("The body is not UTF-8.", received=f"byte {data[error.start]:#04x}") from None
    _shallow(text, max_depth)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Builder(yaml.parse(text, Loader=loader), max_depth).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Malformed(f"The body is not YAML: {error.problem or error.context}{where}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Malformed(f"The body is not YAML: {shown(str(error))}.") from None


_OPENING = re.compile(r"[\[{]{65}|(?:^|\n)(?:[ ]*[-?:] ){65}")


def _shallow(text: str, max_depth: int) -> None:
    """Refuse the crudest bombs before the scanner sees them: it looks ahead further than events are taken."""
    if max_depth <= 64 and _OPENING.search(text):
        raise SpecRefused(f"The spec nests deeper than {max_depth} levels.", expected=f"at most {max_depth} levels")


class _Builder:
    """Values from events. Recursion is bounded by the depth limit."""

    def __init__(self, events: Iterator[Any], max_depth: int) -> None:
        self.events = events
        self.max_depth = max_depth
        self.values = 0
        self.anchors: dict[str, tuple[Any, int]] = {}

    def document(self) -> Any:
        """The only document; None where there is none."""
        value: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Malformed("A spec is one YAML document.", received="a second document")
                value = self._value(next(self.events), 1)
        return value

    def _count(self, n: int, event: Any) -> None:
        self.values += n
        if self.values > YAML_VALUES:
            detail = f"A spec in YAML has at most {YAML_VALUES} values, repeated ones counted each time."
            raise SpecRefused(detail, fix="Send it as JSON.", **_at(event))

    def _value(self, event: Any, depth: int) -> Any:
        if depth > self.max_depth:
            raise SpecRefused(
                f"The spec nests deeper than {self.max_depth} levels.", expected=f"at most {self.max_depth} levels"
            )
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise Malformed(f"There is no anchor &{event.anchor} before *{event.anchor}.", **_at(event))
            value, size = self.anchors[event.anchor]
            self._count(size, event)
            return value
        before = self.values
        self._count(1, event)
        if event.tag not in (None, "!"):
            raise Malformed("A spec has no YAML tags.", received=shown(event.tag), **_at(event))
        value = self._untagged(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, self.values - before)
        return value

    def _untagged(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        found: dict[str, Any] = {}
        for key_event in self._until(yaml.MappingEndEvent):
            key = self._key(key_event)
            if key in found:
                raise Malformed("A key stands twice in one mapping.", received=shown(key), **_at(key_event))
            found[key] = self._value(next(self.events), depth + 1)
        return found

    def _until(self, end: type[Any]) -> Iterator[Any]:
        for event in self.events:
            if isinstance(event, end):
                return
            yield event

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
            raise Malformed("A key is plain text.", **_at(event))
        if event.value == "<<" and not event.style:
            raise Malformed("A spec has no merge keys (<<).", **_at(event))
        return str(event.value)


def _at(event: Any) -> dict[str, Any]:
    return {"line": event.start_mark.line + 1}


def _scalar(event: Any) -> Any:
    """A plain scalar by YAML 1.2's core schema; quoted and block scalars are text."""
    text: str = event.value
    if event.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    if _HEX.match(text):
        return int(text, 16)
    if _FLOAT.match(text):
        value = float(text)
        if not math.isfinite(value):
            raise Malformed("A number is out of range.", received=shown(text), **_at(event))
        return value
    if text.lower().lstrip("+-") in (".inf", ".nan"):
        raise Malformed("A spec has finite numbers only.", received=text, **_at(event))
    return text
