"""Decisions: how a classification's label follows from its probabilities, as a spec or a request asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from fitserve.data_model import DataModel
from fitserve.errors import Problem, json_pointer
from fitserve.excerpts import excerpt
from fitserve.spec.argument_types import Flag, Inside, Share, ShareAbove0
from fitserve.validation import InvalidValue, unknown_name

Measure = Literal["f1", "balanced_accuracy", "accuracy", "mcc"]
ERRORS = ("false_positive", "false_negative")
RULES = ("maximize", "cost", "recall_at_least", "precision_at_least", "threshold")
MAX_DECISIONS = 100
MAX_COSTS = 100  # labels in a cost matrix


def _cost(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e12:
        detail = "The cost of an error is a number above 0, at most 1e12."
        raise InvalidValue(detail, received=excerpt(value), expected="a number above 0", fix="Only ratios matter.")
    return float(value)


def _at(key: str, value: Any) -> float:
    try:
        return _cost(value)
    except InvalidValue as error:
        raise error.under(key) from None


def _costs(value: Any) -> Any:
    """Read `{false_positive, false_negative}`, or costs by actual and by predicted label."""
    expected = "false_positive and false_negative, or costs by actual label, then by predicted label"
    if not isinstance(value, Mapping) or not value:
        raise InvalidValue("Costs are a mapping.", received=excerpt(value), expected=expected)
    if set(value) & set(ERRORS) and not any(isinstance(cost, Mapping) for cost in value.values()):
        for name in value:
            if name not in ERRORS:
                raise InvalidValue(problems=[unknown_name(f"No error is called {excerpt(name)}.", name, ERRORS, "")])
        return {name: _at(name, value.get(name, 1.0)) for name in ERRORS}
    matrix: dict[str, dict[str, float]] = {}
    for actual, row in value.items():
        if not isinstance(row, Mapping):
            raise InvalidValue("Costs are given by predicted label.", received=excerpt(row), expected=expected).under(
                str(actual)
            )
        for predicted, cost in row.items():
            if predicted == actual and cost == 0:
                continue
            if predicted == actual:
                raise InvalidValue("A right answer costs nothing.", received=excerpt(cost), expected="0").under(
                    str(actual), str(predicted)
                )
            try:
                matrix.setdefault(str(actual), {})[str(predicted)] = _cost(cost)
            except InvalidValue as error:
                raise error.under(str(actual), str(predicted)) from None
    if not matrix:
        raise InvalidValue("No error has a cost.", received=excerpt(dict(value)), expected=expected)
    return matrix


_COST_SCHEMA: dict[str, Any] = {"type": "number", "exclusiveMinimum": 0}
Costs = Annotated[
    dict[str, Any],
    BeforeValidator(_costs),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "anyOf": [_COST_SCHEMA, {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}]
            },
        }
    ),
]


class Abstain(DataModel):
    """Conditions under which the prediction is no label; any one of them is enough."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unlike_training: Flag = Field(
        True, description="A value of the row is unlike those of training: the row has a warning"
    )
    distance: Inside | None = Field(
        0.99,
        description="The row is farther from the training rows, in the last hidden layer, than this share of the "
        "held-out rows; null: not looked at",
    )
    prediction_set: Inside | None = Field(
        None, description="The prediction set at this level does not have exactly one label"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.unlike_training and self.distance is None and self.prediction_set is None:
            raise ValueError("nothing is left to abstain for; did you mean `abstain: false`?")
        return self


def _switch(value: Any) -> Any:
    # `true` and `false`.
    return ({} if value else None) if isinstance(value, bool) else value


class Decision(DataModel):
    """How a label is chosen from the probabilities of one target. Thresholds are tuned on rows that no network saw.

    At most one of `maximize`, `cost`, `recall_at_least`, `precision_at_least` and `threshold`; without any, the
    likeliest label is answered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str | None = Field(None, max_length=1000, description="The target; left out: the only classification")
    maximize: Measure | None = Field(None, description="On the held-out rows; f1 of several labels is their mean")
    cost: Costs | None = Field(
        None,
        description="What errors cost, relative to each other: {false_positive: 1, false_negative: 5}, or by actual "
        "and by predicted label, of which those left out cost 1",
    )
    recall_at_least: ShareAbove0 | None = Field(
        None, description="The minimum recall of `label`, with as few false positives as possible"
    )
    precision_at_least: ShareAbove0 | None = Field(
        None, description="The minimum precision of `label`, with as high a recall as possible"
    )
    threshold: Share | None = Field(None, description="`label` is predicted if its probability is at least this")
    label: str | None = Field(
        None,
        max_length=1000,
        description="For recall_at_least, precision_at_least and threshold; left out: the second of two labels",
    )
    abstain: Annotated[Abstain | None, BeforeValidator(_switch)] = Field(
        None, description="When to predict no label; true: with its defaults"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        rules = [name for name in RULES if getattr(self, name) is not None]
        if len(rules) > 1:
            raise ValueError(f"{' and '.join(rules)} exclude each other; keep one of them")
        if not rules and self.abstain is None:
            raise ValueError(f"a decision needs one of {', '.join(RULES)}, or abstain")
        if self.label is not None and self.rule not in (*RULES[2:],):
            raise ValueError("`label` belongs to recall_at_least, precision_at_least and threshold")
        return self

    @property
    def rule(self) -> str | None:
        """The rule that is set, one of RULES; None predicts the likeliest label."""
        return next((name for name in RULES if getattr(self, name) is not None), None)

    @property
    def needs_rows(self) -> bool:
        """Whether held-out rows are needed to tune the decision."""
        chosen = self.rule not in (None, "threshold")
        return chosen or (
            self.abstain is not None and (self.abstain.distance or self.abstain.prediction_set) is not None
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON, without those that are left out."""
        return self.model_dump(mode="json", exclude_none=True)


def _listed(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)) and len(value) > MAX_DECISIONS:
        detail = f"A spec has at most {MAX_DECISIONS} decisions."
        raise InvalidValue(detail, received=len(value), expected=f"at most {MAX_DECISIONS}")
    return value if isinstance(value, (list, tuple)) else (value,)


