"""Parse a column of texts to typed values, under a plan that is proposed from a sample and checked on every row.

If the plan does not fit the whole file, it is revised at the end of the pass (`ColumnParser.next_plan`) and the file is
read once more. Evidence late in the file therefore counts as much as early evidence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fitserve.dataset_facts import Kind, Storage
from fitserve.datasets import MAX_PROBLEMS
from fitserve.datasets.column_notices import keep_digits, note_leading_zeros, note_odd_values
from fitserve.datasets.column_plan import SEVERAL, ColumnPlan
from fitserve.datasets.plan_proposal import as_text_plan, propose_again
from fitserve.encoding.coercion import labels_of
from fitserve.parsing import ColumnFormat, numbers, times
from fitserve.parsing.column_format import folded, merge_spellings
from fitserve.parsing.missing import SOFT_MISSING, are_soft_missing, find_missing, words_for_missing
from fitserve.parsing.numbers import has_leading_zeros
from fitserve.parsing.words import FALSE, TRUE
from fitserve.wire.notices import Notice

MAX_SPELLINGS = 50  # most distinct bad texts remembered
MAX_EXAMPLES = 300  # most distinct good texts remembered
VALUES = ("int64", "float64", "timestamp")  # storage classes of numbers and times
_BLANK = (*(" " * count for count in range(1, 33)), "\t", "\u00a0")


def typed_plan(arrow_type: pa.DataType, stated_kind: Kind | None) -> ColumnPlan:
    """Return the plan that keeps the values of a typed column as they are."""
    return ColumnPlan(storage_of(arrow_type), typed=True, stated_kind=stated_kind)


def storage_of(arrow_type: pa.DataType) -> Storage:
    """Return the storage class of an Arrow type that a dataset may have."""
    types = pa.types
    if types.is_boolean(arrow_type):
        return "bool"
    if types.is_integer(arrow_type) or (types.is_decimal(arrow_type) and arrow_type.scale <= 0):
        return "int64"
    if types.is_floating(arrow_type) or types.is_decimal(arrow_type):
        return "float64"
    return "timestamp" if types.is_timestamp(arrow_type) or types.is_date(arrow_type) else "string"


def as_texts(column: pa.Array) -> pa.Array:
    """Return typed values as label texts: 1.0 is "1", true is "true"."""
    codes, labels = labels_of(column)
    indices = pa.array(codes, pa.int64(), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(labels, pa.string())).dictionary_decode()


class ColumnParser:
    """Parses one column batch by batch, and remembers what does not fit its plan."""

    def __init__(self, name: str, plan: ColumnPlan) -> None:
        self.name = name
        self.plan = plan
        self.first_plan = plan
        self.good = self.bad = 0  # numbers of values that fit the plan, and that do not
        self.bad_values: list[tuple[int, str]] = []  # row and text of the first bad values
        self.bad_spellings = Counter[str]()
        self.examples: list[str] = []  # good texts of the first batch
        self.read_as_missing = Counter[str]()  # texts that were read as missing, counted
        self.blanks = Counter[str]()  # texts of blanks only, which count as missing
        self.label_counts: Mapping[str, int] = {}  # counts of labels that would spell a missing value in other columns
        self.naive = self.zoned = 0  # numbers of times without a zone, and with one
        self.notices: list[Notice] = []  # decisions about this column; part of the upload's response
        self._tried = [plan]

    @property
    def plan_changed(self) -> bool:
        """Whether the plan did not fit: the file must be read again."""
        return self.plan != self.first_plan

    @property
    def format(self) -> ColumnFormat:
        """The column's format, with every spelling that was read as missing."""
        plan = self.plan
        if plan.typed:
            number = plan.storage in ("int64", "float64")
            return ColumnFormat(decimal="." if number else None, missing=() if plan.storage == "string" else None)
        also = tuple(sorted({*plan.format.also_missing, *(text.strip().lower() for text in self.read_as_missing)}))
        also = tuple(text for text in also if text and not plan.format.is_missing(text))
        update: dict[str, object] = {"also_missing": (*plan.format.also_missing, *also)} if also else {}
        if plan.storage in ("int64", "float64") and plan.format.decimal is None:
            update["decimal"] = "."
        if plan.trim and plan.storage == "string":
            update["trim"] = True
        return plan.format.change(**update) if update else plan.format

    def parse(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        """Return values of the plan's type and, if the plan is strict, a mask (bool) of values that do not fit.

        `rows` are the row numbers of `values`, for error messages. A batch may show that another plan is needed: that
        replaces `plan`, after which `plan_changed` is true.
        """
        plan = self.plan
        if plan.typed:
            return values, None
        if not self.examples:
            self.examples = values[:MAX_EXAMPLES].drop_null().unique()[:MAX_EXAMPLES].to_pylist()
        if plan.trim:
            values = pc.utf8_trim_whitespace(values)
        if plan.storage in ("int64", "float64"):
            return self._parse_numbers(values, rows)
        values = self._without_missing(values)
        if plan.storage == "timestamp":
            return self._parse_times(values, rows)
        if plan.storage == "bool" or (plan.strict and plan.stated_kind == "boolean" and plan.storage == "string"):
            return self._parse_booleans(values, rows)
        return self._merge_labels(values), None

    def _without_missing(self, values: pa.Array) -> pa.Array:
        """Return the values with null for spellings of a missing value, and count those spellings."""
        plan = self.plan
        is_value = plan.storage != "string"
        in_any_case = {*plan.format.also_missing, *(SOFT_MISSING if plan.soft_missing and is_value else ())}
        spellings = {*plan.format.missing_spellings, *_BLANK} - {*plan.format.keep}
        missing = find_missing(values, spellings, in_any_case, trim=is_value or plan.format.trim)
        if not pc.any(missing).as_py():
            return values
        missing_counts = values.filter(missing).value_counts()
        for text, count in zip(missing_counts.field(0).to_pylist(), missing_counts.field(1).to_pylist(), strict=True):
            if (bare_text := text.strip()) and len(self.read_as_missing) < MAX_SPELLINGS:
                self.read_as_missing[bare_text] += count
            elif text and not bare_text:
                self.blanks[text] += count
        return pc.if_else(missing, pa.scalar(None, pa.string()), values)

    def _parse_numbers(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        plan = self.plan
        if not plan.strict and plan.stated_kind != "numeric" and has_leading_zeros(values):
            return self._fall_back_to_text(values, notices=note_leading_zeros(self.name, values))
        floats = plan.storage == "float64"
        parsed = numbers.cast_plain(values, floats) if plan.format.is_plain and not plan.quoted else None
        if parsed is None:
            values = self._without_missing(values)
            parsed, bad = numbers.parse_numbers(values, plan.format, floats)
            parsed = self._without_missing_numbers(parsed, values)
            large = pa.types.is_floating(parsed.type) and numbers.has_large(parsed)
        else:
            large = pa.types.is_floating(parsed.type) and numbers.has_large(parsed)
            bad = numbers.overflown(values, parsed) if large else np.zeros(len(values), bool)
        if pa.types.is_floating(parsed.type):
            if large and plan.stated_kind != "numeric" and numbers.loses_digits(values, plan.format):
                return self._fall_back_to_text(values, **keep_digits(self.name))
            if plan.storage == "int64":
                self.plan = replace(self.plan, storage="float64")
        elif floats:
            parsed = parsed.cast(pa.float64(), safe=False)
        return self._check(values, parsed, bad, rows)

    def _without_missing_numbers(self, parsed: pa.Array, texts: pa.Array) -> pa.Array:
        """Return the numbers with null for other spellings of a missing number: -999.0 if -999 is missing."""
        if not self.plan.format.missing_numbers:
            return parsed
        meant = pa.array(sorted(self.plan.format.missing_numbers), pa.float64())
        missing = pc.fill_null(pc.is_in(parsed.cast(pa.float64(), safe=False), meant), False)
        for text in texts.filter(missing).unique().to_pylist():
            self.read_as_missing[text.strip()] += 1
        return pc.if_else(missing, pa.scalar(None, parsed.type), parsed)

    def _parse_times(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        micros, bad, zoned = times.parse_times(values, self.plan.format)
        with_zone = int(zoned.sum())
        self.zoned += with_zone
        self.naive += len(values) - values.null_count - int(bad.sum()) - with_zone
        if with_zone and not self.plan.zoned:
            self.plan = replace(self.plan, zoned=True)
        return self._check(values, micros.cast(self.plan.arrow_type), bad, rows)

    def _parse_booleans(self, values: pa.Array, rows: np.ndarray) -> tuple[pa.Array, np.ndarray | None]:
        """Accept every common spelling if the request states boolean, else only `true` and `false`."""
        stated = self.plan.stated_kind == "boolean"
        words = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        yes = pc.is_in(words, pa.array(sorted(TRUE) if stated else ["true"]))
        known = pc.or_(yes, pc.is_in(words, pa.array(sorted(FALSE) if stated else ["false"])))
        bad = ~pc.or_(known, values.is_null()).to_numpy(zero_copy_only=False)
        parsed = yes if self.plan.storage == "bool" else values
        return self._check(values, pc.if_else(known, parsed, pa.scalar(None, parsed.type)), bad, rows)

    def _merge_labels(self, values: pa.Array) -> pa.Array:
        """Map texts to their labels."""
        format = self.plan.format
        if not (format.trim or format.labels):
            return values
        encoded = values.dictionary_encode()
        labels = pa.array([format.label(text) for text in encoded.dictionary.to_pylist()], pa.string())
        return labels.take(encoded.indices)

    def _check(
        self, texts: pa.Array, parsed: pa.Array, bad: np.ndarray, rows: np.ndarray
    ) -> tuple[pa.Array, np.ndarray | None]:
        """Count and remember bad values; a column with too many becomes text."""
        count = int(bad.sum())
        self.good += len(texts) - texts.null_count - count
        if not count:
            return parsed, None
        self.bad += count
        for index in np.flatnonzero(bad)[: max(0, MAX_PROBLEMS - len(self.bad_values))]:
            self.bad_values.append((int(rows[index]), texts[int(index)].as_py()))
        spellings = texts.filter(pa.array(bad)).value_counts()
        for text, occurrences in zip(spellings.field(0).to_pylist(), spellings.field(1).to_pylist(), strict=True):
            if text in self.bad_spellings or len(self.bad_spellings) < MAX_SPELLINGS:
                self.bad_spellings[text] += occurrences
        if self.plan.strict:
            return parsed, bad
        if self.bad > 1000 and self.bad > 0.2 * self.good and self._better_plan() is None:
            return self._fall_back_to_text(texts, notices=self._note_odd())
        return parsed, None

    def _fall_back_to_text(self, texts: pa.Array, **changes: object) -> tuple[pa.Array, None]:
        self.plan = replace(as_text_plan(self.plan), **changes)  # type: ignore[arg-type]
        return texts, None

    def _note_odd(self) -> tuple[Notice, ...]:
        """Note a column that stays text because a few of its values differ in type from all others."""
        if self.good < self.bad or self.plan.storage not in VALUES:
            return ()
        odd = next(iter(self.bad_spellings))
        return (note_odd_values(self.name, self.plan.storage, odd, self.good, self.good + self.bad),)

    def _better_plan(self) -> ColumnPlan | None:
        """Return a plan that parses the bad texts too, along with the others; None if there is none."""
        texts = [*self.bad_spellings, *self.examples]
        plan = propose_again(self.name, self.plan, texts)
        return plan if plan is not None and plan not in self._tried and plan != self.first_plan else None

    def next_plan(self, labels: Mapping[str, int] | None = None) -> ColumnPlan:
        """Return the plan for another pass over the file; an unchanged plan makes this pass final.

        Words that stand for a missing value are read as missing. A few other bad values among many good ones (1 in 100,
        or up to 3 in at least 60) are errors, so the plan becomes strict; more of them make the column text. `labels`
        are the column's texts with their counts.
        """
        plan, total = self.plan, self.good + self.bad
        if plan.storage == "string" and labels is not None and not plan.typed and plan.stated_kind != "text":
            return replace(plan, format=merge_spellings(plan.format, labels))
        if not self.bad or plan.storage == "string" or (plan.strict and not plan.stated_kind):
            return plan
        is_value = plan.storage in VALUES
        all_soft = len(self.bad_spellings) < 20 and are_soft_missing(self.bad_spellings)
        are_several = len({*self.examples} - {*self.bad_spellings}) >= SEVERAL
        if is_value and not plan.soft_missing and all_soft and (self.good >= self.bad or are_several):
            return replace(plan, soft_missing=True)
        if is_value and (better := self._better_plan()) is not None:
            return better
        if plan.strict:
            return plan
        if is_value and (words := words_for_missing(self.bad_spellings, len(self.examples))):
            format = plan.format.change(also_missing=(*plan.format.also_missing, *words))
            return replace(plan, format=format)
        if self.bad <= max(0.01 * total, min(3.0, total / 20)):
            return replace(plan, strict=True)
        return as_text_plan(plan, self._note_odd())

    def finish(self, labels: Mapping[str, int]) -> None:
        """Write notices about decisions once the pass is final. `labels` are the column's texts with their counts."""
        plan, self.label_counts = self.plan, labels
        self.notices += plan.notices
        if self.zoned and self.naive:
            self.notices.append(
                Notice(
                    code="naive_and_zoned",
                    message=f"Times without a zone in {self.name!r} are read as UTC, as if they ended in Z.",
                    column=self.name,
                    evidence=f"{self.naive} of {self.naive + self.zoned} have no zone",
                    option=f"kinds.{self.name}=categorical",
                )
            )
        if plan.typed:
            return
        if plan.storage == "string":
            self._note_words()
            self._note_spellings()
        else:
            self._note_soft()

    def _note_words(self) -> None:
        """Note words in a text column that were read as missing or, although they could be missing, as labels."""
        plan, name = self.plan, self.name
        if self.blanks and plan.stated_format.missing is None:
            self.notices.append(
                Notice(
                    code="read_as_missing",
                    message=f"{self.blanks.total()} values of {name!r} that are blanks alone are read as missing.",
                    column=name,
                    evidence="nothing is seen in them",
                    option=f"formats.{name}.keep={json.dumps(sorted(self.blanks), ensure_ascii=False)}",
                )
            )
        for word, count in sorted(self.read_as_missing.items()):
            if plan.stated_format.missing is None and word.strip() in ("NA", "None", "?"):
                self.notices.append(
                    Notice(
                        code="read_as_missing",
                        message=f"{count} values {word} of {name!r} are read as missing.",
                        column=name,
                        evidence="a usual spelling of a missing value",
                        option=f"formats.{name}.keep={word}",
                    )
                )
        for word in plan.format.keep:
            if word not in plan.stated_format.keep and (count := self.label_counts.get(word, 0)):
                quoted = plan.quoted
                self.notices.append(
                    Notice(
                        code="read_as_label",
                        message=f"{count} values {word} of {name!r} are read as a label.",
                        column=name,
                        evidence="they are quoted"
                        if quoted
                        else "it is written as the other labels are, and as frequent",
                        option=f'formats.{name}.missing=["{word}"]',
                    )
                )

    def _note_spellings(self) -> None:
        """Note spellings that were merged to one label, and labels that differ only in case."""
        format, stated_format, name = self.plan.format, self.plan.stated_format, self.name
        if format.trim and not stated_format.trim and not self.plan.trim:
            self.notices.append(
                Notice(
                    code="spellings_merged",
                    message=f"Blanks around the labels of {name!r} are removed: some labels differed only in them.",
                    column=name,
                    option=f"kinds.{name}=text",
                )
            )
        if format.labels and not stated_format.labels and not stated_format.fold_case:
            shown = ", ".join(f"{text} is {label}" for text, label in sorted(format.labels.items())[:4])
            self.notices.append(
                Notice(
                    code="spellings_merged",
                    message=f"Spellings of the same label of {name!r} are one label: {shown}.",
                    column=name,
                    evidence="all are usual spellings of true and false, in upper or lower case",
                    option=f"kinds.{name}=text",
                )
            )
        if self.plan.stated_kind == "text":
            return
        if not format.fold_case and (alike := _alike(self.label_counts, folded)):
            self.notices.append(
                Notice(
                    code="similar_labels",
                    message=f"Some labels of {name!r} differ only in case, blanks or the way characters are written.",
                    column=name,
                    evidence="; ".join(", ".join(map(repr, labels[:4])) for labels in alike[:3]),
                    option=f"formats.{name}.fold_case=true",
                )
            )
        elif not format.labels and (alike := _alike(self.label_counts, lambda label: folded(label).rstrip(" .,;:!*"))):
            merged = {label: labels[0] for labels in alike[:10] for label in labels[1:]}
            self.notices.append(
                Notice(
                    code="similar_labels",
                    message=f"Some labels of {name!r} differ only in a character at the end.",
                    column=name,
                    evidence="; ".join(", ".join(map(repr, labels[:4])) for labels in alike[:3]),
                    option=f"formats.{name}.labels={json.dumps(merged, ensure_ascii=False)}",
                )
            )

    def _note_soft(self) -> None:
        """Note words that were read as missing because all other values are numbers or times."""
        format, stated_format = self.plan.format, self.plan.stated_format
        decided = {*(SOFT_MISSING if self.plan.soft_missing else ()), *format.also_missing} - {
            word.lower() for word in stated_format.also_missing
        }
        words = {word: count for word, count in self.read_as_missing.items() if word.lower() in decided}
        shown = [word for word in words if word not in format.missing_spellings]
        if shown:
            self.notices.append(
                Notice(
                    code="read_as_missing",
                    message=f"{sum(words[word] for word in shown)} values of {self.name!r} are read as missing: "
                    f"{', '.join(sorted(shown)[:5])}.",
                    column=self.name,
                    evidence=f"everything else in the column is {self.plan.expected}",
                    option=f"kinds.{self.name}=categorical",
                )
            )


def _alike(labels: Mapping[str, int], essence: Callable[[str], str]) -> list[list[str]]:
    """Return the groups of labels with the same essence, each with its most frequent one first."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels, key=lambda label: -labels[label]):
        if common := essence(label):
            groups.setdefault(common, []).append(label)
    return [group for group in groups.values() if len(group) > 1]
