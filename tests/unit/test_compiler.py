"""What the compiler makes of functions, and who may call them."""

import numpy as np
import pytest

from kernels import compiler, merging


def test_a_helper_is_refused_where_there_is_no_way_into_it() -> None:
    """A call from Python would end the process: it is compiled without an entry."""
    moments = np.arange(3)
    with pytest.raises(TypeError, match="union is called by kernels only"):
        merging.union(moments, moments + 1)


def test_a_helper_is_a_part_of_the_kernels_that_call_it() -> None:
    @compiler.helper
    def doubled(number: int) -> int:
        return 2 * number

    @compiler.kernel
    def doubled_twice(number: int) -> int:
        return doubled(doubled(number))

    assert doubled_twice(4) == 16
