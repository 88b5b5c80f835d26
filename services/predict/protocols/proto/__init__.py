"""The protocols' messages, in a pool of their own.

TensorFlow, `tensorflow-serving-api`, `tritonclient` and `kserve` bring messages of the same names. In protobuf's
default pool the second to come is an error; with this one they can be imported beside us, in either order.

`protoc` writes `*_pb2.py` and `*_pb2.pyi`; in the former `_descriptor_pool.Default()` then becomes `POOL`.
"""

from google.protobuf import any_pb2, descriptor_pool, wrappers_pb2

POOL = descriptor_pool.DescriptorPool()
for known in (any_pb2, wrappers_pb2):
    POOL.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
