"""Outcomes of an upload over HTTP: its answer and rows, or its refusal."""

from __future__ import annotations

from typing import Any

from tests.datasets.conftest import Api


def stored(
    api: Api, data: bytes, content_type: str | None = None, **options: Any
) -> tuple[dict[str, Any], list[list[Any]]]:
    """Upload a table, and return the dataset and its rows."""
    headers = {"Content-Type": content_type} if content_type else {}
    answer = api.ann.post("/datasets", content=data, params=options, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    rows = api.ann.get(f"/datasets/{answer.json()['id']}/rows", params={"limit": 10_000}).json()["rows"]
    return answer.json(), rows


def refusal(api: Api, data: bytes, **options: Any) -> dict[str, Any]:
    """Upload what is no table, and return the problem; nothing is left behind."""
    before = api.blobs()
    answer = api.ann.post("/datasets", content=data, params=options)
    assert 400 <= answer.status_code < 500, answer.text
    assert (api.blobs(), api.leftovers()) == (before, [])
    return answer.json()


def names(body: dict[str, Any]) -> list[str]:
    """Return the names of a dataset's columns."""
    return [column["name"] for column in body["columns"]]


def codes(body: dict[str, Any]) -> list[str]:
    """Return the codes of the notices about the file: those about a column's values are of other tests."""
    return [
        notice["code"] for notice in body["notices"] if notice["column"] is None or notice["code"].endswith("aside")
    ]
