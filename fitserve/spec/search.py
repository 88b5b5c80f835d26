"""Searches: specs in which some values are ranges, and the choice of trials from them.

Any value of a spec may be `{search: [...]}` or `{search: {low, high, log, step}}`. A choice may contain further ranges,
which exist only where it is chosen. A *point* assigns a value to each range, keyed by the range's JSON pointer in the
search's spec: the index of a choice (from 0), or the number itself.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, model_validator

from fitserve.data_model import DataModel
from fitserve.errors import Problem, json_pointer
from fitserve.excerpts import excerpt
from fitserve.spec import ablation
from fitserve.spec.ablation import Ablation, AnyAblation
from fitserve.spec.argument_types import Above0, Flag, Positive, Seed
from fitserve.validation import InvalidValue, problems_from

Point = dict[str, int | float]
Sampler = Literal["tpe", "random", "grid", "gp", "cmaes"]
Pruner = Literal["asha", "median", "none"]
KEY = "search"
TRIALS = 32  # default number of trials
MAX_RANGES = 100
MAX_CHOICES = 1000
MAX_VALUES = 2**53  # most values of a range, and its largest integer: floats are exact up to here
STACKED = 64  # trials trained at once if no trial depends on earlier results
INFORMED = 16  # trials trained at once if later ones are chosen by earlier results


def _number(value: Any) -> Any:
    """Return a number as it was written, whole or not. Raises InvalidValue for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidValue("Expected a number.", received=excerpt(value), expected="a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue("Expected a finite number.", received=excerpt(value), expected="a finite number")
    if isinstance(value, int) and abs(value) > MAX_VALUES:
        raise InvalidValue("This number is too large.", received=excerpt(value), expected=f"at most {MAX_VALUES}")
    return value


End = Annotated[int | float, PlainValidator(_number)]


class NumberRange(DataModel):
    """Numbers from `low` to `high`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: End
    high: End
    log: Flag = False
    step: Annotated[End, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the range is inverted: low {self.low:g} is above high {self.high:g}")
        if self.low == self.high:
            raise ValueError(f"the range is empty: low and high are both {self.low:g}; write the number itself")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, not at {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range has no step")
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"the range from {self.low:g} to {self.high:g} is too long")
        if self.step is not None and self.step > self.high - self.low:
            longer = f"the step {self.step:g} is longer than the range from {self.low:g} to {self.high:g}"
            raise ValueError(f"{longer}: only {self.low:g} would be tried")
        if self.step is not None and (self.high - self.low) / self.step > MAX_VALUES:
            raise ValueError(f"the step {self.step:g} is too small for the range: more values than can be counted")
        return self

    @property
    def whole(self) -> bool:
        """Whether its values are integers: both ends are, and the step too, if there is one."""
        ends = isinstance(self.low, int) and isinstance(self.high, int)
        return ends and (self.step is None or float(self.step).is_integer())

    def count(self) -> int | None:
        """Return how many values it has; None where it is continuous."""
        if self.step is None:
            return int(self.high - self.low) + 1 if self.whole else None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def value(self, index: int) -> int | float:
        """Return one of `count` values."""
        value = self.low + index * (self.step or 1)
        return int(value) if self.whole else float(f"{value:.12g}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each with ranges of its own."""

    options: tuple[Any, ...]
    inside: tuple[Mapping[str, Range], ...]  # ranges inside each option, by pointer


Range = Choice | NumberRange


class Search(DataModel):
    """How the trials of a search are chosen, and which is best."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: Positive | None = Field(
        None, description="Networks to train; left out: 32, or all configurations if there are fewer or it is a grid"
    )
    seconds: Above0 | None = Field(None, description="Time limit in seconds of training; running trials then end")
    sampler: Sampler = Field("tpe", description="How values are chosen; grid: every configuration once")
    pruner: Pruner = Field("none", description="asha, median: end trials early that are behind the others")
    metric: str | None = Field(None, description="Left out: val_loss, or loss where no rows are held out")
    direction: Literal["min", "max"] | None = Field(None, description="Left out: the metric's own")
    parallel: Positive | None = Field(
        None, description="Trials chosen and trained at a time; left out: 16, or 64 for random and grid"
    )
    seed: Seed = Field(0, description="Of the choice of values")
    ensemble: Annotated[int, Field(ge=2, le=20, strict=True)] | Literal["greedy"] | None = Field(
        None, description="Serve the average of so many best trials, or of those that greedy selection takes"
    )
    folds: int | dict[str, Any] | None = Field(None, description="The spec's folds: every trial is trained in them")
    spec: dict[str, Any] | None = Field(
        None, description="Written by the server: the spec with its ranges; what stands beside is one configuration"
    )

    @property
    def at_once(self) -> int:
        """Return how many trials are chosen at a time."""
        return self.parallel or (STACKED if self.sampler in ("random", "grid") else INFORMED)


# --- finding the ranges ---------------------------------------------------------------------------------


def is_search(body: Any) -> bool:
    """Return whether a spec as sent is a search."""
    if not isinstance(body, dict):
        return False
    ablates = body.get(ablation.KEY) not in (None, False)
    return ablates or body.get(KEY) is not None or next(_nodes(body, ()), None) is not None


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {KEY}


def _nodes(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield the outermost ranges below a value, with their paths."""
    if path and _is_range(value):
        yield path, value[KEY]
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if path or key != KEY:
            yield from _nodes(inner, (*path, key))


def ranges_of(body: Any, path: tuple[str | int, ...] = ()) -> tuple[dict[str, Range], list[Problem]]:
    """Return the ranges of a spec by pointer, without those inside choices, and every problem."""
    ranges: dict[str, Range] = {}
    problems: list[Problem] = []
    for where, written in _nodes(body, path):
        pointer = json_pointer(where)
        if isinstance(written, list):
            choice, refused = _choice(written, (*where, KEY))
            ranges[pointer] = choice
            problems += refused
            continue
        if not isinstance(written, dict):
            expected = "a list of values, or {low, high}"
            detail = "A range is a list of values, or an object with low and high."
            problems.append(Problem(detail, json_pointer((*where, KEY)), received=excerpt(written), expected=expected))
            continue
        try:
            ranges[pointer] = NumberRange.model_validate(written)
        except ValidationError as error:
            own_problems = problems_from(error.errors(include_url=False), NumberRange, written)
            at = json_pointer((*where, KEY))
            problems += (
                InvalidValue(problems=own_problems).under(*where, KEY).problems if own_problems else [Problem("", at)]
            )
    return ranges, problems


def _choice(written: list[Any], where: tuple[str | int, ...]) -> tuple[Choice, list[Problem]]:
    pointer = json_pointer(where)
    if not written:
        return Choice((), ()), [Problem("The range is empty.", pointer, received=[], expected="at least one value")]
    if len(written) > MAX_CHOICES:
        detail = f"A range has at most {MAX_CHOICES} values."
        return Choice((), ()), [Problem(detail, pointer, received=len(written))]
    inside, problems = [], []
    for index, option in enumerate(written):
        if any(type(option) is type(other) and option == other for other in written[:index]):
            detail = "A value is in the range twice."
            problems.append(Problem(detail, f"{pointer}/{index}", received=excerpt(option)))
        own, refused = _inside(option, (*where, index))
        inside.append(own)
        problems += refused
    return Choice(tuple(written), tuple(inside)), problems


def _inside(option: Any, where: tuple[str | int, ...]) -> tuple[dict[str, Range], list[Problem]]:
    if _is_range(option):
        return {}, [Problem("A range cannot be a value of another.", json_pointer(where), fix="Put its values here.")]
    return ranges_of(option, where)


def count(ranges: Mapping[str, Range]) -> int | None:
    """Return how many configurations there are.

    None if a range is continuous, or if there are too many to count.
    """
    total = 1
    for one in ranges.values():
        if isinstance(one, NumberRange):
            own = one.count()
        else:
            counts = [count(inside) for inside in one.inside]
            own = None if any(c is None for c in counts) else sum(c or 0 for c in counts)
        if own is None:
            return None
        total *= own
    return total if total <= MAX_VALUES else None


def every(ranges: Mapping[str, Range]) -> Iterator[Point]:
    """Yield all points, varying the last range fastest. There may be very many."""
    items = list(ranges.items())
    if not items:
        yield {}
        return
    (pointer, first), rest = items[0], dict(items[1:])
    if isinstance(first, NumberRange):
        for index in range(first.count() or 0):
            for others in every(rest):
                yield {pointer: first.value(index), **others}
        return
    for index, inside in enumerate(first.inside):
        for own in every(inside):
            for others in every(rest):
                yield {pointer: index, **own, **others}


def drawn(ranges: Mapping[str, Range], generator: random.Random) -> Point:
    """Return a random point."""
    point: Point = {}
    for pointer, one in ranges.items():
        if isinstance(one, Choice):
            index = generator.randrange(len(one.options))
            point |= {pointer: index, **drawn(one.inside[index], generator)}
        elif one.log:
            value = math.exp(generator.uniform(math.log(one.low), math.log(one.high)))
            point[pointer] = min(int(one.high), max(int(one.low), round(value))) if one.whole else value
        elif (values := one.count()) is not None:
            point[pointer] = one.value(generator.randrange(values))
        else:
            point[pointer] = generator.uniform(one.low, one.high)
    return point


def at_point(body: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """Return the spec in which each range has the point's value."""
    return {key: _filled(copy.deepcopy(value), (key,), point) for key, value in body.items() if key != KEY}


def _filled(value: Any, path: tuple[str | int, ...], point: Point) -> Any:
    """Return a value with its ranges replaced by the values chosen.

    In a list, a range whose value is a list is replaced by all of its elements, and one whose value is null is left
    out, so that a range can be a block of layers or none.
    """
    if _is_range(value) and (pointer := json_pointer(path)) in point:
        if isinstance(value[KEY], dict):
            return point[pointer]
        index = int(point[pointer])
        return _filled(value[KEY][index], (*path, KEY, index), point)
    if isinstance(value, dict):
        return {key: _filled(inner, (*path, key), point) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    whole: list[Any] = []
    for index, inner in enumerate(value):
        filled = _filled(inner, (*path, index), point)
        if _is_range(inner) and (filled is None or isinstance(filled, list)):
            whole += filled or []
        else:
            whole.append(filled)
    return whole


def values_of(ranges: Mapping[str, Range], point: Point) -> dict[str, Any]:
    """Return the value chosen for each range by its short name, and those of the ranges inside it."""
    flat = dict(_flat(ranges))
    names = short_names(list(flat))
    values: dict[str, Any] = {}
    for pointer, coordinate in point.items():
        one = flat[pointer]
        if isinstance(one, Choice):
            path: tuple[str | int, ...] = (*_keys(pointer), KEY, int(coordinate))
            values[names[pointer]] = _filled(one.options[int(coordinate)], path, point)
        else:
            values[names[pointer]] = coordinate
    return values


def with_interval(body: Any, pointer: str, interval: dict[str, Any]) -> Any:
    """Return a spec with another interval at a pointer."""
    body = copy.deepcopy(body)
    inner = body
    for key in _keys(pointer):
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[KEY] = interval
    return body


def _keys(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _flat(ranges: Mapping[str, Range]) -> Iterator[tuple[str, Range]]:
    for pointer, one in ranges.items():
        yield pointer, one
        for inside in one.inside if isinstance(one, Choice) else ():
            yield from _flat(inside)


def all_names(ranges: Mapping[str, Range]) -> list[str]:
    """Return the short names of all ranges, nested ones too."""
    return list(short_names([pointer for pointer, _ in _flat(ranges)]).values())


def short_names(pointers: list[str]) -> dict[str, str]:
    """Return each pointer's shortest ending that no other pointer shares: `learning_rate`, `0/Dense/units`."""
    parts = {pointer: pointer.strip("/").split("/") for pointer in pointers}
    names = {}
    for pointer, own in parts.items():
        for length in range(1, len(own) + 1):
            ending = own[-length:]
            alone = sum(other[-length:] == ending for other in parts.values()) == 1
            if alone and not ending[0].isdigit():
                break
        names[pointer] = "/".join(ending)
    return names


# --- reading a search ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """A search as sent (a spec with ranges, or an ablation), divided into its settings and the spec's body."""

    settings: Search
    body: dict[str, Any]
    ranges: dict[str, Range]
    ablation: Ablation | None = None  # if set, the ranges are the part left out and the seed

    def flat(self) -> dict[str, Range]:
        """Return all ranges by pointer, those inside choices too."""
        return dict(_flat(self.ranges))

    @property
    def configurations(self) -> int | None:
        """Return how many configurations there are; None where a number is continuous."""
        return count(self.ranges)

    @property
    def trials(self) -> int:
        """Return how many trials there are at most."""
        all_of_them, asked = self.configurations, self.settings.trials
        if self.settings.sampler == "grid" and all_of_them is not None:
            return min(asked or all_of_them, all_of_them)
        return min(asked or TRIALS, all_of_them or math.inf)  # type: ignore[return-value]


def read_search(body: dict[str, Any]) -> tuple[SearchSpec | None, list[Problem]]:
    """Read the search in a spec as sent, and every problem of its ranges and settings."""
    written = body.get(KEY)
    if written is not None and not isinstance(written, dict):
        detail = "The settings of a search are an object."
        return None, [Problem(detail, f"/{KEY}", received=excerpt(written), expected="such as {trials: 32}")]
    body, written, problems = _with_folds(body, written or {})
    if problems:
        return None, problems
    try:
        settings = Search.model_validate(written)
    except ValidationError as error:
        refused = problems_from(error.errors(include_url=False), Search, written)
        return None, list(InvalidValue(problems=refused).under(KEY).problems)
    template = settings.spec if settings.spec is not None else {k: v for k, v in body.items() if k != KEY}
    if template.get("check") not in (None, False):
        detail = "A check takes one configuration."
        return None, [Problem(detail, "/check", fix="Leave check out, or the ranges and ablate.")]
    if template.get(ablation.KEY) not in (None, False):
        return _read_ablation(settings, template)
    ranges, problems = ranges_of(template)
    if not ranges and not problems:
        detail = "Nothing in the spec is searched."
        fix = "Write a value as a range: units: {search: [32, 64]}, or leave search out."
        problems.append(Problem(detail, f"/{KEY}", fix=fix))
    if len(dict(_flat(ranges))) > MAX_RANGES:
        problems.append(Problem(f"A search has at most {MAX_RANGES} ranges.", f"/{KEY}", received=len(ranges)))
    search = SearchSpec(settings, template, ranges)
    if settings.sampler == "grid" and not problems and search.configurations is None:
        endless = [pointer for pointer, one in _flat(ranges) if isinstance(one, NumberRange) and one.count() is None]
        if endless:
            detail = "A grid needs ranges that can be counted; this one has any number between its ends."
            problems.append(Problem(detail, f"{endless[0]}/{KEY}", fix="Give it a step, or a list of values."))
        else:
            detail = "A grid trains every configuration; there are more than can be counted."
            problems.append(Problem(detail, f"/{KEY}/sampler", fix="sampler: random draws some of them"))
    return (None, problems) if problems else (search, [])


def _with_folds(body: dict[str, Any], written: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[Problem]]:
    """Return a spec and its search's settings with `folds` moved into the spec, so that every trial trains in folds."""
    if written.get("folds") is None:
        return body, written, []
    if body.get("folds") is not None:
        detail = "The folds are stated twice."
        return body, written, [Problem(detail, f"/{KEY}/folds", fix="Leave one of them out.")]
    rest = {key: value for key, value in written.items() if key != "folds"}
    return {**body, "folds": written["folds"]}, rest, []


LEFT_OUT, SEED = f"/{ablation.KEY}", "/training/seed"  # pointers of an ablation's two ranges


def _read_ablation(settings: Search, template: dict[str, Any]) -> tuple[SearchSpec | None, list[Problem]]:
    """Return an ablation as a search over what is left out, `nothing` first, and over the seed."""
    written = template[ablation.KEY]
    body = {key: value for key, value in template.items() if key != ablation.KEY}
    problems = [
        Problem("An ablation takes one configuration.", json_pointer(where), fix="Search first; then ablate the best.")
        for where, _ in _nodes(body, ())
    ]
    for name in ("trials", "sampler", "pruner", "seconds", "seed", "ensemble"):
        if settings.spec is None and name in settings.model_fields_set:
            detail = f"An ablation trains every part with every seed; it takes no {name}."
            problems.append(Problem(detail, f"/{KEY}/{name}", fix="Leave it out; ablate: {parts: [...], seeds: 5}"))
    try:
        own = _ABLATION.validate_python(written)
    except ValidationError as error:
        problems += (
            InvalidValue(problems=problems_from(error.errors(include_url=False), Ablation, written))
            .under(ablation.KEY)
            .problems
        )
        return None, problems
    if problems:
        return None, problems
    assert own is not None
    training = template.get("training")
    first = training.get("seed", 0) if isinstance(training, Mapping) else 0
    parts = own.parts if own.parts != "all" else ()
    variants = Choice((ablation.NOTHING_LEFT_OUT, *parts), ({},) * (len(parts) + 1))
    seeds = [first + index if isinstance(first, int) else index for index in range(own.seeds)]
    ranges: dict[str, Range] = {SEED: Choice(tuple(seeds), ({},) * len(seeds)), LEFT_OUT: variants}
    settings = settings.model_copy(update={"sampler": "grid", "pruner": "none"})
    return SearchSpec(settings, template, ranges, own), []


_ABLATION = TypeAdapter(AnyAblation)
