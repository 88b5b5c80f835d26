"""A sample of one column's texts, what they prove, and the plan that follows.

Where two readings are possible, the likelier is taken; a notice says so and names the option that decides otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unicodedata import category

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import Storage
from fitserve.datasets.column_plan import SHARE, ColumnPlan, FilePrior
from fitserve.datasets.column_texts import (
    count_of,
    has_leading_zeros,
    is_label,
    merge_spellings,
    note_odd_values,
    without_missing,
)
from fitserve.datasets.numbers_as_times import NumbersAsTimes
from fitserve.datasets.unusual_numbers import (
    note_exponents,
    note_lost_zeros,
    note_placeholder,
    note_placeholder_date,
    note_quantities,
    note_telephone_numbers,
    note_unusual_years,
)
from fitserve.parsing import ColumnFormat, numbers, times
from fitserve.parsing.column_format import PLAIN
from fitserve.parsing.missing import DISPUTABLE, SOFT_MISSING, are_soft_missing, words_for_missing
from fitserve.parsing.numbers import NumberEvidence, is_currency, is_known_unit
from fitserve.parsing.times import TimeEvidence
from fitserve.parsing.words import FALSE, TRUE
from fitserve.wire.notices import Notice

HALF = 0.5
MOSTLY = 0.75  # of a column's values are numbers: that it is text is said
MAGNITUDES = frozenset(
    ("K", "k", "M", "B", "T", "mn", "bn", "Mio", "Mio.", "Mrd", "Mrd.", "Tsd", "Tsd.", "万", "億", "亿")
)
EXAMPLES = 2_000  # distinct texts of a column that are looked at one by one
_COORDINATE = re.compile(r"(?:^|[\W_])(lat|lon|lng|latitude|longitude)(?:$|[\W_])", re.IGNORECASE)
_DATE_PARTS = re.compile(r"\d{1,2}[^\W\d_]{3,9}\d{2,4}(\W|$)")  # 01JAN2023


class ColumnSample:
    """A sample of one column's texts, and what they prove."""

    def __init__(self, name: str, values: pa.Array, base: ColumnPlan) -> None:
        self.name, self.values, self.base = name, values, base
        self.kind, self.stated = base.stated_kind, base.stated
        self.present = without_missing(values, self.stated, everything=True)
        self._as_times = NumbersAsTimes(name, self.present, self.stated)
        self.plain: pa.Array | None = None  # the values as numbers of the usual spelling
        self.numbers: NumberEvidence | None = None
        self.times: TimeEvidence | None = None
        self.is_text = self.kind in ("categorical", "text", "ignored", "boolean") and not self.stated.decimal
        if self.is_text or not len(self.present):
            return
        wants_time = self.kind == "datetime" or self.stated.time is not None
        is_plain = self.stated.decimal in (None, ".") and not self.stated.thousands and not self.stated.units
        if is_plain and not wants_time:
            self.plain, bad = numbers.parse_numbers(self.present, PLAIN)
            if bad.any():
                self.plain = None
        counted = self.present[:50_000].value_counts()[: EXAMPLES if self.plain is None else 60]
        counts = dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))
        counts = {text: count for text, count in counts.items() if text.strip().lower() not in SOFT_MISSING}
        distinct = list(counts)
        if self.plain is None or pa.types.is_floating(self.plain.type):
            self.numbers = numbers.evidence_of(counts)
        elif self.plain is not None:
            self.numbers = NumberEvidence(texts=len(distinct), numbers=len(distinct))
        if (self.plain is None or has_leading_zeros(self.present)) and _look_like_times(distinct[:50]):
            self.times = times.evidence_of(counts, self.stated.first_year)

    def plan(self, prior: FilePrior) -> ColumnPlan:
        """Return the plan for the column."""
        base = replace(self.base, prior=prior)
        if self.kind in ("categorical", "text") or (self.kind == "ignored" and self.stated == PLAIN):
            return self._of_texts(base)
        if self.kind == "boolean":
            return self._of_booleans(base)
        if self.kind == "datetime" or self.stated.time is not None:
            return self.of_times(base, prior) or replace(base, storage="timestamp", strict=True)
        must = self.kind == "numeric" or self.stated.decimal is not None or bool(self.stated.units)
        if not len(self.present):
            return replace(
                base, storage="float64" if must else "int64", format=self._number_format(prior)[0], strict=must
            )
        if not must and (dates := self._as_times.short_dates(base)) is not None:
            return dates
        plan = self.of_numbers(base, prior, must)
        if plan is not None:
            return plan
        if _consists_of(self.present, {"true", "false"}):
            return replace(base, storage="bool")
        return self.of_times(base, prior) or self._of_texts(base)

    def _of_booleans(self, base: ColumnPlan) -> ColumnPlan:
        """Return a plan for truth values: the usual words, or any two values of which the second means true."""
        words = pa.array(sorted(TRUE | FALSE))
        known = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(self.present)), words)
        usual = 2 * (pc.sum(known).as_py() or 0) >= len(self.present)
        parsed, bad = numbers.parse_numbers(self.present, PLAIN)
        if len(self.present) and not bad.any():
            storage: Storage = "int64" if pa.types.is_integer(parsed.type) else "float64"
            return replace(base, storage=storage, format=base.format.change(decimal="."), strict=True)
        texts = self._of_texts(base)
        if not usual and len(self.present.unique()) <= 2:
            return texts
        return replace(texts, storage=_boolean_storage(self.present), strict=True)

    # --- numbers ---

    def _number_format(self, prior: FilePrior) -> tuple[ColumnFormat, str]:
        """Return the format of a column of numbers, and why its decimal sign was not proven ("": it was)."""
        evidence, stated = self.numbers or NumberEvidence(), self.stated
        doubt = ""
        decimal = stated.decimal or prior.decimal
        if decimal is None and (evidence.comma or evidence.point):
            decimal = "," if evidence.comma.total() > evidence.point.total() else "."
        elif decimal is None and evidence.either:
            decimal, doubt = self._likelier(evidence, prior)
        decimal = decimal or ("," if prior.proven_decimal == "," and not evidence.numbers else ".")
        thousands = stated.thousands if stated.thousands is not None else prior.thousands
        if thousands is None or thousands == decimal:
            signs = [sign for sign, _ in evidence.thousands.most_common() if sign != decimal]
            other = "," if decimal == "." else "."
            used = signs[:1] or ([other] if other in evidence.either or decimal == "," else [])
            thousands = used[0] if used else ""
        units = stated.units or ((evidence.unit,) if evidence.unit and is_known_unit(evidence.unit) else ())
        update = {"decimal": decimal, "thousands": thousands, "units": units}
        return stated.change(**update), doubt

    def _likelier(self, evidence: NumberEvidence, prior: FilePrior) -> tuple[str, str]:
        """Return the decimal sign of a column that does not prove it, and why; "" where there is no doubt about it."""
        sign, texts = max(evidence.either.items(), key=lambda item: len(item[1]))
        if prior.proven_decimal is not None and (sign == "," or prior.proven_decimal == ","):
            doubt = f"{prior.decimal_proof}; {texts[0].strip()} could be read either way"
            if sign == "." and _COORDINATE.search(self.name):
                return ".", f"the name is a coordinate's, although {doubt}"
            return prior.proven_decimal, doubt
        if is_currency(evidence.unit) and (sign == "," or prior.european) and (evidence.unit or "")[-1:] != "$":
            why = f"amounts of money seldom have three decimals; {texts[0].strip()} could be read either way"
            return ("." if sign == "," else ","), why
        if sign == ".":
            why = f"every value is like {texts[0].strip()}, which could be read either way" if prior.european else ""
            return ".", why
        why = f"every value is like {texts[0].strip()}, which could be read either way"
        return ("," if prior.european else "."), why

    def of_numbers(self, base: ColumnPlan, prior: FilePrior, must: bool) -> ColumnPlan | None:
        """Return a plan for numbers, or None where too few values are numbers."""
        format, doubt = self._number_format(prior)
        if not must and has_leading_zeros(self.present):
            return None
        if not must and (notice := note_telephone_numbers(self.name, self.present)) is not None:
            return replace(self._of_texts(base), notices=(notice,))
        evidence = self.numbers or NumberEvidence()
        if not must and len(evidence.units) > 1 and not self.stated.units:
            return None  # amounts of different currencies are not comparable
        if self.plain is not None and format.is_plain:
            parsed, good, soft = self.plain, len(self.present), False
        else:
            parsed, bad = numbers.parse_numbers(self.present, format)
            good = len(self.present) - int(bad.sum())
            odd = _counts(self.present.filter(pa.array(bad))) if bad.any() else {}
            soft = bool(odd) and are_soft_missing(odd)
            words = () if must or soft else words_for_missing(odd, len(pc.drop_null(parsed[:50_000].unique())))
            enough = HALF if soft else MOSTLY if words else SHARE
            if not must and not (good and good >= enough * len(self.present)):
                return None
            if words:
                format = format.change(also_missing=(*format.also_missing, *words))
        whole = pa.types.is_integer(parsed.type)
        if (
            not whole
            and self.kind != "numeric"
            and numbers.has_large(parsed)
            and numbers.loses_digits(self.present, format)
        ):
            return replace(self._of_texts(base), **keep_digits(self.name))
        plan = replace(
            base, storage="int64" if whole else "float64", format=format, soft_missing=soft or must, strict=must
        )
        if not must and (as_time := self._as_times.plan(parsed, plan)) is not None:
            return as_time
        undecided = bool(evidence.either) and not (
            evidence.comma or evidence.point or self.stated.decimal or prior.decimal
        )
        notices = tuple(self._number_notices(format, evidence, doubt))
        if not must:
            notes = (
                note_placeholder(self.name, self.present, parsed),
                note_lost_zeros(self.name, self.present, format),
                None if whole else note_exponents(self.name, self.present),
            )
            notices += tuple(note for note in notes if note is not None)
        return replace(plan, notices=notices, open_decimal=undecided, evidence=self._written(format))

    def _written(self, format: ColumnFormat) -> str:
        """Return how numbers are written, for the column's evidence; "" where that is as usual."""
        if format.is_plain:
            return ""
        for text in self.present[:100].to_pylist():
            if (shown := _shown(text, format)) and shown != _shown(text, PLAIN):
                return f"{text.strip()} is {shown}"
        return ""

    def _number_notices(self, format: ColumnFormat, evidence: NumberEvidence, doubt: str) -> Iterable[Notice]:
        name = self.name
        option = f"formats.{name}"
        if doubt:
            sign = next(iter(evidence.either))
            example = evidence.either[sign][0].strip()
            read = _shown(example, format)
            other = "," if format.decimal == "." else "."
            yield Notice(
                code="decimal_sign",
                message=f"In {name!r}, {example} is read as {read}.",
                column=name,
                evidence=doubt,
                option=f"{option}.decimal={other}",
            )
        if format.units and not self.stated.units:
            example = next((text for text in self.present[:100].to_pylist() if format.units[0] in text), "").strip()
            yield Notice(
                code="unit_left_out",
                message=f"In {name!r}, {example} is read as {_shown(example, format)}.",
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
                message=f"In {name!r}, {example} is read as {_shown(example, format)}.",
                column=name,
                option=f"kinds.{name}=categorical",
            )
        if format.units and evidence.units and evidence.bare and not self.stated.units:
            yield Notice(
                code="some_without_unit",
                message=f"Some values of {name!r} have {format.units[0]}, others none; all are read alike.",
                column=name,
                evidence=f"{evidence.bare} of {evidence.texts} values have none",
                option=f"kinds.{name}=categorical",
            )

    # --- times ---

    def of_times(self, base: ColumnPlan, prior: FilePrior) -> ColumnPlan | None:
        """Return a plan for times, or None where too few values are times."""
        must = self.kind == "datetime" or self.stated.time is not None
        time = self.stated.time
        if time is None and must:
            time = self._as_times.stated_format()
        evidence = self.times
        if time is None and evidence is None:
            if not must:
                return None
            texts = self.present[:50_000].unique()[:EXAMPLES].to_pylist()
            evidence = times.evidence_of(dict.fromkeys(texts, 1), self.stated.first_year)
        most = max(evidence.times.values(), default=0) if evidence is not None else 0
        if not must and evidence is not None and (most < SHARE * evidence.texts or not most or self._are_seasons()):
            return None
        if time is None:
            assert evidence is not None
            time = (
                prior.order if prior.order and evidence.times.get(prior.order) else evidence.order(prior.proven_order)
            )
        format = self.stated.change(time=time)
        moments, bad, zoned = times.parse_times(self.present, format)
        odd = set(self.present.filter(pa.array(bad)).unique().to_pylist()) if bad.any() else set()
        soft = bool(odd) and are_soft_missing(odd)
        plan = replace(
            base,
            storage="timestamp",
            format=format,
            zoned=bool(zoned.any()),
            soft_missing=soft or must,
            strict=must,
        )
        undecided = evidence is not None and bool(evidence.either) and not (evidence.day_first or evidence.month_first)
        notices = tuple(self._time_notices(format, evidence, prior))
        if not must:
            notes = (note_placeholder_date(self.name, self.present, moments), note_unusual_years(self.name, moments))
            notices += tuple(note for note in notes if note is not None)
        return replace(plan, notices=notices, open_order=undecided and self.stated.time is None and prior.order is None)

    def _are_seasons(self) -> bool:
        """Return whether texts are seasons such as 2008-09 rather than months."""
        texts = [text.strip() for text in self.present[:1000].to_pylist()]
        if not all(len(text) == 7 and text[4] in "-/" and (text[:4] + text[5:]).isdecimal() for text in texts):
            return False
        return all((int(text[:4]) + 1) % 100 == int(text[5:]) for text in texts)

    def _time_notices(self, format: ColumnFormat, evidence: TimeEvidence | None, prior: FilePrior) -> Iterable[Notice]:
        name, option = self.name, f"formats.{self.name}"
        if evidence is None:
            return
        proven = evidence.day_first or evidence.month_first
        decided = self.stated.time or prior.order
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
        if evidence.short_years and not self.stated.first_year:
            yield Notice(
                code="two_digit_years",
                message=f"Years of two digits in {name!r} are read as {times.FIRST_YEAR} to {times.FIRST_YEAR + 99}.",
                column=name,
                option=f"{option}.first_year=1926",
            )

    # --- texts ---

    def _of_texts(self, base: ColumnPlan) -> ColumnPlan:
        """Return a plan for texts: which spellings of missing are labels, and which spellings are one label."""
        values = without_missing(self.values, self.stated, everything=False)
        distinct = values[:100_000].value_counts()
        counts = Counter(dict(zip(distinct.field(0).to_pylist(), distinct.field(1).to_pylist(), strict=True)))
        plan = replace(base, storage="string")
        notices: list[Notice] = []
        format = self.stated
        if self.stated.missing is None:
            words = [word for word in DISPUTABLE if count_of(counts, word) and word not in self.stated.keep]
            label_words = tuple(word for word in words if base.quoted or is_label(word, counts))
            update: dict[str, Any] = {"missing": ()} if base.quoted else {}
            format = format.change(keep=(*format.keep, *label_words), **update)
        if self.kind != "text":
            labels = Counter({text: count for text, count in counts.items() if not format.is_missing(text)})
            format = merge_spellings(format, labels)
        if self.kind is None:
            proposal = self._unread_times() or self._unread_numbers()
            if not proposal and (quantities := note_quantities(self.name, self.present[:1000].to_pylist())) is not None:
                proposal = [quantities]
            notices += proposal
        return replace(plan, format=format, notices=tuple(notices))

    def _unread_numbers(self) -> list[Notice]:
        """Note a column of texts that are numbers, but for some of them or for what is written beside them."""
        evidence = self.numbers
        if evidence is None or not evidence.texts or has_leading_zeros(self.present):
            return []
        with_units = evidence.units and evidence.numbers >= SHARE * evidence.texts
        if with_units and (units := list(self._unread_units(evidence))):
            return units
        if evidence.bare < MOSTLY * evidence.texts:
            return []
        name, comma, point = self.name, next(iter(evidence.comma), ""), next(iter(evidence.point), "")
        if comma and point and not evidence.odd:
            message = f"{name!r} is left as text: some of its numbers have a decimal comma, others a point."
            why, option = f"{comma.strip()} and {point.strip()}", f"formats.{name}.decimal=,"
        else:
            odd = evidence.odd or next((text for text in self.present.to_pylist() if _shown(text, PLAIN) == ""), "")
            return [note_odd_values(name, "float64", odd, evidence.bare, evidence.texts)]
        return [Notice(code="some_are_numbers", message=message, column=name, evidence=why, option=option)]

    def _unread_units(self, evidence: NumberEvidence) -> Iterable[Notice]:
        """Note a column of texts that are numbers with a unit that is not read."""
        units = [unit for unit, _ in evidence.units.most_common()]
        if (
            len(units) > 4
            or {*units} <= {"st", "nd", "rd", "th"}
            or any(unit[-1] in "<>≤≥~≈±=" for unit in units)
            or (evidence.prefixed and not all(map(is_known_unit, units)) and not _are_amounts(units, evidence))
        ):
            return
        example = next((text for text in self.present[:1000].to_pylist() if units[0] in text), "").strip()
        listed = ", ".join(units)
        mixed = len(units) > 1
        if {*units} <= MAGNITUDES and (mixed or evidence.bare):  # 5 K alone may be a temperature
            yield Notice(
                code="magnitudes",
                message=f"{self.name!r} is left as text: its numbers have multipliers ({listed}), which are not read.",
                column=self.name,
                evidence=f"such as {example}; write them out to have numbers",
                option=f"kinds.{self.name}=categorical",
            )
            return
        yield Notice(
            code="mixed_units" if mixed else "unit_not_read",
            message=f"{self.name!r} is left as text, although its values are numbers with {listed}.",
            column=self.name,
            evidence=f"such as {example}" + ("; amounts in different units are not comparable" if mixed else ""),
            option=f"formats.{self.name}.units=" + (f'["{units[0]}", "{units[1]}"]' if mixed else units[0]),
        )

    def _unread_times(self) -> list[Notice]:
        """Note a column of texts that are times, but for some of them, or in different orders of day and month."""
        evidence, name = self.times, self.name
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


