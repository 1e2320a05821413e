"""Arrow columns of any type that will do, as what events are made of."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from api.arrow_stream import same_array
from persistence.batch import compact

#: The code of an event without a text.
NONE = -1
_PER_MS = {"us": 10**3, "ns": 10**6}
_MS_PER = {"s": 1000, "ms": 1}
#: Above any time that is right; times 1000 it is still an int64.
_TIME_MAX = 2**53 + 2
#: A text of more bytes is too long, and stays so when it is cut to a fourth in characters.
_LONGEST_BYTES = 4096
#: Of a decimal, by its bytes; a stream may say that it has more decimal places.
_DIGITS_MAX = {4: 9, 8: 18, 16: 38, 32: 76}
_TEXT_IDS = {of.id for of in (pa.string(), pa.large_string(), pa.string_view(), pa.null())}
_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_UNSIGNED = [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_FLOATS = [pa.float16(), pa.float32(), pa.float64()]
_NUMBER_IDS = {of.id for of in (*_INTEGERS, *_UNSIGNED, *_FLOATS, pa.null())}


class Texts(NamedTuple):
    """A column of texts: those that there are, and which of them each event has."""

    #: Of type string or large_string. Each is some event's, or null; most stand there once.
    texts: pa.Array
    #: Of each text, in UTF-8.
    lengths_bytes: NDArray[np.integer[Any]]
    #: `NONE` where an event has none.
    codes: NDArray[np.int32]
    #: Whether every event has one.
    complete: bool


class Numbers(NamedTuple):
    """A column of numbers; 0 where none is `given`."""

    values: NDArray[np.float64]
    given: NDArray[np.bool_]
    #: Whether every event has one.
    complete: bool


def holds_texts(column: pa.DataType) -> bool:
    return _plain(column).id in _TEXT_IDS


def holds_numbers(column: pa.DataType) -> bool:
    plain = _plain(column)
    if types.is_decimal(plain):
        return bool(abs(plain.scale) <= _DIGITS_MAX[plain.byte_width])
    return plain.id in _NUMBER_IDS


def holds_times(column: pa.DataType) -> bool:
    return holds_numbers(column) or types.is_timestamp(_plain(column))


class TextsBuilder(ABC):
    """Takes the validated chunks of a column, one after the other."""

    @abstractmethod
    def add(self, chunk: pa.Array) -> None:
        """`chunk` is of the column's type."""

    @abstractmethod
    def build(self) -> Texts:
        """All that was added."""


class _PlainTexts(TextsBuilder):
    def __init__(self, distinct: bool) -> None:
        self._distinct = distinct
        self._chunks: list[pa.Array] = []

    def add(self, chunk: pa.Array) -> None:
        self._chunks.append(_as_strings(chunk))

    def build(self) -> Texts:
        texts = _concatenate(self._chunks)
        complete = not texts.null_count
        if self._distinct:
            coded = texts.dictionary_encode()
            return _texts(coded.dictionary, _codes(coded.indices), complete)
        codes = np.arange(len(texts), dtype=np.int32)
        if not complete:
            codes[~_given(texts)] = NONE
        return _texts(texts, codes, complete)


class _CodedTexts(TextsBuilder):
    """Keeps of a dictionary what was used of it, when the next one comes."""

    def __init__(self) -> None:
        self._dictionary: pa.Array | None = None
        self._codes: list[NDArray[np.int32]] = []
        self._built: list[Texts] = []

    def add(self, chunk: pa.DictionaryArray) -> None:
        if self._dictionary is None or not same_array(chunk.dictionary, self._dictionary):
            self._finish()
            self._dictionary = chunk.dictionary
        self._codes.append(_codes(chunk.indices))

    def build(self) -> Texts:
        self._finish()
        if len(self._built) == 1:
            return self._built[0]
        starts = np.cumsum([0, *(len(built.texts) for built in self._built[:-1])], dtype=np.int32)
        codes = [
            np.where(built.codes == NONE, built.codes, built.codes + start)
            for built, start in zip(self._built, starts, strict=True)
        ]
        return Texts(
            pa.concat_arrays([built.texts for built in self._built]),
            np.concatenate([built.lengths_bytes for built in self._built]),
            np.concatenate(codes),
            all(built.complete for built in self._built),
        )

    def _finish(self) -> None:
        if self._dictionary is not None:
            texts = _as_strings(self._dictionary)
            self._built.append(_used(texts, np.concatenate(self._codes)))
            self._codes = []


def texts_builder(column: pa.DataType, distinct: bool = True) -> TextsBuilder:
    """Unless `distinct`, plain texts are not searched for equal ones."""
    return _CodedTexts() if types.is_dictionary(column) else _PlainTexts(distinct)


