"""Many strings as two arrays, as Arrow keeps them: all bytes, and where each string ends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kernels.compiler import frozen


@dataclass(slots=True, eq=False)
class Strings:
    """UTF-8. String i is data[offsets[i]:offsets[i + 1]]; the first offset is 0. Read-only."""

    offsets: NDArray[np.int32]
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        self.offsets, self.data = frozen(self.offsets), frozen(self.data)

    @classmethod
    def of(cls, strings: Sequence[str]) -> "Strings":
        encoded = [string.encode() for string in strings]
        ends = accumulate(map(len, encoded), initial=0)
        offsets = np.fromiter(ends, np.int32, len(encoded) + 1)
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    @classmethod
    def of_arrow(cls, strings: pa.StringArray | pa.LargeStringArray) -> "Strings":
        """Without a copy of the bytes; `strings` has no null, and less than 2 GiB of them."""
        if not len(strings):
            return cls.of([])
        _, offsets, data = strings.buffers()
        each = np.dtype(np.int64 if pa.types.is_large_string(strings.type) else np.int32)
        ends = np.frombuffer(offsets, each, len(strings) + 1, each.itemsize * strings.offset)
        content = np.frombuffer(b"" if data is None else data, np.uint8)[ends[0] : ends[-1]]
        return cls((ends - ends[0]).astype(np.int32, copy=False), content)

    @classmethod
    def cut(
        cls,
        offsets: NDArray[np.int32],
        data: NDArray[np.uint8],
        lengths: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> list["Strings"]:
        """Several that lie one after the other, of so many strings and bytes each."""
        offsets, data = frozen(offsets), frozen(data)  # and so is each part
        parts = []
        first = start = 0
        for length, size in zip(lengths.tolist(), sizes.tolist(), strict=True):
            part = cls(offsets[first : first + length + 1], data[start : start + size])
            parts.append(part)
            first, start = first + length + 1, start + size
        return parts

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_list())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strings) and self.to_list() == other.to_list()

    __hash__ = None  # type: ignore[assignment]

    def to_list(self) -> list[str]:
        names: list[str] = self.to_arrow().to_pylist()
        return names

    def to_arrow(self) -> pa.StringArray:
        """Without a copy."""
        buffers = [pa.py_buffer(self.offsets), pa.py_buffer(self.data)]
        return pa.StringArray.from_buffers(len(self), *buffers)

    def take(self, which: NDArray[np.integer]) -> "Strings":
        """Those at these indexes."""
        return Strings.of_arrow(self.to_arrow().take(pa.array(which)))

    @staticmethod
    def concatenate(parts: Sequence["Strings"]) -> "Strings":
        sizes = [len(part.data) for part in parts]
        starts = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
        offsets = np.concatenate([[0], *(part.offsets[1:] for part in parts)], dtype=np.int32)
        offsets[1:] += starts.repeat(list(map(len, parts)))
        return Strings(offsets, np.concatenate([part.data for part in parts]))
