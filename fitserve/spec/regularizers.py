"""Keras's regularizers and constraints, which keep weights small or within bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from fitserve.spec.argument_types import Int, NonNegative, Share
from fitserve.spec.component import Component, Family


class Regularizer(Component, abstract=True):
    """A penalty added to the loss."""


class L1(Regularizer):
    """`l1 * sum(|w|)`."""

    l1: NonNegative = 0.01


class L2(Regularizer):
    """`l2 * sum(w²)`."""

    l2: NonNegative = 0.01


class L1L2(Regularizer):
    """`l1 * sum(|w|) + l2 * sum(w²)`."""

    l1: NonNegative = 0.0
    l2: NonNegative = 0.0


class OrthogonalRegularizer(Regularizer):
    """Pushes the rows (or columns) of a matrix to be orthogonal to each other."""

    factor: NonNegative = 0.01
    mode: Literal["rows", "columns"] = "rows"


REGULARIZERS: Family[Regularizer] = Family("regularizer", "keras.regularizers", Regularizer)
AnyRegularizer = Annotated[Regularizer, REGULARIZERS]


class Constraint(Component, abstract=True):
    """A projection of the weights after every step."""


class MaxNorm(Constraint):
    """The norm of the weights that enter a unit is at most `max_value`."""

    max_value: NonNegative = 2.0
    axis: Int | list[Int] = 0


class MinMaxNorm(Constraint):
    """The norm of the weights that enter a unit lies between two bounds."""

    min_value: NonNegative = 0.0
    max_value: NonNegative = 1.0
    rate: Share = 1.0
    axis: Int | list[Int] = 0


class NonNeg(Constraint):
    """Weights are at least 0."""


class UnitNorm(Constraint):
    """The weights that enter a unit have norm 1."""

    axis: Int | list[Int] = 0


CONSTRAINTS: Family[Constraint] = Family("constraint", "keras.constraints", Constraint)
AnyConstraint = Annotated[Constraint, CONSTRAINTS]
