"""Numbers as people write them: thousands signs, decimal commas, currencies, per cent, brackets for negative ones.

`read_number` reads one text and `parse_numbers` a column; both read the same (`tests/datasets/test_parsing.py`).
A number is what is written before its unit: 1.9% is 1.9.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.parsing.column_format import BLANKS, ColumnFormat
from fitserve.parsing.words import CURRENCIES, PERCENT

if TYPE_CHECKING:
    import pyarrow as pa

# Zeros of scripts whose digits people write: fullwidth, Arabic, Persian, Devanagari, Bengali, Thai.
_ZEROS = (0xFF10, 0x0660, 0x06F0, 0x0966, 0x09E6, 0x0E50)
_DIGITS: dict[int, str] = {zero + digit: str(digit) for zero in _ZEROS for digit in range(10)}
_SIGNS: dict[str, str] = {
    "\u2212": "-",
    "\u2013": "-",
    "\u2019": "'",
    "\u02bc": "'",
    "．": ".",
    "，": ",",
    "－": "-",
    "＋": "+",
    "▲": "-",
    "△": "-",
}
_BLANK: dict[str, str] = dict.fromkeys(BLANKS, " ")
_SAME = {**str.maketrans({**_BLANK, **_SIGNS, "٫": ".", "٬": ","}), **str.maketrans(_DIGITS)}
_INFINITE = frozenset({"inf", "infinity", "1.#inf", "1.#inf00", "∞"})
# For Arrow, whose expressions take linear time: digits, in groups or not, by the sign between the groups.
_GROUPED = {
    "": r"[0-9]+",
    ",": r"(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]+)",
    ".": r"(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+)",
    " ": r"(?:[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)",
    "'": r"(?:[0-9]{1,3}(?:'[0-9]{3})+|[0-9]+)",
    "_": r"(?:[0-9]{1,3}(?:_[0-9]{3})+|[0-9]+)",
}
_PLAIN = r"(?i)^[+-]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity)$"
_LONG = r"^\s*[+-]?[0-9]{16,}(\.[0-9]*)?\s*$"
_TRIANGLES = ("▲", "△")
_GROUP_SIGNS = (",", ".", " ", "'", "_")


# --- one text ------------------------------------------------------------------------------------------------------


def read_number(text: str, format: ColumnFormat) -> int | float:
    """Return the number that a text represents: an int if it is written as a whole number. Raises ValueError."""
    text = text.strip()
    if not text.isascii():
        text = text.translate(_SAME)
    text, negative = _without_sign(text, format.units)
    number = _unsigned(text, format.decimal or ".", format.thousands or "")
    return -number if negative else number


def _without_sign(text: str, units: Iterable[str]) -> tuple[str, bool]:
    """Return the digits without brackets, sign and unit, and whether the number is negative. Raises ValueError."""
    signs = 0
    negative = False
    if units and text[-1:] == "-" and text[:-1].strip() in units:  # $ -
        return "0", False
    if text[-2:] in ("/-", "/="):  # 500/-: no paise
        text = text[:-2].rstrip()
    if text[:1] == "(" and text[-1:] == ")":
        text, negative, signs = text[1:-1].strip(), True, 1
    for _ in range(2):  # a sign stands before the unit or after it
        if text[:1] in ("+", "-") and len(text) > 1:
            negative, signs, text = negative or text[0] == "-", signs + 1, text[1:].lstrip()
        if text[-1:] == "-" and text[-2:-1] in (".", ",") and len(text) > 2:  # 5.- and 5,-: no cents
            text = text[:-2]
        elif text[-1:] == "-":
            negative, signs, text = True, signs + 1, text[:-1].rstrip()
        if _ == 0 and units:
            text = _without_unit(text, units)
            if text[:1] == "(" and text[-1:] == ")":  # €(5)
                text, negative, signs = text[1:-1].strip(), True, signs + 1
    if signs > 1:
        raise ValueError("not a number")
    return text, negative


def _without_unit(text: str, units: Iterable[str]) -> str:
    for unit in sorted(units, key=len, reverse=True):
        unit = unit.translate(_SAME)
        if text.startswith(unit):
            return text[len(unit) :].lstrip()
        if text.endswith(unit):
            return text[: -len(unit)].rstrip()
    return text


def _unsigned(text: str, decimal: str, thousands: str) -> int | float:
    if text.lower() in _INFINITE:
        return math.inf
    mantissa, exponent = text, ""
    for mark in ("e", "E"):
        if mark in text:
            mantissa, _, exponent = text.partition(mark)
            if not exponent.lstrip("+-").isdecimal() or len(exponent) - len(exponent.lstrip("+-")) > 1:
                raise ValueError("not a number")
            break
    whole, point, fraction = mantissa.partition(decimal)
    digits = _ungrouped(whole, thousands) if thousands and thousands in whole else whole
    if not (digits + fraction).isascii() or not (digits + fraction).isdecimal():
        raise ValueError("not a number")
    if point or exponent:
        number = float(f"{digits or '0'}.{fraction or '0'}e{exponent or '0'}")
        if math.isinf(number):
            raise ValueError("larger than float64 holds")
        return number
    return int(digits) if len(digits) <= 308 else _too_large()


def _too_large() -> int:
    raise ValueError("larger than float64 holds")


def _ungrouped(whole: str, thousands: str) -> str:
    """Return the digits of a whole number in groups of three (Indian ones of two too). Raises ValueError."""
    first, *middle, last = whole.split(thousands)
    sizes = {2, 3} if thousands == "," else {3}
    if not 1 <= len(first) <= 3 or len(last) != 3 or any(len(group) not in sizes for group in middle):
        raise ValueError("not groups of three digits")
    return first + "".join(middle) + last


# --- a column ------------------------------------------------------------------------------------------------------


def parse_numbers(texts: pa.Array, format: ColumnFormat, floats: bool = False) -> tuple[pa.Array, np.ndarray]:
    """Parse texts as numbers: int64 where all are whole, else (or where `floats`) float64; null where missing or bad.

    Returns the numbers and a mask (bool) of the bad texts. Nulls of `texts` are missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if format.is_plain:
        numbers = cast_plain(texts, floats)
        if numbers is not None:  # the usual case, in one step
            return numbers, overflown(texts, numbers)
    trimmed = pc.utf8_trim_whitespace(texts)
    simple, good = _simplified(trimmed, format)
    if pc.all(good).as_py() is not False:
        numbers = cast_plain(simple, floats)
        if numbers is not None:
            return numbers, overflown(texts, numbers)
    good = good.fill_null(True)
    left = np.flatnonzero(~good.to_numpy(zero_copy_only=False))
    missing = pa.scalar(None, pa.string())
    numbers = cast_plain(pc.if_else(good, simple, missing), floats)
    if numbers is None:
        return pa.nulls(len(texts), pa.float64()), ~texts.is_null().to_numpy(zero_copy_only=False)
    bad = overflown(texts, numbers)
    if not len(left):
        return numbers, bad
    return _with_odd_ones(numbers, trimmed.take(pa.array(left)), left, bad, format)


