"""The output layers of a network: its own last layers, checked, or layers that follow from the targets."""

from __future__ import annotations

from dataclasses import replace

from fitserve.dataset_facts import DatasetFacts
from fitserve.errors import Problem
from fitserve.spec import default_network, output
from fitserve.spec.assessment import Advice
from fitserve.spec.graph import GraphNode, NetworkGraph, free_name, layer_name
from fitserve.spec.layers.shaping import Flatten
from fitserve.spec.losses import Loss
from fitserve.spec.output import Output
from fitserve.spec.resolve_training import apply_label_smoothing, loss_pointer, losses_by_target
from fitserve.spec.spec import Spec
from fitserve.spec.target import Target


def resolve_outputs(
    spec: Spec,
    targets: list[Target],
    graph: NetworkGraph,
    facts: DatasetFacts,
    problems: list[Problem],
    warnings: list[Advice],
    hidden: bool = False,
) -> list[Output]:
    """Choose losses and output layers and check them; automatic output layers are added to the graph.

    `hidden`: the last layer is not an output, even if it looks like one.
    """

    def warn(detail: str, pointer: str, fix: str) -> None:
        warnings.append(Advice(code="output-activation", detail=detail, pointer=pointer, fix=fix))

    losses = losses_by_target(spec.training, targets, problems)
    written, last = graph.outputs(), graph.last()
    smoothing = spec.training.label_smoothing
    outputs: list[Output] = []
    for index, target in enumerate(targets):
        node = written.get(target.name)
        if node is None and len(targets) == 1 and last is not None and not hidden:
            node = _last_as_output(graph, last, target, losses.get(target.name), facts)
        one_hot = output.metrics_need_one_hot(spec.training.metrics, target.name)
        choice = output.choose(target, losses.get(target.name), node, one_hot, smoothing)
        choice = apply_label_smoothing(choice, smoothing, problems)
        if node is None and last is not None and (reason := output.explain_added(target, choice, last)):
            warnings.append(Advice(code="output-added", detail=reason[0], pointer=last.pointer, fix=reason[1]))
        node = node or _add_output(graph, choice, last, problems)
        if node is None:
            break
        output.check(choice, node, facts, loss_pointer(spec.training, target), problems, warn)
        pointer = "/target/standardize" if len(targets) == 1 else f"/target/{index}/standardize"
        scaled = output.resolve_scale(
            choice, node, facts, pointer, problems, clip=spec.clip, by_default=default_network.leaves_network_out(spec)
        )
        outputs.append(replace(choice, target=scaled))
    return outputs


def _last_as_output(
    graph: NetworkGraph, last: GraphNode, target: Target, loss: Loss | None, facts: DatasetFacts
) -> GraphNode | None:
    """Make the last layer the target's output if it fits; a second softmax after it would flatten probabilities."""
    if not output.is_output(target, loss, last, facts):
        return None
    node = replace(last, target=target.name)
    graph.nodes[last.name] = node
    return node


def _add_output(
    graph: NetworkGraph, choice: Output, last: GraphNode | None, problems: list[Problem]
) -> GraphNode | None:
    if last is None or choice.layer is None:
        detail = "A network with several inputs needs a layer that joins them."
        problems.append(Problem(detail, "/network", fix="Concatenate, with inputs: the names of what it joins"))
        return None
    if len(last.shape) != 1:
        flatten, name = Flatten(), free_name("flatten", graph.nodes)
        shape = flatten.output_shape([last.shape])
        last = GraphNode(name, flatten, (last.name,), shape, None, "/network")
        graph.add(last)
    name = free_name(layer_name(choice.target.name), graph.nodes)
    shape = choice.layer.output_shape([last.shape])
    node = GraphNode(name, choice.layer, (last.name,), shape, choice.target.name, "/network")
    graph.add(node)
    return node
