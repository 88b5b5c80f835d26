"""The generated reference pages are current."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.tables import documents


@pytest.mark.parametrize(("path", "text"), documents().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_reference_page_is_current(path: Path, text: str) -> None:
    assert path.read_text() == text, "run: python -m docs.tables"
