"""CHANGELOG.md has a section for each release, the newest first, and what is not released before them."""

from __future__ import annotations

import re
from datetime import date

from fitserve import __version__
from tests.conftest import PROJECT

TITLES = re.findall(r"^## (.*)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_releases_are_listed_newest_first() -> None:
    numbers = []
    for title in TITLES[TITLES[0] == "Unreleased" :]:
        version, _, day = title.partition(" - ")
        assert date.fromisoformat(day).year >= 2026, title
        numbers.append(tuple(int(part) for part in version.split(".")))
    assert numbers == sorted(numbers, reverse=True)


def test_this_version_is_released_or_in_the_making() -> None:
    assert TITLES[0] == "Unreleased" or TITLES[0].startswith(f"{__version__} - ")
