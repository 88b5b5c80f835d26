"""Findings, warnings and events have a Chinese text each. No browser."""

from __future__ import annotations

import json
import re

from fitserve.findings import RULES
from tests.conftest import PROJECT
from tests.dashboard.sentences import templates

PAGES = PROJECT / "services" / "dashboard" / "src" / "i18n"


def test_every_finding_warning_and_event_has_a_chinese_text() -> None:
    book = json.loads((PAGES / "zh.sentences.json").read_text())
    known = {**book["sentences"], **book["parts"]}
    written = templates()
    assert len(written) > 150, "the search for sentences finds none any more"
    assert {text: place for text, place in written.items() if text not in known} == {}
    for english, chinese in known.items():
        assert set(re.findall(r"\{\d+\}", chinese)) == set(re.findall(r"\{\d+\}", english)), english
    rules = re.findall(r"^  (\w+): \{ title", (PAGES / "zh.findings.ts").read_text(), re.MULTILINE)
    assert sorted(rules) == sorted(rule.name for rule in RULES)
