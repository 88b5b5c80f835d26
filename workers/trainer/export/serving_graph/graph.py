"""An ONNX graph under construction, and what a writer of layers says when it cannot write one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

DTYPES = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}


class NotWritten(Exception):
    """This network has something that is not written here."""


@dataclass(slots=True)
class Graph:
    """An ONNX graph under construction. Tensors are named by strings."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """One operator with one output, whose name is returned."""
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """An initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name


# Adds a layer to the graph: given the names of its inputs and, for their shapes, their Keras tensors, it returns
# the name of its output. Raises NotWritten.
Writer = Callable[[Graph, Any, list[str], list[Any]], str]
