"""`pass_through`: a number as it is."""

from __future__ import annotations

from typing import Literal

from fitserve.encoding.number import ScaledNumber


class PassThrough(ScaledNumber):
    """The number as it is."""

    rescales = False
    in_onnx = in_code = True
    type: Literal["pass_through"] = "pass_through"
