"""Read REST predict bodies of TensorFlow Serving, in row format (`instances`) or column format (`inputs`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fitserve.conformal import read_level
from fitserve.errors import Malformed
from services.predict.catalog.columns import Columns, InputRows
from services.predict.catalog.loaded_model import LoadedModel
from services.predict.catalog.row_bodies import ScalarRows
from services.predict.protocols.formats import read_cell, read_json, read_part, read_value
from services.predict.protocols.json_parts import PART_ELEMENTS, Value, find_members, should_divide
from services.predict.serving.protocol_request import LARGE_BODY_BYTES

SIGNATURES = ("", "serving_default")
_PREDICT_KEYS = frozenset({"signature_name", "instances", "inputs", "interval"})


def read_predict(
    model: LoadedModel, body: bytes, check_count: Callable[[int], None] = lambda rows: None
) -> tuple[InputRows, bool, float | None]:
    """Return the rows of a predict body, whether it is in row format (`instances`), and the level of `interval`.

    `check_count` may refuse the number of rows before they are read. Raises Malformed, BadInput, and any error of
    `check_count`.
    """
    is_large = len(body) > LARGE_BODY_BYTES
    if is_large and should_divide(body):
        return read_divided(model, body, check_count)
    known = _read_parts(model, body, check_count) if is_large else _read_known(model.columns, body)
    if known is not None:
        rows, interval = known
        return rows, True, None if interval is None else read_level(interval)
    value = read_object(body, _PREDICT_KEYS)
    _check_signature(value.get("signature_name"))
    _check_either(value)
    level = None if value.get("interval") is None else read_level(value["interval"])
    if "instances" in value:
        return InputRows(_instances(model, value["instances"])), True, level
    return _inputs(model, value["inputs"]), False, level


def read_divided(
    model: LoadedModel, body: bytes, check_count: Callable[[int], None] = lambda rows: None
) -> tuple[InputRows, bool, float | None]:
    """Return what `read_predict` does, of a body that is divided and read a part at a time."""
    members = divide_object(body, _PREDICT_KEYS)
    if "signature_name" in members:
        _check_signature(read_value(members["signature_name"]))
    _check_either(members)
    interval = read_value(members["interval"]) if "interval" in members else None
    level = None if interval is None else read_level(interval)
    if "instances" in members:
        return _divided_rows(model, members["instances"], check_count), True, level
    return _divided_inputs(model, members["inputs"], check_count), False, level


def _check_signature(name: Any) -> None:
    if (name or "") not in SIGNATURES:
        raise Malformed(f'Serving signature key "{str(name)[:63]}" not found.', expected="serving_default")


class _UnreadRows(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[msgspec.Raw]
    interval: float | bool | None = None
    signature_name: str | None = None


_find_rows = msgspec.json.Decoder(_UnreadRows).decode


def _read_parts(
    model: LoadedModel, body: bytes, check_count: Callable[[int], None]
) -> tuple[InputRows, float | bool | None] | None:
    """Return the rows and `interval` of a large body, read a few thousand rows at a time; None for other bodies.

    Other threads run between the parts.
    """
    try:
        raw = _find_rows(body)
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None
    except msgspec.DecodeError as error:
        raise Malformed(f"The body is not JSON: {error}.") from None
    _check_signature(raw.signature_name)
    check_count(len(raw.instances))
    parts = []
    for start in range(0, len(raw.instances), PART_ELEMENTS):
        part = b"[" + b",".join(raw.instances[start : start + PART_ELEMENTS]) + b"]"
        parts.append(_read_part_rows(model, part, start))
    return (InputRows.joined(parts), raw.interval) if parts else None


def _read_part_rows(model: LoadedModel, part: bytes, first: int) -> InputRows:
    """Return the rows that are a part of a request's, as a JSON list; `first` is the place of its first row."""
    known = _read_known(model.columns, b'{"instances":' + part + b"}")
    if known is not None:
        return known[0]
    rows = _instances(model, read_part(part, first), first)
    most = 2 * max(len(model.columns.names), len(model.columns.table)) + 100
    for number, row in enumerate(rows, first + 1):
        if len(row) > most:  # refused before further rows take memory
            expected = f"{len(model.columns.names)} values"
            raise Malformed(f"Row {number}: it has {len(row)} values.", expected=expected)
    return InputRows(rows)


def _check_either(members: Mapping[str, Any]) -> None:
    if ("instances" in members) == ("inputs" in members):
        raise Malformed("The body needs exactly one of `instances` and `inputs`.", received=sorted(members))


def _divided_rows(model: LoadedModel, listed: Value, check_count: Callable[[int], None]) -> InputRows:
    """Return the rows of a list, read a part at a time."""
    if not listed.is_list or not listed.count:
        raise Malformed("`instances` must be a list with at least one row.")
    check_count(listed.count)
    return InputRows.joined([_read_part_rows(model, part, first) for first, part in listed.parts()])


def _divided_inputs(model: LoadedModel, inputs: Value, check_count: Callable[[int], None]) -> InputRows:
    """Return the rows of `inputs`, which is a list of rows, an object of columns, or one row."""
    if inputs.is_list and (len(model.columns.names) == 1 or inputs.starts_with_list):
        return _divided_rows(model, inputs, check_count)
    if not inputs.is_object:  # one value, or one row
        width = max(len(model.columns.names), len(model.columns.table))
        if inputs.count > width:
            raise Malformed(f"`inputs` is one row of {inputs.count} values.", expected=f"{width} values, or rows")
        return _inputs(model, read_value(inputs))
    columns = inputs.members()
    for column in columns.values():
        check_count(column.count if column.is_list else 1)
    return _inputs(model, {name: read_value(column) for name, column in columns.items()})


