"""Propose how to parse each column of a file, from the evidence in a sample of its texts.

Evidence in one column also decides ambiguous ones. If two readings remain possible, the likelier is chosen, with a
notice (`column_notices`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import Storage
from fitserve.datasets.column_notices import (
    as_read,
    keep_digits,
    note_exponents,
    note_leading_zeros,
    note_lost_zeros,
    note_numbers,
    note_packed_coordinates,
    note_placeholder,
    note_placeholder_date,
    note_some_amounts,
    note_telephone_numbers,
    note_times,
    note_unread_numbers,
    note_unread_times,
    note_unusual_years,
)
from fitserve.datasets.column_plan import HALF, MOSTLY, SEVERAL, SHARE, ColumnPlan, FilePrior
from fitserve.datasets.kinds import POSSIBLE
from fitserve.datasets.notations import note_quantities
from fitserve.datasets.numbers_as_times import NumbersAsTimes
from fitserve.parsing import ColumnFormat, TimeFormat, numbers, time_evidence, times
from fitserve.parsing.column_format import PLAIN, merge_spellings
from fitserve.parsing.missing import (
    DISPUTABLE,
    SOFT_MISSING,
    are_soft_missing,
    count_of,
    find_missing,
    is_label,
    words_for_missing,
)
from fitserve.parsing.numbers import NumberEvidence, has_leading_zeros, is_currency, is_known_unit
from fitserve.parsing.time_evidence import TimeEvidence
from fitserve.parsing.words import FALSE, TRUE
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.notices import Notice

EXAMPLES = 2_000  # most distinct texts of a column that are examined one by one
_COORDINATE = re.compile(r"(?:^|[\W_])(lat|lon|lng|latitude|longitude)(?:$|[\W_])", re.IGNORECASE)
_DATE_PARTS = re.compile(r"\d{1,2}[^\W\d_]{3,9}\d{2,4}(\W|$)")  # 01JAN2023


def stated_format(name: str, options: UploadOptions) -> ColumnFormat:
    """Return the format that the request states for a column."""
    stated = options.formats.get(name, PLAIN)
    if options.missing is not None and stated.missing is None:
        stated = stated.change(missing=options.missing)
    return stated


def propose_plans(
    columns: Mapping[str, pa.Array],
    options: UploadOptions,
    *,
    trim: bool = False,
    quoted: bool = False,
    european: bool = False,
) -> list[ColumnPlan]:
    """Propose how to parse each column, given a sample of its texts."""
    samples = []
    for name, values in columns.items():
        kind, stated = options.kinds.get(name), stated_format(name, options)
        base = ColumnPlan("string", stated, trim=trim, quoted=quoted, stated_kind=kind, stated_format=stated)
        samples.append(ColumnSample(name, values, base))
    prior = FilePrior(options.decimal, options.thousands, options.dates, european)
    prior = _with_proofs(prior, samples)
    proposed = [sample.plan(prior) for sample in samples]
    for index, (sample, beside) in enumerate(pairwise(samples)):
        note = note_packed_coordinates(sample.name, sample.present, beside.name, beside.present)
        if note is not None and sample.kind is None:
            proposed[index] = replace(proposed[index], notices=(*proposed[index].notices, note))
    return proposed


def _with_proofs(prior: FilePrior, samples: Sequence[ColumnSample]) -> FilePrior:
    """Return the prior with evidence from unambiguous columns, for use on ambiguous ones."""
    by_decimal: dict[str, list[str]] = {",": [], ".": []}
    by_order: dict[str, list[str]] = {"dmy": [], "mdy": []}
    for sample in samples:
        evidence = sample.numbers
        if evidence is not None and evidence.numbers >= SHARE * evidence.texts:
            for sign, proofs in ((",", evidence.comma), (".", evidence.point)):
                if proofs and proofs.total() >= evidence.texts_against(sign).total():
                    by_decimal[sign].append(f"{sample.name} has {next(iter(proofs)).strip()}")
        dates = sample.times
        if dates is not None:
            if dates.day_first and not dates.month_first:
                by_order["dmy"].append(f"{sample.name} has {dates.day_first}")
            if dates.month_first and not dates.day_first:
                by_order["mdy"].append(f"{sample.name} has {dates.month_first}")
    comma, point = by_decimal[","], by_decimal["."]
    if comma and len(comma) >= len(point):
        prior = replace(prior, proven_decimal=",", decimal_proof=comma[0])
    elif point:
        prior = replace(prior, proven_decimal=".", decimal_proof=point[0])
    dmy, mdy = by_order["dmy"], by_order["mdy"]
    if len(dmy) != len(mdy):
        order: TimeFormat = "dmy" if len(dmy) > len(mdy) else "mdy"
        prior = replace(prior, proven_order=order, order_proof=by_order[order][0])
    return prior


def propose_again(
    name: str, plan: ColumnPlan, texts: Sequence[str], prior: FilePrior | None = None
) -> ColumnPlan | None:
    """Return a plan for numbers or times, given more of a column's texts; None if no plan fits (almost) all."""
    prior = prior or plan.prior or FilePrior()
    base = ColumnPlan(
        "string",
        plan.stated_format,
        trim=plan.trim,
        quoted=plan.quoted,
        stated_kind=plan.stated_kind,
        stated_format=plan.stated_format,
        prior=prior,
    )
    sample = ColumnSample(name, pa.array(texts, pa.string()), base)
    is_time = plan.storage == "timestamp"
    proposal = sample.of_times(base, prior) if is_time else sample.of_numbers(base, prior, plan.strict)
    if proposal is None or proposal.storage == "string":
        return proposal
    if proposal.storage == "int64" and plan.storage == "float64":
        proposal = replace(proposal, storage="float64")
    return replace(
        proposal, soft_missing=proposal.soft_missing or plan.soft_missing, zoned=proposal.zoned or plan.zoned
    )


