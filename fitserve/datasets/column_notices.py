"""Notices of how one column is read where it could be read otherwise, and of why it stays text.

Each names the option that decides otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from unicodedata import category

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import Storage
from fitserve.datasets.column_plan import HALF, MOSTLY, SHARE, FilePrior
from fitserve.datasets.column_texts import has_leading_zeros
from fitserve.parsing import ColumnFormat, numbers, times
from fitserve.parsing.column_format import PLAIN
from fitserve.parsing.numbers import NumberEvidence, is_known_unit
from fitserve.parsing.time_evidence import TimeEvidence
from fitserve.wire.notices import Notice

MAGNITUDES = frozenset(
    ("K", "k", "M", "B", "T", "mn", "bn", "Mio", "Mio.", "Mrd", "Mrd.", "Tsd", "Tsd.", "万", "億", "亿")
)


def note_numbers(
    name: str, texts: pa.Array, stated: ColumnFormat, format: ColumnFormat, evidence: NumberEvidence, doubt: str
) -> Iterable[Notice]:
    """Note how numbers are read where that is not evident; `doubt` is why their decimal sign was not proven."""
    option = f"formats.{name}"
    if doubt:
        sign = next(iter(evidence.either))
        example = evidence.either[sign][0].strip()
        read = as_read(example, format)
        other = "," if format.decimal == "." else "."
        yield Notice(
            code="decimal_sign",
            message=f"In {name!r}, {example} is read as {read}.",
            column=name,
            evidence=doubt,
            option=f"{option}.decimal={other}",
        )
    if format.units and not stated.units:
        example = next((text for text in texts[:100].to_pylist() if format.units[0] in text), "").strip()
        yield Notice(
            code="unit_left_out",
            message=f"In {name!r}, {example} is read as {as_read(example, format)}.",
            column=name,
            evidence=f"{sum(evidence.units.values())} of {evidence.texts} values have {format.units[0]}",
            option=f"kinds.{name}=categorical",
        )
    if evidence.comma and evidence.point:
        fewer = evidence.point if format.decimal == "," else evidence.comma
        yield Notice(
            code="decimal_sign",
            message=f"{name!r} has both decimal commas and decimal points; {format.decimal!r} is taken.",
            column=name,
            evidence=f"{next(iter(fewer)).strip()} says otherwise",
            option=f"{option}.decimal={',' if format.decimal == '.' else '.'}",
        )
    if evidence.dash:
        yield Notice(
            code="accounting_zero",
            message=f"In {name!r}, {evidence.dash} is read as 0.",
            column=name,
            evidence="it has the currency of the others, as where a spreadsheet writes 0",
            option=f"{option}.also_missing={evidence.dash}",
        )
    if evidence.negatives:
        example = evidence.negatives[0]
        yield Notice(
            code="accounting_negatives",
            message=f"In {name!r}, {example} is read as {as_read(example, format)}.",
            column=name,
            option=f"kinds.{name}=categorical",
        )
    if format.units and evidence.units and evidence.bare and not stated.units:
        yield Notice(
            code="some_without_unit",
            message=f"Some values of {name!r} have {format.units[0]}, others none; all are read alike.",
            column=name,
            evidence=f"{evidence.bare} of {evidence.texts} values have none",
            option=f"kinds.{name}=categorical",
        )


def note_times(
    name: str, stated: ColumnFormat, format: ColumnFormat, evidence: TimeEvidence, prior: FilePrior
) -> Iterable[Notice]:
    """Note how times are read where their texts do not prove it."""
    option = f"formats.{name}"
    proven = evidence.day_first or evidence.month_first
    decided = stated.time or prior.order
    if evidence.either and not proven and not decided and format.time in ("dmy", "mdy"):
        day = _day_of(evidence.either, format)
        yield Notice(
            code="day_or_month",
            message=f"In {name!r}, {evidence.either} is read as {day}.",
            column=name,
            evidence=prior.order_proof or "no value of the column has a day above 12",
            option=f"{option}.time={'dmy' if format.time == 'mdy' else 'mdy'}",
        )
    if evidence.day_first and evidence.month_first:
        odd = evidence.month_first if format.time == "dmy" else evidence.day_first
        yield Notice(
            code="day_or_month",
            message=f"{name!r} has days both before and after months; {format.time} is taken.",
            column=name,
            evidence=f"{odd} says otherwise",
            option=f"{option}.time={'dmy' if format.time == 'mdy' else 'mdy'}",
        )
    if format.time == "ymd" and not decided and (example := evidence.either or proven) and evidence.short_years:
        yield Notice(
            code="day_or_month",
            message=f"In {name!r}, {example} is read as {_day_of(example, format)}.",
            column=name,
            evidence="the first numbers are years: they differ less often than the last ones",
            option=f"{option}.time=dmy",
        )
    if evidence.short_years and not stated.first_year:
        yield Notice(
            code="two_digit_years",
            message=f"Years of two digits in {name!r} are read as {times.FIRST_YEAR} to {times.FIRST_YEAR + 99}.",
            column=name,
            option=f"{option}.first_year=1926",
        )


def note_unread_numbers(name: str, texts: pa.Array, evidence: NumberEvidence | None) -> list[Notice]:
    """Note a column of texts that are numbers, but for some of them or for what is written beside them."""
    if evidence is None or not evidence.texts or has_leading_zeros(texts):
        return []
    if evidence.behind == evidence.numbers:
        return []
    with_units = evidence.units and evidence.numbers >= SHARE * evidence.texts
    if with_units and (units := list(_note_unread_units(name, texts, evidence))):
        return units
    if evidence.bare < MOSTLY * evidence.texts:
        return []
    comma, point = next(iter(evidence.comma), ""), next(iter(evidence.point), "")
    if comma and point and not evidence.odd:
        message = f"{name!r} is left as text: some of its numbers have a decimal comma, others a point."
        why, option = f"{comma.strip()} and {point.strip()}", f"formats.{name}.decimal=,"
    else:
        odd = evidence.odd or next((text for text in texts.to_pylist() if as_read(text, PLAIN) == ""), "")
        return [note_odd_values(name, "float64", odd, evidence.bare, evidence.texts)]
    return [Notice(code="some_are_numbers", message=message, column=name, evidence=why, option=option)]


def _note_unread_units(name: str, texts: pa.Array, evidence: NumberEvidence) -> Iterable[Notice]:
    """Note a column of texts that are numbers with a unit that is not read."""
    units = [unit for unit, _ in evidence.units.most_common()]
    if (
        len(units) > 4
        or {*units} <= {"st", "nd", "rd", "th"}
        or any(unit[-1] in "<>≤≥~≈±=" for unit in units)
        or (len(units) > 1 and {*units} <= {*"NSEWO"})  # the sign of a coordinate, which is no unit
        or (evidence.prefixed and not all(map(is_known_unit, units)) and not _are_amounts(units, evidence))
    ):
        return
    example = next((text for text in texts[:1000].to_pylist() if units[0] in text), "").strip()
    listed = ", ".join(units)
    mixed = len(units) > 1
    if {*units} <= MAGNITUDES and (mixed or evidence.bare):  # 5 K alone may be a temperature
        yield Notice(
            code="magnitudes",
            message=f"{name!r} is left as text: its numbers have multipliers ({listed}), which are not read.",
            column=name,
            evidence=f"such as {example}; write them out to have numbers",
            option=f"kinds.{name}=categorical",
        )
        return
    yield Notice(
        code="mixed_units" if mixed else "unit_not_read",
        message=f"{name!r} is left as text, although its values are numbers with {listed}.",
        column=name,
        evidence=f"such as {example}" + ("; amounts in different units are not comparable" if mixed else ""),
        option=f"formats.{name}.units=" + (f'["{units[0]}", "{units[1]}"]' if mixed else units[0]),
    )


def note_unread_times(name: str, evidence: TimeEvidence | None) -> list[Notice]:
    """Note a column of texts that are times, but for some of them, or in different orders of day and month."""
    if evidence is None or not evidence.readable or evidence.readable < HALF * evidence.texts:
        return []
    if evidence.readable >= SHARE * evidence.texts and evidence.day_first and evidence.month_first:
        return [
            Notice(
                code="dates_disagree",
                message=f"{name!r} is left as text: no order of day and month reads its dates.",
                column=name,
                evidence=f"{evidence.day_first} and {evidence.month_first}",
                option=f"formats.{name}.time=dmy",
            )
        ]
    if not evidence.odd:
        return []
    return [note_odd_values(name, "timestamp", evidence.odd, evidence.readable, evidence.texts)]


def note_leading_zeros(name: str, texts: pa.Array) -> tuple[Notice, ...]:
    """Note that a column of numbers is text because some of them begin with zeros, as codes do."""
    codes = texts.filter(pc.match_substring_regex(texts, "^0[0-9]"))
    if not len(codes):
        return ()
    return (
        Notice(
            code="digits_kept",
            message=f"{name!r} stays text: as numbers, its values would lose the zeros that they begin with.",
            column=name,
            evidence=f"codes are written so, such as {codes[0].as_py()[:40]}",
            option=f"kinds.{name}=numeric",
        ),
    )


def note_odd_values(name: str, storage: Storage, odd: str, fit: int, values: int) -> Notice:
    """Note that a column is text although most of its values are numbers or times; `odd` is one that is neither."""
    is_time = storage == "timestamp"
    what = "times" if is_time else "numbers"
    return Notice(
        code="some_are_times" if is_time else "some_are_numbers",
        message=f"{name!r} is left as text: most of its values are {what}, but {odd.strip()[:40]!r} is none.",
        column=name,
        evidence=f"{fit} of {values} values are {what}",
        option=f"kinds.{name}={'datetime' if is_time else 'numeric'}",
    )


def keep_digits(name: str) -> dict[str, Any]:
    """Return what a plan says of whole numbers that stay text because float64 does not hold their digits."""
    notice = Notice(
        code="digits_kept",
        message=f"{name!r} stays text: as numbers, its values would lose digits.",
        column=name,
        evidence="whole numbers beyond 2^53 among values that int64 does not hold",
        option=f"kinds.{name}=numeric",
    )
    return {"notices": (notice,), "evidence": "numbers with more digits than float64 holds"}


def _are_amounts(units: Sequence[str], evidence: NumberEvidence) -> bool:
    """Return whether what stands before numbers is a currency's sign, or a word before fractions: Room 5 is a name."""
    have_fractions = bool(evidence.comma or evidence.point)
    return all(category(unit[-1]) == "Sc" or (have_fractions and unit[-1].isalpha()) for unit in units)


def as_read(text: str, format: ColumnFormat) -> str:
    """Return a number as it is read; "" where it is not read."""
    try:
        return f"{numbers.read_number(text, format):.15g}"
    except ValueError:
        return ""


def _day_of(text: str, format: ColumnFormat) -> str:
    return datetime.fromtimestamp(times.read_time(text, format), UTC).date().isoformat()