def _read_known(columns: Columns, body: bytes) -> tuple[InputRows, float | bool | None] | None:
    """Return the rows and `interval` of a body of scalars, with the fastest reader that fits; None for other bodies.

    None also for invalid bodies: the general JSON reader then reports the error.
    """
    if columns.read_numbers is not None and columns.plain_numbers is not None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            numbers = columns.read_numbers(body)
            if numbers.instances:
                values = columns.matrix_of(numbers.instances)
                if columns.plain_numbers.are_exact(values):
                    return InputRows(values), numbers.interval
    if (by_column := columns.rows_reader.read(body)) is not None:
        return InputRows.by_column(columns.names, by_column[0]), by_column[1]
    if len(columns.names) > 1:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            scalars: Any = _read_scalars(body)
            if scalars.instances:  # no cell is a list or {"b64": ...}
                return InputRows(scalars.instances), scalars.interval
    return None


_read_scalars = msgspec.json.Decoder(ScalarRows).decode


def read_object(body: bytes, keys: frozenset[str]) -> dict[str, Any]:
    """Read a body that is an object, and return its members. Raises Malformed if some are not in `keys`."""
    value = read_json(body)
    _check_members(value if isinstance(value, dict) else None, keys)
    members: dict[str, Any] = value
    return members


def divide_object(body: bytes, keys: frozenset[str]) -> dict[str, Value]:
    """Do what `read_object` does, but leave the members unread."""
    members = find_members(body)
    _check_members(members, keys)
    assert members is not None
    return members


def _check_members(members: Mapping[str, Any] | None, keys: frozenset[str]) -> None:
    if members is None:
        raise Malformed("The body is not a JSON object.")
    if extra := members.keys() - keys:
        raise Malformed(f"The body has an unknown key {min(extra)[:63]!r}.", expected=", ".join(sorted(keys)))


def _instances(model: LoadedModel, instances: Any, first: int = 0) -> list[Any]:
    """Return the rows of `instances`, a list that is consumed; `first` is the number of its first row."""
    if not isinstance(instances, list) or not instances:
        raise Malformed("`instances` must be a list with at least one row.")
    names = model.columns.names
    rows: list[Any] = []
    for index, instance in enumerate(instances):
        instances[index] = None  # freeing many rows at once would block other threads
        if type(instance) is dict and not _is_coded_text(names, instance):
            whole = _whole_tensor(model, instance)
            if type(whole) is list and len(flat := _flat(whole, len(names))) == len(names):
                rows.append([read_cell(value) for value in flat])
            else:
                rows.append({name: read_cell(value) for name, value in instance.items()})
        elif type(instance) is list:
            rows.append([read_cell(value) for value in _flat(instance, len(names))])
        elif len(names) == 1:
            rows.append([read_cell(instance)])
        else:
            raise Malformed(
                f"instances[{first + index}] is neither an object nor a list.",
                expected=f"an object of columns, or a list of {len(names)} values",
            )
    return rows


def _is_coded_text(names: Sequence[str], value: dict[str, Any]) -> bool:
    """Return whether an object is the value of the model's only column, as base64, and no row by name."""
    return len(names) == 1 and value.keys() == {"b64"} and names[0] != "b64"


def _flat(instance: list[Any], width: int) -> list[Any]:
    """Return a row as one list: an image of 28 rows of 28 numbers is a row of 784 columns."""
    flat = instance
    while len(flat) < width and flat and all(type(part) is list for part in flat):
        flat = [value for part in flat for value in part]
    return flat if len(flat) == width else instance


def _whole_tensor(model: LoadedModel, tensors: dict[str, Any]) -> Any:
    """Return the only tensor of an object where no column has its name: it may hold all columns. None for others."""
    if len(tensors) != 1:
        return None
    ((name, tensor),) = tensors.items()
    try:
        model.columns.input_named(name)
    except KeyError:
        return tensor
    return None


def _is_matrix(tensor: Any, width: int) -> bool:
    return (
        type(tensor) is list
        and tensor != []
        and all(type(row) is list and len(_flat(row, width)) == width for row in tensor)
    )


def _inputs(model: LoadedModel, inputs: Any) -> InputRows:
    """Return the rows of the column format: an object of columns, or one unnamed tensor of rows."""
    names = model.columns.names
    if isinstance(inputs, dict) and not _is_coded_text(names, inputs):
        if not inputs:
            raise Malformed("`inputs` names no column.")
        if _is_matrix(whole := _whole_tensor(model, inputs), len(names)):
            return InputRows(_instances(model, whole))
        columns: dict[str, list[Any]] = {}
        left_out: dict[str, int] = {}
        for name, values in inputs.items():
            try:
                own = model.columns.input_named(name)
            except KeyError:
                detail = f"`inputs` has an unknown column {name[:63]!r}."
                raise Malformed(detail, expected=", ".join(names[:50])) from None
            if own is None:
                left_out[name] = len(_as_list(values))
            else:
                columns.setdefault(own, [read_cell(v) for v in _as_list(values)])
        if not columns:
            raise Malformed("`inputs` has none of the model's columns.", expected=", ".join(names[:50]))
        sizes = {name: len(values) for name, values in columns.items()}
        count = next(iter(sizes.values()))
        if len(set(sizes.values())) != 1 or not count:
            raise Malformed("The columns of `inputs` need the same number of rows, at least one.", received=sizes)
        ordered: list[Sequence[Any]] = [columns.get(name) or [None] * count for name in names]
        return InputRows.by_column(names, ordered, left_out)
    rows = _as_list(inputs)
    if len(names) > 1 and rows and not isinstance(rows[0], list):
        rows = [rows]
    return InputRows(_instances(model, rows))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
