"""Resolve a search against a dataset's facts: find a valid configuration, count them all, and estimate the cost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import BadInput, Problem
from fitserve.settings import Limits
from fitserve.spec.ablation import MAX_PARTS, NOTHING_LEFT_OUT, check_parts, parts_of, without
from fitserve.spec.assessment import Advice, Estimates
from fitserve.spec.estimates import MEMBER_SHARE, STACKED, over_limit
from fitserve.spec.resolve import Resolved, resolve
from fitserve.spec.resolve_training import monitors_of
from fitserve.spec.search import (
    LEFT_OUT,
    SEED,
    Choice,
    NumberRange,
    Point,
    Range,
    SearchSpec,
    at_point,
    drawn,
    ranges_of,
    read_search,
    with_interval,
)
from fitserve.spec.spec import Spec, SpecRefused, parse
from fitserve.spec.usable_rows import FindRows
from fitserve.validation import unknown_name

# parts that change what the loss measures, so that losses cannot be compared
_LOSS_PARTS = {"regularizers", "label_smoothing", "class_weight"}
_DRAWN = ("random", "stratified", "group")  # splits that draw rows by a seed
_PROBED = 12  # configurations checked before a run is accepted: the first, and random ones
_IN_THE_LOSS = ("label_smoothing", "_regularizer", "loss", "class_weight", "target", "split", "sample_weight")


@dataclass(frozen=True, slots=True)
class ResolvedSearch:
    """A search that can be run. `base` is the first of its configurations that is valid."""

    search: SearchSpec
    base: Resolved
    resolved: dict[str, Any]  # the run's resolved spec: the base, with the search written out
    estimates: Estimates  # for all trials together
    warnings: list[Advice]


def trial_spec(
    search: SearchSpec, point: Point, facts: DatasetFacts, limits: Limits | None = None, pace: float = 1.0
) -> Resolved:
    """Return the resolved spec of one trial. Raises SpecRefused if it is invalid.

    All trials are compared on the same rows: the split uses the spec's seed, or 0.
    """
    limits = limits or Limits()
    if search.ablation is not None:
        return _resolve_without_part(search, point, facts, limits, pace)
    body = at_point(search.body, point)
    body.pop("model", None)
    spec = _one_network(parse(body, limits))
    if spec.split.seed is None and spec.split.method in _DRAWN:
        split = spec.split.model_copy(update={"seed": _seed_of_split(search)})
        spec = spec.model_copy(update={"split": split})
    return resolve(spec, facts, limits, pace)


def _one_network(spec: Spec) -> Spec:
    """Return the spec of a trial, which is one network unless the spec says otherwise. Raises SpecRefused."""
    if spec.training.restarts > 1:
        fix = "Leave restarts out; training: {seed: {search: [...]}} varies the seed."
        detail = "A search cannot be combined with restarts."
        raise SpecRefused.because([Problem(detail, "/training/restarts", received=spec.training.restarts, fix=fix)])
    if spec.training.switches:
        detail = "A search cannot be combined with switches of the optimizer."
        raise SpecRefused.because(
            [Problem(detail, "/training/switches", fix="Search first, then fork the best trial.")]
        )
    if spec.training.workers is not None:
        detail = "The trials of a search are spread over the workers one by one."
        received = spec.training.workers.count
        raise SpecRefused.because([Problem(detail, "/training/workers", received=received, fix="Leave workers out.")])
    # set by another search that this spec was copied from; this search decides its own stacking
    if spec.training.stacked is not None:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"stacked": None})})
    if "ensemble" not in spec.model_fields_set and spec.folds is None:  # the spec does not say otherwise
        spec = spec.model_copy(update={"ensemble": None})
    return spec


def _resolve_whole(search: SearchSpec, facts: DatasetFacts, limits: Limits, pace: float = 1.0) -> Resolved:
    """Return an ablation's spec as it stands, with nothing left out."""
    body = {key: value for key, value in search.body.items() if key not in ("model", "ablate")}
    return resolve(_one_network(parse(body, limits)), facts, limits, pace)


def _resolve_without_part(
    search: SearchSpec, point: Point, facts: DatasetFacts, limits: Limits, pace: float
) -> Resolved:
    """Return an ablation's spec without one part, with one seed. Raises SpecRefused.

    If the split is random, each seed divides the rows anew, so that an effect belongs to the part and not to the rows
    that happened to validate. Both sides of a pair have the same rows.
    """
    left_out, seeds = search.ranges[LEFT_OUT], search.ranges[SEED]
    assert isinstance(left_out, Choice)
    assert isinstance(seeds, Choice)
    part, seed = left_out.options[int(point[LEFT_OUT])], seeds.options[int(point[SEED])]
    body = _resolve_whole(search, facts, limits, pace).spec.to_json()
    body = body if part == NOTHING_LEFT_OUT else without(str(part), body)
    body["training"]["seed"] = seed
    if body["split"]["method"] in _DRAWN:
        body["split"]["seed"] = seed
    return resolve(parse({**body, "decision": []}, limits), facts, limits, pace)