def _simplified(texts: pa.Array, format: ColumnFormat) -> tuple[pa.Array, pa.Array]:
    """Return texts without units and thousands signs, with a decimal point, and which of them are then numbers."""
    import pyarrow.compute as pc

    if format.is_plain:
        return texts, pc.match_substring_regex(texts, _PLAIN)
    decimal, thousands = format.decimal or ".", format.thousands or ""
    if thousands == " ":
        texts = pc.replace_substring_regex(texts, f"[{BLANKS}]", " ")
    if thousands == "'":
        texts = pc.replace_substring(texts, "\u2019", "'")
    unit = "|".join(re.escape(unit) for unit in sorted(format.units, key=len, reverse=True))
    before, after = (rf"(?:(?:{unit})\s*)?", rf"(?:\s*(?:{unit}))?") if unit else ("", "")
    point = re.escape(decimal)
    digits = rf"(?:{_GROUPED[thousands]}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?"
    good = pc.match_substring_regex(texts, f"^(?:[+-]?{before}{digits}|[+-]?{digits}{after})$")
    for one in sorted(format.units, key=len, reverse=True):
        texts = pc.replace_substring(texts, one, "")
    if format.units:
        texts = pc.utf8_trim_whitespace(texts)
    if thousands:
        texts = pc.replace_substring(texts, thousands, "")
    if decimal == ",":
        texts = pc.replace_substring(texts, ",", ".")
    if format.units:  # -$ 5
        texts = pc.replace_substring(texts, " ", "")
    return texts, good


def _with_odd_ones(
    numbers: pa.Array, texts: pa.Array, places: np.ndarray, bad: np.ndarray, format: ColumnFormat
) -> tuple[pa.Array, np.ndarray]:
    """Fill in the numbers of unusual texts (brackets, trailing signs), or mark them as bad."""
    import pyarrow as pa

    encoded = texts.dictionary_encode()
    read: list[int | float | None] = []
    for text in encoded.dictionary.to_pylist():
        try:
            read.append(read_number(text, format))
        except ValueError:
            read.append(None)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    unreadable = np.array([number is None for number in read], bool)
    bad[places[unreadable[codes]]] = True
    if unreadable.all():
        return numbers, bad
    whole = pa.types.is_integer(numbers.type)
    if whole and any(isinstance(number, float) or not -(2**63) <= (number or 0) < 2**63 for number in read):
        numbers, whole = numbers.cast(pa.float64(), safe=False), False
    dtype: Any = np.int64 if whole else np.float64
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False).astype(dtype, copy=True)
    empty = numbers.is_null().to_numpy(zero_copy_only=False).copy()
    of_text = np.array([number or 0 for number in read], dtype)
    values[places] = of_text[codes]
    empty[places] = unreadable[codes]
    return pa.array(values, numbers.type, mask=empty), bad


