"""What a column's texts prove about how its times are written: the order of day, month and year."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fitserve.parsing.column_format import TimeFormat
from fitserve.parsing.times import FIRST_YEAR, match_time, read_moment

FEW_DAYS = 6  # least distinct first parts to distinguish days from two-digit years


@dataclass
class TimeEvidence:
    """What texts prove about the format of a column of times."""

    texts: int = 0
    times: Counter[str] = field(default_factory=Counter)  # texts that each order can read
    readable: int = 0  # texts that some order can read
    day_first: str | None = None  # a text that proves d/m/y
    month_first: str | None = None
    either: str | None = None  # a text that both orders can read, with different results
    short_years: bool = False  # years of two digits
    slashes: bool = False
    firsts: set[str] = field(default_factory=set)  # first parts of dates whose three parts have at most two digits
    lasts: set[str] = field(default_factory=set)
    odd: str = ""  # the first text that no order reads

    @property
    def years_are_first(self) -> bool:
        """Whether years of two digits come first: days differ more often than years do."""
        return len(self.lasts) >= FEW_DAYS and len(self.lasts) >= 2 * len(self.firsts)

    def order(self, prior: TimeFormat | None) -> TimeFormat:
        """Return the order that reads most texts; ties go to the proven one, then other columns', then the likelier."""
        most = max(self.times.values(), default=0)
        best = [order for order in ("ymd", "dmy", "mdy", "week") if most and self.times.get(order) == most]
        if "ymd" in best and (not self.short_years or self.years_are_first):
            return "ymd"
        if len(best) > 1:
            likely: TimeFormat = "mdy" if self.slashes else "dmy"
            wanted = prior if prior in best else likely
            return wanted if wanted in best else best[0]  # type: ignore[return-value]
        return best[0] if best else "ymd"  # type: ignore[return-value]


def evidence_of(texts: Mapping[str, int], first_year: int | None = None) -> TimeEvidence:
    """Return what some texts, and how often they occur, prove about the format of times."""
    evidence = TimeEvidence()
    first = first_year or FIRST_YEAR
    for written, count in texts.items():
        text = written.strip()
        evidence.texts += count
        readings: dict[str, datetime] = {}
        for order in ("ymd", "dmy", "mdy"):
            try:
                readings[order] = read_moment(text, order, first)
                evidence.times[order] += count
            except ValueError:
                continue
        if not readings:
            evidence.odd = evidence.odd or text
            continue
        evidence.readable += count
        parts = match_time(text)
        if "first" not in parts:
            evidence.short_years |= len(parts.get("year") or "") == 2
            continue
        if len(parts["first"]) == 4:
            continue
        evidence.short_years |= len(parts["last"]) == 2
        evidence.slashes |= parts["sign"] == "/"
        if len(parts["first"]) == 2 == len(parts["last"]):
            evidence.firsts.add(parts["first"])
            evidence.lasts.add(parts["last"])
        if "dmy" in readings and "mdy" not in readings:
            evidence.day_first = evidence.day_first or text
        elif "mdy" in readings and "dmy" not in readings:
            evidence.month_first = evidence.month_first or text
        elif readings.get("dmy") != readings.get("mdy"):
            evidence.either = evidence.either or text
    return evidence