def bytes_of(texts: pa.Array) -> memoryview:
    """The bytes of all texts, one after the other."""
    content = texts.buffers()[2]
    ends = _ends(texts)
    return memoryview(b"" if content is None else content)[ends[0] : ends[-1]]


def numbers_of(chunks: list[pa.Array]) -> Numbers:
    """`chunks` are validated; a timestamp becomes Unix ms, halves to the even neighbour."""
    if types.is_dictionary(chunks[0].type):
        chunks = [chunk.dictionary_decode() for chunk in chunks]
    column = _concatenate(chunks)
    given, complete = _given(column), not column.null_count
    if types.is_timestamp(column.type):
        return Numbers(np.where(given, _unix_ms(column), 0).astype(np.float64), given, complete)
    if types.is_decimal(column.type):
        column = column.cast(pa.string())  # the cast from there to a float is exact
    if not types.is_float64(column.type):
        column = column.cast(pa.float64(), safe=False)
    return Numbers(_filled(column, 0.0), given, complete)


def _plain(column: pa.DataType) -> pa.DataType:
    return column.value_type if types.is_dictionary(column) else column


def _concatenate(arrays: list[pa.Array]) -> pa.Array:
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


def _as_strings(texts: pa.Array) -> pa.Array:
    """Views and nulls, for which Arrow lacks most functions, as strings."""
    if types.is_string_view(texts.type):
        return (_tame(texts) if texts.null_count else texts).cast(pa.large_string())
    return texts.cast(pa.string()) if types.is_null(texts.type) else texts


def _texts(texts: pa.Array, codes: NDArray[np.int32], complete: bool) -> Texts:
    """With texts that are far too long cut, so that copies of them do not hurt."""
    ends = _ends(texts)
    if len(texts) and (ends[1:] - ends[:-1]).max() > _LONGEST_BYTES:
        texts = pc.utf8_slice_codeunits(texts, 0, _LONGEST_BYTES // 4)
        ends = _ends(texts)
    return Texts(texts, ends[1:] - ends[:-1], codes, complete)


def _ends(texts: pa.Array) -> NDArray[np.integer[Any]]:
    """Where in the bytes each text ends, and before that where the first begins."""
    if not len(texts):
        return np.zeros(1, np.int64)
    width = np.int64 if types.is_large_string(texts.type) else np.int32
    start_bytes = texts.offset * width().itemsize
    return np.frombuffer(texts.buffers()[1], width, len(texts) + 1, start_bytes)


def _tame(texts: pa.StringViewArray) -> pa.Array:
    """Where there is null a view may point anywhere; no validation looks there, the cast does."""
    valid, views, *contents = texts.buffers()
    end = texts.offset + len(texts)
    tamed = np.frombuffer(views, np.int64, 2 * end).reshape(-1, 2).copy()
    tamed[texts.offset :][~_given(texts)] = 0
    buffers = [valid, pa.py_buffer(tamed), *contents]
    return pa.Array.from_buffers(texts.type, len(texts), buffers, offset=texts.offset)


def _used(texts: pa.Array, codes: NDArray[np.int32]) -> Texts:
    """Without what a dictionary has besides: it may be much larger than its column."""
    if texts.null_count:
        codes = np.where((codes != NONE) & _given(texts)[codes], codes, np.int32(NONE))
    has_one = codes != NONE
    used, compacted = compact(codes[has_one], len(texts))
    if len(used) < len(texts):
        texts = texts.take(pa.array(used))
    if len(compacted) == len(codes):
        return _texts(texts, compacted, True)
    codes = np.full(len(codes), NONE, np.int32)
    codes[has_one] = compacted
    return _texts(texts, codes, False)


def _codes(indices: pa.Array) -> NDArray[np.int32]:
    if not types.is_int32(indices.type):
        indices = indices.cast(pa.int32(), safe=False)
    return np.asarray(_filled(indices, NONE), np.int32)


def _filled(column: pa.Array, value: float) -> NDArray[Any]:
    """The values, `value` where there is null."""
    filled = pc.fill_null(column, value) if column.null_count else column
    return np.asarray(filled.to_numpy())


def _given(column: pa.Array) -> NDArray[np.bool_]:
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)


def _unix_ms(column: pa.Array) -> NDArray[np.int64]:
    units = np.asarray(_filled(column.cast(pa.int64()), 0), np.int64)
    if column.type.unit in _MS_PER:
        return np.clip(units, -1, _TIME_MAX) * _MS_PER[column.type.unit]
    per_ms = _PER_MS[column.type.unit]
    whole, rest = units // per_ms, units % per_ms
    is_up = (2 * rest > per_ms) | ((2 * rest == per_ms) & (whole % 2 == 1))
    return np.where(is_up, whole + 1, whole)
