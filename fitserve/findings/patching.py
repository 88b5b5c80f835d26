"""JSON Patch (RFC 6902) on JSON values."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fitserve.errors import BadInput


class PatchRefused(BadInput):
    """The patch does not fit this document."""

    slug = "patch-refused"
    title = "The patch is refused"


def apply_patch(document: Any, patch: Sequence[Mapping[str, Any]]) -> Any:
    """A changed copy of `document`. Raises PatchRefused, and then nothing of the patch is applied."""
    changed = copy.deepcopy(document)
    for number, operation in enumerate(patch):
        try:
            changed = _apply(changed, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise PatchRefused(
                f"Operation {number} of the patch does not fit: {operation.get('op')} {operation.get('path')}.",
                pointer=f"/{number}",
                received=dict(operation),
                expected="an operation of RFC 6902 on a place that exists",
            ) from error
    return changed


def _apply(document: Any, operation: Mapping[str, Any]) -> Any:
    op, path = operation["op"], _parts(operation["path"])
    if op == "test":
        if _at(document, path) != operation["value"]:
            raise ValueError("the test fails")
        return document
    if op in ("move", "copy"):
        source = _parts(operation["from"])
        value = copy.deepcopy(_at(document, source))
        if op == "move":
            if path[: len(source)] == source and path != source:
                raise ValueError("a value cannot move into itself")
            document = _remove(document, source)
        return _add(document, path, value)
    if op == "remove":
        return _remove(document, path)
    if op == "add":
        return _add(document, path, copy.deepcopy(operation["value"]))
    if op == "replace":
        _at(document, path)
        return _set(document, path, copy.deepcopy(operation["value"]))
    raise ValueError(f"no operation {op!r}")


def _parts(pointer: str) -> list[str]:
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise ValueError("a JSON Pointer begins with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]


def _key(container: Any, part: str, length: int) -> Any:
    if isinstance(container, dict):
        return part
    if not isinstance(container, list):
        raise KeyError(part)
    if not part.isascii() or not part.isdigit() or (part != "0" and part[0] == "0") or int(part) >= length:
        raise IndexError(part)
    return int(part)


def _at(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        document = document[_key(document, part, len(document))]
    return document


def _set(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    holder = _at(document, path[:-1])
    holder[_key(holder, path[-1], len(holder))] = value
    return document


def _add(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    holder = _at(document, path[:-1])
    if isinstance(holder, list):
        at = len(holder) if path[-1] == "-" else _key(holder, path[-1], len(holder) + 1)
        holder.insert(at, value)
        return document
    return _set(document, path, value)


def _remove(document: Any, path: Sequence[str]) -> Any:
    holder = _at(document, path[:-1])
    del holder[_key(holder, path[-1], len(holder))]
    return document
