"""Plans for all columns of a file: what one column proves decides for those that prove nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa

from fitserve.datasets.column_plan import SHARE, ColumnPlan, FilePrior
from fitserve.datasets.column_sample import ColumnSample
from fitserve.datasets.unusual_numbers import note_packed_coordinates
from fitserve.parsing import ColumnFormat, TimeFormat
from fitserve.parsing.column_format import PLAIN
from fitserve.wire.datasets import UploadOptions
from fitserve.wire.notices import Notice


def stated_format(name: str, options: UploadOptions) -> ColumnFormat:
    """Return what the request says about a column's format."""
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
    plans = []
    for name, values in columns.items():
        kind, stated = options.kinds.get(name), stated_format(name, options)
        base = ColumnPlan("string", stated, trim=trim, quoted=quoted, stated_kind=kind, stated=stated)
        plans.append(ColumnSample(name, values, base))
    prior = FilePrior(options.decimal, options.thousands, options.dates, european)
    prior = _with_proofs(prior, plans)
    proposed = [sample.plan(prior) for sample in plans]
    for at, (sample, beside) in enumerate(pairwise(plans)):
        note = note_packed_coordinates(sample.name, sample.present, beside.name, beside.present)
        if note is not None and sample.kind is None:
            proposed[at] = replace(proposed[at], notices=(*proposed[at].notices, note))
    return proposed


def _with_proofs(prior: FilePrior, samples: Sequence[ColumnSample]) -> FilePrior:
    """Return what the columns that prove something say about those that do not."""
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
    """Return a plan for numbers or times, given more of a column's texts; None where none fits (almost) all."""
    prior = prior or plan.prior or FilePrior()
    base = ColumnPlan(
        "string",
        plan.stated,
        trim=plan.trim,
        quoted=plan.quoted,
        stated_kind=plan.stated_kind,
        stated=plan.stated,
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
    """Return the plans for another pass; what a column proved late decides for those that prove nothing."""
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
        plan, storage="string", format=plan.stated, soft_missing=False, strict=False, notices=notices, evidence=""
    )