Decisions = Annotated[tuple[Decision, ...], BeforeValidator(_listed)]


@dataclass(frozen=True, slots=True)
class DecisionOutput:
    """The output that a decision applies to: its target's name, task and labels."""

    name: str
    task: str
    labels: tuple[str, ...]

    @property
    def is_classification(self) -> bool:
        return self.task != "regression"


def resolve_decisions(
    decisions: Sequence[Decision], outputs: Sequence[DecisionOutput], held_out: bool, problems: list[Problem]
) -> tuple[Decision, ...]:
    """Return the decisions with their outputs and labels written out, checked. Appends to `problems`."""
    resolved: list[Decision] = []
    for index, decision in enumerate(decisions):
        pointer = "/decision" if len(decisions) == 1 else f"/decision/{index}"
        written = resolve_decision(decision, outputs, pointer, problems)
        if written is None:
            continue
        if any(one.output == written.output for one in resolved):
            detail = f"{written.output!r} has two decisions."
            problems.append(Problem(detail, f"{pointer}/output", received=written.output, fix="Keep one of them."))
        if written.needs_rows and not held_out:
            detail = "No rows are held out, but a decision is chosen on held-out rows."
            at = f"{pointer}/{written.rule}" if written.rule not in (None, "threshold") else f"{pointer}/abstain"
            fix = "split: {validation: 0.2}, or ensemble: folds"
            problems.append(Problem(detail, at, received=decision.to_json(), expected="held-out rows", fix=fix))
        resolved.append(written)
    return tuple(resolved)


