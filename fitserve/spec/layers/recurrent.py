"""Layers that read a sequence step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from fitserve.spec.activations import Activation
from fitserve.spec.argument_types import Flag, Rate, Seed
from fitserve.spec.component import Family
from fitserve.spec.initializers import AnyInitializer, Orthogonal
from fitserve.spec.layers.layer import KernelLayer, Layer, SavedActivations, Shape, UnitsLayer, Weight
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer
from fitserve.validation import InvalidValue

# State that outlives a batch is meaningless with shuffled rows, returned state is for code that holds the layer, and
# Bidirectional itself decides what to output for a masked step.
_STATE: dict[str, Any] = {"return_state": False, "stateful": False, "zero_output_for_mask": ...}


class Recurrent(KernelLayer, UnitsLayer, abstract=True):
    """LSTM, GRU and SimpleRNN. `gates` is the number of matrices that a step multiplies with."""

    rank = 2
    gates: ClassVar[int] = 1
    saved_arrays: ClassVar[int] = 1  # arrays of `units` numbers that each step keeps for the backward pass
    omitted: ClassVar[Mapping[str, Any]] = _STATE
    activation: Activation = "tanh"
    recurrent_initializer: AnyInitializer = Orthogonal()
    recurrent_regularizer: AnyRegularizer | None = None
    recurrent_constraint: AnyConstraint | None = None
    dropout: Rate = 0.0
    recurrent_dropout: Rate = 0.0
    seed: Seed | None = None
    return_sequences: Flag = False
    go_backwards: Flag = False
    unroll: Flag = False

    def mirrored(self) -> Self:
        """Return the same layer reading in the other direction."""
        return self.model_copy(update={"go_backwards": not self.go_backwards})

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0], self.units) if self.return_sequences else (self.units,)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        width = self.gates * self.units
        kernels = [Weight("kernel", (inputs[0][1], width)), Weight("recurrent", (self.units, width))]
        return [*kernels, *self.bias(width)]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return inputs[0][0] * self.gates * self.units * (inputs[0][1] + self.units)

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(inputs=True, output=True, more=inputs[0][0] * self.units * self.saved_arrays)


class SimpleRNN(Recurrent):
    """`state = activation(input @ kernel + state @ recurrent_kernel + bias)`."""


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""

    gates = 4
    saved_arrays = 9
    omitted: ClassVar[Mapping[str, Any]] = {**_STATE, "use_cudnn": "auto"}
    recurrent_activation: Activation = "sigmoid"
    unit_forget_bias: Flag = True


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014)."""

    gates = 3
    saved_arrays = 11
    omitted: ClassVar[Mapping[str, Any]] = {**_STATE, "use_cudnn": "auto"}
    recurrent_activation: Activation = "sigmoid"
    reset_after: Flag = True

    def bias(self, *shape: int) -> list[Weight]:
        return super().bias(2, *shape) if self.reset_after else super().bias(*shape)


RECURRENT: Family[Recurrent] = Family("recurrent layer", "keras.layers", Recurrent)
AnyRecurrent = Annotated[Recurrent, RECURRENT]


class Bidirectional(Layer):
    """A recurrent layer that reads the sequence from both ends."""

    rank = 2
    omitted: ClassVar[Mapping[str, Any]] = {"weights": None, "backward_layer": None}  # both directions are alike
    layer: AnyRecurrent
    merge_mode: Literal["concat", "sum", "mul", "ave"] = "concat"

    @classmethod
    def is_shorthand(cls, value: dict[str, Any]) -> bool:
        # `Bidirectional: {LSTM: 8}` is `Bidirectional: {layer: {LSTM: 8}}`.
        return len(value) == 1 and "layer" not in value and RECURRENT.knows(next(iter(value)))

    @classmethod
    def from_keras(cls, config: dict[str, Any]) -> Self:
        # Keras also writes the backward layer, which may differ only in its direction.
        config = dict(config)
        backward = config.pop("backward_layer", None)
        read = super().from_keras(config)
        if backward is not None and RECURRENT.read(backward).mirrored() != read.layer:
            detail = "A spec's Bidirectional has the same layer in both directions."
            raise InvalidValue(detail, received="another backward_layer")
        return read

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = self.layer.check(inputs)
        return (*shape[:-1], 2 * shape[-1]) if self.merge_mode == "concat" else shape

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        return 2 * self.layer.weights(inputs)

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return 2 * self.layer.multiply_adds(inputs, output)

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        return SavedActivations(True, True, more=2 * self.layer.saved_activations(inputs, output).more)
