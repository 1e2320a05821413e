"""Finding what was sent before, by hashes."""

import numpy as np
from numpy.typing import NDArray

from kernels import intmap
from kernels.ahead import fetch
from kernels.compiler import helper, kernel
from kernels.intmap import Slots
from kernels.rows import NONE

Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: So many hashes are looked for at a time, so that they come from memory together.
_AHEAD = 16


@kernel
def mark(
    halves: tuple[Slots, Slots, Slots],
    is_new: bool,
    count: int,
    keys: Int64s,
    ids: Int64s,
    record: Int64s,
    tag: int,
) -> tuple[Bools, int, int]:
    """Which events came before; what is new is added to the first of `halves`, which has room.

    `is_new` says that this one is none of those before; else it is the second too. `keys`
    are of requests and `ids` of events; they are empty where no event has any, and 0 where
    one has none. A record, whose number in the log gets `tag` added, holds a request once:
    what has its key is no repetition in there. `count` is how many hashes the first half
    has; the number then is returned too, and the event that the first new one is of.
    """
    first = NONE
    target = halves[0]
    duplicate = np.zeros(len(record), np.bool_)
    for i in range(len(record)):
        if i % _AHEAD == 0:
            _fetch(halves, keys[i : i + _AHEAD])
            _fetch(halves, ids[i : i + _AHEAD])
        if len(keys) and keys[i] != 0:
            seen = _seen(halves, is_new, keys[i])
            if seen == NONE:
                intmap.insert(target, keys[i], tag + record[i])
                count += 1
                first = i if first == NONE else first
            elif seen != tag + record[i]:
                duplicate[i] = True
                continue
        if len(ids) and ids[i] != 0:
            if _seen(halves, is_new, ids[i]) == NONE:
                intmap.insert(target, ids[i], tag + record[i])
                count += 1
                first = i if first == NONE else first
            else:
                duplicate[i] = True
    return duplicate, count, first


@helper
def _fetch(halves: tuple[Slots, Slots, Slots], hashes: Int64s) -> None:
    """Has the places where hashes may be on their way to the cache."""
    for hashed in hashes:
        for half in halves:
            fetch(half, intmap.first_slot(half, hashed))


@helper
def _seen(halves: tuple[Slots, Slots, Slots], is_new: bool, hashed: int) -> int:
    """The record in which it came, 0 for one of long ago; NONE if it is new."""
    seen = intmap.find(halves[0], hashed)
    if seen == NONE and is_new:
        seen = intmap.find(halves[1], hashed)
    if seen == NONE and intmap.find(halves[2], hashed) != NONE:
        return np.int64(0)
    return seen
