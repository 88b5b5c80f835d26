"""Stepwise reading is `json.loads`, and lets other threads run between the rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.predict.protocols import stepwise_json
from services.predict.protocols.formats import read_json
from services.predict.serving.protocol_request import LARGE_BODY_BYTES

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=12,
)


def outcome(read: Any, body: bytes) -> str:
    try:
        return repr(read(body))
    except (ValueError, RecursionError) as error:  # the words differ among versions of Python
        return type(error).__name__


@settings(max_examples=300, deadline=None)
@given(value=st.one_of(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), VALUES), data=st.data())
def test_any_text_is_read_as_by_json(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value, indent=data.draw(st.sampled_from([None, 1])), ensure_ascii=data.draw(st.booleans()))
    if data.draw(st.booleans()):  # damaged: a part is missing, or is something else
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 2)))
        damage = data.draw(st.sampled_from(["", ",", "]", "}", ":", '"', "NaN", " ", "\\", "[", "{", "x", "\x00"]))
        text = text[:start] + damage + text[end:]
    body = text.encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), "surrogatepass")
    assert outcome(stepwise_json.read_stepwise, body) == outcome(json.loads, body)


def test_a_large_body_with_nan_is_read_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"gre": 640, "city": "Rom" * 20}] * 5000
    body = json.dumps({"signature_name": "serving_default", "instances": [*rows, {"gre": float("nan")}]}).encode()
    assert len(body) > LARGE_BODY_BYTES
    longest, read = 0, stepwise_json._read_value

    def measured(text: str, start: int) -> tuple[Any, int]:
        nonlocal longest
        value, end = read(text, start)
        longest = max(longest, end - start)
        return value, end

    monkeypatch.setattr(stepwise_json, "_read_value", measured)
    assert read_json(body)["instances"][:5000] == rows
    assert 0 < longest < 200
