"""Fill in, check and resolve `initial_weights`: compare a network with the source of its initial weights.

Weights are named by layer and place, `dense/0`, in Keras's order: the kernel, then the bias. If the features are the
source's, its fitted encoding is kept too: a shifted mean or category index would silently change what the weights mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.spec.assessment import Advice, Estimates, SummaryRow
from fitserve.spec.ensemble import Ensemble, members_of
from fitserve.spec.feature import EncodedInput, Feature
from fitserve.spec.graph import GraphNode, NetworkGraph
from fitserve.spec.initial_weights import InitialWeights
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.layer import Shape, Weight
from fitserve.spec.network import LayerEntry
from fitserve.spec.spec import Spec, SpecRefused
from fitserve.spec.target import Target
from fitserve.validation import unknown_name

_POINTER = "/initial_weights"
_SHOWN = 10  # names in one sentence


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """Trained weights to start from, and what is known about their network."""

    name: str  # in words: "the model admissions@3"
    artifact: str  # SHA-256 of the manifest
    tensors: Mapping[str, Shape]  # for each member
    members: int = 1
    run: str | None = None
    model: str | None = None  # name@version
    upload: str | None = None
    spec: Spec | None = None  # resolved; None of uploaded weights
    inputs: tuple[EncodedInput, ...] = ()  # inputs of its fitted encoding
    # labels that its encoding distinguishes, by column
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Return its name as the first words of a sentence."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def layers(self) -> list[str]:
        """Return its layers with weights, in order."""
        return list(dict.fromkeys(name.rpartition("/")[0] for name in self.tensors))


def tensors_of(graph: NetworkGraph) -> dict[str, Shape]:
    """Return the shapes of a network's weights, by layer and place."""
    return {
        f"{node.name}/{place}": weight.shape
        for node in graph.nodes.values()
        for place, weight in enumerate(_weights(graph, node))
    }


def with_source(spec: Spec, source: WeightsSource | None, facts: DatasetFacts) -> Spec:
    """Fill in what a spec leaves out from the source of its weights. Raises SpecRefused."""
    wanted, own = spec.initial_weights, None if source is None else source.spec
    if wanted is None:
        return spec
    if source is None:
        raise _refused("Initial weights must be looked up first.", _POINTER, "Submit the spec to the server.")
    if wanted.artifact is not None and wanted.artifact != source.artifact:
        fix = "Leave artifact out, to begin with what is there now."
        raise _refused(f"{source.subject} is not what the spec names.", f"{_POINTER}/artifact", fix, wanted.artifact)
    if spec.check is not None and spec.check.sanity:
        raise _refused("The sanity check is of untrained weights.", "/check", "check: range_test")
    stated = spec.model_fields_set
    if own is None:
        if "network" not in stated:
            detail = "Uploaded weights do not say which network they are of."
            raise _refused(detail, "/network", "Write the network, or send what Keras's to_json() wrote.")
        if wanted.encoding == "source":
            raise _refused("Uploaded weights have no encoding.", f"{_POINTER}/encoding", "encoding: fit", "source")
        return spec
    update: dict[str, Any] = {}
    targets = tuple(_with_own(target, own.target) for target in spec.target)
    if targets != spec.target:
        _check_labels(targets, own, facts)
        update["target"] = targets
    if "features" not in stated or spec.features is None:
        update["features"] = own.features
    if spec.preset is None and "network" not in stated:
        update["network"] = _body(own, with_outputs=targets == own.target)
    if "ensemble" not in stated and spec.folds is None and spec.training.restarts == 1 and spec.check is None:
        update["ensemble"] = _ensemble_of(own.ensemble, spec, source)
    return spec.model_copy(update=update)


def _body(own: Spec, with_outputs: bool = False) -> tuple[LayerEntry, ...]:
    """Return a network's layers without its inputs, which follow from the features, and without its outputs."""
    hidden = (entry for entry in own.network if not isinstance(entry.layer, Input))
    return tuple(entry for entry in hidden if with_outputs or not entry.output)


def is_body(spec: Spec, source: WeightsSource | None) -> bool:
    """Return whether the network is the source's without its output layers; its last layer is then not an output."""
    return source is not None and source.spec is not None and spec.network == _body(source.spec)


def _ensemble_of(own: Ensemble | None, spec: Spec, source: WeightsSource) -> Ensemble | None:
    """Return the source's ensemble, with holdout instead of folds if the spec states the validation rows."""
    if own is None or source.members == 1:
        return None
    split_stated = "validation" in spec.split.model_fields_set or spec.training.validation_split is not None
    return own.model_copy(update={"validation": None}) if split_stated and own.validation == "folds" else own


def _with_own(target: Target, own: Sequence[Target]) -> Target:
    """Return the source's target if the spec states only the columns."""
    if target.model_fields_set - {"name", "columns"}:
        return target
    return next((one for one in own if (one.name, one.columns) == (target.name, target.columns)), target)


