"""The spec: what a client asks to train, on what data, and how."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fitserve.data_model import DataModel
from fitserve.errors import BadInput, Problem
from fitserve.excerpts import excerpt
from fitserve.ids import NAME_PATTERN
from fitserve.settings import Limits
from fitserve.spec.ablation import AnyAblation
from fitserve.spec.argument_types import Above0, Flag, Natural, Seed
from fitserve.spec.check import CHECKS, AnyCheck
from fitserve.spec.decision import Decisions
from fitserve.spec.ensemble import AnyEnsemble, AnyFolds
from fitserve.spec.feature import Feature
from fitserve.spec.initial_weights import InitialWeights
from fitserve.spec.interval import Interval
from fitserve.spec.network import DEFAULT, Network, read_network
from fitserve.spec.search import Search
from fitserve.spec.target import Targets, Task
from fitserve.spec.training import Training, refuse_learning_rate
from fitserve.validation import InvalidValue, problems_from

REFERENCE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(@[1-9][0-9]{0,8})?$"
MAX_PROBLEMS = 50
MAX_PROTECTED = 20
TIME_BUDGET = 120.0
Calibrate = Literal["auto", "temperature", "isotonic", "none"]
SplitMethod = Literal["random", "stratified", "time", "group", "column"]


class SpecRefused(BadInput):
    """The spec is refused."""

    slug = "spec-refused"
    title = "The spec is refused"

    @classmethod
    def because(cls, problems: Sequence[Problem]) -> SpecRefused:
        """Return one error for several problems, with the first as its headline."""
        first = problems[0]
        return cls(
            first.detail,
            pointer=first.pointer,
            received=first.received,
            expected=first.expected,
            fix=first.fix,
            problems=problems[:MAX_PROBLEMS],
        )

    @classmethod
    def raise_for(cls, problems: Sequence[Problem]) -> None:
        """Raise one error for several problems; do nothing where there are none."""
        if problems:
            raise cls.because(problems)


class DatasetRef(DataModel):
    """The dataset: a name (its newest version), name@version, or an id."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str = Field(pattern=REFERENCE, description="A name, name@version, or an id")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Refuse any other content")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return {"ref": value} if isinstance(value, str) else value

    @property
    def name(self) -> str:
        """The reference without the version."""
        return self.ref.partition("@")[0]


