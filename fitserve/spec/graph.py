"""The network as a graph of layers, with names, inputs, outputs and shapes."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

from fitserve.errors import Problem
from fitserve.spec.feature import EncodedInput
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.layer import Layer, Shape, ShapeRefused, format_shape
from fitserve.spec.network import LayerEntry
from fitserve.spec.target import Target
from fitserve.validation import unknown_name

MAX_NAME = 200  # characters in the name of a layer that is named after a column


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A layer with its name, the names of its inputs, and its shape; `target` is set if it is an output."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    shape: Shape
    target: str | None
    pointer: str


@dataclass(slots=True)
class NetworkGraph:
    """The layers in order, network inputs first. `problems` lists what is wrong with the network."""

    nodes: dict[str, GraphNode] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, node: GraphNode) -> None:
        """Append a layer. Its inputs must have been added before."""
        self.nodes[node.name] = node

    def input_shapes(self, node: GraphNode) -> list[Shape]:
        """Return the shapes of a layer's inputs."""
        return [self.nodes[name].shape for name in node.inputs]

    def outputs(self) -> dict[str, GraphNode]:
        """Return the output layers by target."""
        return {node.target: node for node in self.nodes.values() if node.target is not None}

    def last(self) -> GraphNode | None:
        """Return the input of an automatic output layer: the last layer that is not an output, or the only input."""
        hidden = [node for node in self.nodes.values() if node.target is None]
        layers = [node for node in hidden if not isinstance(node.layer, Input)]
        if layers:
            return layers[-1]
        return hidden[0] if len(hidden) == 1 else None


def free_name(name: str, taken: Container[str]) -> str:
    """Return the name or, where it is taken, the name with the next number, as Keras numbers layers."""
    number, numbered = 0, name
    while numbered in taken:
        number += 1
        numbered = f"{name}_{number}"
    return numbered


def snake_case(name: str) -> str:
    """Return a class's name as Keras names layers without a name."""
    name = re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def layer_name(text: str) -> str:
    """Return a column's name as a layer's name: one line, without slashes, not too long."""
    return "".join(character if character.isprintable() else "_" for character in text[:MAX_NAME]).replace("/", "_")


def build_graph(
    network: Sequence[LayerEntry], inputs: Sequence[EncodedInput], targets: Sequence[Target]
) -> NetworkGraph:
    """Connect the layers and infer their shapes. Errors go into the result's `problems`."""
    graph = NetworkGraph()
    input_names = _add_inputs(graph, network, inputs)
    outputs = _marked_outputs(graph, network, targets)
    written_names = {entry.name for entry in network if entry.name is not None}
    previous: str | None = None
    for index, entry in enumerate(network):
        pointer = f"/network/{index}"
        if isinstance(entry.layer, Input):
            previous = input_names.get(index, previous)
            continue
        name = entry.name or free_name(snake_case(type(entry.layer).__name__), {*graph.nodes, *written_names})
        if name in graph.nodes:
            detail = f"Two layers are called {name!r}."
            graph.problems.append(Problem(detail, f"{pointer}/name", received=name, expected="another name"))
            break
        sources = _sources(graph, network, index, previous, input_names)
        if sources is None:
            break
        shapes = [graph.nodes[source].shape for source in sources]
        try:
            shape = entry.layer.check(shapes)
        except ShapeRefused as refused:
            received = ", ".join(map(format_shape, shapes))
            graph.problems.append(Problem(f"{name}: {refused}", pointer, received=received, fix=refused.fix))
            break  # the shapes of later layers are unknown
        graph.add(GraphNode(name, entry.layer, sources, shape, outputs.get(index), pointer))
        if index not in outputs:
            previous = name
    return graph


def check_connected(graph: NetworkGraph) -> None:
    """Append a problem for every layer that leads to no output and every input that no layer reads."""
    connected: set[str] = set()
    for node in reversed(graph.nodes.values()):
        if node.target is not None or node.name in connected:
            connected |= {node.name, *node.inputs}
    for node in graph.nodes.values():
        if node.name in connected:
            continue
        if isinstance(node.layer, Input):
            detail = f"No layer reads the network input {node.name!r}."
            fix = f"Give a layer inputs: [{node.name}], or leave its columns out of features."
        else:
            detail, fix = f"The layer {node.name!r} leads to no output.", "Add it to the inputs of a later layer."
        graph.problems.append(Problem(detail, node.pointer, received=node.name, fix=fix))


