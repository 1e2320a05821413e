"""An Arrow IPC stream from anyone, read within bounds.

Arrow reads what a stream says of itself: a few bytes may claim buffers that
inflate to gigabytes, that all lie on each other, or dictionaries that are copied
with every batch. So each message's metadata, a flatbuffer, is looked at before
Arrow acts on it; and no column is touched before it has been validated in full.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from api.problems import bad_request, too_large

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
#: Each costs some 50 microseconds, however few events are in it.
MESSAGES_MAX = 10_000
#: A delta makes Arrow copy the dictionary; the copies of a stream may have so many times the
#: bytes of the largest body.
DICTIONARY_COPIES_MAX = 32
#: What is quoted of an Arrow message, which may quote the body.
QUOTED_MAX = 200

_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)
#: Compression as it was before the format had it: Arrow still reads it.
_EXPERIMENTAL_COMPRESSION = b"ARROW:experimental_compression"
_FILE_MAGIC = b"ARROW1"
#: Stands for the size of a buffer that was not compressed, as it would not have become smaller.
_NOT_INFLATED = -1

# Places of fields in the flatbuffers Message, Schema, RecordBatch and DictionaryBatch.
VERSION, KIND, HEADER, BODY_BYTES = range(4)
ENDIANNESS = 0
ROWS, NODES, BUFFERS, COMPRESSION = range(4)
_DICTIONARY_ID, _DICTIONARY_DATA, _IS_DELTA = 0, 1, 2


class Stream:
    """Raises `ProblemError` for what is no Arrow stream, or above a bound once it is read.

    `bytes_max` is for all compressed buffers together, inflated, and for all
    texts that views show.
    """

    def __init__(self, body: bytes, events_max: int, bytes_max: int) -> None:
        if body.startswith(_FILE_MAGIC):
            raise bad_request("This is an Arrow file: send it in the streaming format")
        self._body = body
        self._bytes_max = bytes_max
        self._viewed_bytes = 0
        with refusals():
            _Bounds(events_max, bytes_max).check(body)
            self._reader = pa.ipc.open_stream(body, options=_OPTIONS)
            self.schema: pa.Schema = self._reader.schema

    def batches(self, fields: list[int]) -> Iterator[list[pa.Array]]:
        """Once: the columns of each batch that has events, at these ascending places.

        Raises `ProblemError` for values that are not valid.
        """
        last: list[pa.Array | None] = [None] * len(fields)
        with refusals():
            if len(fields) < len(self.schema):
                options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=fields)
                self._reader = pa.ipc.open_stream(self._body, options=options)
            for batch in self._reader:
                batch.validate()
                if not batch.num_rows:
                    continue
                columns = batch.columns
                for column, last_column in zip(columns, last, strict=True):
                    self._validate(column, last_column)
                last = columns
                yield columns

    def _validate(self, column: pa.Array, last: pa.Array | None) -> None:
        """Looks at every value; at those of a dictionary only when it is not that of `last`."""
        if not isinstance(column, pa.DictionaryArray):
            self._add_views(column)
            column.validate(full=True)
            return
        column.indices.validate(full=True)
        if last is None or not same_array(column.dictionary, last.dictionary):
            self._add_views(column.dictionary)
            column.dictionary.validate(full=True)
        codes = column.indices.drop_null().to_numpy()
        if len(codes) and not (codes.min() >= 0 and codes.max() < len(column.dictionary)):
            raise ValueError("an index lies outside its dictionary")

    def _add_views(self, array: pa.Array) -> None:
        """Views may all show the same text, so that few bytes look like very many."""
        if not pa.types.is_string_view(array.type) or not len(array):
            return
        end = array.offset + len(array)
        lengths = np.frombuffer(array.buffers()[1], np.int32, 4 * end)[4 * array.offset :: 4]
        if array.null_count:
            lengths = lengths[array.is_valid().to_numpy(zero_copy_only=False)]
        self._viewed_bytes += int(np.maximum(lengths, 0).sum(dtype=np.int64))
        if self._viewed_bytes > self._bytes_max:
            raise too_large(f"The texts have more than {self._bytes_max} bytes")


def same_array(one: pa.Array, other: pa.Array) -> bool:
    """Whether two arrays of one type, both in memory, are the same part of it."""
    return _place(one) == _place(other)


def _place(array: pa.Array) -> list[Any]:
    buffers = [buffer and (buffer.address, buffer.size) for buffer in array.buffers()]
    return [array.offset, len(array), *buffers]


@contextmanager
def refusals() -> Iterator[None]:
    """Makes a 400 of whatever Arrow has against a stream."""
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, OverflowError, struct.error) as error:
        what = str(error).encode(errors="replace").decode()[:QUOTED_MAX]
        raise bad_request(f"Not an Arrow IPC stream, nothing was counted. {what}") from error


class _Bounds:
    """What the messages of a stream come to when they are read, by their metadata."""

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self._events_max, self._bytes_max = events_max, bytes_max
        self._events = self._inflated_bytes = self._copied_bytes = 0
        self._dictionary_bytes: dict[int, int] = {}

    def check(self, body: bytes) -> None:
        source = pa.BufferReader(body)
        for number, message in enumerate(pa.ipc.MessageReader.open_stream(source)):
            if number > MESSAGES_MAX:
                raise too_large(f"The stream has more than {MESSAGES_MAX} batches")
            self._add(message)
        if source.tell() < len(body):
            raise ValueError("Bytes follow on the end of the stream")

    def _add(self, message: pa.ipc.Message) -> None:
        if message.type not in ("record batch", "dictionary"):
            return
        metadata = message.metadata.to_pybytes()
        if _EXPERIMENTAL_COMPRESSION in metadata:
            raise bad_request("Compression of this kind is not understood: send LZ4, ZSTD or none")
        body = b"" if message.body is None else message.body
        header = FlatTable.root(metadata).table(HEADER)
        if message.type == "record batch":
            self._add_rows(header.number(ROWS, "<q"))
            self._weigh(header, memoryview(body))
        else:
            self._add_dictionary(
                header.number(_DICTIONARY_ID, "<q"),
                bool(header.number(_IS_DELTA, "<B")),
                self._weigh(header.table(_DICTIONARY_DATA), memoryview(body)),
            )

    def _add_rows(self, rows: int) -> None:
        if rows < 0:
            raise ValueError("A batch has less than no rows")
        self._events += rows
        if self._events > self._events_max:
            raise too_large(f"The body has more than {self._events_max} events")

    def _add_dictionary(self, number: int, is_delta: bool, added_bytes: int) -> None:
        known_bytes = self._dictionary_bytes.get(number, 0) if is_delta else 0
        self._dictionary_bytes[number] = known_bytes + added_bytes
        if is_delta:
            self._copied_bytes += known_bytes + added_bytes
        if self._copied_bytes > DICTIONARY_COPIES_MAX * self._bytes_max:
            raise too_large("Its dictionaries grow too often")

    def _weigh(self, batch: "FlatTable", body: memoryview) -> int:
        """The bytes of the batch in memory."""
        buffers = [(start, length) for start, length in batch.structs(BUFFERS) if length]
        if any(min(start, length, len(body) - start - length) < 0 for start, length in buffers):
            raise ValueError("A buffer lies outside its message")
        if sum(length for _, length in buffers) > len(body):
            raise ValueError("Buffers lie on each other")
        if batch.offset(COMPRESSION) is None:
            return len(body)
        sizes = [struct.unpack_from("<q", body, start)[0] for start, _ in buffers]
        if any(size < _NOT_INFLATED for size in sizes):
            raise ValueError("A buffer inflates to less than no bytes")
        inflated: int = sum(size for size in sizes if size != _NOT_INFLATED)
        self._inflated_bytes += inflated
        if self._inflated_bytes > self._bytes_max:
            raise too_large(f"The body inflates to more than {self._bytes_max} bytes")
        return len(body) + inflated


class FlatTable:
    """A table in a flatbuffer. Fields go by number; `struct.error` where one lies outside."""

    def __init__(self, buffer: bytes, start: int) -> None:
        self._buffer = buffer
        self._start = start
        self._fields = start - self._unpack("<i", start)
        self._fields_end = self._fields + self._unpack("<H", self._fields)

    @classmethod
    def root(cls, buffer: bytes) -> "FlatTable":
        return cls(buffer, struct.unpack_from("<I", buffer)[0])

    def offset(self, field: int) -> int | None:
        """Where the field is; None when it has its default."""
        entry = self._fields + 4 + 2 * field
        offset = self._unpack("<H", entry) if entry + 2 <= self._fields_end else 0
        return self._start + offset if offset else None

    def number(self, field: int, form: str) -> int:
        offset = self.offset(field)
        return 0 if offset is None else self._unpack(form, offset)

    def table(self, field: int) -> "FlatTable":
        return FlatTable(self._buffer, self._follow(field))

    def structs(self, field: int) -> Iterator[tuple[int, int]]:
        """A vector of structs of two int64."""
        if self.offset(field) is None:
            return iter(())
        start = self._follow(field)
        end = start + 4 + 16 * self._unpack("<I", start)
        return struct.iter_unpack("<qq", self._buffer[start + 4 : end])

    def _follow(self, field: int) -> int:
        offset = self.offset(field)
        if offset is None:
            raise ValueError("A message lacks a part")
        return offset + self._unpack("<I", offset)

    def _unpack(self, form: str, offset: int) -> int:
        value: int = struct.unpack_from(form, self._buffer, offset)[0]
        return value