class SplitSpec(DataModel):
    """How rows are divided into training, validation and test. Training never sees the test part.

    - random: rows are shuffled by the seed. The default for numbers.
    - stratified: the same, with each label of `by` in proportion (numbers: in ten bins by rank), and a row of each
      label in training. The default for labels; `by` left out: the target.
    - time: ordered by the column `by`; the oldest rows train, the newest are the test part.
    - group: rows that share a value of `by` stay together.
    - column: `by` contains `train`, `validation` or `test` for each row (also `training`, `val`, `valid`, `dev`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: SplitMethod = "random"
    validation: float = Field(0.2, ge=0, lt=1, description="Share of all rows for validation")
    test: float = Field(0.1, ge=0, lt=1, description="Share of all rows kept from training for the evaluation")
    by: str | None = Field(None, description="The column of a stratified, time, group or column split")
    seed: Seed | None = Field(None, description="Of the order of rows; left out: training.seed")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        # `stratified`, `{stratified: label}` and `{time: {by: day, test: 0.1}}`.
        if isinstance(value, str):
            return {"method": value}
        if isinstance(value, dict) and len(value) == 1:
            ((method, inner),) = value.items()
            if method in get_args(SplitMethod) and isinstance(inner, dict) and "method" not in inner:
                return {"method": method, **inner}
            if method in get_args(SplitMethod) and isinstance(inner, str):
                return {"method": method, "by": inner}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave rows for training: their sum must be below 1")
        if self.method in ("time", "group", "column") and self.by is None:
            raise ValueError(f"a {self.method} split needs `by`, the name of a column")
        if self.method == "random" and self.by is not None:
            raise ValueError("a random split takes no `by`; did you mean `stratified`, `time` or `group`?")
        return self


def _features(value: Any) -> Any:
    # `{gre: standardize, rank: one_hot}` is a list of features too.
    if isinstance(value, dict):
        return [{"column": column, "encoding": encoding} for column, encoding in value.items()]
    return value


def _columns(value: Any) -> Any:
    # `protected: sex`.
    return (value,) if isinstance(value, str) else () if value is None else value


class Spec(DataModel):
    """What to train, how, on what. A resolved spec leaves nothing out, and resolving it again gives the same spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetRef = Field(description="A dataset: its name, name@version, or id")
    target: Targets = Field(description="The column to predict, or several")
    task: Task | None = Field(None, description="Left out: inferred from the target's column")
    features: Annotated[tuple[Feature, ...], BeforeValidator(_features)] | None = Field(
        None,
        description="Columns, with their encodings; `pixel*` stands for those that match, `-pixel0` takes one out;"
        " left out: every other column",
    )
    rows_without_target: Literal["refuse", "leave_out"] = Field(
        "refuse", description="What to do with rows that lack a target, or have an infinite target, feature or weight"
    )
    split: SplitSpec = Field(SplitSpec(), description="How rows are divided into training, validation and test")
    clip: Flag | None = Field(None, description="Shorthand for the clip of every target that is a number")
    preset: Literal["plain"] | None = Field(
        None, description="plain: what is left out is a bare network, trained for 100 epochs, as in a first course"
    )
    network: Network = Field(
        read_network(DEFAULT), description="Layers; left out: two hidden layers of 64 units, relu, each with dropout"
    )
    training: Training = Field(Training(), description="How it is trained")
    initial_weights: InitialWeights | None = Field(
        None,
        description="Trained weights to begin with, of a run, a model's version or an upload; left out: random ones",
    )
    ensemble: AnyEnsemble = Field(
        None,
        description="Several networks whose outputs are averaged; left out: 8 where the network is left out, else none",
    )
    folds: AnyFolds = Field(
        None,
        description="Cross-validation, such as 5: figures with intervals over the folds, and the predictions of rows "
        "that were held back as a dataset",
    )
    calibrate: Calibrate = Field(
        "auto",
        description="How probabilities are calibrated, on held-out rows; auto: temperature scaling where it helps on"
        " these rows",
    )
    interval: Interval | None = Field(
        None,
        description="The level or levels of the intervals and sets in answers to requests that name none",
    )
    coverage_by: str | None = Field(
        None,
        max_length=1000,
        description="A column: intervals and sets hold within each of its groups that has enough rows",
    )
    time_budget: Above0 | None = Field(
        TIME_BUDGET,
        description="Seconds of training, as estimated, that the automatic choices must fit; null: no limit",
    )
    shrunk: dict[str, Natural] = Field(
        {}, description="Written by the server: what was made smaller for the time budget, and what it would be"
    )
    search: Search | None = Field(None, description="How values written as {search: ...} are searched")
    ablate: AnyAblation = Field(
        None,
        description="Train the spec without each of its parts too, and say what each does: all, or a list such as"
        " [dropout, feature:age, layer:2]",
    )
    check: AnyCheck = Field(
        None, description=f"Only check the spec, by one or more of: {', '.join(CHECKS)}; the run keeps no network"
    )
    decision: Decisions = Field(
        (),
        description="How labels follow from probabilities, chosen on held-out rows; one, or a list with one for each "
        "classified target; left out: the likeliest label",
    )
    protected: Annotated[tuple[str, ...], BeforeValidator(_columns)] = Field(
        (),
        max_length=MAX_PROTECTED,
        description="Columns by whose groups rates and errors are compared (fairness); they need not be features",
    )
    model: str | None = Field(None, pattern=NAME_PATTERN, description="Registered under this name when it succeeds")

    @model_validator(mode="before")
    @classmethod
    def _without_learning_rate(cls, value: Any) -> Any:
        return refuse_learning_rate(value, "training: {optimizer: {Adam: {learning_rate: ...}}}")

    @model_validator(mode="before")
    @classmethod
    def _drop_schema_line(cls, value: Any) -> Any:
        if isinstance(value, dict) and "$schema" in value:  # for editors
            return {key: item for key, item in value.items() if key != "$schema"}
        return value

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [target.name for target in self.target]
        if len(set(names)) != len(names):
            raise ValueError("two targets have the same name")
        columns = [column for target in self.target for column in target.columns]
        if len(set(columns)) != len(columns):
            raise ValueError("a column is used by two targets")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; `parse` reads them back."""
        return self.model_dump(mode="json")


def parse(body: Any, limits: Limits | None = None) -> Spec:
    """Return a spec from JSON values. Raises SpecRefused with every problem.

    `limits` are for what a user wrote; a stored spec passed those of its time, and has none.
    """
    if not isinstance(body, dict):
        raise SpecRefused("A spec is a mapping.", pointer="", received=excerpt(body), expected="a mapping")
    try:
        return Spec.model_validate(body, context={"layers": limits.layers if limits is not None else sys.maxsize})
    except ValidationError as error:
        raise SpecRefused.because(problems_from(error.errors(include_url=False), Spec, body)) from None
    except InvalidValue as error:
        raise SpecRefused.because(error.problems) from None
