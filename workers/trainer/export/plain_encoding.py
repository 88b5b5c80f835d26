"""Code of an exported script that encodes columns: for each encoding its calls, and the functions they need.

The functions compute in the same order as the encoder, so that the numbers are the same to the bit.
"""

from __future__ import annotations

import pprint
import re
import textwrap
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa

from fitserve.encoder import Encoder
from fitserve.encoding.cyclic import DAY, YEAR
from fitserve.encoding.robust import BOUND, LARGE

Calls = Callable[[Any, pa.DataType], Iterator[str]]  # takes a FittedColumn and its type in the table

CALLS: dict[str, Calls] = {}  # by the encoding's name
_LINE = 100  # characters


def inputs(encoder: Encoder, types: pa.Schema) -> Iterator[str]:
    """Return the lines that make the network's inputs of a table with these types."""
    yield "inputs = {"
    for one in encoder.inputs:
        columns = sorted((c for c in encoder.columns if c.input == one.name), key=lambda column: column.offset)
        yield f"    {one.name!r}: np.hstack(["
        for column in columns:
            for call in CALLS[column.encoding.type](column, types.field(column.name).type):
                yield textwrap.indent(f"{call},", " " * 8)
            if getattr(column.encoding, "indicator", False):
                yield f"        missing({column.name!r}),"
        yield f'    ]).astype("{one.dtype}"),'
    yield "}"


def functions_for(calls: str) -> str:
    """Return the functions that are called, and those that these call."""
    text, used = calls, set[str]()
    while found := {name for name in FUNCTIONS if re.search(rf"\b{name}\(", text)} - used:
        used |= found
        text = "".join(FUNCTIONS[name] for name in found)
    return "\n\n".join(FUNCTIONS[name] for name in FUNCTIONS if name in used)


def values_of(name: str, kind: pa.DataType) -> str:
    """Return the expression for a column whose values are labels."""
    return f"data[{name!r}]" if _is_plain(kind) else f"texts({name!r})"


def label(text: str, kind: pa.DataType) -> Any:
    """Return a label as it appears in the values of `values_of`."""
    if pa.types.is_boolean(kind):
        return text.lower() == "true"
    if pa.types.is_integer(kind):
        return int(Decimal(text))
    return float(text) if pa.types.is_floating(kind) else text


def _is_plain(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer)
    ) or pa.types.is_floating(kind)


def _texts(name: str, kind: pa.DataType) -> str:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return f"data[{name!r}]" if is_text else f"texts({name!r})"


def _numbers(name: str, kind: pa.DataType) -> str:
    is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    return f"{'seconds' if is_time else 'numbers'}({name!r})"


def _call(function: str, *arguments: Any) -> str:
    """Return a call with these arguments, a text as it is; a long one has each argument in a line of its own."""
    texts = [argument if isinstance(argument, str) else _listed(argument) for argument in arguments]
    line = f"{function}({', '.join(texts)})"
    if len(line) <= _LINE and "\n" not in line:
        return line
    return f"{function}(\n" + "".join(textwrap.indent(f"{text},\n", "    ") for text in texts) + ")"


def _listed(value: Any) -> str:
    """Return a number or a list of constants as code, a long list in several lines."""
    if not isinstance(value, list | tuple):
        return repr(value)
    text = pprint.pformat(list(value), width=_LINE, compact=True)
    return text if "\n" not in text else "[\n" + textwrap.indent(textwrap.dedent(f" {text[1:-1]}"), "    ") + ",\n]"


def _own_width(column: Any) -> int:
    return int(column.width) - bool(getattr(column.encoding, "indicator", False))


# --- the calls -----------------------------------------------------------------------------------------------------


def _written(*names: str) -> Callable[[Calls], Calls]:
    def register(calls: Calls) -> Calls:
        CALLS.update(dict.fromkeys(names, calls))
        return calls

    return register


@_written("standardize", "min_max", "pass_through", "log", "robust")
def _scaled(column: Any, kind: pa.DataType) -> Iterator[str]:
    name, fitted = column.encoding.type, column.fitted
    function = name if name in ("log", "robust") else "number"
    yield _call(function, _numbers(column.name, kind), fitted["center"], fitted["scale"], fitted["fill"])


