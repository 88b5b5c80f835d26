"""The allow-list of layers: every layer of the modules imported here."""

from __future__ import annotations

from typing import Annotated

from fitserve.spec.component import Family

# Importing a module adds its layers; tables list them in this order.
from fitserve.spec.layers import (  # noqa: F401
    convolution,
    core,
    normalization,
    recurrent,
    regularization,
    shaping,
    tabular,
)
from fitserve.spec.layers.layer import Layer

LAYERS: Family[Layer] = Family("layer", "keras.layers", Layer)
AnyLayer = Annotated[Layer, LAYERS]