def cast_plain(texts: pa.Array, floats: bool) -> pa.Array | None:
    """Return texts in the usual spelling as int64 or float64; None if one of them is not."""
    import pyarrow as pa

    for arrow_type in (pa.float64(),) if floats else (pa.int64(), pa.float64()):
        try:
            return texts.cast(arrow_type)
        except pa.ArrowInvalid:
            continue
    return None


def overflown(texts: pa.Array, numbers: pa.Array) -> np.ndarray:
    """Return where a text became infinite although it is written with digits: a mask (bool)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bad = np.zeros(len(texts), bool)
    if pa.types.is_floating(numbers.type) and has_large(numbers):
        infinite = np.isinf(numbers.to_numpy(zero_copy_only=False))
        if infinite.any():
            at = np.flatnonzero(infinite)
            written = pc.match_substring_regex(texts.take(pa.array(at)), "[0-9]")
            bad[at[written.to_numpy(zero_copy_only=False).astype(bool)]] = True
    return bad


def has_large(parsed: pa.Array) -> bool:
    """Return whether a number is so large that float64 may not hold its digits."""
    import pyarrow.compute as pc

    low, high = (value.as_py() for value in pc.min_max(parsed).values())
    return low is not None and max(abs(low), abs(high)) >= 2**53


def has_leading_zeros(texts: pa.Array) -> bool:
    """Return whether any text starts with a zero and another digit, or 0x: then they are codes, not numbers."""
    import pyarrow as pa

    if not len(texts) or not pa.types.is_string(texts.type):
        return False
    buffers = texts.buffers()
    if buffers[2] is None:
        return False
    offsets = np.frombuffer(buffers[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(buffers[2], np.uint8)
    if not len(data):
        return False
    starts = offsets[:-1]
    zeros = np.flatnonzero((data[np.minimum(starts, len(data) - 1)] == ord("0")) & (np.diff(offsets) > 1))
    second = data[starts[zeros] + 1]
    return bool((((second >= ord("0")) & (second <= ord("9"))) | (second == ord("x")) | (second == ord("X"))).any())


def loses_digits(texts: pa.Array, format: ColumnFormat) -> bool:
    """Return whether float64 cannot hold a whole number among the texts, which are then names rather than amounts."""
    import pyarrow.compute as pc

    simple, _ = _simplified(pc.utf8_trim_whitespace(texts), format)
    long = simple.filter(pc.match_substring_regex(simple, _LONG)).unique()
    for text in long.to_pylist():
        whole, _, _ = text.strip().partition(".")
        if len(whole) > 400 or int(whole) != int(float(whole)):
            return True
    return False


# --- what a column's texts say about their format ------------------------------------------------------------------


@dataclass
class NumberEvidence:
    """What texts prove about the format of a column of numbers."""

    texts: int = 0  # number of texts examined
    numbers: int = 0  # texts that are numbers in some format
    comma: Counter[str] = field(default_factory=Counter)  # texts that prove a decimal comma
    point: Counter[str] = field(default_factory=Counter)  # texts that prove a decimal point
    either: dict[str, list[str]] = field(default_factory=dict)  # 1,234 or 1.234, by the sign
    thousands: Counter[str] = field(default_factory=Counter)  # separators that certainly group digits
    units: Counter[str] = field(default_factory=Counter)
    bare: int = 0  # numbers without a unit
    prefixed: bool = False  # a unit stands before a number
    negatives: list[str] = field(default_factory=list)  # negative numbers in brackets or with a trailing sign
    triangles: int = 0  # numbers behind a triangle, which Japanese accounts have for a minus
    behind: int = 0  # integers with a trailing minus: "50-" may mean 50 and more
    dash: str = ""  # a unit and a dash: 0
    odd: str = ""  # the first text that is no number

    @property
    def unit(self) -> str | None:
        """The unit of almost all values, if there is one."""
        if not self.units:
            return None
        unit, count = self.units.most_common(1)[0]
        return unit if count == sum(self.units.values()) else None

    def texts_against(self, sign: str) -> Counter[str]:
        """Return the texts that prove another decimal sign."""
        return self.point if sign == "," else self.comma


def evidence_of(texts: Mapping[str, int]) -> NumberEvidence:
    """Return what some texts, and how often they occur, prove about the format of numbers."""
    evidence = NumberEvidence()
    for text, count in texts.items():
        evidence.texts += count
        bare = text.strip().translate(_SAME)
        if bare.lstrip("+-").lower() in _INFINITE:
            evidence.numbers, evidence.bare = evidence.numbers + count, evidence.bare + count
            continue
        if bare[-1:] == "-" and is_known_unit(bare[:-1].strip()):
            evidence.numbers += count
            evidence.dash = evidence.dash or text.strip()
            continue
        parts = _parts(text)
        if parts is None or not _weigh(text, parts[1], count, evidence):
            evidence.odd = evidence.odd or text.strip()
            continue
        unit, _, odd = parts
        evidence.numbers += count
        if unit:
            evidence.units[unit] += count
            evidence.prefixed |= not text.strip().endswith(unit)
        else:
            evidence.bare += count
        evidence.triangles += count * (text.strip()[:1] in _TRIANGLES)
        evidence.behind += count * (bare[:-1].isdecimal() and bare[-1] == "-")
        if odd and len(evidence.negatives) < 3:
            evidence.negatives.append(text.strip())
    return evidence


def _parts(text: str) -> tuple[str, str, bool] | None:
    """Return a text's unit, its digits with their separators, and whether its minus is unusual; None: no number."""
    bare = text.strip().translate(_SAME).removesuffix("/-").removesuffix("/=")
    if not 0 < len(bare) <= 60:
        return None
    odd = (
        text.strip()[0] in _TRIANGLES
        or (bare[0] == "(" and bare[-1] == ")")
        or (bare[-1] == "-" and bare[-2:-1] not in (".", ","))
    )
    if bare[0] == "(" and bare[-1] == ")":
        bare = bare[1:-1].strip()
    elif bare[-1] == ")" and bare.count("(") == 1:  # €(5)
        bare, odd = bare[:-1].replace("(", ""), True
    bare = bare.strip("+-").strip() if bare[:1] in "+-" or bare[-1:] == "-" else bare
    places = [index for index, character in enumerate(bare) if "0" <= character <= "9"]
    if not places:
        return None
    first, last = places[0], places[-1] + 1
    if first and bare[first - 1] in ".," and (first == 1 or bare[first - 2] in " $€£¥-"):
        first -= 1
    if last < len(bare) and bare[last] in ".,":
        last += 1
    before, core, after = bare[:first].strip().rstrip("+-").strip(), bare[first:last], bare[last:].strip("- ")
    if (before and after) or len(before) > 20 or len(after) > 20:
        return None
    return before or after, core, odd


