"""The reference tables are the code's own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.tables import documents


@pytest.mark.parametrize(("path", "text"), documents().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_reference_table_is_current(path: Path, text: str) -> None:
    assert path.read_text() == text, "run: python -m docs.tables"
