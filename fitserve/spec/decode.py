"""Decode a spec from JSON or YAML to plain values; limits are checked before memory is allocated.

YAML is read with the core schema of YAML 1.2 (`no` and `on` are text, `1e-3` is a number), without tags and merge
keys, each key once, within limits of depth, size, values and repeated anchors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from fitserve import strictjson
from fitserve.errors import Malformed, UnsupportedMedia
from fitserve.excerpts import excerpt
from fitserve.settings import Limits
from fitserve.spec.spec import Spec, SpecRefused, parse

try:
    from yaml.cyaml import CParser as EventParser  # type: ignore[attr-defined]
except ImportError:  # PyYAML built without libyaml

    class EventParser(Reader, Scanner, Parser):  # type: ignore[no-redef]
        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)


YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
JSON_TYPES = ("application/json", "text/json")
YAML_BYTES = 256 * 1024
YAML_VALUES = 10_000  # scalars, lists and mappings; those repeated by an alias count each time


def parse_bytes(data: bytes, content_type: str = "application/json", limits: Limits | None = None) -> Spec:
    """Parse a JSON or YAML body as a spec. Raises SpecRefused with every problem, and the errors of `decode`."""
    return parse(decode(data, content_type, limits), limits)


def decode(data: bytes, content_type: str = "application/json", limits: Limits | None = None) -> Any:
    """Return the plain values of a JSON or YAML body, as its content type says.

    Raises SpecRefused (422) for a body beyond a limit, Malformed (400) for bytes that cannot be read, UnsupportedMedia
    (415) for any other content type.
    """
    limits = limits or Limits()
    kind = content_type.partition(";")[0].strip().lower()
    if kind in JSON_TYPES or kind.endswith("+json"):
        return _decode_json(data, limits)
    if kind in YAML_TYPES or kind.endswith("+yaml"):
        return _decode_yaml(data, limits.json_depth)
    raise UnsupportedMedia(
        "A spec is JSON or YAML.", received=excerpt(content_type), expected="application/json or application/yaml"
    )


def _check_size(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise SpecRefused(f"A spec has at most {limit} bytes.", received=len(data), expected=f"at most {limit}")


def _decode_json(data: bytes, limits: Limits) -> Any:
    _check_size(data, limits.json_bytes)
    try:
        return strictjson.loads(data, limits.json_depth)
    except strictjson.TooDeep as error:
        raise SpecRefused(error.detail, expected=error.expected) from None


def _decode_yaml(data: bytes, max_depth: int) -> Any:
    _check_size(data, YAML_BYTES)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("The body is not UTF-8.", received=f"byte {data[error.start]:#04x}") from None
    if max_depth <= 64 and _NESTED.search(text):
        raise _too_deep(max_depth)
    try:
        return SpecLoader(text, max_depth).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Malformed(f"The body is not YAML: {error.problem or error.context}{where}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Malformed(f"The body is not YAML: {excerpt(str(error))}.") from None


# More than 64 levels in a row: PyYAML's scanner would read through all of them before it emits an event.
_NESTED = re.compile(r"[\[{]{65}|(?:^|\n)(?:[ ]*+[-?:] ){65}")


def _too_deep(max_depth: int) -> SpecRefused:
    return SpecRefused(f"The spec nests deeper than {max_depth} levels.", expected=f"at most {max_depth} levels")


def _scalar(tag: str, event: Any) -> ScalarNode:
    return ScalarNode(tag, event.value, event.start_mark, event.end_mark)


def _check_text(event: Any) -> None:
    if "\0" in event.value:
        raise strictjson.no_nul(**_line(event))


def _line(event: Any) -> dict[str, Any]:
    return {"line": event.start_mark.line + 1}


_PLAIN = "plain"  # our tag for every unquoted scalar
_TEXT = Resolver.DEFAULT_SCALAR_TAG
_INT = re.compile(r"[-+]?[0-9]{1,400}\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]++|[0-9]++(\.[0-9]*+)?)([eE][-+]?[0-9]{1,4})?\Z")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class SpecLoader(Composer, EventParser, SafeConstructor, Resolver):
    """PyYAML's safe loader, limited while it composes: before values are made, and before aliases multiply them."""

    def __init__(self, text: str, max_depth: int) -> None:
        EventParser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self.max_depth = max_depth
        self.depth = 0
        self.values = 0
        self.sizes: dict[str, int] = {}  # number of values below each completed anchor

    def get_single_node(self) -> Node | None:
        node = self.get_node() if self.check_node() else None
        if self.check_node():
            raise Malformed("A spec is one YAML document.", received="a second document")
        return node

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()
        if index is None and isinstance(parent, MappingNode):
            return self._compose_key(self.get_event())
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor not in self.sizes:
                raise Malformed(f"There is no anchor &{anchor} before *{anchor}.", **_line(event))
            self._count(self.sizes[anchor], event)
            self.get_event()
            return self.anchors[anchor]
        if event.tag is not None and event.tag != "!":
            raise Malformed("A spec has no YAML tags.", received=excerpt(event.tag), **_line(event))
        self._count(1, event)
        before = self.values
        self.sizes.pop(anchor, None)  # unknown until the anchor is complete, so that no value can contain itself
        if self.depth == self.max_depth:
            raise _too_deep(self.max_depth)
        self.depth += 1
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            self.get_event()
            _check_text(event)
            node = self.anchors[anchor] = _scalar(_TEXT if event.style else _PLAIN, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.compose_sequence_node(anchor)
        else:
            node = self.compose_mapping_node(anchor)
        self.depth -= 1
        if anchor is not None:
            self.sizes[anchor] = 1 + self.values - before
        return node

    def _count(self, values: int, event: Any) -> None:
        self.values += values
        if self.values > YAML_VALUES:
            detail = f"A spec in YAML has at most {YAML_VALUES} values, repeated ones counted each time."
            raise SpecRefused(detail, fix="Send it as JSON.", **_line(event))

    def _compose_key(self, event: Any) -> Node:
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
            raise Malformed("A key is plain text.", **_line(event))
        if event.value == "<<" and not event.style:
            raise Malformed("A spec has no merge keys (<<).", **_line(event))
        _check_text(event)
        return _scalar(_TEXT, event)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key, value in node.value:
            if key.value in mapping:
                raise Malformed("A mapping has the same key twice.", received=excerpt(key.value), **_line(key))
            mapping[key.value] = self.construct_object(value, deep=deep)
        return mapping

    def construct_plain(self, node: ScalarNode) -> Any:
        text: str = node.value
        if text in _WORDS:
            return _WORDS[text]
        if _INT.match(text):
            return int(text)
        if _HEX.match(text):
            return int(text, 16)
        if _FLOAT.match(text):
            if not math.isfinite(number := float(text)):
                raise Malformed("A number is out of range.", received=excerpt(text), **_line(node))
            return number
        if text.lower().lstrip("+-") in (".inf", ".nan"):
            raise Malformed("A spec has finite numbers only.", received=text, **_line(node))
        return text

    yaml_constructors: ClassVar[dict[Any, Any]] = {**SafeConstructor.yaml_constructors, _PLAIN: construct_plain}