def _check_labels(targets: Sequence[Target], own: Spec, facts: DatasetFacts) -> None:
    """Refuse a target whose labels differ from the source's, because its network has one output per label."""
    outputs = {entry.output: entry.name for entry in own.network if entry.output}
    for index, target in enumerate(targets):
        column = facts.by_name.get(target.columns[0])
        if target.task not in ("binary", "multiclass") or column is None or column.labels is None:
            continue
        here, there = set(column.labels), set(target.labels or ())
        if here == there:
            continue
        verb, differing = ("lacks", there - here) if there - here else ("also has", here - there)
        raise SpecRefused.because(
            [
                Problem(
                    f"{target.columns[0]!r} {verb} {_listed(sorted(differing))}; the source predicts"
                    f" {_listed(target.labels or ())}.",
                    "/target" if len(targets) == 1 else f"/target/{index}",
                    column=target.columns[0],
                    received=sorted(here)[:_SHOWN],
                    expected=f"the labels {_listed(target.labels or ())}",
                    fix=f"target: {{column: {target.columns[0]}, task: {target.task}}}, and a new output layer:"
                    f" initial_weights: {{reinitialize: [{outputs.get(target.name, target.name)}]}}",
                )
            ]
        )


def keeps_encoding(
    spec: Spec, source: WeightsSource | None, features: Sequence[Feature], problems: list[Problem]
) -> bool:
    """Return whether to keep the source's fitted encoding: same features, and the spec does not forbid it."""
    wanted = spec.initial_weights
    if wanted is None or source is None or source.spec is None or wanted.encoding == "fit":
        return False
    own = source.spec.features
    same = spec.features == own or tuple(features) == own
    if not same and wanted.encoding == "source":
        problems.append(
            Problem(
                f"The features are not those of {source.name}, so that its encoding cannot be kept.",
                "/features",
                received=[feature.column for feature in features][:_SHOWN],
                expected=f"the features {_listed([one.column for one in own or ()])}, encoded alike",
                fix="Leave features out, or initial_weights: {encoding: fit}",
            )
        )
    return same


def resolve_initial_weights(
    spec: Spec, source: WeightsSource | None, graph: NetworkGraph, ensemble: Ensemble | None, encoding_kept: bool
) -> InitialWeights | None:
    """Return `initial_weights` written out: its source, and the layers by name. Raises SpecRefused."""
    wanted = spec.initial_weights
    if wanted is None or source is None:
        return None
    problems: list[Problem] = []
    weighted = {name: _weights(graph, node) for name, node in graph.nodes.items() if _weights(graph, node)}
    fresh = _matched(wanted.reinitialize, weighted, f"{_POINTER}/reinitialize", problems)
    # output layers that were added automatically
    added = {node.name for node in graph.nodes.values() if node.pointer == "/network"}
    fresh |= (added & set(weighted)) - set(source.layers)
    frozen = _matched(wanted.freeze, weighted, f"{_POINTER}/freeze", problems)
    if both := [name for name in weighted if name in fresh & frozen]:
        detail = f"{_listed(both)} would be frozen with random weights."
        problems.append(Problem(detail, f"{_POINTER}/freeze", received=both, fix="Freeze it, or reinitialize it."))
    for name, weights in weighted.items():
        if name not in fresh:
            problems += _differences(graph, graph.nodes[name], weights, source)
    if not problems and not set(weighted) - fresh:
        detail = "Every layer starts with random weights: none of the source's are used."
        problems.append(Problem(detail, f"{_POINTER}/reinitialize", fix="Leave initial_weights out."))
    trained = [name for name, weights in weighted.items() if any(one.trainable for one in weights)]
    if not set(trained) - frozen:
        detail = "Every layer with weights is frozen: there is nothing to train."
        problems.append(Problem(detail, f"{_POINTER}/freeze", received=sorted(frozen)[:_SHOWN], fix="Freeze fewer."))
    problems += _members_differ(spec, source, ensemble)
    SpecRefused.raise_for(problems)
    return InitialWeights(
        run=source.run,
        model=source.model,
        upload=source.upload,
        freeze=tuple(name for name in weighted if name in frozen),
        reinitialize=tuple(name for name in weighted if name in fresh),
        encoding="source" if encoding_kept else "fit",
        artifact=source.artifact,
    )


