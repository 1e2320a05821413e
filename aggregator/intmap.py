"""A hash map from int64 keys to row numbers, for whole arrays of keys at once.

Buckets of eight slots in two numpy arrays, 12 bytes a slot, no Python object an
entry. A bucket's keys are one cache line and are compared all at once, so nearly
every key is found, or known to be missing, in the first round; a key whose bucket
is full goes to the next one. Keys are mixed as by the finalizer of SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.groups import lengths_of, order_of, starts_of

Int64s = NDArray[np.int64]

#: Few buckets are full up to here; the table doubles beyond.
LOAD_MAX = 0.75
_BUCKET_BITS = 3
_BUCKET_SLOTS = 1 << _BUCKET_BITS
_SLOT_MASK = _BUCKET_SLOTS - 1
_BUCKETS_MIN = 1 << 7
_EMPTY = -1
#: So many keys at a time keep what is between steps in the processor's cache.
_PART_KEYS = 1 << 16


def mix(keys: Int64s) -> NDArray[np.uint64]:
    """Spreads `keys` over all 64 bits, one to one."""
    z = keys.astype(np.uint64)
    z += np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


class IntMap:
    """Keys to rows (0 and up); a key is never removed."""

    def __init__(self) -> None:
        self._allocate(_BUCKETS_MIN)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def keys(self) -> Int64s:
        keys: Int64s = self._keys.reshape(-1)[self._rows != _EMPTY]
        return keys

    def find(self, keys: Int64s) -> Int64s:
        """The row of each key, -1 where there is none."""
        if len(keys) > _PART_KEYS:
            return np.concatenate([self.find(keys[part]) for part in _parts(len(keys))])
        rows = np.full(len(keys), _EMPTY, np.int64)
        if not self._count:
            return rows
        buckets = self._home(keys)
        pending = None
        while True:
            match = self._keys.take(buckets, axis=0) == keys[:, None]
            hits = match.ravel().nonzero()[0]
            which = hits >> _BUCKET_BITS
            found = self._rows.take((buckets.take(which) << _BUCKET_BITS) + (hits & _SLOT_MASK))
            if pending is not None:
                which = pending.take(which)
            # An empty slot's key means nothing. It lies behind those that are taken, and the
            # last write wins, so they are written in reverse.
            rows[which[::-1]] = found[::-1]
            is_full = self._counts.take(buckets) == _BUCKET_SLOTS
            if not is_full.any():
                return rows
            left = ((rows if pending is None else rows.take(pending)) == _EMPTY) & is_full
            more = left.nonzero()[0]
            if not len(more):
                return rows
            pending = more if pending is None else pending.take(more)
            keys, buckets = keys.take(more), (buckets.take(more) + 1) & self._mask

    def insert(self, keys: Int64s, rows: Int64s) -> None:
        """Adds `keys`, distinct and not in the map yet, with `rows`."""
        self._reserve(len(keys))
        self._place_all(keys, rows)
        self._count += len(keys)

    def _place_all(self, keys: Int64s, rows: NDArray[np.integer[Any]]) -> None:
        for part in _parts(len(keys)):
            self._place(keys[part], rows[part])

    def _place(self, keys: Int64s, rows: NDArray[np.integer[Any]]) -> None:
        buckets = self._home(keys)
        while len(keys):
            order = order_of(buckets, self._mask)
            keys, rows, buckets = keys.take(order), rows.take(order), buckets.take(order)
            starts = starts_of(buckets[1:] != buckets[:-1])
            added = lengths_of(starts, len(keys))
            distinct = buckets.take(starts)
            taken = self._counts.take(distinct)
            slot = np.arange(len(keys)) + (taken - starts).repeat(added)
            fits = slot < _BUCKET_SLOTS
            at = (buckets << _BUCKET_BITS) + slot
            self._counts[distinct] = np.minimum(taken + added, _BUCKET_SLOTS)
            if fits.all():
                self._keys.reshape(-1)[at], self._rows[at] = keys, rows
                return
            at = at[fits]
            self._keys.reshape(-1)[at], self._rows[at] = keys[fits], rows[fits]
            keys, rows = keys[~fits], rows[~fits]
            buckets = (buckets[~fits] + 1) & self._mask

    def _home(self, keys: Int64s) -> Int64s:
        return (mix(keys) & np.uint64(self._mask)).view(np.int64)

    def _allocate(self, buckets: int) -> None:
        self._mask = buckets - 1
        self._keys = np.zeros((buckets, _BUCKET_SLOTS), np.int64)
        self._rows = np.full(buckets * _BUCKET_SLOTS, _EMPTY, np.int32)
        self._counts = np.zeros(buckets, np.int8)

    def _reserve(self, more: int) -> None:
        wanted = int((self._count + more) / (LOAD_MAX * _BUCKET_SLOTS)) + 1
        if wanted <= self._mask + 1:
            return
        used = self._rows != _EMPTY
        keys, rows = self._keys.reshape(-1)[used], self._rows[used]
        self._allocate(1 << (wanted - 1).bit_length())
        self._place_all(keys, rows)


def _parts(keys: int) -> list[slice]:
    return [slice(start, start + _PART_KEYS) for start in range(0, keys, _PART_KEYS)]