@_written("periodic")
def _periodic(column: Any, kind: pa.DataType) -> Iterator[str]:
    fitted = column.fitted
    yield _call("periodic", _numbers(column.name, kind), fitted["center"], fitted["scale"], fitted["frequencies"])


@_written("piecewise_linear")
def _bins(column: Any, kind: pa.DataType) -> Iterator[str]:
    yield _call("bins", _numbers(column.name, kind), column.fitted["edges"], _own_width(column))


@_written("quantile")
def _quantile(column: Any, kind: pa.DataType) -> Iterator[str]:
    if column.bins:
        fitted = column.fitted
        yield _call("quantile", _numbers(column.name, kind), fitted["edges"], fitted["scores"], fitted["fill"])
    else:
        yield "np.zeros((len(data), 1))"


@_written("cyclic")
def _cyclic(column: Any, kind: pa.DataType) -> Iterator[str]:
    yield from (f"waves({part}({_numbers(column.name, kind)}))" for part in column.encoding.parts)


@_written("boolean")
def _boolean(column: Any, kind: pa.DataType) -> Iterator[str]:
    true = column.fitted["true"]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        true = "1" if true == "true" else true
    yield _call("one_hot", values_of(column.name, kind), [label(true, kind)])


@_written("one_hot")
def _one_hot(column: Any, kind: pa.DataType) -> Iterator[str]:
    labels = [label(text, kind) for text in column.fitted["labels"]]
    unknown = column.encoding.unknown == "bucket"
    if labels or unknown:
        yield _call("one_hot", values_of(column.name, kind), labels, *(["unknown=True"] if unknown else []))
    if (left := _own_width(column) - len(labels) - unknown) > 0:
        yield f"np.zeros((len(data), {left}))"


@_written("index")
def _index(column: Any, kind: pa.DataType) -> Iterator[str]:
    yield _call("indices", values_of(column.name, kind), [label(text, kind) for text in column.fitted["labels"]])


@_written("hashing")
def _hashing(column: Any, kind: pa.DataType) -> Iterator[str]:
    mode = "int" if column.integer else "one_hot"
    yield _call("hashing", _texts(column.name, kind), column.encoding.bins, column.encoding.salt, repr(mode))


@_written("multi_hot", "counts", "tf_idf", "sequence")
def _tokens(column: Any, kind: pa.DataType) -> Iterator[str]:
    name = column.encoding.type
    mode = {"counts": "count", "sequence": "int"}.get(name, name)
    options = [f"split={column.encoding.tokens!r}", f"output_mode={mode!r}"]
    if name == "sequence":
        options += [f"output_sequence_length={column.width}"]
    else:
        options += [f"max_tokens={column.width}", "pad_to_max_tokens=True"]
    if name == "tf_idf":
        options += [f"idf_weights={_listed(column.fitted['idf'] or [0.0])}"]
    yield _call("tokens", _texts(column.name, kind), column.keras_vocabulary, *options)


# --- the functions, as a person would write them -------------------------------------------------------------------

