"""JSON as the control API reads it."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitserve import strictjson
from fitserve.errors import Malformed

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.text('\\u0"')
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def test_both_halves_of_a_pair_are_one_character() -> None:
    assert strictjson.loads(rb'["\ud83d\ude00", "\\ud800"]') == ["\U0001f600", "\\ud800"]


@given(values)
def test_every_json_value_reads_back(value: object) -> None:
    assert strictjson.loads(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    try:
        strictjson.loads(data)
    except Malformed as error:
        assert error.status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"[1" + b"0" * 100_000 + b"]",
        b"1." + b"0" * 100_000,
        b'{"a": 1, "a": 2}',
        b'{"x": {"k": 1, "k": 1}}',
        b"\xff\xfe",
        b"[1,]",
        rb'["\u0000"]',
        rb'{"a\\\u0000": 1}',
        rb'["\ud800"]',
        rb'{"\uDfff": {"a": 1}}',
        rb'{"a": ["\ude00\ud83d"]}',
        b"",
        b'{"a": 1} trailing',
        b"\xef\xbb\xbf{}",
    ],
)
def test_it_refuses(data: bytes) -> None:
    with pytest.raises(Malformed):
        strictjson.loads(data)


def test_depth_is_counted_before_the_parser_recurses() -> None:
    assert strictjson.loads(b"[" * 64 + b"]" * 64) is not None
    for data in (b"[" * 65 + b"]" * 65, b"[" * 1_000_000, b'{"a":' * 1_000_000, b'["]' + b"[" * 70):
        with pytest.raises(Malformed):
            strictjson.loads(data)


def test_brackets_in_strings_do_not_count() -> None:
    text = "[" * 100 + '\\"' + "{" * 100
    assert strictjson.loads(json.dumps([text]).encode()) == [text]


def test_a_deep_body_takes_no_memory_to_refuse() -> None:
    data = b"[" * 1_000_000
    tracemalloc.start()
    with pytest.raises(Malformed):
        strictjson.loads(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
