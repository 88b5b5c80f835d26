"""Notices about one column: an ambiguous reading, the reason why it stays text, unusual values.

Each notice names the option that changes the decision. Notices never change a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any
from unicodedata import category

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import Storage
from fitserve.datasets.column_plan import HALF, MOSTLY, SHARE, FilePrior
from fitserve.parsing import ColumnFormat, numbers, times
from fitserve.parsing.column_format import PLAIN
from fitserve.parsing.missing import may_be_missing
from fitserve.parsing.numbers import NumberEvidence, has_leading_zeros, is_known_unit
from fitserve.parsing.time_evidence import TimeEvidence
from fitserve.wire.notices import Notice

MAGNITUDES = frozenset(
    ("K", "k", "M", "B", "T", "mn", "bn", "Mio", "Mio.", "Mrd", "Mrd.", "Tsd", "Tsd.", "万", "億", "亿")
)
# Numbers that stand for missing values in tables. One that is also an ordinary value must be further from the others.
PLACEHOLDERS = frozenset(
    sign * number
    for number in (*(10**digits - 1 for digits in range(1, 10)), 99.9, 99.99, 999.9, 999.99, 9999.9, 9999.99)
    for sign in (1, -1)
) | {0, -1, -2, -7, -8, -88, -888, -8888, -32768, -999.25, 8888, 88888, 1e20, 1e30, -1e30, -2147483648}
# least distinct values besides the placeholder; with fewer they are codes, and -1 or 9 may be one of them
FEWEST_OTHERS = 10
LEAST_DISTANCE = (
    0.2  # least distance, as a share of the other values' range; a single negative number always counts as apart
)
RAREST = 0.002  # least share of the rows; a single extreme value is an outlier
# Days since 1970 that programs write for a missing date.
DATES = frozenset(
    (date(*one) - date(1970, 1, 1)).days
    for one in (
        *((1, 1, 1), (1753, 1, 1), (1899, 12, 30), (1899, 12, 31), (1900, 1, 1), (1970, 1, 1)),
        *((2099, 12, 31), (2199, 12, 31), (2999, 12, 31), (3000, 1, 1), (9999, 12, 31), (9999, 1, 1)),
    )
)
FOOTNOTE_SIGNS = "*†‡§¶#¹²³⁰⁴⁵⁶⁷⁸⁹"
USUAL_YEARS = (1600, 2200)
MAX_VERSIONS = 60  # most distinct texts that may be version numbers
YEARS_APART = 3 * 365  # days
_DEGREES_AND_MINUTES = r"^\s*(?:\d{1,2}|[01]\d{2})[0-5]\d\.\d{2,9}\s*$"  # 4807.038
_HEMISPHERES = (pa.array(["N", "S"]), pa.array(["E", "W"]))
_CODE_LIKE = re.compile(r"\d{1,15}[eE]\d{1,3}")
MAX_EXPONENTS = 1_000  # most distinct texts examined


def note_numbers(
    name: str, texts: pa.Array, stated: ColumnFormat, format: ColumnFormat, evidence: NumberEvidence, doubt: str
) -> Iterable[Notice]:
    """Note how ambiguous numbers are read; `doubt` is why their decimal sign is not certain."""
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
    """Note how times are read if their texts are ambiguous."""
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
    """Note a text column in which most values are numbers, or numbers with other characters."""
    if evidence is None or not evidence.texts or has_leading_zeros(texts):
        return []
    if evidence.behind == evidence.numbers:
        return []
    if evidence.triangles and evidence.triangles == evidence.numbers:
        message = f"{name!r} is left as text: its values are numbers behind triangles, which mean rises or a minus."
        why, option = f"such as {texts[0].as_py().strip()}", f"kinds.{name}=numeric"
        return [Notice(code="number_like_text", message=message, column=name, evidence=why, option=option)]
    units = list(_note_unread_units(name, texts, evidence)) if evidence.units else []
    if units and evidence.numbers >= SHARE * evidence.texts:
        return units
    if evidence.bare < MOSTLY * evidence.texts:
        return []
    comma, point = next(iter(evidence.comma), ""), next(iter(evidence.point), "")
    if comma and point and not evidence.odd:
        message = f"{name!r} is left as text: some of its numbers have a decimal comma, others a point."
        why, option = f"{comma.strip()} and {point.strip()}", f"formats.{name}.decimal=,"
    else:
        odd = evidence.odd or next((text for text in texts.to_pylist() if as_read(text, PLAIN) == ""), "")
        values = len(texts) if may_be_missing(odd.strip()) else evidence.texts
        return [note_odd_values(name, "float64", odd, evidence.bare, values)]
    return [Notice(code="some_are_numbers", message=message, column=name, evidence=why, option=option)]


def note_some_amounts(name: str, texts: pa.Array, evidence: NumberEvidence | None) -> Notice | None:
    """Note a text column of which at least half are numbers with units that all values could have."""
    if evidence is None or not evidence.units or not evidence.odd or evidence.numbers < HALF * evidence.texts:
        return None
    if not any(_note_unread_units(name, texts, evidence)):
        return None
    return note_odd_values(name, "float64", evidence.odd, evidence.numbers, evidence.texts)


def _note_unread_units(name: str, texts: pa.Array, evidence: NumberEvidence) -> Iterable[Notice]:
    """Note a text column of numbers whose unit is not understood."""
    units = [unit for unit, _ in evidence.units.most_common()]
    if (
        len(units) > 4
        or {*units} <= {"st", "nd", "rd", "th"}
        or not any(unit.strip(FOOTNOTE_SIGNS) for unit in units)
        or any(unit[-1] in "<>≤≥~≈±=" for unit in units)
        or (len(units) > 1 and {*units} <= {*"NSEWO"})  # N, S, E, W, O mark a coordinate's direction and are no units
        or (evidence.prefixed and not all(map(is_known_unit, units)) and not _are_amounts(units, evidence))
    ):
        return
    example = next((text for text in texts[:1000].to_pylist() if units[0] in text), "").strip()
    listed = ", ".join(units)
    mixed = len(units) > 1
    # K alone may be kelvin; beside other multipliers or bare numbers it means a thousand
    if {*units} <= MAGNITUDES and (mixed or evidence.bare):
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
    """Note a text column in which most values are times, or times that disagree on the order of day and month."""
    if evidence is None or not evidence.readable or evidence.readable < HALF * evidence.texts:
        return []
    if evidence.readable >= SHARE * evidence.texts and evidence.day_first and evidence.month_first:
        message = f"{name!r} is left as text: no order of day and month reads its dates."
        why, option = f"{evidence.day_first} and {evidence.month_first}", f"formats.{name}.time=dmy"
        return [Notice(code="dates_disagree", message=message, column=name, evidence=why, option=option)]
    if not evidence.odd:
        return []
    return [note_odd_values(name, "timestamp", evidence.odd, evidence.readable, evidence.texts)]


def note_leading_zeros(name: str, texts: pa.Array) -> tuple[Notice, ...]:
    """Note that a column stays text because some of its numbers have leading zeros, as codes do."""
    codes = texts.filter(pc.match_substring_regex(texts, "^0[0-9]"))[:1].to_pylist()
    message = f"{name!r} stays text: as numbers, its values would lose the zeros that they begin with."
    option = f"kinds.{name}=numeric"
    return tuple(
        Notice(
            code="digits_kept",
            message=message,
            column=name,
            evidence=f"codes are written so, such as {code[:40]}",
            option=option,
        )
        for code in codes
    )


def note_odd_values(name: str, storage: Storage, odd: str, fit: int, values: int) -> Notice:
    """Note that a column stays text although most of its values are numbers or times; `odd` is an exception."""
    is_time = storage == "timestamp"
    what, share = "times" if is_time else "numbers", "most" if 2 * fit > values else "some"
    return Notice(
        code="some_are_times" if is_time else "some_are_numbers",
        message=f"{name!r} is left as text: {share} of its values are {what}, but {odd.strip()[:40]!r} is none.",
        column=name,
        evidence=f"{fit} of {values} values are {what}",
        option=f"kinds.{name}={'datetime' if is_time else 'numeric'}",
    )


def keep_digits(name: str) -> dict[str, Any]:
    """Return the plan that keeps integers as text because float64 cannot hold all their digits."""
    notice = Notice(
        code="digits_kept",
        message=f"{name!r} stays text: as numbers, its values would lose digits.",
        column=name,
        evidence="whole numbers beyond 2^53 among values that int64 does not hold",
        option=f"kinds.{name}=numeric",
    )
    return {"notices": (notice,), "evidence": "numbers with more digits than float64 holds"}


def _are_amounts(units: Sequence[str], evidence: NumberEvidence) -> bool:
    """Return whether the prefix marks an amount: a currency sign, or a word before decimals. "Room 5" is a name."""
    have_fractions = bool(evidence.comma or evidence.point)
    return all(category(unit[-1]) == "Sc" or (have_fractions and unit[-1].isalpha()) for unit in units)


def as_read(text: str, format: ColumnFormat) -> str:
    """Return how a number is parsed; "" if it is not parsed."""
    try:
        return f"{numbers.read_number(text, format):.15g}"
    except ValueError:
        return ""


def _day_of(text: str, format: ColumnFormat) -> str:
    return datetime.fromtimestamp(times.read_time(text, format), UTC).date().isoformat()


# --- unusual values ------------------------------------------------------------------------------------------------


def note_placeholder(name: str, texts: pa.Array, numbers: pa.Array) -> Notice | None:
    """Note a number that may stand for a missing value: a common placeholder, repeated, far from all others.

    `numbers` are what `texts` were read as; numbers of a typed column stand for their own texts.
    """
    values = numbers.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    if not finite.any() or not {float(values[finite].min()), float(values[finite].max())} & PLACEHOLDERS:
        return None
    distinct, counts = np.unique(values[finite], return_counts=True)
    if len(distinct) <= FEWEST_OTHERS:
        return None
    for index, others in ((0, distinct[1:]), (-1, distinct[:-1])):
        number, count = float(distinct[index]), int(counts[index])
        gap = abs(float(others[0 if index == 0 else -1]) - number)
        spread = float(others[-1]) - float(others[0])
        is_apart = gap >= LEAST_DISTANCE * spread or number < 0 <= others[0]
        if number not in PLACEHOLDERS or count < max(2, RAREST * finite.sum()) or not is_apart:
            continue
        written = texts.filter(pa.array(values == number)).unique()[:3].cast(pa.string()).to_pylist()
        spellings = [str(text).strip() for text in written]
        listed = json.dumps(spellings) if len(spellings) > 1 else spellings[0]
        return Notice(
            code="may_be_missing",
            message=f"{spellings[0]} in {name!r} is read as a number; it may stand for a missing value.",
            column=name,
            evidence=f"{count} of {int(finite.sum())} values; the others are from {others[0]:.6g} to {others[-1]:.6g}",
            option=f"formats.{name}.also_missing={listed}",
        )
    return None


def note_placeholder_date(name: str, texts: pa.Array, moments: pa.Array) -> Notice | None:
    """Note a day that may stand for a missing date: a common placeholder, repeated, years from all others.

    `moments` are the parsed `texts`, in microseconds since 1970.
    """
    values = moments.fill_null(0).to_numpy(zero_copy_only=False)
    present = ~moments.is_null().to_numpy(zero_copy_only=False)
    if (
        not present.any()
        or not {int(values[present].min()) // times.DAY, int(values[present].max()) // times.DAY} & DATES
    ):
        return None
    days, counts = np.unique(values[present] // times.DAY, return_counts=True)
    for index, others in ((0, days[1:]), (-1, days[:-1])):
        day, count = int(days[index]), int(counts[index])
        if day not in DATES or count < 2 or len(others) < FEWEST_OTHERS:
            continue
        if abs(int(others[0 if index == 0 else -1]) - day) < max(
            YEARS_APART, LEAST_DISTANCE * (int(others[-1]) - int(others[0]))
        ):
            continue
        written = texts.filter(pa.array(present & (values // times.DAY == day)))[0].as_py().strip()
        return Notice(
            code="may_be_missing",
            message=f"{written} in {name!r} is read as a date; it may stand for a missing one.",
            column=name,
            evidence=f"{count} of {int(present.sum())} values, years from all others",
            option=f"formats.{name}.also_missing={written}",
        )
    return None


def note_lost_zeros(name: str, texts: pa.Array, format: ColumnFormat) -> Notice | None:
    """Note 3.9 beside 3.10, which may be versions: amounts have a fixed number of decimals or no trailing zeros."""
    distinct = texts[:50_000].unique()
    if len(distinct) > MAX_VERSIONS:
        return None
    sign = format.decimal or "."
    parts = {text.strip(): text.strip().partition(sign)[2] for text in distinct.to_pylist()}
    fractions = {text: part for text, part in parts.items() if part.isdecimal()}
    zeros = [text for text, part in fractions.items() if part.endswith("0") and part.strip("0")]
    shorter = min(fractions, key=lambda text: len(fractions[text]), default="")
    if not zeros or len(fractions[shorter]) >= len(fractions[zeros[0]]):
        return None
    return Notice(
        code="zeros_left_out",
        message=f"{name!r} has both {shorter} and {zeros[0]}: as a number, {zeros[0]} is {zeros[0].rstrip('0')}.",
        column=name,
        evidence="versions and numbers of chapters are written so, amounts seldom",
        option=f"kinds.{name}=categorical",
    )


def note_exponents(name: str, texts: pa.Array) -> Notice | None:
    """Note numbers such as 12E3, which may be codes or parts of hashes: programs write numbers as 1.2e+04."""
    distinct = texts[:50_000].unique()[:MAX_EXPONENTS].to_pylist()
    exponents = [text.strip() for text in distinct if "e" in text.lower() and any(map(str.isdigit, text))]
    if not exponents or not all(_CODE_LIKE.fullmatch(text) for text in exponents):
        return None
    if any(not text.strip().isdecimal() for text in distinct if text.strip() not in exponents):
        return None
    example = exponents[0]
    return Notice(
        code="exponents",
        message=f"In {name!r}, {example} is read as {float(example):.15g}: a number with an exponent.",
        column=name,
        evidence="codes and hashes may be written so; numbers seldom lack both a point and the exponent's sign",
        option=f"kinds.{name}=categorical",
    )


def note_telephone_numbers(name: str, texts: pa.Array) -> Notice | None:
    """Note a column of telephone numbers (a plus and 7 to 15 digits), which stays text."""
    if not len(texts) or texts[0].as_py().strip()[:1] != "+":
        return None
    if not pc.all(pc.match_substring_regex(texts, r"^\s*\+[1-9][0-9]{6,14}\s*$")).as_py():
        return None
    return Notice(
        code="digits_kept",
        message=f"{name!r} stays text: as numbers, its values would lose their plus.",
        column=name,
        evidence=f"each is a plus and digits, as telephone numbers are: {texts[0].as_py().strip()}",
        option=f"kinds.{name}=numeric",
    )


def note_packed_coordinates(name: str, texts: pa.Array, beside: str, signs: pa.Array) -> Notice | None:
    """Note degrees and minutes packed into one number, as GPS receivers do: 4807.038 before a column of N and S."""
    if not len(texts) or not len(signs) or not re.match(_DEGREES_AND_MINUTES, texts[0].as_py()):
        return None
    if not any(pc.all(pc.is_in(pc.utf8_trim_whitespace(signs), one)).as_py() for one in _HEMISPHERES):
        return None
    if not pc.all(pc.match_substring_regex(texts, _DEGREES_AND_MINUTES)).as_py():
        return None
    example = texts[0].as_py().strip()
    cut = example.index(".") - 2
    return Notice(
        code="packed_coordinates",
        message=f"{name!r} seems to have degrees and minutes in one number: {example} would be {int(example[:cut])} "
        f"degrees and {example[cut:]} minutes.",
        column=name,
        evidence=f"{beside!r} after it is {' or '.join(sorted(set(signs.unique().to_pylist())))}, as GPS receivers "
        "write; written as degrees, near places are near numbers",
        option=f"kinds.{name}=ignored",
    )


def note_unusual_years(name: str, moments: pa.Array) -> Notice | None:
    """Note dates that all lie in years far from the present. `moments`: microseconds since 1970."""
    low, high = (value.as_py() for value in pc.min_max(moments).values())
    if low is None:
        return None
    first, last = 1970 + low / times.DAY / 365.25, 1970 + high / times.DAY / 365.25
    if last >= USUAL_YEARS[0] and first < USUAL_YEARS[1]:
        return None
    return Notice(
        code="unusual_years",
        message=f"The dates of {name!r} are of the years {int(first)} to {int(last)}; they may be of another calendar.",
        column=name,
        evidence="they are read as dates of the Gregorian calendar",
        option=f"kinds.{name}=categorical",
    )