FUNCTIONS = {
    "numbers": '''def numbers(name):
    """Return a column as numbers, NaN where one is missing."""
    return data[name].astype("float64").to_numpy(na_value=np.nan)
''',
    "seconds": '''def seconds(name):
    """Return a column's times as seconds since 1970, UTC; NaN where one is missing."""
    times = data[name].to_numpy("datetime64[us]")
    return np.where(np.isnat(times), np.nan, times.astype("int64") / 1e6)
''',
    "texts": '''def texts(name):
    """Return a column's values as texts: 3.0 as "3", true as "true", a time as in ISO 8601."""

    def text(value):
        if hasattr(value, "isoformat"):
            return value.isoformat()
        if hasattr(value, "normalize"):  # a decimal number
            return str(int(value)) if value == int(value) else f"{value:f}".rstrip("0")
        if isinstance(value, bool):
            return str(value).lower()
        return str(int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e16 else value)

    return pd.Series([None if pd.isna(value) else text(value) for value in data[name].to_list()], dtype=object)
''',
    "number": '''def number(values, center, scale, missing):
    """Scale numbers by constants of the training rows."""
    return (np.where(np.isnan(values), missing, values)[:, None] - center) / scale
''',
    "log": '''def log(values, center, scale, missing):
    """Return the logarithm of each number's size, with the number's sign."""
    values = np.where(np.isnan(values), missing, values)[:, None]
    return (np.sign(values) * np.log1p(np.abs(values)) - center) / scale
''',
    "robust": f'''def robust(values, center, scale, missing):
    """Scale numbers and bound them smoothly by {BOUND:g}."""
    values = np.clip(number(values, center, scale, missing), -{LARGE:g}, {LARGE:g})
    return values / np.sqrt((values / {BOUND:g}) ** 2 + 1)
''',
    "periodic": '''def periodic(values, center, scale, frequencies):
    """Return sines and cosines of numbers at several frequencies; zeros where a number is missing."""
    angles = robust(values, center, scale, center) * (2 * np.pi * np.array(frequencies))
    return np.hstack([np.sin(angles), np.cos(angles)]) * ~np.isnan(values)[:, None]
''',
    "bins": '''def bins(values, edges, width):
    """Return the share of each bin that a number has passed; zeros where it is missing."""
    values, edges = values[:, None], np.array(edges)
    shares = np.clip((np.nan_to_num(values) / 2 - edges[:-1] / 2) / np.diff(edges / 2), 0, 1) * ~np.isnan(values)
    return np.pad(shares, ((0, 0), (0, width - shares.shape[1])))
''',
    "quantile": '''def quantile(values, edges, scores, missing):
    """Return the normal score of a number's rank in the training rows; 0 where it is missing."""
    halves, edges, scores = np.where(np.isnan(values), missing, values) / 2, np.array(edges) / 2, np.array(scores)
    place = np.searchsorted(edges[1:-1], halves, side="right")
    share = np.clip((halves - edges[place]) / np.diff(edges)[place], 0, 1)
    return np.where(np.isnan(values), 0, scores[place] + np.diff(scores)[place] * share)[:, None]
''',
    "time_of_day": f'''def time_of_day(seconds):
    """Return the share of the day that has passed."""
    return seconds / {DAY:g} % 1
''',
    "weekday": f'''def weekday(seconds):
    """Return the share of the week that has passed; Monday is 0."""
    return (np.floor(seconds / {DAY:g}) + 3) % 7 / 7
''',
    "day_of_month": f'''def day_of_month(seconds):
    """Return the days of the month that have passed, as a share of 31."""
    days = np.nan_to_num(np.floor(seconds / {DAY:g})).astype("datetime64[D]")
    return np.where(np.isnan(seconds), np.nan, (days - days.astype("datetime64[M]")).astype("float64") / 31)
''',
    "time_of_year": f'''def time_of_year(seconds):
    """Return the share of a year of {YEAR} days that has passed."""
    return seconds / {DAY:g} / {YEAR} % 1
''',
    "waves": '''def waves(share):
    """Return sine and cosine of a share of a cycle; zeros where it is missing."""
    angles = share[:, None] * (2 * np.pi)
    return np.nan_to_num(np.hstack([np.sin(angles), np.cos(angles)]))
''',
    "one_hot": '''def one_hot(values, labels, unknown=False):
    """Return a column for each label, after one for other labels if there is one."""
    known = [(values == label).fillna(False).to_numpy(bool) for label in labels]
    known = np.stack([np.zeros(len(data), bool), *known], axis=1)
    known[:, 0] = ~known.any(axis=1) & values.notna().to_numpy()
    return known if unknown else known[:, 1:]
''',
    "missing": '''def missing(name):
    """Return whether each value is missing."""
    return data[name].isna().to_numpy()[:, None]
''',
    "indices": '''def indices(values, labels):
    """Return each label's number, from 2; 0 where it is missing, 1 for other labels."""
    places = {label: place for place, label in enumerate(labels, 2)}
    return np.array([0 if pd.isna(value) else places.get(value, 1) for value in values.to_list()])[:, None]
''',
    "hashing": '''def hashing(values, bins, salt, mode):
    """Return the bin of each label's hash; 0 where it is missing."""
    hashed = keras.layers.Hashing(bins, mask_value="", salt=salt, output_mode=mode)
    return hashed(tf.constant(values.fillna("").to_list())[:, None]).numpy()
''',
    "tokens": '''def tokens(values, vocabulary, **options):
    """Return each text as its tokens' numbers, counts or weights."""
    vectorized = keras.layers.TextVectorization(vocabulary=vocabulary, **options)
    return vectorized(tf.constant(values.fillna("").to_list())[:, None]).numpy().reshape(len(data), -1)
''',
}
