"""TensorFlow's TensorProto and Example, to and from rows. No TensorFlow is needed for that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fitserve.errors import Malformed
from services.predict.protocols.oip.tensors import Tensor, text_of
from services.predict.protocols.proto import tensorflow_pb2 as tf
from services.predict.serving.rows import Rows

# DataType to (NumPy's type, the field of typed values).
_TYPES: dict[int, tuple[Any, str]] = {
    tf.DT_FLOAT: (np.float32, "float_val"),
    tf.DT_DOUBLE: (np.float64, "double_val"),
    tf.DT_INT32: (np.int32, "int_val"),
    tf.DT_INT16: (np.int16, "int_val"),
    tf.DT_INT8: (np.int8, "int_val"),
    tf.DT_UINT8: (np.uint8, "int_val"),
    tf.DT_UINT16: (np.uint16, "int_val"),
    tf.DT_UINT32: (np.uint32, "uint32_val"),
    tf.DT_UINT64: (np.uint64, "uint64_val"),
    tf.DT_INT64: (np.int64, "int64_val"),
    tf.DT_BOOL: (np.bool_, "bool_val"),
    tf.DT_HALF: (np.float16, "half_val"),
}


MOST_VALUES = 1 << 23  # of all tensors of a request: a few bytes may claim any shape, to be filled with one value


def tensors_of(inputs: Mapping[str, Any]) -> list[Tensor]:
    """A request's tensors. Raises Malformed, before memory is taken for what the shapes claim."""
    claimed = sum(abs(math.prod(dim.size for dim in proto.tensor_shape.dim)) for proto in inputs.values())
    if claimed > MOST_VALUES:
        raise Malformed("The tensors have too many values.", received=claimed, expected=f"at most {MOST_VALUES}")
    return [from_proto(name, proto) for name, proto in inputs.items()]


def from_proto(name: str, proto: Any) -> Tensor:
    """A tensor of rows; a scalar is one row. Raises Malformed."""
    if proto.tensor_shape.unknown_rank or len(proto.tensor_shape.dim) > 2:
        raise Malformed(f"Input {name!r} has a shape that no rows have.", expected="[rows] or [rows, 1]")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim) or (1,)
    if any(size < 0 for size in shape):
        raise Malformed(f"Input {name!r} has a negative dimension.", received=list(shape))
    count = math.prod(shape)
    if proto.dtype == tf.DT_STRING:
        if len(proto.string_val) not in (count, min(count, 1)):
            raise Malformed(f"Input {name!r} has {len(proto.string_val)} values; its shape needs {count}.")
        texts = [text_of(name, value) for value in proto.string_val]
        return Tensor(name, shape, texts if len(texts) == count else texts * count)
    if proto.dtype not in _TYPES:
        raise Malformed(f"Input {name!r} has a data type that is not understood.", received=proto.dtype)
    return Tensor(name, shape, _numbers(name, proto, count).reshape(-1))


def _numbers(name: str, proto: Any, count: int) -> Any:
    dtype, field = _TYPES[proto.dtype]
    if proto.tensor_content:
        if len(proto.tensor_content) != count * np.dtype(dtype).itemsize:
            raise Malformed(f"Input {name!r}: tensor_content does not have the length of its shape.")
        return np.frombuffer(proto.tensor_content, np.dtype(dtype).newbyteorder("<"))
    listed = list(getattr(proto, field))
    if (not listed and count) or len(listed) > count:
        raise Malformed(f"Input {name!r} has {len(listed)} values; its shape needs {count}.")
    if dtype is np.float16:  # its bits, in integers that may hold more
        if any(not 0 <= bits < 1 << 16 for bits in listed):
            raise Malformed(f"Input {name!r} has a half_val that is no 16 bits.")
        values = np.array(listed, np.uint16).view(np.float16)
    else:
        values = np.array(listed).astype(dtype)
    if len(values) < count:  # TensorFlow: the last value fills the rest
        values = np.concatenate([values, np.full(count - len(values), values[-1], dtype)])
    return values


def to_proto(values: Any) -> Any:
    """A float tensor with typed values, as TensorFlow Serving sends them."""
    shape = tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=size) for size in values.shape])
    return tf.TensorProto(dtype=tf.DT_FLOAT, tensor_shape=shape, float_val=values.ravel().tolist())


def example_rows(given: Any) -> Rows:
    """The rows of an Input: examples, with what a context adds to each. Raises Malformed."""
    kind = given.WhichOneof("kind")
    if kind is None:
        raise Malformed("The input has no examples.")
    examples = getattr(given, kind)
    context = _features(examples.context) if kind == "example_list_with_context" else {}
    rows = [{**context, **_features(example)} for example in examples.examples]
    if not rows:
        raise Malformed("The input has no examples.")
    return Rows(rows)


def _features(example: Any) -> dict[str, Any]:
    return {name: _feature(name, feature) for name, feature in example.features.feature.items()}


def _feature(name: str, feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if len(values) > 1:
        raise Malformed(f"Feature {name!r} has {len(values)} values.", expected="one, or none where it is missing")
    if not values:
        return None
    return text_of(name, values[0]) if kind == "bytes_list" else values[0]
