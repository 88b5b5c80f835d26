"""Resolve a spec against a dataset's facts: check everything, write out every default, estimate the run's cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.settings import Limits
from fitserve.spec import default_network, inferred_task
from fitserve.spec.assessment import Advice, Estimates, SummaryRow
from fitserve.spec.check import most_batches
from fitserve.spec.decision import Decision, DecisionOutput, resolve_decisions
from fitserve.spec.ensemble import Ensemble, Folds, members_of
from fitserve.spec.estimates import FLOAT_BYTES, over_limit, over_limits
from fitserve.spec.feature import MAX_PIECES, EncodedInput, Feature, stored_numbers
from fitserve.spec.graph import GraphNode, NetworkGraph, build_graph, check_connected
from fitserve.spec.held_out_checks import check_abstain, check_calibration, check_coverage_by, check_interval
from fitserve.spec.initial_weights import InitialWeights
from fitserve.spec.layers.core import Input
from fitserve.spec.network import LayerEntry
from fitserve.spec.output import Output
from fitserve.spec.plan import Planner, TrainingPlan, budget_advice, shrunk_advice
from fitserve.spec.protected import check_protected
from fitserve.spec.resolve_columns import (
    check_usable_rows,
    inputs_of,
    resolve_all_features,
    with_columns,
    with_free_inputs,
    with_stored_names,
)
from fitserve.spec.resolve_outputs import resolve_outputs
from fitserve.spec.resolve_training import (
    check_stacked,
    check_switches,
)
from fitserve.spec.spec import DatasetRef, Spec, SpecRefused, SplitSpec
from fitserve.spec.target import Target, infer_task, unknown_column
from fitserve.spec.training import Training
from fitserve.spec.usable_rows import FindRows
from fitserve.spec.warm_start import (
    WeightsSource,
    advice,
    is_body,
    keeps_encoding,
    resolve_initial_weights,
    with_frozen,
    with_source,
)
from fitserve.spec.warnings import warnings_for
from fitserve.spec.workers import undividable, worthwhile
from fitserve.validation import InvalidValue, problems_from


@dataclass(frozen=True, slots=True)
class Resolved:
    """A spec that can be trained: `spec` has every default written out and resolves to itself."""

    spec: Spec
    summary: list[SummaryRow]
    estimates: Estimates
    warnings: list[Advice]


def resolve(
    spec: Spec,
    facts: DatasetFacts,
    limits: Limits | None = None,
    pace: float = 1.0,
    find_rows: FindRows | None = None,
    source: WeightsSource | None = None,
) -> Resolved:
    """Check a spec against a dataset and write out its defaults. Raises SpecRefused with every problem.

    `pace` is the workers' time relative to the machine on which the estimates were measured (2: twice as long).
    `find_rows` looks up the numbers of unusable rows for messages. `source` is the network that `initial_weights`
    refers to.
    """
    limits = limits or Limits()
    spec = _with_folds(_reduced_for_checks(with_source(spec, source, facts)))
    whole = resolved = _resolve(spec, facts, limits, pace, find_rows, MAX_PIECES, source)
    if not default_network.leaves_network_out(spec) or spec.time_budget is None or not _bins(whole.spec):
        return whole
    for pieces in default_network.TOTAL_BINS:
        if resolved.estimates.seconds <= spec.time_budget:
            break
        # Without `source`: a spec with initial weights has the network of its source by now, or states one.
        resolved = _resolve(spec, facts, limits, pace, find_rows, pieces)
    fewer, most = _bins(resolved.spec), _bins(whole.spec)
    return resolved if fewer == most else _with_shrunk(resolved, {**resolved.spec.shrunk, "bins": most})


def _reduced_for_checks(spec: Spec) -> Spec:
    """Return a spec whose run only performs checks, reduced to a single network. Raises SpecRefused."""
    if spec.check is None:
        return spec
    problems = []
    if spec.model is not None:
        fix = "Leave model out, or check."
        problems.append(Problem("A check keeps no network.", "/model", received=spec.model, fix=fix))
    if spec.ensemble is not None:
        problems.append(Problem("A check is of one network.", "/ensemble", fix="ensemble: false"))
    if spec.training.restarts > 1:
        problems.append(Problem("A check is of one network.", "/training/restarts", received=spec.training.restarts))
    if spec.training.keep_epochs:
        problems.append(Problem("A check keeps no network.", "/training/keep_epochs"))
    SpecRefused.raise_for(problems)
    if "ensemble" in spec.model_fields_set:
        return spec
    return spec.model_copy(update={"ensemble": None})


def _cost_of_checks(spec: Spec, estimates: Estimates) -> Estimates:
    """Return the run's cost; if the run only performs checks, the cost of those."""
    if spec.check is None:
        return estimates
    whole, epochs = max(1, estimates.epochs), -(-most_batches(spec.check) // max(1, estimates.steps_per_epoch))
    training = (estimates.seconds - estimates.startup_seconds) * epochs / whole
    return estimates.model_copy(
        update={
            "epochs": epochs,
            "seconds": float(f"{estimates.startup_seconds + training:.3g}"),
            "multiply_adds": estimates.multiply_adds * epochs // whole,
            "artifact_bytes": 0,
        }
    )


def _with_folds(spec: Spec) -> Spec:
    """Return a spec with `folds` replaced by the equivalent ensemble and split. Raises SpecRefused."""
    folds = spec.folds
    if folds is None:
        return spec
    problems = []
    stated, split = spec.ensemble, spec.split
    if stated is not None and (stated.validation == "holdout" or stated.members not in (None, folds.count)):
        detail = f"{folds.count} folds are an ensemble of as many members, each held back from its fold."
        problems.append(Problem(detail, "/ensemble", fix="Leave ensemble out, or folds."))
    if folds.method is not None and "method" in split.model_fields_set and split.method != folds.method:
        detail = f"The split is {split.method}, the folds are {folds.method}."
        problems.append(Problem(detail, "/folds/method", received=folds.method, fix="Say it once."))
    if folds.then == "refit" and split.method == "column":
        detail = "One network on all rows needs a split without validation rows."
        problems.append(Problem(detail, "/folds/then", received="refit", fix="then: average"))
    if spec.check is not None:
        problems.append(Problem("A check has no folds.", "/folds", fix="Leave folds out, or check."))
    if spec.training.restarts > 1:
        problems.append(Problem("Folds have no restarts.", "/training/restarts", received=spec.training.restarts))
    SpecRefused.raise_for(problems)
    if folds.method is not None:
        written = {"method": folds.method, "by": folds.by or split.by}
        try:
            split = SplitSpec.model_validate({**split.model_dump(exclude_unset=True), **written})
        except ValidationError as error:
            refused = problems_from(error.errors(include_url=False), SplitSpec, written)
            raise SpecRefused.because(InvalidValue(problems=refused).under("folds").problems) from None
    ensemble = Ensemble(members=folds.count, validation="folds")
    return spec.model_copy(update={"ensemble": ensemble, "split": split})


def _resolved_folds(spec: Spec, plan: TrainingPlan) -> Folds | None:
    if spec.folds is None:
        return None
    method = None if plan.split.method == "column" else plan.split.method
    return spec.folds.model_copy(update={"method": method, "by": plan.split.by if method else None})


def _bins(spec: Spec) -> int:
    """Return the most bins of a column."""
    return max((getattr(feature.encoding, "bins", None) or 0 for feature in spec.features or ()), default=0)


def _with_shrunk(resolved: Resolved, shrunk: dict[str, int]) -> Resolved:
    """Return the same result with what was reduced."""
    spec = resolved.spec.model_copy(update={"shrunk": shrunk})
    others = [warning for warning in resolved.warnings if warning.code != "shrunk"]
    return replace(resolved, spec=spec, warnings=[*others, shrunk_advice(spec)])


@dataclass(frozen=True, slots=True)
class _Data:
    """The part of a spec that depends on its table: targets, features and split, resolved."""

    spec: Spec  # its columns are named as the dataset stores them
    targets: list[Target]
    features: list[Feature]
    inputs: Sequence[EncodedInput]
    split: SplitSpec
    encoding_kept: bool  # columns keep the encoding of the network that supplies the initial weights


def _resolve(
    spec: Spec,
    facts: DatasetFacts,
    limits: Limits,
    pace: float,
    find_rows: FindRows | None,
    pieces: int,
    source: WeightsSource | None = None,
) -> Resolved:
    """Resolve a spec with at most `pieces` default bins over all columns.

    Each stage raises all of its problems together; the next one can rely on what it returned.
    """
    SpecRefused.raise_for(_over_plain_limits(spec, limits))
    warnings: list[Advice] = []
    data = _resolve_data(spec, facts, pieces, source, find_rows, warnings)
    graph, outputs = _resolve_network(data, facts, source, warnings)
    plan = _resolve_plan(data, graph, outputs, facts, limits, pace)
    initial = resolve_initial_weights(data.spec, source, graph, plan.ensemble, data.encoding_kept)
    summary, estimates = with_frozen(plan.summary, plan.estimates, initial, members_of(plan.ensemble))
    plan = replace(plan, summary=summary, estimates=estimates)
    targets = [one.target for one in outputs]
    decisions = _resolve_decisions(data.spec, plan, targets, facts)
    warnings += warnings_for(
        graph, targets, data.features, plan.split, plan.training, plan.ensemble, plan.estimates, facts
    )
    warnings += budget_advice(data.spec, plan)
    resolved = _write_out(data, graph, targets, plan, initial, decisions, facts)
    warnings += advice(initial, source, resolved, facts)
    return Resolved(resolved, plan.summary, _cost_of_checks(spec, plan.estimates), warnings)


def _resolve_data(
    spec: Spec,
    facts: DatasetFacts,
    pieces: int,
    source: WeightsSource | None,
    find_rows: FindRows | None,
    warnings: list[Advice],
) -> _Data:
    """Resolve targets, features and split, and check that their columns have rows to train on."""
    problems = _check_dataset(spec, facts)
    spec = with_stored_names(spec, facts)
    spec, placed = with_columns(spec, facts, problems)
    targets = _resolve_targets(spec, facts, problems)
    features = resolve_all_features(spec, placed, targets, facts, problems, pieces)
    features = with_free_inputs(spec, features, targets, problems)
    encoding_kept = keeps_encoding(spec, source, features, problems)
    if encoding_kept and source is not None and source.spec is not None:
        features = list(source.spec.features or ())
    split = _resolve_split(spec, facts, problems)
    if "method" not in spec.split.model_fields_set and targets[0].task in ("binary", "multiclass"):
        split = split.model_copy(update={"method": "stratified"})
    warnings += _check_inferred_tasks(spec, targets, facts, problems)
    SpecRefused.raise_for(problems)
    check_usable_rows(spec, targets, features, facts, find_rows, problems, warnings)
    SpecRefused.raise_for(problems)
    inputs = source.inputs if encoding_kept and source is not None else inputs_of(features, facts)
    return _Data(spec, targets, features, inputs, split, encoding_kept)


def _resolve_network(
    data: _Data, facts: DatasetFacts, source: WeightsSource | None, warnings: list[Advice]
) -> tuple[NetworkGraph, list[Output]]:
    """Connect the layers, and choose losses and output layers."""
    problems: list[Problem] = []
    network = default_network.network_of(data.spec, data.inputs, data.targets)
    graph = build_graph(network, data.inputs, data.targets)
    SpecRefused.raise_for(graph.problems)
    hidden = is_body(data.spec, source)
    outputs = resolve_outputs(data.spec, data.targets, graph, facts, problems, warnings, hidden)
    SpecRefused.raise_for(problems)
    check_connected(graph)
    SpecRefused.raise_for(graph.problems)
    return graph, outputs


def _resolve_plan(
    data: _Data, graph: NetworkGraph, outputs: list[Output], facts: DatasetFacts, limits: Limits, pace: float
) -> TrainingPlan:
    """Choose how the network is trained, and check what depends on that."""
    problems: list[Problem] = []
    spec = data.spec
    plan = Planner(spec, data.split, outputs, graph, facts, pace, problems).plan()
    SpecRefused.raise_for(problems)
    numbers = stored_numbers(data.features, facts) + sum(one.target.units for one in outputs)
    rows_bytes = FLOAT_BYTES * numbers * facts.rows
    plan = replace(plan, estimates=plan.estimates.model_copy(update={"rows_bytes": rows_bytes}))
    check_switches(plan.training, members_of(plan.ensemble), spec.check is not None, problems)
    check_stacked(plan.training, plan.ensemble is None and spec.folds is None and spec.check is None, problems)
    plan = replace(plan, training=_resolve_workers(spec, plan, problems))
    check_calibration(spec, plan, outputs, problems)
    check_protected(spec, data.targets, plan, facts, problems)
    check_interval(spec.interval, plan, outputs, facts, problems)
    check_coverage_by(spec.coverage_by, plan, data.features, facts, problems)
    problems += over_limits(plan.estimates, plan.training, plan.ensemble, limits)
    SpecRefused.raise_for(problems)
    return plan


def _write_out(
    data: _Data,
    graph: NetworkGraph,
    targets: Sequence[Target],
    plan: TrainingPlan,
    initial: InitialWeights | None,
    decisions: tuple[Decision, ...],
    facts: DatasetFacts,
) -> Spec:
    """Return the spec with everything that was decided."""
    spec = data.spec
    return Spec(
        dataset=DatasetRef(ref=f"{facts.name}@{facts.version}", sha256=facts.sha256),
        target=tuple(targets),
        task=targets[0].task if len(targets) == 1 else None,
        features=tuple(data.features),
        rows_without_target=spec.rows_without_target,
        split=plan.split,
        clip=None,
        preset=None,
        network=tuple(_entry(node) for node in graph.nodes.values()),
        training=plan.training,
        initial_weights=initial,
        ensemble=plan.ensemble,
        folds=_resolved_folds(spec, plan),
        check=spec.check,
        calibrate=spec.calibrate,
        interval=spec.interval,
        coverage_by=spec.coverage_by,
        time_budget=spec.time_budget,
        shrunk=plan.shrunk or spec.shrunk,
        decision=decisions,
        protected=spec.protected,
        model=spec.model,
    )


def _resolve_workers(spec: Spec, plan: TrainingPlan, problems: list[Problem]) -> Training:
    """Return the training section with `auto` workers replaced by a number."""
    training, estimates = plan.training, plan.estimates
    if training.workers is not None and training.workers.count == "auto":
        steps = max(1, estimates.steps_per_epoch * training.epochs)
        alone = max(0.0, estimates.seconds - estimates.startup_seconds) / steps
        rows = estimates.training_rows if training.batch_size == "full" else int(training.batch_size)
        count = max(training.workers.at_least, worthwhile(alone, estimates.parameters, rows))
        workers = training.workers.model_copy(update={"count": count})
        training = training.model_copy(update={"workers": workers if count > 1 else None})
    others = "/check" if spec.check is not None else "/ensemble" if plan.ensemble is not None else None
    problems += undividable(training, others)
    return training


def _over_plain_limits(spec: Spec, limits: Limits) -> list[Problem]:
    """Check the limits that need no shapes first, so that an oversized spec is refused before any work."""
    training = spec.training
    return [
        *over_limit("layers", len(spec.network), limits.layers, "/network", "layers"),
        *over_limit("epochs", training.epochs, limits.epochs, "/training/epochs", "epochs"),
        *over_limit("trials", training.restarts, limits.trials, "/training/restarts", "restarts"),
        *over_limit("trials", members_of(spec.ensemble), limits.trials, "/ensemble/members", "members"),
    ]


def _check_dataset(spec: Spec, facts: DatasetFacts) -> list[Problem]:
    ref, sha256, here = spec.dataset.ref, spec.dataset.sha256, f"{facts.name}@{facts.version}"
    if "@" in ref and ref != here:
        return [Problem(f"The spec names {ref}; this is {here}.", "/dataset", received=ref, expected=here)]
    if sha256 is not None and sha256 != facts.sha256:
        detail = f"{here} has other content than the spec names."
        return [Problem(detail, "/dataset/sha256", received=sha256, expected=facts.sha256)]
    return []


def _resolve_targets(spec: Spec, facts: DatasetFacts, problems: list[Problem]) -> list[Target]:
    targets = list(spec.target)
    if spec.task == "multilabel" and len(targets) > 1 and all(len(target.columns) == 1 for target in targets):
        columns = tuple(target.column for target in targets)
        targets = [Target(name="labels", columns=columns, task="multilabel")]
    tasks = {target.task for target in targets}
    # A target of two labels may be trained as a multiclass one.
    if spec.task not in (None, "multiclass") and tasks != {"multiclass"} and not tasks <= {None, spec.task}:
        detail = "The target's task and the spec's task differ."
        problems.append(Problem(detail, "/task", received=spec.task, fix="Leave one of them out."))
    pointers = ["/target"] if len(targets) == 1 else [f"/target/{index}" for index in range(len(targets))]
    return [
        infer_task(target, spec.task, facts, pointer, problems)
        for target, pointer in zip(targets, pointers, strict=True)
    ]


def _check_inferred_tasks(
    spec: Spec, targets: list[Target], facts: DatasetFacts, problems: list[Problem]
) -> list[Advice]:
    """Return notices of how the tasks of numeric targets were inferred; add contradictions to `problems`."""
    advices: list[Advice | None] = []
    stated = {target.name: target.task or spec.task for target in spec.target}
    for index, target in enumerate(targets):
        column = facts.by_name.get(target.column)
        if column is None or target.task is None or len(target.columns) > 1 or stated.get(target.name):
            continue
        pointer = "/target" if len(targets) == 1 else f"/target/{index}"
        contradicting = list(inferred_task.contradictions(spec, target, column, pointer))
        problems += contradicting
        if not contradicting:
            advices.append(inferred_task.advice(target, column, pointer))
    return [one for one in advices if one is not None]


def _resolve_split(spec: Spec, facts: DatasetFacts, problems: list[Problem]) -> SplitSpec:
    split, share, pointer = spec.split, spec.training.validation_split, "/training/validation_split"
    if split.by is not None and split.by not in facts.by_name:
        problems.append(unknown_column(split.by, facts, "/split/by"))
    elif split.by is not None and split.method == "group":
        column = facts.by_name[split.by]
        groups, parts = column.distinct + (column.missing > 0), 1 + (split.validation > 0) + (split.test > 0)
        if groups < parts:
            detail = f"{split.by!r} has {groups} {'group' if groups == 1 else 'groups'}; the split has {parts} parts."
            fix = "Split by another column, or set validation or test to 0."
            problems.append(Problem(detail, "/split/by", column=split.by, received=groups, fix=fix))
    if share is None:
        return split
    if share + split.test >= 1:
        detail = f"validation_split {share:g} and test {split.test:g} leave no rows for training."
        problems.append(Problem(detail, pointer, received=share))
    elif "validation" in split.model_fields_set and split.validation != share:
        detail = f"validation_split is {share:g}, but split.validation is {split.validation:g}."
        problems.append(Problem(detail, pointer, received=share, fix="Leave one of them out."))
    else:
        return SplitSpec.model_validate({**split.model_dump(), "validation": share})
    return split


def _resolve_decisions(
    spec: Spec, plan: TrainingPlan, targets: Sequence[Target], facts: DatasetFacts
) -> tuple[Decision, ...]:
    """Write out the decisions. Raises SpecRefused, also if no held-out rows are left to tune them on."""
    problems: list[Problem] = []
    outputs = [
        DecisionOutput(
            one.name,
            str(one.task),
            one.columns if one.task == "multilabel" else one.labels or facts.by_name[one.column].labels or (),
        )
        for one in targets
    ]
    decisions = resolve_decisions(spec.decision, outputs, plan.holds_out, problems)
    SpecRefused.raise_for(problems)
    check_abstain(decisions, outputs, plan, facts, problems)
    SpecRefused.raise_for(problems)
    return decisions


def _entry(node: GraphNode) -> LayerEntry:
    if isinstance(node.layer, Input):
        return LayerEntry(layer=node.layer, name=node.name)
    return LayerEntry(layer=node.layer, name=node.name, inputs=node.inputs, output=node.target)