def _weigh(text: str, core: str, count: int, evidence: NumberEvidence) -> bool:
    """Add what a number's digits prove; return whether they are a number."""
    mantissa, _, exponent = core.replace("E", "e").partition("e")
    if "e" in core.lower() and not exponent.lstrip("+-").isdecimal():
        return False
    if exponent.lstrip("+").isdecimal() and int(exponent) > 308:  # too large for float64
        return False
    signs = [character for character in mantissa if not "0" <= character <= "9"]
    kinds = dict.fromkeys(signs)
    if not kinds:
        return mantissa.isdecimal()
    if any(sign not in _GROUP_SIGNS for sign in kinds) or len(kinds) > 2:
        return False
    last = signs[-1]
    if len(kinds) == 2:  # 1.234,5 or 1 234,5: the last one is the decimal sign, and stands once
        group = signs[0]
        if last not in ",." or signs.count(last) != 1 or not _groups(mantissa.partition(last)[0], group):
            return False
        (evidence.comma if last == "," else evidence.point)[text] += count
        evidence.thousands[group] += count
        return True
    if len(signs) > 1 or last not in ",.":  # 1.234.567, 1 234
        if not _groups(mantissa, last):
            return False
        evidence.thousands[last] += count
        if last in ",.":
            (evidence.point if last == "," else evidence.comma)[text] += count
        return True
    whole, _, fraction = mantissa.partition(last)
    if len(fraction) == 3 and 1 <= len(whole) <= 3 and whole[0] != "0" and not exponent:
        evidence.either.setdefault(last, []).append(text)
    else:
        (evidence.comma if last == "," else evidence.point)[text] += count
    return True


def _groups(whole: str, sign: str) -> bool:
    try:
        return _ungrouped(whole, sign).isdecimal() and whole[0] != "0"
    except ValueError:
        return False


def is_known_unit(unit: str) -> bool:
    """Return whether a text is a currency's sign or code, or per cent."""
    return unit in CURRENCIES or unit in PERCENT


def is_currency(unit: str | None) -> bool:
    """Return whether a text is a currency's sign or code."""
    return unit in CURRENCIES
