"""Findings, warnings, events and the problems that pages meet have a Chinese text each. No browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

import services.control.app
from fitserve.dataset_facts import Kind
from fitserve.datasets.samples import SAMPLES
from fitserve.errors import FitserveError
from fitserve.findings import RULES
from fitserve.states import FailureCause
from tests.conftest import PROJECT
from tests.dashboard.sentences import problem_templates, templates

PAGES = PROJECT / "services" / "dashboard" / "src" / "i18n"

# Where errors are made that no page is answered with: commands, the client, and what starts the server.
ELSEWHERE = ("fitserve.cli.", "fitserve.client.", "fitserve.local_server", "services.up.")


def _below(kind: type) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield from (one, *_below(one))


def test_every_sentence_that_a_page_shows_has_a_chinese_text() -> None:
    book = json.loads((PAGES / "zh.sentences.json").read_text())
    known = {**book["sentences"], **book["parts"], **book["problems"]}
    written = templates()
    assert len(written) > 150, "the search for sentences finds none any more"
    assert {text: place for text, place in written.items() if text not in known} == {}
    assert {sample.info.title for sample in SAMPLES.values()} <= {*known}
    problems = problem_templates()
    assert len(problems) > 500, "the search for problems finds none any more"
    assert {text: place for text, place in problems.items() if text not in known} == {}
    for english, chinese in known.items():
        assert set(re.findall(r"\{\d+\}", chinese)) == set(re.findall(r"\{\d+\}", english)), english
    kinds = re.findall(r'"problem.of.([a-z-]+)":', (PAGES / "zh.system.ts").read_text())
    assert services.control.app, "its imports bring every kind of error that a page can be answered with"
    errors = [kind for kind in _below(FitserveError) if kind.__module__.startswith(("fitserve.", "services."))]
    answered = {kind.slug for kind in errors if not kind.__module__.startswith(ELSEWHERE)}
    assert answered <= {*kinds}
    assert {text for rule in RULES for text in (rule.title, rule.answer, rule.threshold)} <= {*known}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_cause_of_failure_and_every_kind_has_a_text(language: str) -> None:
    texts = (PAGES / f"{language}.ts").read_text()
    assert {*re.findall(r'"failure\.([a-z_]+)":', texts)} == {*FailureCause}
    assert {*re.findall(r'"kind\.([a-z_]+)":', texts)} == {*get_args(Kind)}
