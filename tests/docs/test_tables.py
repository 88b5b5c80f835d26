"""The generated reference pages are current."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from docs.tables import PAGES, type_name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_reference_page_is_current(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "run: python -m docs.tables"


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (int, "int"),
        (Path, "Path"),
        (Path | None, "Path or None"),
        (Optional[Path], "Path or None"),  # noqa: UP045 (Python 3.14 has one class for both)
        (Literal["a", "b"], "`a` or `b`"),
        (dict[str, int | None], "dict[str, int or None]"),
        (Any, "Any"),
    ],
)
def test_types_have_the_same_name_on_every_python(annotation: Any, name: str) -> None:
    assert type_name(annotation) == name