def _matched(patterns: Iterable[str], weighted: Iterable[str], pointer: str, problems: list[Problem]) -> set[str]:
    """Return the layers that match the patterns; a pattern without a match is a problem."""
    layers: set[str] = set()
    names = list(weighted)
    for index, pattern in enumerate(patterns):
        matched = [name for name in names if name == pattern] or [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            detail = f"No layer with weights is called {pattern!r}."
            problems.append(unknown_name(detail, pattern, names, f"{pointer}/{index}"))
        layers |= set(matched)
    return layers


def _differences(
    graph: NetworkGraph, node: GraphNode, weights: Sequence[Weight], source: WeightsSource
) -> list[Problem]:
    """Return how a layer differs from the source's layer of the same name; empty if the weights fit."""
    reinitialize = f"initial_weights: {{reinitialize: [{node.name}]}}"
    theirs = [
        source.tensors[f"{node.name}/{place}"]
        for place in range(len(weights) + 1)
        if f"{node.name}/{place}" in source.tensors
    ]
    if not theirs:
        return [
            Problem(
                f"{source.subject} has no layer {node.name!r}.",
                node.pointer,
                received=node.name,
                expected=f"one of {_listed(source.layers)}",
                fix=f"Name the layer as there, or begin it from the seed: {reinitialize}",
            )
        ]
    own = [weight.shape for weight in weights]
    if theirs == own:
        return []
    place = next(
        index for index in range(len(own) + 1) if index >= min(len(own), len(theirs)) or own[index] != theirs[index]
    )
    received: Any = len(theirs)
    if place >= min(len(own), len(theirs)):
        detail = f"{node.name!r} has {len(own)} arrays of weights; it has {len(theirs)} in {source.name}."
        expected = f"{len(own)} arrays"
    else:
        received, expected = list(theirs[place]), str(list(own[place]))
        detail = f"The {weights[place].name} of {node.name!r} is {expected}; in {source.name} it is {received}."
    reads_input = any(isinstance(graph.nodes[name].layer, Input) for name in node.inputs)
    if reads_input and source.spec is not None:
        fix = f"Leave features out to have the source's, or {reinitialize}"
    else:
        fix = f"Give the layer the source's shape, or {reinitialize}"
    return [Problem(detail, node.pointer, received=received, expected=expected, fix=fix)]


def _members_differ(spec: Spec, source: WeightsSource, ensemble: Ensemble | None) -> list[Problem]:
    if source.members == 1:
        return []
    count = members_of(ensemble)
    if count != source.members:
        detail = f"{source.subject} is an ensemble of {source.members} networks; the spec trains {count}."
        fix = f"ensemble: {{members: {source.members}}}"
        return [Problem(detail, "/ensemble", received=count, expected=f"{source.members} members", fix=fix)]
    if spec.folds is not None and spec.folds.then == "refit":
        detail = "One network on all rows cannot begin with the weights of several."
        return [Problem(detail, "/folds/then", received="refit", fix="then: average")]
    return []


def with_frozen(
    summary: Sequence[SummaryRow], estimates: Estimates, initial: InitialWeights | None, members: int
) -> tuple[list[SummaryRow], Estimates]:
    """Return the network's table and the run's cost with these layers frozen."""
    if initial is None:
        return list(summary), estimates
    frozen, fresh = set(initial.freeze), set(initial.reinitialize)
    rows = [
        row.model_copy(
            update={
                "trainable": 0 if row.name in frozen else row.trainable,
                "begins": None if not row.parameters else "seed" if row.name in fresh else "source",
                "frozen": row.name in frozen,
            }
        )
        for row in summary
    ]
    less = sum(row.trainable for row in summary) - sum(row.trainable for row in rows)
    trainable = estimates.trainable_parameters - members * less
    return rows, estimates.model_copy(update={"trainable_parameters": trainable})


def advice(
    initial: InitialWeights | None, source: WeightsSource | None, resolved: Spec, facts: DatasetFacts
) -> list[Advice]:
    """Return advice: metrics on rows that the source may have seen, and categories that it has never seen."""
    if initial is None or source is None:
        return []
    advices = []
    own = source.spec
    if own is not None and _may_have_seen(own, resolved):
        advices.append(
            Advice(
                code="rows-seen-before",
                detail=f"{source.subject} may have been trained on rows that validate or test here: their figures may"
                " be too good.",
                pointer="/split",
                fix="Split by time, or by a column that says which rows are new.",
            )
        )
    if initial.encoding == "source":
        for name, known in source.labels.items():
            column = facts.by_name.get(name)
            new = sorted(set((column.labels if column else None) or ()) - known)
            if new:
                advices.append(
                    Advice(
                        code="categories-unknown",
                        detail=f"{name!r} has {_listed(new)}, which the source's encoding does not know: all of them"
                        " are encoded as unknown.",
                        pointer="/features",
                        fix="initial_weights: {encoding: fit}, where the shapes allow it",
                    )
                )
    used = {entry.name for entry in resolved.network}
    if unused := [name for name in source.layers if name not in used]:
        advices.append(
            Advice(
                code="weights-unused",
                detail=f"No layer takes the weights of {_listed(unused)} in {source.name}.",
                pointer=_POINTER,
            )
        )
    return advices


def _may_have_seen(own: Spec, resolved: Spec) -> bool:
    """Return whether rows that are held out here may have trained the source."""
    if resolved.split.method in ("time", "column"):
        return False

    def division(spec: Spec) -> Any:
        seed = spec.training.seed if spec.split.seed is None else spec.split.seed
        ensemble = spec.ensemble and (spec.ensemble.validation, spec.ensemble.members)
        return spec.dataset.sha256, spec.split.model_copy(update={"seed": seed}), ensemble, spec.target[0].columns

    return bool(division(own) != division(resolved))


def _weights(graph: NetworkGraph, node: GraphNode) -> list[Weight]:
    shapes = graph.input_shapes(node)
    return node.layer.weights(shapes) if shapes else []


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_SHOWN]))
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _refused(detail: str, pointer: str, fix: str, received: Any = None) -> SpecRefused:
    return SpecRefused.because([Problem(detail, pointer, received=received, fix=fix)])
