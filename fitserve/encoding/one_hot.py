"""`one_hot`: a 0/1 column for each label."""

from __future__ import annotations

from typing import Literal

from fitserve.dataset_facts import ColumnFacts
from fitserve.encoding.category import Category, CategoryColumn
from fitserve.encoding.encoding import Indicator


class OneHotColumn(CategoryColumn):
    """Unknown labels come first, unless they are refused; the indicator, if any, comes last."""

    encoding: OneHot
    integer = False

    @property
    def first(self) -> int:
        return int(self.encoding.unknown == "bucket")

    @property
    def missing_place(self) -> int | None:
        return self.width - 1 if self.encoding.indicator else None


class OneHot(Category):
    """A column for unknown values first (unless they are refused), then one for each category of the training rows."""

    column_class = OneHotColumn
    in_onnx = in_code = True

    type: Literal["one_hot"] = "one_hot"
    indicator: Indicator = None

    def width(self, facts: ColumnFacts) -> int:
        return int(self.unknown == "bucket") + self.categories(facts) + bool(self.indicator)