def reconsider(
    before: Mapping[str, ColumnPlan], after: Mapping[str, ColumnPlan], examples: Mapping[str, Sequence[str]]
) -> list[ColumnPlan]:
    """Return the plans for another pass, in which late evidence from one column decides ambiguous ones."""
    plans = dict(after)
    for name, plan in after.items():
        old = before[name]
        if plan.format == old.format or (plan.storage != old.storage and plan.storage == "string"):
            continue
        proof = f"{name} proves it further down"
        for other, open_plan in after.items():
            prior = open_plan.prior or FilePrior()
            if plan.format.decimal not in (None, old.format.decimal) and open_plan.open_decimal:
                prior = replace(prior, proven_decimal=plan.format.decimal, decimal_proof=proof)
            elif plan.format.time in ("dmy", "mdy") and plan.format.time != old.format.time and open_plan.open_order:
                prior = replace(prior, proven_order=plan.format.time, order_proof=proof)
            else:
                continue
            if other != name and (proposal := propose_again(other, open_plan, examples[other], prior)) is not None:
                plans[other] = proposal
    return [plans[name] for name in before]


def as_text_plan(plan: ColumnPlan, notices: tuple[Notice, ...] = ()) -> ColumnPlan:
    """Return the plan under which a column is text, because its values are neither numbers nor times."""
    return replace(
        plan,
        storage="string",
        format=plan.stated_format,
        soft_missing=False,
        strict=False,
        notices=notices,
        evidence="",
    )


# --- one column ----------------------------------------------------------------------------------------------------


