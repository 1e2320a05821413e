"""Names to small integers and back."""

import secrets
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from aggregator.memory import grown, zeros
from kernels import names
from kernels.batches import hash_names
from kernels.rows import NONE
from persistence.strings import Strings

#: In place of a name that was forgotten; no name is empty.
RETIRED = ""
#: So many names are handled together: of 256 bytes each, they are below the 2 GiB of `Strings`.
TOGETHER_MAX = 1 << 22
_LOAD_MAX = 0.7
_GROWTH = 1.5
_SLOTS_MIN = 1 << 10


class Names:
    """Each distinct name has a code: 0, 1, 2 … in the order of their first appearance.

    All bytes lie in one array, since a Python string takes several times as much. Hashes
    have a seed of the process, so that no client can choose names that all collide.
    """

    def __init__(self) -> None:
        self._seed = np.uint64(secrets.randbits(64))
        self._arena = np.empty(1 << 10, np.uint8)
        self._starts = np.zeros(64, np.int64)
        self._slots = np.zeros(_SLOTS_MIN, np.uint64)
        self._retired: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, code: int) -> str:
        if code in self._retired:
            return RETIRED
        return self._arena[self._starts[code] : self._starts[code + 1]].tobytes().decode()

    def code(self, name: str) -> int | None:
        encoded = np.frombuffer(name.encode(), np.uint8)
        code = int(names.find(self._slots, self._starts, self._arena, self._seed, encoded))
        return None if code == NONE else code

    def codes(self, wanted: Strings) -> NDArray[np.int64]:
        """The code of each name, NONE for those that are not known."""
        return names.find_all(
            self._slots, self._starts, self._arena, self._seed, wanted.offsets, wanted.data
        )

    def intern(self, wanted: Strings, chosen: NDArray[np.bool_]) -> NDArray[np.int32]:
        """The code of each name that is `chosen`, new ones added; NONE for others."""
        self._reserve(len(wanted), len(wanted.data))
        codes, self._count = names.intern(
            self._slots,
            self._starts,
            self._arena,
            self._seed,
            self._count,
            wanted.offsets,
            wanted.data,
            chosen,
        )
        return codes

    def retire(self, code: int) -> None:
        """Forgets a name; its code is not given again."""
        self._retired.add(code)
        # No name has a zero byte, so what stays in the map is never found.
        self._arena[self._starts[code] : self._starts[code + 1]] = 0

    def hashes(self, first: int = 0) -> NDArray[np.uint64]:
        """XXH64 of each name from a code on."""
        some = [hash_names(n.offsets, n.data, np.uint64(0)) for n in self._slices(first)]
        return np.concatenate([np.empty(0, np.uint64), *some])

    def to_list(self) -> list[str]:
        every = chain.from_iterable(self._slices())
        return [RETIRED if code in self._retired else name for code, name in enumerate(every)]

    def to_arrow(self) -> pa.LargeStringArray:
        """All names by code, those retired as zeros of their length; not a copy."""
        starts = pa.py_buffer(self._starts[: self._count + 1])
        buffers = [None, starts, pa.py_buffer(self._arena[: self._starts[self._count]])]
        return pa.Array.from_buffers(pa.large_string(), self._count, buffers)

    def load_arrow(self, stored: pa.ChunkedArray) -> None:
        """Fills an empty table with distinct names."""
        self._reserve(len(stored), pc.sum(pc.binary_length(stored)).as_py() or 0)
        for chunk in stored.chunks:
            for first in range(0, len(chunk), TOGETHER_MAX):
                some = Strings.of_arrow(chunk.slice(first, TOGETHER_MAX))
                self.intern(some, np.ones(len(some), np.bool_))

    def _slices(self, first: int = 0) -> Iterator[Strings]:
        """All names from a code on."""
        for start in range(first, self._count, TOGETHER_MAX):
            starts = self._starts[start : min(start + TOGETHER_MAX, self._count) + 1]
            offsets = (starts - starts[0]).astype(np.int32)
            yield Strings(offsets, self._arena[starts[0] : starts[-1]])

    def _reserve(self, more: int, more_bytes: int) -> None:
        self._arena = grown(self._arena, int(self._starts[self._count]) + more_bytes)
        self._starts = grown(self._starts, self._count + more + 1)
        wanted = int((self._count + more) / _LOAD_MAX) + 1
        if wanted > len(self._slots):
            few = self._slots
            self._slots = zeros(max(wanted, int(len(few) * _GROWTH)), few.dtype)
            names.move_all(few, self._slots)