def _with_parts(search: SearchSpec, facts: DatasetFacts, limits: Limits) -> SearchSpec:
    """Return an ablation with its parts written out. Raises SpecRefused for a part that the spec lacks."""
    own = search.ablation
    assert own is not None
    body = _resolve_whole(search, facts, limits).spec.to_json()
    parts = parts_of(body) if own.parts == "all" else list(own.parts)
    problems = check_parts(parts, body) if own.parts != "all" else []
    if not parts:
        problems = [Problem("The spec has no part that could be left out.", "/ablate")]
    if len(parts) > MAX_PARTS:
        detail = f"An ablation has at most {MAX_PARTS} parts."
        problems = [Problem(detail, "/ablate", received=len(parts), fix="Name those that matter.")]
    SpecRefused.raise_for(problems)
    written = {**search.body, "ablate": {"parts": parts, "seeds": own.seeds}}
    again, refused = read_search({**written, "search": search.settings.model_dump(include={"metric", "direction"})})
    if again is None:
        raise SpecRefused.because(refused)
    return again


def _seed_of_split(search: SearchSpec) -> int:
    training = search.body.get("training")
    seed = training.get("seed") if isinstance(training, Mapping) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else 0


def _with_fractions(search: SearchSpec, limits: Limits) -> SearchSpec:
    """Make an integer range continuous if the argument takes fractions: `{low: 0, high: 1}` for a dropout rate."""
    body, generator = search.body, random.Random(0)
    for pointer, one in search.flat().items():
        if not (isinstance(one, NumberRange) and one.whole and one.step is None):
            continue
        points = (drawn(search.ranges, generator) for _ in range(200))
        point = next((point for point in points if pointer in point), None)
        if point is None:
            continue
        try:
            parse(at_point(search.body, {**point, pointer: one.low + 0.5}), limits)
        except SpecRefused:
            continue
        body = with_interval(body, pointer, {"low": float(one.low), "high": float(one.high), "log": one.log})
    return SearchSpec(search.settings, body, ranges_of(body)[0])


def resolve_search(
    search: SearchSpec,
    facts: DatasetFacts,
    limits: Limits | None = None,
    pace: float = 1.0,
    find_rows: FindRows | None = None,
) -> ResolvedSearch:
    """Check a search against a dataset. Raises SpecRefused where no configuration that was tried is valid.

    An invalid configuration fails only its own trial; a warning gives the share of invalid ones among those tried.
    """
    limits = limits or Limits()
    search = _with_parts(search, facts, limits) if search.ablation is not None else _with_fractions(search, limits)
    problems = over_limit("trials", search.trials, limits.trials, "/search/trials", "configurations to train")
    SpecRefused.raise_for(problems)
    valid: list[Resolved] = []
    refused: list[BadInput] = []
    for point in itertools.islice(_probes(search.ranges), _PROBED):
        try:
            valid.append(trial_spec(search, point, facts, limits, pace))
        except BadInput as error:
            refused.append(error)
    if not valid:
        raise refused[0]
    base = valid[0]
    metric, direction = _metric(search, base.spec)
    if search.settings.ensemble is not None and (base.spec.ensemble is not None or base.spec.split.validation == 0):
        several = base.spec.ensemble is not None
        detail = "Each trial is an ensemble already." if several else "No rows are held out to choose trials by."
        problem = Problem(detail, "/search/ensemble", received=search.settings.ensemble)
        raise SpecRefused.because([problem])
    wanted = search.settings.ensemble
    if isinstance(wanted, int) and wanted > search.trials:
        detail = f"An average of {wanted} trials of a search that trains {search.trials}."
        fix = "Train more trials, or average fewer."
        raise SpecRefused.because([Problem(detail, "/search/ensemble", received=wanted, fix=fix)])
    estimates = _estimates(search, valid)
    work = over_limit("multiply_adds", estimates.multiply_adds, limits.multiply_adds, "/search/trials", "multiply-adds")
    if work:
        raise SpecRefused.because(work)
    template = {**search.body, "dataset": base.spec.dataset.model_dump(mode="json")}
    settings = search.settings.model_copy(
        update={
            "trials": search.trials,
            "metric": metric,
            "direction": direction,
            "parallel": min(search.settings.at_once, search.trials),
            "spec": template,
        }
    )
    resolved = {**base.spec.to_json(), "model": search.body.get("model"), "search": settings.model_dump(mode="json")}
    return ResolvedSearch(search, base, resolved, estimates, [*base.warnings, *_advice(search, valid, refused, metric)])