class ColumnSample:
    """A sample of one column's texts, and the evidence in them."""

    def __init__(self, name: str, values: pa.Array, base: ColumnPlan) -> None:
        self.name, self.values, self.base = name, values, base
        self.kind, self.stated = base.stated_kind, base.stated_format
        self.present = _without_missing(values, self.stated, everything=True)
        self._as_times = NumbersAsTimes(name, self.present, self.stated)
        self.plain: pa.Array | None = None  # the values, if all of them are numbers in the plain spelling
        self.numbers: NumberEvidence | None = None
        self.times: TimeEvidence | None = None
        self.is_text = self.kind in POSSIBLE["string"] and not self.stated.decimal
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
        if self.plain is None or pa.types.is_floating(self.plain.type) or _have_odd_signs(self.present):
            self.numbers = numbers.evidence_of(counts)
        elif self.plain is not None:
            self.numbers = NumberEvidence(texts=len(distinct), numbers=len(distinct))
        if (self.plain is None or has_leading_zeros(self.present)) and _look_like_times(distinct[:50]):
            self.times = time_evidence.evidence_of(counts, self.stated.first_year)

    def plan(self, prior: FilePrior) -> ColumnPlan:
        """Return the plan for the column."""
        base = replace(self.base, prior=prior)
        if self.kind == "boolean":
            return self._of_booleans(base)
        # A stated format says how the values of a column that is left out are stored.
        if self.kind in POSSIBLE["string"] and (self.kind != "ignored" or self.stated == PLAIN):
            return self._of_texts(base)
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
        """Return a plan for booleans: common words, numbers, or any two values, of which the second is true."""
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
        """Return the number format of the column, and why its decimal sign is uncertain ("" if it is certain)."""
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
        """Return the likelier decimal sign of an ambiguous column, and the reason; "" if there is no doubt."""
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
        """Return a plan for numbers, or None if too few values are numbers."""
        format, doubt = self._number_format(prior)
        if not must and has_leading_zeros(self.present):
            return None
        if not must and (notice := note_telephone_numbers(self.name, self.present)) is not None:
            return replace(self._of_texts(base), notices=(notice,))
        evidence = self.numbers or NumberEvidence()
        if not must and evidence.behind and evidence.behind == evidence.numbers:
            return None  # "50-", "55-", "60-" are ages from 50 on rather than a column of only negative numbers
        if not must and evidence.triangles and evidence.triangles == evidence.numbers:
            return None  # rises, rather than a column of only negative numbers
        if not must and len(evidence.units) > 1 and not self.stated.units:
            return None  # amounts of different currencies are not comparable
        if self.plain is not None and format.is_plain:
            parsed, good, soft = self.plain, len(self.present), False
        else:
            parsed, bad = numbers.parse_numbers(self.present, format)
            good = len(self.present) - int(bad.sum())
            odd = _counts(self.present.filter(pa.array(bad))) if bad.any() else {}
            soft = bool(odd) and are_soft_missing(odd)
            distinct = len(pc.drop_null(parsed[:50_000].unique()))
            words = () if must or soft else words_for_missing(odd, distinct)
            enough = (0.0 if distinct >= SEVERAL else HALF) if soft else MOSTLY if words else SHARE
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
        notices = tuple(note_numbers(self.name, self.present, self.stated, format, evidence, doubt))
        if not must:
            notes = (
                note_placeholder(self.name, self.present, parsed),
                note_lost_zeros(self.name, self.present, format),
                None if whole else note_exponents(self.name, self.present),
            )
            notices += tuple(note for note in notes if note is not None)
        return replace(plan, notices=notices, open_decimal=undecided, evidence=self._written(format))

    def _written(self, format: ColumnFormat) -> str:
        """Describe an unusual spelling of numbers, for the column's evidence; "" if it is plain."""
        if format.is_plain:
            return ""
        for text in self.present[:100].to_pylist():
            if (shown := as_read(text, format)) and shown != as_read(text, PLAIN):
                return f"{text.strip()} is {shown}"
        return ""

    # --- times ---

    def of_times(self, base: ColumnPlan, prior: FilePrior) -> ColumnPlan | None:
        """Return a plan for times, or None if too few values are times."""
        must = self.kind == "datetime" or self.stated.time is not None
        time = self.stated.time
        if time is None and must:
            time = self._as_times.stated_format()
        evidence = self.times
        if time is None and evidence is None:
            if not must:
                return None
            texts = self.present[:50_000].unique()[:EXAMPLES].to_pylist()
            evidence = time_evidence.evidence_of(dict.fromkeys(texts, 1), self.stated.first_year)
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
        notices = () if evidence is None else tuple(note_times(self.name, self.stated, format, evidence, prior))
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

    # --- texts ---

    def _of_texts(self, base: ColumnPlan) -> ColumnPlan:
        """Return a plan for texts: which spellings of missing are labels, and which spellings merge to one label."""
        values = _without_missing(self.values, self.stated, everything=False)
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
            zeros = () if self.plain is None else note_leading_zeros(self.name, self.present)
            proposal = note_unread_times(self.name, self.times) or list(zeros)
            proposal = proposal or note_unread_numbers(self.name, self.present, self.numbers)
            other = None
            if not proposal:
                other = note_quantities(self.name, self.present[:1000].to_pylist())
                other = other or note_some_amounts(self.name, self.present, self.numbers)
            notices += proposal if other is None else [other]
        return replace(plan, format=format, notices=tuple(notices))


def _counts(texts: pa.Array) -> dict[str, int]:
    """Count the occurrences of the first hundred texts."""
    counted = texts.value_counts()[:100]
    return dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))


def _have_odd_signs(texts: pa.Array) -> bool:
    """Return whether a number is in accounting brackets, ends with a minus sign, or has a triangle for one."""
    return bool(pc.any(pc.match_substring_regex(texts, r"[(▲△]|-\s*$")).as_py())


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


def _boolean_storage(present: pa.Array) -> Storage:
    """Choose the storage of booleans: two spellings stay text, several become true and false."""
    return "bool" if len(present.unique()) > 2 or _consists_of(present, {"true", "false"}) else "string"


def _without_missing(values: pa.Array, format: ColumnFormat, everything: bool) -> pa.Array:
    """Return the values that are not missing. `everything` also drops spellings that are labels in some columns."""
    present = values.drop_null()
    spellings = format.missing_spellings if everything else format.missing_spellings - {*DISPUTABLE}
    return present.filter(pc.invert(find_missing(present, spellings, format.also_missing)))
