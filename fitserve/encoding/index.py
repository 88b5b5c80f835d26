"""`index`: a label's integer, for an Embedding layer."""

from __future__ import annotations

from typing import Literal

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.category import Category, CategoryColumn


class IndexColumn(CategoryColumn):
    """0 is missing, 1 unknown; labels count from 2."""

    integer = True
    missing_place, unknown_place = 0, 1


class Index(Category):
    """An integer for an Embedding layer, an input of its own: 0 missing, 1 unknown, from 2 the categories."""

    column_class = IndexColumn
    most_places = 100_000
    in_onnx = in_code = True

    type: Literal["index"] = "index"

    def width(self, facts: ColumnFacts) -> int:
        return 1

    def cardinality(self, facts: ColumnFacts) -> int:
        return 2 + self.categories(facts)
