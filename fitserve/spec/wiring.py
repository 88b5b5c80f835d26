"""How layers are connected: names, inputs, outputs and shapes of a network as written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fitserve.spec.feature import EncodedInput
from fitserve.errors import Problem
from fitserve.spec.layers.core import Input
from fitserve.spec.layers.layer import Layer, Shape, ShapeRefused, written
from fitserve.spec.network import Node
from fitserve.spec.target import Target
from fitserve.validation import nearest


@dataclass(frozen=True, slots=True)
class Wired:
    """A layer with its name, what it reads, and its shape; `target` where it is an output."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    shape: Shape
    target: str | None
    pointer: str


@dataclass(slots=True)
class Wiring:
    """The layers in order, network inputs first. `problems` is what is wrong with them."""

    nodes: dict[str, Wired] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, node: Wired) -> None:
        """One more layer, after those it reads."""
        self.nodes[node.name] = node

    def inputs_of(self, node: Wired) -> list[Shape]:
        """The shapes that a layer reads."""
        return [self.nodes[name].shape for name in node.inputs]

    def outputs(self) -> dict[str, Wired]:
        """The output layers by target."""
        return {node.target: node for node in self.nodes.values() if node.target is not None}

    def last(self) -> Wired | None:
        """What an automatic output layer reads: the last layer that is no output, or the only input."""
        hidden = [node for node in self.nodes.values() if node.target is None]
        layers = [node for node in hidden if not isinstance(node.layer, Input)]
        if layers:
            return layers[-1]
        return hidden[0] if len(hidden) == 1 else None

    def free_name(self, wanted: str) -> str:
        """The name, or with the next number as Keras numbers them."""
        number, name = 0, wanted
        while name in self.nodes:
            number += 1
            name = f"{wanted}_{number}"
        return name


def wire(network: Sequence[Node], inputs: Sequence[EncodedInput], targets: Sequence[Target]) -> Wiring:
    """Connect the layers and infer their shapes. What is wrong is in the result's `problems`."""
    wiring = Wiring()
    renamed = _network_inputs(wiring, network, inputs)
    outputs = _marked_outputs(wiring, network, targets)
    taken = {node.name for node in network if node.name is not None} | {i.name for i in inputs}
    previous: str | None = None
    for index, node in enumerate(network):
        pointer = f"/network/{index}"
        if isinstance(node.layer, Input):
            previous = renamed.get(index, previous)
            continue
        name = node.name or _numbered(node.layer, wiring, taken)
        if name in wiring.nodes:
            wiring.problems.append(
                Problem(f"Two layers are called {name!r}.", f"{pointer}/name", received=name, expected="another name")
            )
            break
        reads = _reads(wiring, node, index, previous, inputs, network, renamed)
        if reads is None:
            break
        shapes = [wiring.nodes[source].shape for source in reads]
        try:
            shape = node.layer.check(shapes)
        except ShapeRefused as refused:
            detail = f"{name}: {refused}"
            wiring.problems.append(Problem(detail, pointer, received=", ".join(map(written, shapes)), fix=refused.fix))
            break  # shapes after it are unknown
        wiring.add(Wired(name, node.layer, reads, shape, outputs.get(index), pointer))
        if index not in outputs:
            previous = name
    return wiring


def check_ends(wiring: Wiring) -> None:
    """Every layer leads to an output, and every input is read."""
    leads: set[str] = set()
    for node in reversed(wiring.nodes.values()):
        if node.target is not None or node.name in leads:
            leads.add(node.name)
            leads.update(node.inputs)
    for node in wiring.nodes.values():
        if node.name in leads:
            continue
        if isinstance(node.layer, Input):
            detail = f"No layer reads the network input {node.name!r}."
            fix = f"Give a layer inputs: [{node.name}], or leave its columns out of features."
        else:
            detail, fix = f"The layer {node.name!r} leads to no output.", "Name it in the inputs of a later layer."
        wiring.problems.append(Problem(detail, node.pointer, received=node.name, fix=fix))


def snake_case(name: str) -> str:
    """Keras's own rule for the names of layers without a name."""
    name = re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def layer_name(text: str) -> str:
    """A column's name as a layer's name, which has no slash."""
    return text.replace("/", "_")


