"""Layers that read a sequence step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from fitserve.spec.activations import Activation
from fitserve.spec.component import Family
from fitserve.spec.initializers import AnyInitializer, GlorotUniform, Orthogonal, Zeros
from fitserve.spec.layers.layer import Kept, Layer, Shape, Weight
from fitserve.spec.regularizers import AnyConstraint, AnyRegularizer
from fitserve.spec.values import Flag, Positive, Rate, Seed
from fitserve.validation import Refused

# State that outlives a batch has no meaning for shuffled rows, returned state is for code that holds the layer, and
# Bidirectional itself decides on the output where a step is masked.
_STATE: dict[str, Any] = {"return_state": False, "stateful": False, "zero_output_for_mask": ...}


class Recurrent(Layer):
    """What LSTM, GRU and SimpleRNN share. `gates` is the number of matrices that a step multiplies with."""

    rank = 2
    gates: ClassVar[int] = 1
    arrays: ClassVar[int] = 1  # of `units` numbers that a step keeps for the way back
    omitted: ClassVar[Mapping[str, Any]] = _STATE
    units: Positive
    use_bias: Flag
    return_sequences: Flag

    def mirrored(self) -> Self:
        """The same layer reading the other way."""
        return self.model_copy(update={"go_backwards": not getattr(self, "go_backwards")})  # noqa: B009

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0], self.units) if self.return_sequences else (self.units,)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        wide = self.gates * self.units
        bias = [Weight("bias", self._bias_shape())] if self.use_bias else []
        return [Weight("kernel", (inputs[0][1], wide)), Weight("recurrent", (self.units, wide)), *bias]

    def _bias_shape(self) -> Shape:
        return (self.gates * self.units,)

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return inputs[0][0] * self.gates * self.units * (inputs[0][1] + self.units)

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True, more=inputs[0][0] * self.units * self.arrays)


class SimpleRNN(Recurrent):
    """`state = activation(input @ kernel + state @ recurrent_kernel + bias)`."""

    units: Positive
    activation: Activation = "tanh"
    use_bias: Flag = True
    kernel_initializer: AnyInitializer = GlorotUniform()
    recurrent_initializer: AnyInitializer = Orthogonal()
    bias_initializer: AnyInitializer = Zeros()
    kernel_regularizer: AnyRegularizer | None = None
    recurrent_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    kernel_constraint: AnyConstraint | None = None
    recurrent_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None
    dropout: Rate = 0.0
    recurrent_dropout: Rate = 0.0
    seed: Seed | None = None
    return_sequences: Flag = False
    go_backwards: Flag = False
    unroll: Flag = False


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""

    gates = 4
    arrays = 9
    omitted: ClassVar[Mapping[str, Any]] = {**_STATE, "use_cudnn": "auto"}
    units: Positive
    activation: Activation = "tanh"
    recurrent_activation: Activation = "sigmoid"
    use_bias: Flag = True
    kernel_initializer: AnyInitializer = GlorotUniform()
    recurrent_initializer: AnyInitializer = Orthogonal()
    bias_initializer: AnyInitializer = Zeros()
    unit_forget_bias: Flag = True
    kernel_regularizer: AnyRegularizer | None = None
    recurrent_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    kernel_constraint: AnyConstraint | None = None
    recurrent_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None
    dropout: Rate = 0.0
    recurrent_dropout: Rate = 0.0
    seed: Seed | None = None
    return_sequences: Flag = False
    go_backwards: Flag = False
    unroll: Flag = False


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014)."""

    gates = 3
    arrays = 11
    omitted: ClassVar[Mapping[str, Any]] = {**_STATE, "use_cudnn": "auto"}
    units: Positive
    activation: Activation = "tanh"
    recurrent_activation: Activation = "sigmoid"
    use_bias: Flag = True
    kernel_initializer: AnyInitializer = GlorotUniform()
    recurrent_initializer: AnyInitializer = Orthogonal()
    bias_initializer: AnyInitializer = Zeros()
    kernel_regularizer: AnyRegularizer | None = None
    recurrent_regularizer: AnyRegularizer | None = None
    bias_regularizer: AnyRegularizer | None = None
    activity_regularizer: AnyRegularizer | None = None
    kernel_constraint: AnyConstraint | None = None
    recurrent_constraint: AnyConstraint | None = None
    bias_constraint: AnyConstraint | None = None
    dropout: Rate = 0.0
    recurrent_dropout: Rate = 0.0
    seed: Seed | None = None
    return_sequences: Flag = False
    go_backwards: Flag = False
    unroll: Flag = False
    reset_after: Flag = True

    def _bias_shape(self) -> Shape:
        wide = self.gates * self.units
        return (2, wide) if self.reset_after else (wide,)


RECURRENT: Family[Recurrent] = Family("recurrent layer", "keras.layers", (SimpleRNN, LSTM, GRU))
AnyRecurrent = Annotated[Recurrent, RECURRENT]


class Bidirectional(Layer):
    """A recurrent layer that reads the sequence from both ends."""

    rank = 2
    omitted: ClassVar[Mapping[str, Any]] = {"weights": None, "backward_layer": None}  # both ways alike
    layer: AnyRecurrent
    merge_mode: Literal["concat", "sum", "mul", "ave"] = "concat"

    @classmethod
    def is_shorthand(cls, value: dict[str, Any]) -> bool:
        """`Bidirectional: {LSTM: 8}` is `Bidirectional: {layer: {LSTM: 8}}`."""
        return len(value) == 1 and "layer" not in value and RECURRENT.knows(next(iter(value)))

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Self:
        """Keras writes the backward layer too; it may differ in its direction alone."""
        config = dict(config)
        backward = config.pop("backward_layer", None)
        read = super().of_config(config)
        if backward is not None and RECURRENT.read(backward).mirrored() != read.layer:
            raise Refused("A spec's Bidirectional has the same layer both ways.", received="another backward_layer")
        return read

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = self.layer.check(inputs)
        return (*shape[:-1], 2 * shape[-1]) if self.merge_mode == "concat" else shape

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        return 2 * self.layer.weights(inputs)

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return 2 * self.layer.multiply_adds(inputs, output)

    def kept(self, inputs: Sequence[Shape], output: Shape) -> Kept:
        return Kept(inputs=True, output=True, more=2 * self.layer.kept(inputs, output).more)