def _add_inputs(graph: NetworkGraph, network: Sequence[LayerEntry], inputs: Sequence[EncodedInput]) -> dict[int, str]:
    """Add the features' inputs; return, by index of each Input entry, which one it is."""
    entries = {index: entry for index, entry in enumerate(network) if isinstance(entry.layer, Input)}
    by_name = {one.name: one for one in inputs}
    names: dict[int, str] = {}
    for index, entry in entries.items():
        pointer, name = f"/network/{index}", entry.name
        if name not in by_name and len(inputs) == len(entries) == 1:
            name = inputs[0].name
        if name is None or name not in by_name or name in names.values():
            detail = f"The features make no {'other ' if name in names.values() else ''}network input {name!r}."
            fix = "Set `input` at the features that it takes."
            graph.problems.append(unknown_name(detail, name, by_name, pointer, fix=fix))
            continue
        names[index] = name
        layer, made = entry.layer, by_name[name].shape
        if isinstance(layer, Input) and tuple(layer.shape) != made:
            detail = (
                f"The input {name!r} is {format_shape(tuple(layer.shape))}; its features make {format_shape(made)}."
            )
            fix = "Leave the Input out, or choose features and encodings of that width."
            received, expected = list(layer.shape), str(list(made))
            graph.problems.append(Problem(detail, pointer, received=received, expected=expected, fix=fix))
    pointers = {name: f"/network/{index}" for index, name in names.items()}
    for one in inputs:
        layer = Input(shape=list(one.shape), dtype=one.dtype)
        graph.add(GraphNode(one.name, layer, (), one.shape, None, pointers.get(one.name, "/features")))
    return names


def _marked_outputs(graph: NetworkGraph, network: Sequence[LayerEntry], targets: Sequence[Target]) -> dict[int, str]:
    """Return which entries are outputs of which target, by index."""
    names = [target.name for target in targets]
    by_layer_name = {layer_name(name): name for name in names}
    outputs: dict[int, str] = {}
    unnamed: list[int] = []
    for index, entry in enumerate(network):
        if isinstance(entry.output, str) and entry.output not in names and entry.name != entry.output:
            detail = f"There is no target {entry.output!r}."
            graph.problems.append(unknown_name(detail, entry.output, names, f"/network/{index}/output"))
        elif isinstance(entry.output, str) and entry.output in names:
            outputs[index] = entry.output
        elif entry.output is not True and entry.name in by_layer_name and not isinstance(entry.layer, Input):
            outputs[index] = by_layer_name[str(entry.name)]
        elif entry.output is not None:
            unnamed.append(index)
    remaining = [name for name in names if name not in outputs.values()]
    if len(unnamed) > len(remaining) or 0 < len(unnamed) < len(remaining):
        graph.problems.append(
            Problem(
                f"There are {len(unnamed)} outputs for {len(remaining)} targets.",
                f"/network/{unnamed[0]}",
                expected=f"output: one of {', '.join(remaining)}" if remaining else "no other output",
                fix="Write output: and the target's name beside each output layer.",
            )
        )
        return outputs
    outputs |= dict(zip(unnamed, remaining, strict=True)) if unnamed else {}
    for index, name in outputs.items():
        if list(outputs.values()).count(name) > 1:
            detail = f"The target {name!r} has two outputs."
            graph.problems.append(Problem(detail, f"/network/{index}", received=name))
            break
    return outputs


def _sources(
    graph: NetworkGraph,
    network: Sequence[LayerEntry],
    index: int,
    previous: str | None,
    input_names: dict[int, str],
) -> tuple[str, ...] | None:
    """Return the names of a layer's inputs; None after a problem."""
    wanted = network[index].inputs
    if wanted is None:
        inputs = [node.name for node in graph.nodes.values() if isinstance(node.layer, Input)]
        if previous is not None or len(inputs) == 1:
            return (previous or inputs[0],)
        graph.problems.append(
            Problem(
                f"The network has {len(inputs)} inputs; the first layer must name those that it reads.",
                f"/network/{index}",
                expected=f"inputs: some of {', '.join(inputs)}",
                fix=f"inputs: [{inputs[0]}]" if inputs else "Name features.",
            )
        )
        return None
    aliases = {network[i].name: name for i, name in input_names.items()}
    sources = []
    for position, name in enumerate(wanted):
        source = name if name in graph.nodes else aliases.get(name)
        if source is None:
            detail = f"There is no layer or network input {name!r} before this layer."
            problem = unknown_name(detail, name, graph.nodes, f"/network/{index}/inputs/{position}")
            if any(other.name == name for other in network[index:]):
                problem = replace(problem, fix="A layer reads those before it in the list: move it.")
            graph.problems.append(problem)
            return None
        sources.append(source)
    return tuple(sources)