def resolve_decision(
    decision: Decision, outputs: Sequence[DecisionOutput], pointer: str, problems: list[Problem]
) -> Decision | None:
    """Return a decision with its output and label written out; None where it has problems, which are appended."""
    output = _output_of(decision, outputs, pointer, problems)
    if output is None:
        return None
    before, update = len(problems), {"output": output.name}
    if decision.rule in RULES[2:] and output.task != "multilabel":
        label = _label_of(decision, output, pointer, problems)
        update |= {"label": label} if label is not None else {}
    elif decision.label is not None:
        detail = "A decision on a multi-label target applies to all of its labels."
        problems.append(Problem(detail, f"{pointer}/label", received=excerpt(decision.label), fix="Leave it out."))
    if decision.cost is not None:
        _check_costs(decision.cost, output, f"{pointer}/cost", problems)
    abstain = decision.abstain
    if abstain is not None and abstain.prediction_set is not None and output.task == "multilabel":
        detail = "A multi-label target has no prediction set of one label."
        at = f"{pointer}/abstain/prediction_set"
        problems.append(Problem(detail, at, received=abstain.prediction_set, fix="Leave it out."))
    return decision.model_copy(update=update) if len(problems) == before else None


def _output_of(
    decision: Decision, outputs: Sequence[DecisionOutput], pointer: str, problems: list[Problem]
) -> DecisionOutput | None:
    classified = [output for output in outputs if output.is_classification]
    names = [output.name for output in classified]
    if decision.output is not None:
        named = next((output for output in outputs if output.name == decision.output), None)
        if named is None:
            detail = f"There is no target {excerpt(decision.output)!r}."
            problems.append(unknown_name(detail, decision.output, names, f"{pointer}/output"))
            return None
        if named in classified:
            return named
        detail, at = f"{named.name!r} is a regression: it has no labels to decide between.", f"{pointer}/output"
    elif len(classified) == 1:
        return classified[0]
    elif classified:
        expected = f"output: one of {', '.join(names[:20])}"
        problems.append(Problem("Which target is decided?", pointer, received=decision.to_json(), expected=expected))
        return None
    else:
        detail, at = "A regression has no labels to decide between.", pointer
    fix = "Leave decision out."
    problems.append(Problem(detail, at, received=decision.output, expected="the target of a classification", fix=fix))
    return None


def _label_of(decision: Decision, output: DecisionOutput, pointer: str, problems: list[Problem]) -> str | None:
    if decision.label is None and len(output.labels) == 2:
        return output.labels[1]
    if decision.label is None:
        detail = f"{decision.rule} is about one label; {output.name!r} has {len(output.labels)}."
        expected = f"label: one of {', '.join(output.labels[:20])}"
        problems.append(Problem(detail, f"{pointer}/{decision.rule}", expected=expected))
    elif decision.label not in output.labels:
        detail = f"{output.name!r} has no label {excerpt(decision.label)!r}."
        problems.append(unknown_name(detail, decision.label, output.labels, f"{pointer}/label"))
    return decision.label


def _check_costs(costs: Mapping[str, Any], output: DecisionOutput, pointer: str, problems: list[Problem]) -> None:
    if set(costs) == set(ERRORS) and not any(isinstance(cost, Mapping) for cost in costs.values()):
        if output.task != "multilabel" and len(output.labels) != 2:
            detail = f"{output.name!r} has {len(output.labels)} labels; false positives and negatives are of two."
            expected = (
                f"costs by actual label, then by predicted label: {{{output.labels[0]}: {{{output.labels[1]}: 5}}}}"
            )
            problems.append(Problem(detail, pointer, received=dict(costs), expected=expected))
        return
    if output.task == "multilabel":
        detail = "The labels of a multi-label target are decided one by one."
        problems.append(Problem(detail, pointer, expected="false_positive and false_negative"))
        return
    if len(output.labels) > MAX_COSTS:
        detail = f"{output.name!r} has {len(output.labels)} labels; costs are weighed for up to {MAX_COSTS}."
        problems.append(Problem(detail, pointer, received=len(output.labels), expected=f"at most {MAX_COSTS}"))
    for actual, row in costs.items():
        for keys in ([actual], *([actual, predicted] for predicted in row)):
            if keys[-1] not in output.labels:
                detail = f"{output.name!r} has no label {excerpt(keys[-1])!r}."
                problems.append(unknown_name(detail, keys[-1], output.labels, pointer + json_pointer(keys)))