def _probes(ranges: Mapping[str, Range]) -> Iterator[Point]:
    yield _first(ranges)
    generator = random.Random(0)
    seen = {tuple(sorted(_first(ranges).items()))}
    for _ in range(4 * _PROBED):
        point = drawn(ranges, generator)
        if (key := tuple(sorted(point.items()))) not in seen:
            seen.add(key)
            yield point


def _first(ranges: Mapping[str, Range]) -> Point:
    point: Point = {}
    for pointer, one in ranges.items():
        if isinstance(one, Choice):
            point |= {pointer: 0, **_first(one.inside[0])}
        else:
            assert isinstance(one, NumberRange)
            point[pointer] = one.low
    return point


def _metric(search: SearchSpec, base: Spec) -> tuple[str, str]:
    """Return the metric to optimise, and whether its `min` or `max` is better. Raises SpecRefused."""
    monitors = monitors_of(base)
    metric = search.settings.metric or ("val_loss" if "val_loss" in monitors else "loss")
    if search.settings.metric is None and search.ablation is not None and set(search.ablation.parts) & _LOSS_PARTS:
        others = [name for name in monitors if name.startswith("val_") == metric.startswith("val_") and name != metric]
        metric = next((name for name in others if not name.endswith("loss") and name != "learning_rate"), metric)
    if metric not in monitors:
        problem = unknown_name(f"No epoch reports {metric!r}.", metric, monitors, "/search/metric")
        raise SpecRefused.because([problem])
    return metric, search.settings.direction or monitors[metric]


def _estimates(search: SearchSpec, valid: list[Resolved]) -> Estimates:
    """Estimate the cost of all trials from the configurations that were tried; trials train stacked if they can."""
    base, trials = valid[0].estimates, search.trials
    stacked = all(row.layer in STACKED for row in valid[0].summary)
    share = MEMBER_SHARE if stacked else 1.0
    mean = sum(one.estimates.seconds - one.estimates.startup_seconds for one in valid) / len(valid)
    seconds = base.startup_seconds + mean * (1 + share * (trials - 1))
    work = sum(one.estimates.multiply_adds for one in valid) // len(valid)
    return base.model_copy(
        update={
            "seconds": float(f"{min(seconds, search.settings.seconds or seconds):.3g}"),
            "epochs": base.epochs * trials,
            "multiply_adds": work * trials,
        }
    )


def _advice(search: SearchSpec, valid: list[Resolved], refused: list[BadInput], metric: str) -> list[Advice]:
    advice = []
    if refused:
        why = refused[0].problems[0] if refused[0].problems else Problem(refused[0].detail)
        detail = f"{len(refused)} of {len(valid) + len(refused)} configurations looked at are invalid: {why.detail}"
        fix = "Only such a trial fails."
        advice.append(Advice(code="search-invalid", detail=detail, pointer=why.pointer or "/search", fix=fix))
    for pointer, one in search.flat().items():
        steps = one.count() if isinstance(one, NumberRange) and one.step is not None else None
        if isinstance(one, NumberRange) and steps is not None and (last := one.value(steps - 1)) < one.high:
            detail = f"The steps of {one.step:g} from {one.low:g} end at {last:g}: {one.high:g} is never tried."
            fix = "Choose a step that divides the range."
            advice.append(Advice(code="search-step", detail=detail, pointer=f"{pointer}/search", fix=fix))
    inside = [pointer for pointer in search.ranges if any(part in pointer for part in _IN_THE_LOSS)]
    if metric.endswith("loss") and inside:
        detail = f"{metric} depends directly on {inside[0]}, which is searched: it compares trials unfairly."
        fix = "metric: another one, such as val_accuracy or val_mean_absolute_error"
        advice.append(Advice(code="search-metric", detail=detail, pointer="/search/metric", fix=fix))
    return advice


def search_of(resolved: Mapping[str, Any]) -> SearchSpec | None:
    """Return the search of a run's resolved spec; None where it has none."""
    if not isinstance(resolved.get("search"), dict):
        return None
    search, problems = read_search(dict(resolved))
    if search is None:
        raise SpecRefused.because(problems)
    return search
