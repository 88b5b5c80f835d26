"""Choose how to train a resolved network within the time budget: ensemble, held-out rows, epochs, and their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.spec import default_network
from fitserve.spec.assessment import Advice, Estimates, SummaryRow
from fitserve.spec.ensemble import (
    FIRST_PAST,
    Ensemble,
    ValidationSplit,
    default_ensembles,
    members_of,
    resolve_ensemble,
)
from fitserve.spec.estimates import estimate, summarize
from fitserve.spec.graph import NetworkGraph
from fitserve.spec.output import Output
from fitserve.spec.resolve_training import resolve_training
from fitserve.spec.spec import Spec, SplitSpec
from fitserve.spec.training import Training

USUAL_VALIDATION, USUAL_TEST = 0.1, 0.1  # assumed shares of the rows if a column assigns the parts


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train a network, and its cost. `shrunk` lists what the time budget reduced."""

    split: SplitSpec
    training: Training
    ensemble: Ensemble | None
    summary: list[SummaryRow]
    estimates: Estimates
    shrunk: dict[str, int]

    @property
    def holds_out(self) -> bool:
        """Whether there are rows that training does not see, other than the test part."""
        folds = self.ensemble is not None and self.ensemble.validation == "folds"
        return folds or self.split.method == "column" or self.split.validation > 0


@dataclass(slots=True)
class Planner:
    """Chooses the ensemble and training settings that a spec leaves out; a budget cuts members first, then epochs."""

    spec: Spec
    split: SplitSpec
    outputs: Sequence[Output]
    graph: NetworkGraph
    facts: DatasetFacts
    pace: float
    problems: list[Problem] = field(default_factory=list)

    def plan(self) -> TrainingPlan:
        """Return the best plan that fits the time budget, else the cheapest. Appends to `problems`."""
        spec, summary = self.spec, summarize(self.graph)
        budget = (
            spec.time_budget
            if default_network.leaves_network_out(spec) or "time_budget" in spec.model_fields_set
            else None
        )
        options = self._ensembles()
        tried: list[TrainingPlan] = []
        for ensemble in options:
            tried.append(self._with_ensemble(ensemble, summary))
            if self.problems or budget is None or tried[-1].estimates.seconds <= budget:
                break
        plan = tried[-1]
        shrunk = {"members": members_of(options[0])} if len(tried) > 1 else {}
        epochs = plan.training.epochs
        if budget is not None and plan.estimates.seconds > budget and "epochs" not in spec.training.model_fields_set:
            startup = plan.estimates.startup_seconds
            fewer = default_network.shrunk_epochs(epochs, plan.estimates.seconds, startup, budget)
            plan = self._with_ensemble(plan.ensemble, summary, fewer)
            shrunk |= {"epochs": epochs} if fewer < epochs else {}
        return replace(plan, shrunk=shrunk)

    def _ensembles(self) -> list[Ensemble | None]:
        """Return the ensembles that the spec may have, the best first; None is a single network."""
        spec, split = self.spec, self.split
        by_column = split.method == "column"
        split_stated = "validation" in spec.split.model_fields_set or spec.training.validation_split is not None
        test = USUAL_TEST if by_column else split.test
        held_out = ValidationSplit(split.method, split.by, split_stated or by_column, split.validation, test)
        rows = max(1, self.facts.rows - (round(self.facts.rows * test) or int(test > 0)))
        if spec.ensemble is not None:
            if spec.training.restarts > 1:
                detail = "Restarts keep the best of several networks; an ensemble averages them."
                fix = "Leave restarts out, or ensemble: false"
                self.problems.append(Problem(detail, "/training/restarts", received=spec.training.restarts, fix=fix))
            pointer = "/folds" if spec.folds is not None else "/ensemble"
            return [resolve_ensemble(spec.ensemble, rows, held_out, self.facts, self.problems, pointer)]
        if (
            "ensemble" in spec.model_fields_set
            or not default_network.leaves_network_out(spec)
            or spec.training.restarts > 1
            or spec.training.workers is not None
            or spec.training.stacked is not None
        ):
            return [None]
        return default_ensembles(rows, held_out, self.facts)

    def _with_ensemble(
        self, ensemble: Ensemble | None, summary: list[SummaryRow], epochs: int | None = None
    ) -> TrainingPlan:
        """Return the plan with this ensemble, or with a single network; for the given number of epochs, if any."""
        split, by_column = self.split, self.split.method == "column"
        test = USUAL_TEST if by_column else split.test
        folds = ensemble is not None and ensemble.validation == "folds"
        if folds:
            split = split if by_column else split.model_copy(update={"validation": 0.0})
            # With a time split, a member trains on all rows before its fold: on average, half of the folds.
            share = (1 + FIRST_PAST) / 2 if split.method == "time" else 1 - 1 / members_of(ensemble)
            rows = round(self.facts.rows * (1 - test) * share)
        else:
            rows = round(self.facts.rows * (1 - test - (USUAL_VALIDATION if by_column else split.validation)))
        validates = folds or by_column or split.validation > 0
        training = default_network.training_of(self.spec, max(1, rows), validates)
        if epochs is not None:
            training = training.model_copy(update={"epochs": epochs})
        training = resolve_training(training, self.outputs, validates, self.problems)
        estimates = estimate(self.graph, summary, training, max(1, rows), members_of(ensemble), self.pace)
        return TrainingPlan(split, training, ensemble, summary, estimates, {})


def shrunk_advice(spec: Spec) -> Advice:
    """Describe in words what was reduced."""
    detail = f"Made smaller to fit the time budget of {spec.time_budget:g} s: {default_network.described(spec.shrunk)}."
    return Advice(code="shrunk", detail=detail, pointer="/time_budget", fix="A larger time_budget")


def budget_advice(spec: Spec, plan: TrainingPlan) -> list[Advice]:
    """Return advice about what the time budget reduced, and about the spec's own values that exceed it."""
    seconds, advice = plan.estimates.seconds, []
    if plan.shrunk:
        advice.append(shrunk_advice(spec.model_copy(update={"shrunk": plan.shrunk})))
    if "time_budget" in spec.model_fields_set and spec.time_budget and seconds > spec.time_budget and not spec.shrunk:
        detail = f"Training is estimated at {seconds:g} s, above the time budget of {spec.time_budget:g} s."
        fix = "Fewer epochs or members, or a larger time_budget"
        advice.append(Advice(code="over-budget", detail=detail, pointer="/time_budget", fix=fix))
    return advice
