"""The model card: what is recorded of a version, as Markdown and as HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from fitserve.client import Client
from fitserve.client.runs import Run
from fitserve.errors import BadInput, NotFound


class Headings(HTMLParser):
    """The texts of headings, and every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()
        self._in_heading = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self._in_heading = tag in ("h1", "h2")

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.found.append(data)
            self._in_heading = False


SECTIONS = ["Data", "Network", "Figures", "Calibration and intervals", "Where it is worse", "Groups", "Lineage"]


def test_a_card_says_what_is_recorded(client: Client, trained: Run) -> None:
    text = client.models.card("client-circle", 1)
    lines = text.splitlines()
    assert lines[0] == "# client-circle, version 1"
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == [*SECTIONS, "Live", "Spec"]
    dataset = client.datasets.get(trained.dataset)
    assert dataset.sha256 in text
    assert "| colour | categorical |" in text.replace("\\_", "_")
    own = (trained.evaluation().test or {})["side"]
    low, high = own["intervals"]["accuracy"]
    assert f"| accuracy | {own['accuracy']:.4g} | {low:.4g} to {high:.4g} |" in text
    assert "target: side" in text or "name: side" in text  # the spec as submitted

    page = Headings()
    page.feed(client.models.card("client-circle", 1, "html"))
    assert page.found == ["client-circle, version 1", *SECTIONS, "Live", "Spec"]
    assert not page.tags & {"script", "img", "link", "iframe"}


def test_names_are_no_markup(client: Client) -> None:
    table = b"a|<b>,`y*_\n" + b"1,no\n2,<i>yes</i>\n" * 30
    client.datasets.upload(table, "card-names")
    spec = {"dataset": "card-names", "target": "`y*_", "network": [{"Dense": 2}], "training": {"epochs": 1}}
    client.runs.create(spec, model="card-names").wait()
    assert r"| a\|\<b\> |" in client.models.card("card-names", 1)
    page = Headings()
    page.feed(client.models.card("card-names", 1, "html"))
    assert not page.tags & {"b", "i"}
    with pytest.raises(NotFound):
        client.models.card("card-names", 2)
    with pytest.raises(BadInput):
        client.models.card("card-names", 1, "pdf")  # type: ignore[arg-type]
