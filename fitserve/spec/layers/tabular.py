"""Layers for tables that Keras does not have: trained periodic features, members that share a kernel.

`model.keras` contains plain Keras layers instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fitserve.spec.argument_types import Above0, Flag, Positive
from fitserve.spec.layers.layer import (
    KernelLayer,
    Layer,
    SavedActivations,
    Shape,
    ShapeRefused,
    UnitsLayer,
    Weight,
    format_shape,
    saved_by_activation,
)


class Periodic(Layer):
    """Each number by itself as sines and cosines of trained frequencies, then through units of its own (PLR, PBLD).

    Source: Y. Gorishniy, I. Rubachev and A. Babenko, "On embeddings for numerical features in tabular deep learning"
    (2022); with the number beside cosines of trained phases (PBLD): D. Holzmueller, L. Grinsztajn and I. Steinwart,
    "Better by default" (2024).
    """

    rank = 1
    units: Positive = 8
    frequencies: Positive = 16
    sigma: Above0 = 0.1
    variant: Literal["PLR", "PBLD"] = "PBLD"

    @property
    def waves(self) -> int:
        """How many sines and cosines one number becomes."""
        return self.frequencies if self.variant == "PBLD" else 2 * self.frequencies

    @property
    def linear_units(self) -> int:
        """How many units read them; in PBLD, the number itself takes one place."""
        return self.units - (self.variant == "PBLD")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if self.linear_units < 1:
            raise ShapeRefused("Periodic of the variant PBLD has two units or more: one is the number itself.")
        return (inputs[0][0] * self.units,)

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        (columns,) = inputs[0]
        phases = [Weight("phases", (columns, self.frequencies))] if self.variant == "PBLD" else []
        return [
            Weight("frequencies", (columns, self.frequencies)),
            *phases,
            Weight("kernel", (columns, self.waves, self.linear_units)),
            Weight("bias", (columns, self.linear_units)),
        ]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        (columns,) = inputs[0]
        return columns * (self.frequencies + self.waves * self.linear_units)

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        (columns,) = inputs[0]
        return SavedActivations(inputs=True, output=True, more=2 * columns * (self.waves + self.linear_units))


class BatchEnsemble(KernelLayer, UnitsLayer):
    """Dense for several members: `activation((x * input_scale) @ kernel * output_scale + bias)`, one shared kernel.

    Each row becomes one row per member, also for further BatchEnsemble layers; GlobalAveragePooling1D averages them.
    Sources: Y. Wen, D. Tran and J. Ba, "BatchEnsemble" (2020); with input scales of 1 after the first layer: Y.
    Gorishniy, A. Kotelnikov and A. Babenko, "TabM" (2024).
    """

    members: Positive = 8
    random_signs: Flag = True

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        shape = inputs[0]
        if len(shape) == 1 or (len(shape) == 2 and shape[0] == self.members):
            return (self.members, self.units)
        raise ShapeRefused(
            f"BatchEnsemble takes a row, or one for each of its {self.members} members; its input is"
            f" {format_shape(shape)}.",
            "Give all of them the same `members`, or put Flatten before it.",
        )

    def weights(self, inputs: Sequence[Shape]) -> list[Weight]:
        columns = inputs[0][-1]
        return [
            Weight("kernel", (columns, self.units)),
            Weight("input_scale", (self.members, columns)),
            Weight("output_scale", (self.members, self.units)),
            *self.bias(self.members, self.units),
        ]

    def multiply_adds(self, inputs: Sequence[Shape], output: Shape) -> int:
        return self.members * (inputs[0][-1] * self.units + inputs[0][-1] + self.units)

    def saved_activations(self, inputs: Sequence[Shape], output: Shape) -> SavedActivations:
        saved = saved_by_activation(self.members * self.units, self.activation)
        return SavedActivations(True, saved.output, saved.more + self.members * (inputs[0][-1] + self.units))


OURS = (Periodic, BatchEnsemble)
