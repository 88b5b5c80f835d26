"""Server-sent events: any cut of the bytes gives the same events."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.client.events import EventReader, ServerEvent

STREAM = (
    '\ufeff: a comment\r\nid: 1\r\nevent: state\r\ndata: {"a": \r\ndata:1}\r\n\r\n'
    "id: 2\rdata: später, 晚\r\rretry: 1500\nid\ndata\n\nevent: nothing\n\ndata: last\n\ndata: cut off"
).encode()
EVENTS = [
    ServerEvent('{"a": \n1}', "state", "1"),
    ServerEvent("später, 晚", "message", "2"),
    ServerEvent("", "message", ""),
    ServerEvent("last", "message", ""),
]


@given(st.lists(st.integers(0, len(STREAM))))
@settings(max_examples=200, deadline=None)
def test_events_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    reader = EventReader()
    bounds = [0, *sorted(cuts), len(STREAM)]
    events = [event for start, end in pairwise(bounds) for event in reader.feed(STREAM[start:end])]
    assert events == EVENTS
    assert reader.retry == 1.5
