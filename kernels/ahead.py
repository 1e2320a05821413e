"""Bringing what will be read into the cache, so that many waits for memory are one."""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.compiler import helper

#: As LLVM has them: for writing, to be kept, data.
_HOW = (1, 3, 1)
_code: Any = cgutils


def _prefetch(_: Any, array: types.Array, index: types.Integer) -> Any:
    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        rows, row = arguments
        found = context.make_array(array)(context, builder, rows)
        place = _code.get_item_pointer(context, builder, array, found, [row], wraparound=False)
        number = ir.IntType(32)
        takes = ir.FunctionType(ir.VoidType(), [_code.voidptr_t, number, number, number])
        prefetch = _code.get_or_insert_function(builder.module, takes, "llvm.prefetch.p0")
        address = builder.bitcast(place, _code.voidptr_t)
        builder.call(prefetch, [address, *map(number, _HOW)])
        return context.get_dummy_value()

    return types.void(array, index), generate


_fetch: Any = intrinsic(_prefetch)


@helper
def fetch(rows: NDArray[Any], row: np.int64) -> None:
    """Has the line of the cache in which a row begins on its way; it is not waited for."""
    _fetch(rows, row)
