"""A spec and a dataset's facts: every default written out, everything checked, the run's cost estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.settings import Limits
from fitserve.spec import outputs
from fitserve.spec.advice import Advice, advice
from fitserve.spec.columns import check_dataset, features_of, inputs_of, split_of, targets_of
from fitserve.spec.estimates import Estimates, SummaryRow, estimate, over_limits, summary
from fitserve.spec.fitting import loss_pointer, losses_of, smoothed, training_of
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.shaping import Flatten
from fitserve.spec.network import Node
from fitserve.spec.outputs import Chosen
from fitserve.spec.spec import DatasetRef, Spec
from fitserve.spec.target import Target
from fitserve.spec.wiring import Wired, Wiring, check_ends, layer_name, moved, wire
from fitserve.validation import SpecRefused


@dataclass(frozen=True, slots=True)
class Resolved:
    """A spec that can be trained: `spec` has every default written out and resolves to itself."""

    spec: Spec
    summary: list[SummaryRow]
    estimates: Estimates
    warnings: list[Advice]


def resolve(spec: Spec, facts: DatasetFacts, limits: Limits | None = None) -> Resolved:
    """Check a spec against a dataset and write out its defaults. Raises SpecRefused with every problem found."""
    limits = limits or Limits()
    problems: list[Problem] = _at_once(spec, limits)
    _raise(problems)
    problems += check_dataset(spec, facts)
    targets = targets_of(spec, facts, problems)
    features = features_of(spec, targets, facts, problems)
    split = split_of(spec, facts, problems)
    _raise(problems)
    inputs = inputs_of(features, facts)

    warnings: list[Advice] = []
    wiring = wire(spec.network, inputs, targets)
    _raise(wiring.problems)
    chosen = _outputs(spec, targets, wiring, facts, problems, warnings)
    _raise(problems)
    check_ends(wiring)
    _raise(wiring.problems)

    validation = split.validation > 0 or split.method == "column"
    training = training_of(spec.training, chosen, validation, problems)
    rows = summary(wiring)
    held_out = split.validation + split.test if split.method != "column" else 0.2
    estimates = estimate(wiring, rows, training, max(1, round(facts.rows * (1 - held_out))))
    problems += over_limits(estimates, training, limits)
    _raise(problems)
    warnings += advice(wiring, features, split, training, estimates, facts)
    resolved = Spec(
        dataset=DatasetRef(ref=f"{facts.name}@{facts.version}", sha256=facts.sha256),
        target=tuple(choice.target for choice in chosen),
        task=chosen[0].target.task if len(chosen) == 1 else None,
        features=tuple(features),
        split=split,
        network=tuple(_node(node) for node in wiring.nodes.values()),
        training=training,
        model=spec.model,
    )
    return Resolved(resolved, rows, estimates, warnings)


def _raise(problems: Sequence[Problem]) -> None:
    if problems:
        raise SpecRefused.because(problems)


def _at_once(spec: Spec, limits: Limits) -> list[Problem]:
    """Limits that need no shapes, so that a bomb is refused before any work."""
    training = spec.training
    bounds = (
        ("layers", len(spec.network), limits.layers, "/network"),
        ("epochs", training.epochs, limits.epochs, "/training/epochs"),
        ("trials", training.restarts, limits.trials, "/training/restarts"),
    )
    return [
        Problem(
            f"{value}: the limit {name} is {limit}.",
            pointer,
            received=value,
            expected=f"at most {limit}",
            fix=f"Ask for less, or raise FITSERVE_LIMIT_{name.upper()}.",
        )
        for name, value, limit, pointer in bounds
        if value > limit
    ]


def _outputs(
    spec: Spec,
    targets: list[Target],
    wiring: Wiring,
    facts: DatasetFacts,
    problems: list[Problem],
    warnings: list[Advice],
) -> list[Chosen]:
    """Losses and output layers; the automatic ones are added to the wiring."""
    losses = losses_of(spec.training, targets, problems)
    said = wiring.outputs()
    last = wiring.last()
    chosen: list[Chosen] = []
    for index, target in enumerate(targets):
        one_hot = outputs.metrics_want_one_hot(spec.training.metrics, target.name)
        choice = outputs.choose(
            target, losses.get(target.name), said.get(target.name), one_hot, spec.training.label_smoothing
        )
        choice = smoothed(choice, spec.training.label_smoothing, problems)
        output = said.get(target.name) or _add_output(wiring, choice, last, problems)
        if output is None:
            break
        pointer = "/target" if len(targets) == 1 else f"/target/{index}"
        outputs.check(choice, output, facts, loss_pointer(spec.training, target), problems, _warner(warnings))
        standardized = outputs.standardized(choice, output, facts, f"{pointer}/standardize", problems)
        chosen.append(replace(choice, target=standardized))
    return chosen


def _warner(warnings: list[Advice]) -> Any:
    def warn(detail: str, pointer: str, fix: str | None = None) -> None:
        warnings.append(Advice(code="output-activation", detail=detail, pointer=pointer, fix=fix))

    return warn


def _add_output(wiring: Wiring, choice: Chosen, last: Wired | None, problems: list[Problem]) -> Wired | None:
    if last is None or choice.layer is None:
        problems.append(
            Problem(
                "A network with several inputs needs a layer that joins them.",
                "/network",
                fix="Concatenate, with inputs: the names of what it joins",
            )
        )
        return None
    if len(last.shape) != 1:
        flat = wiring.free_name("flatten")
        wiring.add(Wired(flat, Flatten(), (last.name,), Flatten().output_shape([last.shape]), None, "/network"))
        last = wiring.nodes[flat]
    name = wiring.free_name(layer_name(choice.target.name))
    shape = choice.layer.output_shape([last.shape])
    node = moved(Wired(name, choice.layer, (last.name,), shape, None, "/network"), choice.target.name)
    wiring.add(node)
    return node


def _node(node: Wired) -> Node:
    if isinstance(node.layer, Input):
        return Node(layer=node.layer, name=node.name)
    return Node(layer=node.layer, name=node.name, inputs=node.inputs, output=node.target)