def _numbered(layer: Layer, wiring: Wiring, taken: set[str]) -> str:
    wanted = snake_case(type(layer).__name__)
    number, name = 0, wanted
    while name in wiring.nodes or name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def _network_inputs(wiring: Wiring, network: Sequence[Node], inputs: Sequence[EncodedInput]) -> dict[int, str]:
    """Put the inputs that the features make first; say which entry of the list is which of them."""
    written_inputs = {index: node for index, node in enumerate(network) if isinstance(node.layer, Input)}
    pointers: dict[str, str] = {}
    renamed: dict[int, str] = {}
    names = [source.name for source in inputs]
    for index, node in written_inputs.items():
        pointer = f"/network/{index}"
        name = node.name
        if name not in names and len(inputs) == len(written_inputs) == 1:
            name = names[0]
        if name not in names or name in pointers:
            near = nearest(name, names)
            wiring.problems.append(
                Problem(
                    f"The features make no {'other ' if name in pointers else ''}network input {name!r}.",
                    pointer,
                    received=name,
                    expected=f"one of {', '.join(names)}",
                    fix=f"Did you mean {near[0]}?" if near else "Say `input` at the features that it takes.",
                )
            )
            continue
        made = next(source for source in inputs if source.name == name)
        layer = node.layer
        if isinstance(layer, Input) and tuple(layer.shape) != made.shape:
            wiring.problems.append(
                Problem(
                    f"The input {name!r} is {written(tuple(layer.shape))}; its features make {written(made.shape)}.",
                    pointer,
                    received=list(layer.shape),
                    expected=str(list(made.shape)),
                    fix="Leave the Input out, or choose features and encodings of that width.",
                )
            )
        pointers[made.name] = pointer
        renamed[index] = made.name
    for source in inputs:
        layer = Input(shape=list(source.shape), dtype=source.dtype)
        pointer = pointers.get(source.name, "/features")
        wiring.add(Wired(source.name, layer, (), source.shape, None, pointer))
    return renamed


def _marked_outputs(wiring: Wiring, network: Sequence[Node], targets: Sequence[Target]) -> dict[int, str]:
    """Which entries are which target's output."""
    names = [target.name for target in targets]
    layer_names = {layer_name(name): name for name in names}
    outputs: dict[int, str] = {}
    unnamed: list[int] = []
    for index, node in enumerate(network):
        if isinstance(node.output, str) and node.output not in names and node.name != node.output:
            near = nearest(node.output, names)
            wiring.problems.append(
                Problem(
                    f"There is no target {node.output!r}.",
                    f"/network/{index}/output",
                    received=node.output,
                    expected=f"one of {', '.join(names)}",
                    fix=f"Did you mean {near[0]}?" if near else None,
                )
            )
        elif isinstance(node.output, str) and node.output in names:
            outputs[index] = node.output
        elif node.output is not True and node.name in layer_names and not isinstance(node.layer, Input):
            outputs[index] = layer_names[str(node.name)]
        elif node.output is not None:
            unnamed.append(index)
    left = [name for name in names if name not in outputs.values()]
    if len(unnamed) > len(left) or (len(unnamed) < len(left) and len(unnamed) > 0):
        wiring.problems.append(
            Problem(
                f"There are {len(unnamed)} outputs for {len(left)} targets.",
                f"/network/{unnamed[0]}",
                expected=f"output: one of {', '.join(left)}" if left else "no other output",
                fix="Say output: and the target's name beside each output layer.",
            )
        )
        return outputs
    outputs |= dict(zip(unnamed, left, strict=True)) if unnamed else {}
    for index, name in outputs.items():
        if list(outputs.values()).count(name) > 1:
            wiring.problems.append(Problem(f"The target {name!r} has two outputs.", f"/network/{index}", received=name))
            break
    return outputs


def _reads(
    wiring: Wiring,
    node: Node,
    index: int,
    previous: str | None,
    inputs: Sequence[EncodedInput],
    network: Sequence[Node],
    renamed: dict[int, str],
) -> tuple[str, ...] | None:
    """The names that a layer reads; None where that is a problem."""
    if node.inputs is None:
        if previous is not None:
            return (previous,)
        if len(inputs) == 1:
            return (inputs[0].name,)
        names = [source.name for source in inputs]
        wiring.problems.append(
            Problem(
                f"The network has {len(names)} inputs; the first layer must say which it reads.",
                f"/network/{index}",
                expected=f"inputs: some of {', '.join(names)}",
                fix=f"inputs: [{names[0]}]" if names else "Name features.",
            )
        )
        return None
    aliases = {network[i].name: name for i, name in renamed.items()}
    reads = []
    for place, wanted in enumerate(node.inputs):
        source = wanted if wanted in wiring.nodes else aliases.get(wanted)
        if source is None:
            known = list(wiring.nodes)
            later = any(other.name == wanted for other in network[index:])
            near = nearest(wanted, known)
            wiring.problems.append(
                Problem(
                    f"There is no layer or network input {wanted!r} before this layer.",
                    f"/network/{index}/inputs/{place}",
                    received=wanted,
                    expected=f"one of {', '.join(known[:50])}",
                    fix="A layer reads those before it in the list: move it."
                    if later
                    else f"Did you mean {near[0]}?"
                    if near
                    else None,
                )
            )
            return None
        reads.append(source)
    return tuple(reads)


def moved(node: Wired, target: str) -> Wired:
    """The same layer as a target's output."""
    return replace(node, target=target)
