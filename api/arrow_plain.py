"""Arrow streams as they mostly come: one batch of plain columns, read without Arrow.

Arrow takes some 200 microseconds to make arrays of a stream, however few events are in
it. What is unusual is left to `api.arrow_intake`, which knows everything: other types,
nulls, compression, several batches, and whatever is wrong.
"""

import struct
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from api.arrow_stream import (
    BODY_BYTES,
    BUFFERS,
    COMPRESSION,
    ENDIANNESS,
    HEADER,
    KIND,
    NODES,
    ROWS,
    VERSION,
    FlatTable,
)
from api.intake import batch_of
from kernels import arrow_events
from kernels.arrow_events import Numbers
from kernels.compiler import frozen
from kernels.event_columns import PADDING_BYTES
from persistence.batch import Batch

#: Of a message; those of plain columns have a few hundred.
METADATA_BYTES_MAX = 1 << 14
#: Those of a client are all the same.
SCHEMAS_REMEMBERED = 64

#: In front of a message: a mark, and the bytes of its metadata; 0 at the end of a stream.
_PREFIX = struct.Struct("<Ii")
_MARK = 0xFFFFFFFF
_END = _PREFIX.pack(_MARK, 0)
_VERSION_5, _RECORD_BATCH = 4, 3
_TEXTS, _NUMBERS = ("user", "slug", "session", "id"), ("at", "ts", "duration")
_NOTHING = frozen(np.empty(0, np.float64))

_Buffer = tuple[int, int]


class _Layout(NamedTuple):
    """Which buffers the columns of a schema have."""

    columns: int
    buffers: int
    #: The first buffer of each field that is there, and the type of numbers.
    texts: dict[str, int]
    numbers: dict[str, tuple[int, np.dtype[Any]]]


def columns_of(body: bytes, events_max: int) -> Batch | None:
    """The events of a stream, if there is nothing unusual in it."""
    try:
        return _columns_of(body, events_max)
    except (struct.error, ValueError, pa.ArrowException, OSError):
        return None


def _columns_of(body: bytes, events_max: int) -> Batch | None:
    """As `columns_of`; raises what it catches where something is amiss."""
    layout, rows, buffers = _find(body)
    if not 0 < rows <= events_max:
        return None
    texts = [_place(layout.texts.get(field), rows, buffers) for field in _TEXTS]
    numbers = [_numbers(body, layout.numbers.get(field), rows, buffers) for field in _NUMBERS]
    if max(start + size for _, start, size in texts) + PADDING_BYTES > len(body):
        body += bytes(PADDING_BYTES)
    text = np.frombuffer(body, np.uint8)
    words = np.frombuffer(body, np.int32, len(body) // 4)
    return batch_of(arrow_events.parse(text, words, np.array(texts), Numbers(*numbers)))


def _place(first: int | None, rows: int, buffers: list[_Buffer]) -> tuple[int, int, int]:
    """Where a column of texts is, for the kernel."""
    if first is None:
        return 0, 0, 0
    (offsets, offsets_bytes), (start, size) = buffers[first + 1 : first + 3]
    if offsets % 4 or offsets_bytes < 4 * (rows + 1):
        raise ValueError("not an offset each")
    return offsets // 4, start, size


def _numbers(
    body: bytes, column: tuple[int, np.dtype[Any]] | None, rows: int, buffers: list[_Buffer]
) -> NDArray[np.float64]:
    if column is None:
        return _NOTHING
    first, dtype = column
    start, size = buffers[first + 1]
    if size < rows * dtype.itemsize:
        raise ValueError("not a number each")
    return frozen(np.require(np.frombuffer(body, dtype, rows, start), np.float64, "A"))


def _find(body: bytes) -> tuple[_Layout, int, list[_Buffer]]:
    """The layout, how many events there are, where in `body` each buffer begins, and its bytes."""
    _, schema_end = _message(body, 0)
    layout = _layout(body[:schema_end])
    metadata, start = _message(body, schema_end)
    pa.ipc.read_message(pa.py_buffer(body).slice(schema_end))  # refuses metadata with a flaw
    message = FlatTable.root(metadata)
    size = message.number(BODY_BYTES, "<q")
    batch = message.table(HEADER)
    rows, buffers = batch.number(ROWS, "<q"), [*batch.structs(BUFFERS)]
    if (
        layout is None
        or message.number(VERSION, "<h") != _VERSION_5
        or message.number(KIND, "<B") != _RECORD_BATCH
        or body[start + size :] not in (b"", _END)
        or batch.offset(COMPRESSION) is not None
        or [*batch.structs(NODES)] != [(rows, 0)] * layout.columns  # none has a null
        or len(buffers) != layout.buffers
        or any(at % 8 or min(at, length, size - at - length) < 0 for at, length in buffers)
        or not sum(length for _, length in buffers) <= size <= len(body) - start
    ):
        raise ValueError("unusual")
    return layout, rows, [(start + at, length) for at, length in buffers]


def _message(body: bytes, at: int) -> tuple[bytes, int]:
    """The metadata of the message that begins at `at`, and where they end."""
    mark, size = _PREFIX.unpack_from(body, at)
    start = at + _PREFIX.size
    if mark != _MARK or not 0 < size <= min(len(body) - start, METADATA_BYTES_MAX):
        raise ValueError("no message of a usual size")
    return body[start : start + size], start + size


@lru_cache(SCHEMAS_REMEMBERED)
def _layout(message: bytes) -> _Layout | None:
    """The layout that a schema says, if all its columns are plain."""
    metadata, _ = _message(message, 0)
    is_swapped = FlatTable.root(metadata).table(HEADER).number(ENDIANNESS, "<h")
    schema = pa.ipc.read_schema(pa.py_buffer(message))
    texts, numbers, buffers = {}, {}, 0
    for field in schema:
        if types.is_string(field.type):
            texts[field.name], more = buffers, 3
        elif types.is_integer(field.type) or types.is_floating(field.type):
            numbers[field.name] = buffers, np.dtype(field.type.to_pandas_dtype())
            more = 2
        else:
            return None
        buffers += more
    is_right = (
        not is_swapped
        and len(texts) + len(numbers) == len(schema)  # else a name stands there twice
        and texts.keys() >= {"user", "slug"}
        and "at" in numbers
        and texts.keys().isdisjoint(_NUMBERS)
        and numbers.keys().isdisjoint(_TEXTS)
    )
    return _Layout(len(schema), buffers, texts, numbers) if is_right else None