def _counts(texts: pa.Array) -> dict[str, int]:
    """Return how often each of the first hundred texts occurs."""
    counted = texts.value_counts()[:100]
    return dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))


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


def _look_like_times(texts: Sequence[str]) -> bool:
    """Return whether any of the texts has digits and a separator of dates."""
    for text in texts:
        bare = text.strip()
        if 5 <= len(bare) <= 60 and any("0" <= c <= "9" for c in bare) and any(c in "-/. ,WT年년" for c in bare[1:]):
            return True
        if len(bare) == 8 and bare.isdecimal():  # 31012024
            return True
        if _DATE_PARTS.match(bare):
            return True
    return False


def _consists_of(present: pa.Array, words: set[str]) -> bool:
    return bool(pc.all(pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(present)), pa.array(sorted(words)))).as_py())


def _are_amounts(units: Sequence[str], evidence: NumberEvidence) -> bool:
    """Return whether what stands before numbers is a currency's sign, or a word before fractions: Room 5 is a name."""
    have_fractions = bool(evidence.comma or evidence.point)
    return all(category(unit[-1]) == "Sc" or (have_fractions and unit[-1].isalpha()) for unit in units)


def _boolean_storage(present: pa.Array) -> Storage:
    """Keep two spellings as they are; several spellings of the same value become true and false."""
    return "bool" if len(present.unique()) > 2 or _consists_of(present, {"true", "false"}) else "string"


def _shown(text: str, format: ColumnFormat) -> str:
    """Return a number as it is read; "" where it is not read."""
    try:
        return f"{numbers.read_number(text, format):.15g}"
    except ValueError:
        return ""


def _day_of(text: str, format: ColumnFormat) -> str:
    return datetime.fromtimestamp(times.read_time(text, format), UTC).date().isoformat()
