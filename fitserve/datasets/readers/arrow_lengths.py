"""What a compressed Arrow file expands to, read from its buffers before pyarrow expands any of them.

pyarrow expands a record batch as a whole, and a batch of a few kilobytes may have gigabytes. Each compressed buffer
begins with its length (Arrow columnar format, "Serialization and Interprocess Communication", with its `Message.fbs`
and `File.fbs`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from flatbuffers import encode, number_types, packer
from flatbuffers.table import Table

_MAGIC = b"ARROW1"
_BLOCK_BYTES = 24
# A FlatBuffers table keeps the offset of its field number n at 4 + 2 * n.
_HEADER = 4 + 2 * 2  # of Message
_DATA = 4 + 2 * 1  # of DictionaryBatch: a RecordBatch
_BUFFERS, _COMPRESSION = 4 + 2 * 2, 4 + 2 * 3  # of RecordBatch
_DICTIONARIES, _BATCHES = 4 + 2 * 2, 4 + 2 * 3  # of Footer


def expanded_bytes(path: Path) -> int:
    """Return the bytes that a file's compressed buffers expand to. pyarrow has read its schema, and so its footer.

    Raises pa.ArrowInvalid, OSError or EOFError for damaged files.
    """
    with pa.memory_map(str(path)) as file:
        try:
            return sum(map(_of_message, _messages(file)))
        except (TypeError, IndexError, struct.error) as error:  # of flatbuffers, for offsets that lead out of the file
            raise pa.ArrowInvalid(f"Its metadata cannot be read: {error}") from None


def _messages(file: pa.MemoryMappedFile) -> Iterator[Any]:
    """Yield the messages of a file or a stream, without copying their bodies."""
    if bytes(file.read(len(_MAGIC))) == _MAGIC:
        for offset in _block_offsets(file):
            file.seek(offset)
            yield pa.ipc.read_message(file)
    else:
        file.seek(0)
        yield from pa.ipc.MessageReader.open_stream(file)


def _block_offsets(file: pa.MemoryMappedFile) -> list[int]:
    """Return the places of a file's batches and dictionaries, from its footer."""
    end = file.size() - len(_MAGIC) - 4
    file.seek(end)
    length = int.from_bytes(file.read(4), "little")
    file.seek(end - length)
    footer = _root(bytes(file.read(length)))
    # A block is a place (8 bytes), the length of its metadata (4, padded) and of its body (8).
    blocks = [_structs(footer, field, _BLOCK_BYTES) for field in (_DICTIONARIES, _BATCHES)]
    return [int(offset) for offset, _, _ in np.concatenate(blocks)]


def _of_message(message: Any) -> int:
    if message.type not in ("record batch", "dictionary") or message.body is None:
        return 0
    batch = _child(_root(message.metadata.to_pybytes()), _HEADER, union=True)
    if message.type == "dictionary":
        batch = _child(batch, _DATA)
    if not batch.Offset(_COMPRESSION):
        return 0
    body = memoryview(message.body)
    # The first number is -1 for a buffer that is stored as it is.
    starts = [int(offset) for offset, length in _structs(batch, _BUFFERS, 16) if length > 0]
    return sum(max(0, int.from_bytes(body[start : start + 8], "little", signed=True)) for start in starts if start >= 0)


def _root(data: bytes) -> Table:
    return Table(data, encode.Get(packer.uoffset, data, 0))


def _child(table: Table, field: int, union: bool = False) -> Table:
    child = Table(table.Bytes, 0)
    place = table.Offset(field)
    if union:
        table.Union(child, place)
    else:
        child.Pos = table.Indirect(place + table.Pos)
    return child


def _structs(table: Table, field: int, size: int) -> np.ndarray:
    """Return a vector of structs of 64-bit numbers, shape (structs, size / 8)."""
    place = table.Offset(field)
    if not place:
        return np.empty((0, size // 8), np.int64)
    first, count = table.Vector(place), table.VectorLen(place)
    words = size // number_types.Int64Flags.bytewidth
    return np.frombuffer(table.Bytes, "<i8", count * words, first).reshape(count, words)
